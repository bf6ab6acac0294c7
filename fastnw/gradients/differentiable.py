"""Pooling and its gradients on NumPy arrays, for the differentiable functions of other frameworks."""

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
    """The non-array options of a call.

    Attributes are the arguments of `fastnw.pool` with the same names.
    """

    kernel: Kernel
    exclude_self: bool = False
    method: str = "auto"
    backend: str = "auto"
    tol: float | None = None
    n_jobs: int | None = None

    def problem(self, inputs: Sequence[Any]) -> Problem:
        """Check the arrays, in the order of `INPUTS`, and build the problem."""
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
    """Compute the means of `fastnw.pool` and log Σ w κ, (m,) float64; `inputs` are in the order of `INPUTS`."""
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
    """Compute the gradients of a loss by the inputs from its derivatives by the outputs of `forward`.

    All pairs are summed, whatever method computed the means.

    Parameters
    ----------
    choices : Choices
    inputs : sequence of arrays
        In the order of `INPUTS`.
    outputs : tuple of arrays
        The result of `forward`.
    cotangents : tuple of arrays
        ∂L/∂mean and ∂L/∂log mass.
    needed : sequence of bool
        Which gradients to return.

    Returns
    -------
    gradients : list of float64 arrays or None
        In the order of `INPUTS`; None where `needed` is False.
    """
    problem = choices.problem(inputs)
    alpha = np.asarray(cotangents[0], np.float64).reshape(problem.m, problem.c)
    by_log_mass = np.asarray(cotangents[1], np.float64)
    with np.errstate(invalid="ignore"):  # empty windows have NaN, and do not contribute
        gamma = (alpha * np.asarray(outputs[0], np.float64).reshape(alpha.shape)).sum(axis=1) - by_log_mass
    arguments = (np.arange(problem.m), outputs[1], alpha, gamma, threads_for(choices.n_jobs), Meter(False, 0, ""))
    options: dict[str, Any] = {"backend": choices.backend, "by_log_mass": by_log_mass}
    results: list[Floats | None] = [None] * len(INPUTS)
    if needed[0] or needed[3]:
        full = needed[3] and problem.metric.cholesky is not None
        by_queries = by_query(problem, *arguments, outer=full, **options)
        results[0] = -_unwhiten(problem.metric, by_queries.moved)
        results[3] = _bandwidth_gradient(problem.metric, by_queries, np.shape(inputs[3])) if needed[3] else None
    if needed[1] or needed[2] or needed[4]:
        by_keys = by_key(problem, *arguments, by_weight=needed[4], **options)
        results[1], results[4] = _unwhiten(problem.metric, by_keys.moved), by_keys.weights
        results[2] = by_keys.values.reshape(np.shape(inputs[2]))
    return [gradient if is_needed else None for gradient, is_needed in zip(results, needed, strict=True)]


def _unwhiten(metric: Metric, moved: Floats) -> Floats:
    """Compute `moved` L⁻¹ for a bandwidth matrix L Lᵀ; otherwise `moved`/h."""
    if metric.cholesky is None:
        return moved * metric.inverse
    from scipy.linalg import solve_triangular

    return solve_triangular(metric.cholesky, moved.T, lower=True, trans="T", check_finite=False).T


def _bandwidth_gradient(metric: Metric, sums: QuerySums, shape: tuple[int, ...]) -> Floats:
    """Compute the gradient by a bandwidth of the given shape."""
    if sums.outer is not None:
        return _unwhiten(metric, _unwhiten(metric, sums.outer).T) / 2
    by_coordinate = sums.squares.sum(axis=0) * metric.inverse  # for one number h, all entries of `inverse` are 1/h
    return by_coordinate if shape else by_coordinate.sum()
