"""What a bandwidth is judged by: losses of the means and masses at the keys, and what they are sensitive to.

Each criterion is a function of a `Sample` and of a `Fit` at one bandwidth. It returns the loss and its derivatives by
means and log masses, from which any way of summing makes the gradient by the bandwidth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST_PROBABILITY = 1e-15  # log-loss counts no less, as scikit-learn's once did: one sure error is not infinite
EXACT = 1e-24  # of squared values: errors below their root are rounding


@dataclass(frozen=True)
class Sample:
    """What is to be predicted, at n keys.

    Attributes
    ----------
    values : (n, c)
        Targets, or indicators of classes; no column for densities.
    weights : (n,) or None
        Counts of observations.
    total : float
        Σ w.
    log_norm : float
        log C_d of the kernel, for densities.
    """

    values: Floats
    weights: Floats | None
    total: float
    log_norm: float = 0.0

    @property
    def once(self) -> Any:
        """(n,) or 1.0: how much of each key is left out, one observation of those that count for more."""
        return 1.0 if self.weights is None else np.minimum(self.weights, 1.0)

    def sum(self, terms: Floats) -> float:
        """Σ w · terms (n,), keys without weight not counted even where the term is infinite."""
        if self.weights is None:
            return float(terms.sum())
        counted = self.weights > 0
        return float(self.weights[counted] @ terms[counted])


@dataclass(frozen=True)
class Fit:
    """Means (n, c) and log masses (n,) at the keys; −inf where no other key is in reach."""

    mean: Floats
    log_mass: Floats


@dataclass(frozen=True)
class Loss:
    """A loss and its derivatives: by means (n, c), by log masses (n,), and by each log h_j at fixed sums."""

    value: float
    by_mean: Floats | None = None
    by_log_mass: Floats | None = None
    by_log_bandwidth: float = 0.0


INFINITE = Loss(math.inf)


def _weighted(sample: Sample, terms: Any) -> Any:
    if sample.weights is None:
        return terms
    return terms * (sample.weights if terms.ndim == 1 else sample.weights[:, None])


def _someone_is_alone(sample: Sample, fit: Fit) -> bool:
    alone = np.isneginf(fit.log_mass)
    return bool(np.any(alone if sample.weights is None else alone & (sample.weights > 0)))


def least_squares(sample: Sample, fit: Fit) -> Loss:
    """Mean squared error of leave-one-out means, outputs summed (Härdle and Marron, 1985); ∞ if a window is empty."""
    if _someone_is_alone(sample, fit):
        return INFINITE
    error = np.where(np.isneginf(fit.log_mass)[:, None], 0.0, sample.values - fit.mean)
    value = sample.sum(np.square(error).sum(axis=1)) / sample.total
    return Loss(value, _weighted(sample, error) * (-2.0 / sample.total))


def log_loss(sample: Sample, fit: Fit) -> Loss:
    """Mean of −log of the own class's leave-one-out probability, clipped at 1e-15; ∞ if a window is empty.

    Values are indicators, of several outputs' classes side by side perhaps.
    """
    if _someone_is_alone(sample, fit):
        return INFINITE
    p = np.maximum(np.nan_to_num(fit.mean), LEAST_PROBABILITY)
    value = -sample.sum(np.einsum("ij,ij->i", sample.values, np.log(p))) / sample.total
    slope = np.where(fit.mean > LEAST_PROBABILITY, sample.values / p, 0.0)
    return Loss(value, _weighted(sample, slope) / -sample.total)


def likelihood(sample: Sample, fit: Fit) -> Loss:
    """Mean of −log of the leave-one-out density (Habbema, Hermans and van den Broek, 1974), but for log Π h_j."""
    if _someone_is_alone(sample, fit):
        return INFINITE
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = fit.log_mass - np.log(sample.total - sample.once)
    value = -sample.sum(logs) / sample.total + sample.log_norm
    share = np.full(len(logs), -1.0 / sample.total)
    return Loss(value, None, _weighted(sample, share), 1.0)


def aicc(sample: Sample, fit: Fit) -> Loss:
    """log σ̂² + (1 + tr/n)/(1 − (tr + 2)/n), tr the trace of the smoother, outputs summed (Hurvich, Simonoff and Tsai,
    1998); ∞ if tr + 2 ≥ n."""
    n, c = sample.total, sample.values.shape[1]
    own = np.exp(-fit.log_mass)
    trace = sample.sum(own)
    left = 1.0 - (trace + 2.0) / n
    if not left > 0:
        return INFINITE
    error = sample.values - fit.mean
    squares = np.array([sample.sum(column) for column in np.square(error).T]) / n
    if not np.all(squares > EXACT * np.square(sample.values).max(axis=0)):
        return Loss(-math.inf)
    value = float(np.log(squares).sum()) + c * (1.0 + trace / n) / left
    by_trace = c * (2.0 - 2.0 / n) / (n * left**2)
    return Loss(value, _weighted(sample, error) * (-2.0 / (n * squares)), _weighted(sample, own) * -by_trace)


Criterion = Callable[[Sample, Fit], Loss]
