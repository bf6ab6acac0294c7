"""Pooling and its gradients on NumPy arrays, on which `fastnw.torch` and `fastnw.jax` are built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.core.driver import predict
from fastnw.core.problem import Metric, Problem
from fastnw.core.validate import build
from fastnw.gradients.sums import QuerySums, by_key, by_query
from fastnw.kernels.kernel import Kernel
from fastnw.planner import make_model
from fastnw.runtime.hardware import n_threads as threads_for
from fastnw.runtime.threads import Meter

Array = NDArray[Any]
Floats = NDArray[np.float64]

INPUTS = ("queries", "keys", "values", "bandwidth", "sample_weight")


@dataclass(frozen=True)
class Choices:
    """The options of a call: all its arguments that are not arrays."""

    kernel: Kernel
    exclude_self: bool = False
    method: str = "auto"
    backend: str = "auto"
    tol: float | None = None
    n_jobs: int | None = None

    def problem(self, inputs: Sequence[Any]) -> Problem:
        """Validate the inputs, in the order of `INPUTS`, and build the problem."""
        queries, keys, values, bandwidth, sample_weight = inputs
        return build(
            queries,
            keys,
            values,
            kernel=self.kernel,
            bandwidth=bandwidth,
            sample_weight=sample_weight,
            exclude_self=self.exclude_self,
            tol=self.tol,
        )


def forward(choices: Choices, inputs: Sequence[Any]) -> tuple[Array, Floats]:
    """Return the means of `fastnw.pool`, and log Σ w κ (m,) in float64, for inputs in the order of `INPUTS`."""
    problem = choices.problem(inputs)
    model = make_model(problem, choices.method, choices.backend, choices.n_jobs)
    mean, log_mass = np.empty((problem.m, problem.c), problem.dtype), np.empty(problem.m)
    predict(model, problem, None, mean, empty="nan", log_mass=log_mass)
    return mean.reshape(problem.m, *np.shape(inputs[2])[1:]), log_mass


def gradients(
    choices: Choices,
    inputs: Sequence[Any],
    outputs: tuple[Array, Floats],
    cotangents: tuple[Array, Array],
    needed: Sequence[bool],
) -> list[Floats | None]:
    """Return the gradients of a loss by the inputs, given its derivatives by the two results of `forward`.

    All pairs are summed, whichever method computed the means.

    Parameters
    ----------
    choices : Choices
    inputs : sequence
        The inputs of `forward`, in the order of `INPUTS`.
    outputs : tuple
        The results of `forward`.
    cotangents : tuple
        The derivatives of the loss by the means and by log Σ w κ.
    needed : sequence of bool
        Which gradients to compute, one entry for each input.

    Returns
    -------
    gradients : list
        One float64 array for each input, None if it is not needed.
    """
    problem = choices.problem(inputs)
    alpha = np.asarray(cotangents[0], np.float64).reshape(problem.m, problem.c)
    by_log_mass = np.asarray(cotangents[1], np.float64)
    with np.errstate(invalid="ignore"):  # NaN means of empty windows, which the sums skip
        gamma = (alpha * np.asarray(outputs[0], np.float64).reshape(alpha.shape)).sum(axis=1) - by_log_mass
    arguments = (np.arange(problem.m), outputs[1], alpha, gamma, threads_for(choices.n_jobs), Meter(False, 0, ""))
    options: dict[str, Any] = {"backend": choices.backend, "by_log_mass": by_log_mass}
    results: list[Floats | None] = [None] * len(INPUTS)
    if needed[0] or needed[3]:
        full = needed[3] and problem.metric.cholesky is not None
        by_queries = by_query(problem, *arguments, outer=full, **options)
        results[0] = -_times_inverse_factor(problem.metric, by_queries.moved)
        results[3] = _bandwidth_gradient(problem.metric, by_queries, np.shape(inputs[3])) if needed[3] else None
    if needed[1] or needed[2] or needed[4]:
        by_keys = by_key(problem, *arguments, by_weight=needed[4], **options)
        results[1], results[4] = _times_inverse_factor(problem.metric, by_keys.moved), by_keys.weights
        results[2] = by_keys.values.reshape(np.shape(inputs[2]))
    return [gradient if is_needed else None for gradient, is_needed in zip(results, needed, strict=True)]


def _times_inverse_factor(metric: Metric, moved: Floats) -> Floats:
    """Return `moved` L⁻¹, or `moved`/h for a bandwidth that is not a matrix."""
    if metric.cholesky is None:
        return moved * metric.inverse
    from scipy.linalg import solve_triangular

    return solve_triangular(metric.cholesky, moved.T, lower=True, trans="T", check_finite=False).T


def _bandwidth_gradient(metric: Metric, sums: QuerySums, shape: tuple[int, ...]) -> Floats:
    """Return the derivative by the bandwidth, in the shape of the bandwidth."""
    if sums.outer is not None:
        return _times_inverse_factor(metric, _times_inverse_factor(metric, sums.outer).T) / 2
    by_coordinate = sums.squares.sum(axis=0) * metric.inverse  # for a single bandwidth, `inverse` repeats 1/h
    return by_coordinate if shape else by_coordinate.sum()
