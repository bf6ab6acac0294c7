"""The rows for which a bandwidth is chosen: checked once, reduced to those with a weight, in units of the search."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastnw import kernels
from fastnw.backends.cuda import interop
from fastnw.bandwidth.criteria import AICC, LIKELIHOOD, SQUARED_ERROR, Floats, LossFunction, Sample, loss_for
from fastnw.core.classes import OneHot
from fastnw.core.problem import Problem
from fastnw.core.row_weights import relative_weights
from fastnw.core.validate import build
from fastnw.interop import dataframes
from fastnw.kernels import integrals
from fastnw.kernels.kernel import Kernel

MAX_INDICATOR_BYTES = 64 << 20  # of one array; a search works with some five of them


@dataclass(frozen=True)
class Rows:
    """Checked rows, and the loss by which their bandwidth is judged.

    Attributes
    ----------
    keys : (n, d) array
    values : (n, c) array, OneHot or None
        None for a density.
    weights : (n,) array or None
    kernel : Kernel
    loss : LossFunction
    feature_names : list or None
        Names of the columns, for errors.
    """

    keys: Any
    values: Any
    weights: Any
    kernel: Kernel
    loss: LossFunction
    feature_names: Any = None

    def with_weight(self) -> Rows:
        """The rows with a positive weight, in float64; weights are relative, or None if all are equal.

        Classes become indicators where these are few enough for gradients to be worth their memory.

        Raises
        ------
        ValueError
            The loss needs indicators, and these would take too much memory.
        """
        rows, weights = relative_weights(self.weights)
        values = self.values
        if isinstance(values, OneHot):
            values = values.taken(rows)
            if values.nbytes <= MAX_INDICATOR_BYTES:
                values = values[:]
            elif self.loss is AICC:
                raise ValueError(
                    f"criterion='aicc' supports <= {MAX_INDICATOR_BYTES >> 20} MiB of class indicators, got "
                    f"{values.nbytes >> 20} MiB ({len(values):,} rows, {values.count:,} classes). Use criterion='loo'."
                )
        elif values is not None:
            values = values[rows]
        keys = np.ascontiguousarray(self.keys[rows], np.float64)
        return replace(self, keys=keys, values=values, weights=weights)

    def problem(self, bandwidth: Any, leave_one_out: bool) -> tuple[Problem, Sample, ScoreUnits]:
        """The problem of predicting the rows from themselves, the sample for its losses, and the units of scores."""
        classes = self.values if isinstance(self.values, OneHot) else None
        problem = build(
            self.keys,
            self.keys,
            None if classes is not None else self.values,
            kernel=self.kernel,
            bandwidth=bandwidth,
            sample_weight=self.weights,
            exclude_self=leave_one_out,
        )
        values, units = standardised(problem, self.loss)
        problem = replace(problem, values=values if classes is None else classes)
        log_norm = integrals.log_integral(self.kernel, problem.d) if self.loss is LIKELIHOOD else 0.0
        return problem, Sample.of(problem, log_norm), units


@dataclass(frozen=True)
class ScoreUnits:
    """The scores of a search in the user's units: score · factor² + offset.

    Attributes
    ----------
    factor : float
        A power of two, so that no digit is lost. It is not squared, since that could overflow where the score does not.
    offset : float
    """

    factor: float = 1.0
    offset: float = 0.0

    def score(self, value: Any) -> Any:
        """A score, or an array of scores, in the user's units."""
        with np.errstate(over="ignore"):
            return value * self.factor * self.factor + self.offset


def read_rows(keys: Any, values: Any, criterion: str, kernel: str | Kernel, sample_weight: Any) -> Rows:
    """Check what the user passed for a choice of bandwidth.

    Raises
    ------
    ValueError, TypeError
        What is wrong with the input.
    """
    names = dataframes.column_names(keys)
    keys, values, sample_weight = interop.taken_in("compiled", keys, values, sample_weight)
    kernel = kernels.get(kernel)
    if values is None:
        kind = "density"
    else:
        values = np.asarray(values)
        kind = "classes" if criterion == "log_loss" or (criterion == "loo" and _are_labels(values)) else "numbers"
    loss = loss_for(criterion, kind)
    classes = _one_hot(values) if kind == "classes" else None
    problem = build(
        keys,
        keys,
        values if classes is None else classes.codes,
        kernel=kernel,
        bandwidth=1.0,
        sample_weight=sample_weight,
    )
    numbers = problem.values if problem.c else None
    return Rows(problem.keys, numbers if classes is None else classes, problem.weights, kernel, loss, names)


def _one_hot(labels: np.ndarray) -> OneHot:
    if labels.ndim != 1:
        raise ValueError(f"class labels must have shape (n,), got {labels.shape}.")
    _, codes = np.unique(labels, return_inverse=True)
    return OneHot.of(codes[:, None], [int(codes.max(initial=-1)) + 1], np.float64)


def _are_labels(values: np.ndarray) -> bool:
    """Whether these are strings or booleans; columns of a data frame may hold numbers as objects."""
    if values.dtype.kind != "O":
        return values.dtype.kind in "SUb"
    return any(isinstance(value, (str, bytes, bool, np.bool_)) for value in values.flat)


def standardised(problem: Problem, loss: LossFunction) -> tuple[Floats, ScoreUnits]:
    """Values (n, c) about the middle of their range, divided by a power of two, and the units of the loss.

    A search in these units takes the same path whatever the user's units are. The squared error adds up over outputs,
    so one power of two serves them all: half the range of the widest output then lies between 1 and 2. AICc adds the
    logarithms of the outputs' errors, so every output gets its own. Indicators of classes stay as they are.
    """
    values = problem.values.astype(np.float64)
    if loss not in (SQUARED_ERROR, AICC):
        return values, ScoreUnits()
    centre, half = (np.asarray(part, np.float64) for part in problem.values_centre)
    exponents = np.where(half > 0, np.frexp(half)[1] - 1, 0)
    if loss is SQUARED_ERROR:
        exponents[:] = exponents.max(initial=-1074, where=half > 0) if np.any(half > 0) else 0
        units = ScoreUnits(factor=math.ldexp(1.0, int(exponents[0])))
    else:
        units = ScoreUnits(offset=2.0 * math.log(2.0) * float(exponents.sum()))
    return np.ldexp(values - centre, -exponents), units
