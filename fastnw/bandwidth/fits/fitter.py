"""What a search for bandwidths needs of the fits at the keys, whatever method sums them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fastnw.bandwidth.criteria import Fit, Floats, Loss
from fastnw.core.problem import Problem


@dataclass
class FitAt:
    """Means and masses at all keys, and the problem, whose metric is the bandwidth that they belong to."""

    problem: Problem
    fit: Fit


class Fitter(Protocol):
    """Means and masses at all keys for one bandwidth after another."""

    def at(self, h: Floats) -> FitAt:
        """Means and log masses at the bandwidths h (d,)."""

    def many(self, bandwidths: list[Floats]) -> list[Fit] | None:
        """Means and log masses at several multiples of one bandwidth, the widest first, by one pass over the pairs.

        None if that would not be faster than one call of `at` after another.
        """

    def gradient(self, fit_at: Any, loss: Loss) -> Floats:
        """The derivatives (d,) of the loss by the logarithms of the bandwidths of `fit_at`, a result of `at`."""


def cotangents(fit: Fit, loss: Loss) -> tuple[Floats, Floats]:
    """The arguments alpha (n, c) and gamma (n,) of `fastnw.gradients.sums` for the derivatives of a loss."""
    gamma = np.zeros(len(fit.log_mass)) if loss.by_log_mass is None else -loss.by_log_mass
    if loss.by_mean is None:
        return np.zeros((len(gamma), fit.mean.shape[1])), gamma
    return loss.by_mean, gamma + np.einsum("ij,ij->i", loss.by_mean, np.nan_to_num(fit.mean))


def mass_cotangents(problem: Problem, loss: Loss) -> Floats:
    """The argument `by_log_mass` (m,) of `fastnw.gradients.sums` for the derivatives of a loss."""
    return np.zeros(problem.m) if loss.by_log_mass is None else loss.by_log_mass
