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

from fastnw.core.problem import Problem
from fastnw.core.row_weights import other_weights
from fastnw.runtime.cached import cached_property

Floats = NDArray[np.float64]

LEAST_PROBABILITY = 1e-15  # log-loss counts no less, as scikit-learn's once did: one sure error is not infinite
EXACT = 1e-24  # of squared values: errors below their root are rounding


@dataclass(frozen=True)
class Sample:
    """What is to be predicted, at n keys, all of which have a weight.

    Attributes
    ----------
    values : (n, c)
        Targets, or indicators of classes; no column for densities.
    weights : (n,) or None
        Relative to the largest, perhaps 0 by underflow: how much each row's loss counts.
    log_weights : (n,) or None
        Logarithms of the weights that log masses are sums of.
    log_norm : float
        log C_d of the kernel, for densities.
    log_at_zero : float
        log κ(0), for what a key contributes to its own mass.
    """

    values: Floats
    weights: Floats | None = None
    log_weights: Floats | None = None
    log_norm: float = 0.0
    log_at_zero: float = 0.0

    @classmethod
    def of(cls, problem: Problem, log_norm: float = 0.0) -> Sample:
        """All keys of a problem."""
        at_zero = float(problem.kernel.profile(np.zeros(1))[0])
        logs = problem.log_weights_at(slice(None))
        own = problem.classes
        return cls(
            problem.values.astype(np.float64) if own is None else np.ones(own.codes.shape),
            problem.weights_at(slice(None)),
            None if logs is None else logs + problem.log_largest_weight,
            log_norm,
            math.log(at_zero),
        )

    @cached_property
    def total(self) -> float:
        """Σ w of the relative weights."""
        if self.weights is None:
            return float(len(self.values))
        return float(self.weights.sum()) or 1.0  # a batch's weights may all be 0 beside the largest of all rows

    @cached_property
    def log_others(self) -> Any:
        """(n,) or a number: log Σ w of all rows but each one, in the units of `log_weights`."""
        if self.weights is None or self.log_weights is None:
            return math.log(len(self.values) - 1)
        others, largest = other_weights(self.weights), int(np.argmax(self.weights))
        logs = np.log(others, where=others > 0, out=np.full(len(others), -np.inf)) + self.log_weights[largest]
        rest = np.delete(self.log_weights, largest)  # all of them may be 0 beside the largest in float64
        logs[largest] = rest.max() + math.log(np.exp(rest - rest.max()).sum())
        return logs

    def at(self, positions: Any) -> Sample:
        """Those keys alone."""
        weights, logs = (None if part is None else part[positions] for part in (self.weights, self.log_weights))
        return Sample(self.values[positions], weights, logs, self.log_norm, self.log_at_zero)

    def sum(self, terms: Floats) -> float:
        """Σ w · terms (n,)."""
        return float(terms.sum() if self.weights is None else self.weights @ terms)


@dataclass(frozen=True)
class Fit:
    """Means (n, c) and log masses (n,) at the keys; −inf where no other key is in reach.

    Of classes kept as integers the shares (n, outputs) of each key's own classes, whose indicators are ones.
    """

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


def _someone_is_alone(fit: Fit) -> bool:
    return bool(np.any(np.isneginf(fit.log_mass)))


def least_squares(sample: Sample, fit: Fit) -> Loss:
    """Mean squared error of leave-one-out means, outputs summed (Härdle and Marron, 1985); ∞ if a window is empty."""
    if _someone_is_alone(fit):
        return INFINITE
    error = sample.values - fit.mean
    value = sample.sum(np.square(error).sum(axis=1)) / sample.total
    return Loss(value, _weighted(sample, error) * (-2.0 / sample.total))


def log_loss(sample: Sample, fit: Fit) -> Loss:
    """Mean of −log of the own class's leave-one-out probability, clipped at 1e-15; ∞ if a window is empty.

    Values are indicators, of several outputs' classes side by side perhaps.
    """
    if _someone_is_alone(fit):
        return INFINITE
    p = np.maximum(np.nan_to_num(fit.mean), LEAST_PROBABILITY)
    value = -sample.sum(np.einsum("ij,ij->i", sample.values, np.log(p))) / sample.total
    slope = np.where(fit.mean > LEAST_PROBABILITY, sample.values / p, 0.0)
    return Loss(value, _weighted(sample, slope) / -sample.total)


def likelihood(sample: Sample, fit: Fit) -> Loss:
    """Mean of −log of the leave-one-out density (Habbema, Hermans and van den Broek, 1974), but for log Π h_j."""
    if _someone_is_alone(fit):
        return INFINITE
    logs = fit.log_mass - sample.log_others
    value = -sample.sum(logs) / sample.total + sample.log_norm
    share = np.full(len(logs), -1.0 / sample.total)
    return Loss(value, None, _weighted(sample, share), 1.0)


def aicc(sample: Sample, fit: Fit) -> Loss:
    """log σ̂² + (1 + tr/n)/(1 − (tr + 2)/n), tr the trace of the smoother, outputs summed (Hurvich, Simonoff and Tsai,
    1998); ∞ if tr + 2 ≥ n. σ̂² is weighted, n counts rows."""
    n, c = sample.values.shape
    logs = 0.0 if sample.log_weights is None else sample.log_weights
    own = np.exp(np.minimum(logs + sample.log_at_zero - fit.log_mass, 0.0))
    trace = float(own.sum())
    left = 1.0 - (trace + 2.0) / n
    if not left > 0:
        return INFINITE
    error = sample.values - fit.mean
    squares = np.array([sample.sum(column) for column in np.square(error).T]) / sample.total
    if not np.all(squares > EXACT * np.square(sample.values).max(axis=0)):
        return Loss(-math.inf)
    value = float(np.log(squares).sum()) + c * (1.0 + trace / n) / left
    by_trace = c * (2.0 - 2.0 / n) / (n * left**2)
    return Loss(value, _weighted(sample, error) * (-2.0 / (sample.total * squares)), -by_trace * own)


Criterion = Callable[[Sample, Fit], Loss]
