"""The losses by which bandwidths are judged, and the one registry that maps criteria to losses.

A loss is a function of a `Sample` and of the `Fit` at one bandwidth. It returns its value and its derivatives by means
and log masses, from which every `Fitter` makes the gradient by the bandwidth.
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

MIN_PROBABILITY = 1e-15  # the log-loss clips at it, as scikit-learn's did: one confident error is not infinite
EXACT_FIT = 1e-24  # mean squared errors below this part of the squared values are rounding errors


@dataclass(frozen=True)
class Sample:
    """What the fits at n keys are compared with. Every key has a weight.

    Attributes
    ----------
    values : (n, c)
        Targets, or indicators of classes; no column for densities.
    weights : (n,) or None
        How much the loss of each row counts, relative to the largest weight; 0 where that underflows.
    log_weights : (n,) or None
        Logarithms of the weights in the units of log masses.
    log_norm : float
        log C_d of the kernel, for densities.
    log_at_zero : float
        log κ(0), for the contribution of a key to its own mass.
    """

    values: Floats
    weights: Floats | None = None
    log_weights: Floats | None = None
    log_norm: float = 0.0
    log_at_zero: float = 0.0

    @classmethod
    def of(cls, problem: Problem, log_norm: float = 0.0) -> Sample:
        """The sample of all keys of a problem."""
        at_zero = float(problem.kernel.profile(np.zeros(1))[0])
        logs = problem.log_weights_at(slice(None))
        classes = problem.classes
        return cls(
            problem.values.astype(np.float64) if classes is None else np.ones(classes.codes.shape),
            problem.weights_at(slice(None)),
            None if logs is None else logs + problem.log_largest_weight,
            log_norm,
            math.log(at_zero),
        )

    @cached_property
    def total(self) -> float:
        """Sum of the relative weights."""
        if self.weights is None:
            return float(len(self.values))
        return float(self.weights.sum()) or 1.0  # all weights of a batch may underflow

    @cached_property
    def log_others(self) -> Any:
        """log Σ w (n,) of all rows but one, for each row, in the units of `log_weights`; a number without weights."""
        if self.weights is None or self.log_weights is None:
            return math.log(len(self.values) - 1)
        others, largest = other_weights(self.weights), int(np.argmax(self.weights))
        logs = np.log(others, where=others > 0, out=np.full(len(others), -np.inf)) + self.log_weights[largest]
        rest = np.delete(self.log_weights, largest)  # relative to the largest, all of them may underflow
        logs[largest] = rest.max() + math.log(np.exp(rest - rest.max()).sum())
        return logs

    def at(self, positions: Any) -> Sample:
        """The sample of the keys at those positions."""
        weights, logs = (None if part is None else part[positions] for part in (self.weights, self.log_weights))
        return Sample(self.values[positions], weights, logs, self.log_norm, self.log_at_zero)

    def sum(self, terms: Floats) -> float:
        """The weighted sum of terms (n,)."""
        return float(terms.sum() if self.weights is None else self.weights @ terms)


@dataclass(frozen=True)
class Fit:
    """Means (n, c) and log masses (n,) at the keys. A log mass is −inf where the window is empty.

    Where the values are classes kept as integers, the means are the shares (n, outputs) of each key's own classes, and
    the values of the sample are ones.
    """

    mean: Floats
    log_mass: Floats


@dataclass(frozen=True)
class Loss:
    """A loss and its derivatives by means (n, c), by log masses (n,), and by each log h_j at fixed sums."""

    value: float
    by_mean: Floats | None = None
    by_log_mass: Floats | None = None
    by_log_bandwidth: float = 0.0


INFINITE = Loss(math.inf)


def _weighted(sample: Sample, terms: Any) -> Any:
    if sample.weights is None:
        return terms
    return terms * (sample.weights if terms.ndim == 1 else sample.weights[:, None])


def _has_empty_window(fit: Fit) -> bool:
    return bool(np.any(np.isneginf(fit.log_mass)))


def squared_error(sample: Sample, fit: Fit) -> Loss:
    """Mean squared error of leave-one-out means, summed over outputs (Härdle and Marron, 1985).

    It is ∞ if a window is empty.
    """
    if _has_empty_window(fit):
        return INFINITE
    error = sample.values - fit.mean
    value = sample.sum(np.square(error).sum(axis=1)) / sample.total
    return Loss(value, _weighted(sample, error) * (-2.0 / sample.total))


def log_loss(sample: Sample, fit: Fit) -> Loss:
    """Mean −log of the leave-one-out probability of each row's class, clipped at 1e-15; ∞ if a window is empty.

    Values are indicators; those of several outputs stand side by side.
    """
    if _has_empty_window(fit):
        return INFINITE
    p = np.maximum(np.nan_to_num(fit.mean), MIN_PROBABILITY)
    value = -sample.sum(np.einsum("ij,ij->i", sample.values, np.log(p))) / sample.total
    slope = np.where(fit.mean > MIN_PROBABILITY, sample.values / p, 0.0)
    return Loss(value, _weighted(sample, slope) / -sample.total)


def likelihood(sample: Sample, fit: Fit) -> Loss:
    """Mean −log of the leave-one-out density (Habbema, Hermans and van den Broek, 1974), without the term log Π h_j."""
    if _has_empty_window(fit):
        return INFINITE
    logs = fit.log_mass - sample.log_others
    value = -sample.sum(logs) / sample.total + sample.log_norm
    share = np.full(len(logs), -1.0 / sample.total)
    return Loss(value, None, _weighted(sample, share), 1.0)


def aicc(sample: Sample, fit: Fit) -> Loss:
    """AICc (Hurvich, Simonoff and Tsai, 1998): log σ̂² + (1 + tr/n)/(1 − (tr + 2)/n), summed over outputs.

    tr is the trace of the smoother. The loss is ∞ if tr + 2 ≥ n. σ̂² is weighted; n counts rows.
    """
    n, c = sample.values.shape
    logs = 0.0 if sample.log_weights is None else sample.log_weights
    own = np.exp(np.minimum(logs + sample.log_at_zero - fit.log_mass, 0.0))
    trace = float(own.sum())
    free = 1.0 - (trace + 2.0) / n
    if not free > 0:
        return INFINITE
    error = sample.values - fit.mean
    squares = np.array([sample.sum(column) for column in np.square(error).T]) / sample.total
    if not np.all(squares > EXACT_FIT * np.square(sample.values).max(axis=0)):
        return Loss(-math.inf)
    value = float(np.log(squares).sum()) + c * (1.0 + trace / n) / free
    by_trace = c * (2.0 - 2.0 / n) / (n * free**2)
    return Loss(value, _weighted(sample, error) * (-2.0 / (sample.total * squares)), -by_trace * own)


@dataclass(frozen=True)
class LossFunction:
    """A loss and what a search must know of it.

    Attributes
    ----------
    name : str
    criterion : str
        The user's name for it, in results and errors.
    function : callable
    leaves_out : bool
        Whether each row is left out of its own sums.
    label : str
        Of the axis in pictures.
    """

    name: str
    criterion: str
    function: Callable[[Sample, Fit], Loss]
    leaves_out: bool
    label: str

    def __call__(self, sample: Sample, fit: Fit) -> Loss:
        """The loss of a fit."""
        return self.function(sample, fit)


LOO_LABEL = "leave-one-out loss"
SQUARED_ERROR = LossFunction("squared_error", "loo", squared_error, True, LOO_LABEL)
LOG_LOSS = LossFunction("log_loss", "loo", log_loss, True, LOO_LABEL)
LIKELIHOOD = LossFunction("likelihood", "loo", likelihood, True, LOO_LABEL)
AICC = LossFunction("aicc", "aicc", aicc, False, "AICc")
LOSSES = {loss.name: loss for loss in (SQUARED_ERROR, LOG_LOSS, LIKELIHOOD, AICC)}

# The loss of each criterion of `fastnw.select_bandwidth` for each kind of values.
_LOSSES_OF: dict[str, dict[str, LossFunction]] = {
    "loo": {"numbers": SQUARED_ERROR, "classes": LOG_LOSS, "density": LIKELIHOOD},
    "aicc": {"numbers": AICC, "classes": AICC},
    "log_loss": {"classes": LOG_LOSS},
}
ALL_CRITERIA = tuple(_LOSSES_OF)
CRITERIA = ("loo", "aicc")  # those that estimators and the command line take beside the rules


def loss_for(criterion: str, kind: str) -> LossFunction:
    """The loss of a criterion.

    Parameters
    ----------
    criterion : {"loo", "aicc", "log_loss"}
    kind : {"numbers", "classes", "density"}
        What is predicted; for a density there are no values.

    Raises
    ------
    ValueError
        The criterion needs values and there are none.
    """
    if kind not in _LOSSES_OF[criterion]:
        raise ValueError(f"criterion={criterion!r} needs values, got None. Use criterion='loo' for a density.")
    return _LOSSES_OF[criterion][kind]
