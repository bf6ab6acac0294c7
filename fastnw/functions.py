"""`pool`, `density` and `plan`: signatures, documentation, and the preamble that the public functions share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.backends.cuda import interop
from fastnw.core.driver import predict
from fastnw.core.estimate import finite_logs
from fastnw.core.model import Model
from fastnw.core.plan import Plan
from fastnw.core.problem import Problem
from fastnw.core.validate import Empty, build, check_empty
from fastnw.interop import dataframes, frameworks
from fastnw.kernels.kernel import Kernel
from fastnw.planner import make_model, make_plan

Array = NDArray[Any]


def pool(
    queries: Any,
    keys: Any,
    values: Any,
    *,
    kernel: str | Kernel = "gaussian",
    bandwidth: Any = 1.0,
    sample_weight: Any = None,
    key_scale: Any = None,
    method: str = "auto",
    backend: str = "auto",
    tol: float | None = None,
    empty: Empty = "nan",
    exclude_self: bool = False,
    return_mass: bool = False,
    return_error: bool = False,
    out: Array | None = None,
    n_jobs: int | None = None,
    progress: bool | None = None,
) -> Any:
    """Kernel-weighted mean of the values at each query (Nadaraya, 1964; Watson, 1964).

    f(q) = Σ_i w_i κ(u_i) v_i / Σ_i w_i κ(u_i), with u_i the distance of q and key i in bandwidths.

    Parameters
    ----------
    queries : array or data frame of shape (m, d)
    keys : array or data frame of shape (n, d)
        Columns of two data frames (pandas, polars, Arrow) are matched by name, whatever their order.
    values : array of shape (n,) or (n, c)
    kernel : str or Kernel
        A name of `fastnw.kernels.names()` or its alias, or a `fastnw.Kernel`.
    bandwidth : float, (d,) or (d, d) array
        In the keys' units: a number, one per coordinate, or a symmetric positive definite H (u² = (q−k)ᵀH⁻¹(q−k)).
    sample_weight : (n,) array, optional
        w ≥ 0; a weight of 2 counts as two equal keys.
    key_scale : (n,) array, optional
        λ > 0: key i has bandwidth h λ_i.
    method : {"auto", "exact", "tree", "moments", "fourier"}
    backend : {"auto", "compiled", "numba", "cuda", "reference"}
    tol : float, optional
        Allowed error as a factor of the values' range; by default 1e-8 (float64) or 1e-4 (float32). 0: every pair.
    empty : {"nan", "raise", "nearest", "mean"} or float
        What stands where no key is in reach; "nan" warns.
    exclude_self : bool
        Leave out the pair i == j (leave-one-out); needs m = n.
    return_mass, return_error : bool
        Also return log Σ w κ (−inf where empty), or a float64 bound on the error, the largest over the values (NaN
        where empty).
    out : array, optional
        Where to put the result: of its shape and type.
    n_jobs : int, optional
        Threads; None: every core allowed.
    progress : bool, optional
        Show a bar. None: on a terminal, if the work should last over 2 s.

    Returns
    -------
    result : (m,) or (m, c) array
        float32 if queries, keys and floating values all are float32, float16 or bfloat16, otherwise float64; of the
        framework and device of the input. Without a gradient: tensors that need one are taken as data.
    log_mass, error : (m,) arrays
        If asked for, in this order.

    Raises
    ------
    ValueError, TypeError
        What is wrong with the input, or why a forced method or backend cannot do it.

    Warns
    -----
    EmptyWindowWarning, AccuracyWarning

    Examples
    --------
    >>> import fastnw
    >>> fastnw.pool([[0.5]], [[0.0], [1.0], [5.0]], [1.0, 2.0, 9.0], kernel="epanechnikov", bandwidth=2.0)
    array([1.5])
    """
    empty = check_empty(empty)
    if values is None:
        raise ValueError("values is required; fastnw.density needs none.")
    problem, backend, restore = asked(
        queries,
        keys,
        values,
        backend,
        sample_weight=sample_weight,
        key_scale=key_scale,
        kernel=kernel,
        bandwidth=bandwidth,
        exclude_self=exclude_self,
        tol=tol,
    )
    results = pooled(
        make_model(problem, method, backend, n_jobs),
        problem,
        flat=np.ndim(values) == 1,
        empty=empty,
        return_mass=return_mass,
        return_error=return_error,
        out=out,
        progress=progress,
    )
    restored = tuple(result if result is out else restore(result) for result in results)
    return restored if len(restored) > 1 else restored[0]


def pooled(
    model: Model,
    problem: Problem,
    *,
    flat: bool,
    empty: Empty,
    return_mass: bool = False,
    return_error: bool = False,
    out: Array | None = None,
    progress: bool | None = None,
) -> tuple[Any, ...]:
    """The model's answers to a problem: the means, (m,) if `flat`, and what else was asked for. The means are the CUDA
    device's array where the problem lies there."""
    log_mass = np.empty(problem.m, problem.dtype) if return_mass else None
    error = np.empty(problem.m) if return_error else None
    extras = tuple(extra for extra in (log_mass, error) if extra is not None)
    if out is None and problem.on_device:
        there = problem.keys.empty_rows(problem.m, problem.c, problem.dtype)  # type: ignore[attr-defined]
        predict(model, problem, progress, there, empty=empty, log_mass=log_mass, error=error)
        return (there.finished(flat), *extras)
    result = _output(out, (problem.m,) if flat else (problem.m, problem.c), problem.dtype)
    # results are written while later ones are computed: never over what is still read
    read = (problem.queries, problem.keys, problem.values, problem.weights, problem.key_scale)
    overlaps = out is not None and any(isinstance(a, np.ndarray) and np.may_share_memory(out, a) for a in read)
    mean = result.copy() if overlaps else result
    predict(model, problem, progress, mean.reshape(problem.m, problem.c), empty=empty, log_mass=log_mass, error=error)
    if overlaps:
        result[...] = mean
    return (result, *extras)


def density(
    queries: Any,
    keys: Any,
    *,
    kernel: str | Kernel = "gaussian",
    bandwidth: Any = 1.0,
    sample_weight: Any = None,
    key_scale: Any = None,
    method: str = "auto",
    backend: str = "auto",
    tol: float | None = None,
    exclude_self: bool = False,
    n_jobs: int | None = None,
    progress: bool | None = None,
    log: bool = False,
) -> Any:
    """Kernel density estimate at each query (Rosenblatt, 1956; Parzen, 1962).

    p(q) = Σ_i w_i κ(u_i) λ_i^(−d) / (C_d √det H Σ_i w_i), C_d = ∫ κ(‖x‖) dx over ℝ^d; h^d or Π h_j stand for √det H.

    Parameters
    ----------
    queries : array or data frame of shape (m, d)
    keys : array or data frame of shape (n, d)
    log : bool
        Return log p, which does not underflow; −inf where no key is in reach.
    kernel, bandwidth, sample_weight, key_scale, method, backend, tol, exclude_self, n_jobs, progress
        As in `pool`; `tol` is a relative error here. With `exclude_self` a query's own key is left out of both sums.

    Returns
    -------
    density : (m,) array

    Raises
    ------
    ValueError
        Also for kernels that cannot be normalised: ``constant``, ``dot``, and ``cauchy`` in d ≥ 2.

    Examples
    --------
    >>> import fastnw
    >>> fastnw.density([[0.0]], [[0.0]], kernel="boxcar", bandwidth=2.0)
    array([0.25])
    """
    problem, backend, restore = asked(
        queries,
        keys,
        None,
        backend,
        sample_weight=sample_weight,
        key_scale=key_scale,
        kernel=kernel,
        bandwidth=bandwidth,
        exclude_self=exclude_self,
        tol=tol,
    )
    problem = by_volume(problem)
    return restore(densities(make_model(problem, method, backend, n_jobs), problem, progress, log))


def by_volume(problem: Problem) -> Problem:
    """The problem whose masses make a density: each key's share is spread over its own window."""
    return problem if problem.key_scale is None else replace(problem, by_volume=True)


def densities(model: Model, problem: Problem, progress: bool | None, log: bool) -> Array:
    """(m,) Densities, or their logarithms, of a problem `by_volume` without values."""
    from fastnw.kernels.integrals import log_integral

    log_total = _log_total(replace(problem, by_volume=False) if problem.by_volume else problem)
    log_volume = log_integral(problem.kernel, problem.d) + problem.metric.log_volume
    logs = np.empty(problem.m)
    predict(model, problem, progress, np.empty((problem.m, 0)), log_mass=logs)
    np.subtract(logs, log_total + log_volume, out=logs, where=np.isfinite(logs))  # both are −inf for an only key's own
    if log:
        return finite_logs(logs, problem.dtype).astype(problem.dtype)
    with np.errstate(over="ignore", under="ignore"):  # a density beyond the type's range is infinite
        return np.exp(logs).astype(problem.dtype)


def _log_total(problem: Problem) -> Any:
    """log Σ w, a number; with `exclude_self` (m,), each without the query's own."""
    largest, total = problem.log_largest_weight, problem.total_weight
    if not problem.exclude_self:
        return largest + math.log(total or 1.0)
    weights = problem.weights_at(slice(None))
    weights = np.ones(problem.n) if weights is None else weights
    with np.errstate(divide="ignore"):
        logs = largest + np.log(np.maximum(total - weights, 0.0))
        for row in np.flatnonzero(weights > total / 2):  # one at most, and nearly all of the sum: nothing to subtract
            others = problem.log_weights_at(np.delete(np.arange(problem.n), row))
            logs[row] = largest + np.logaddexp.reduce(np.zeros(0) if others is None else others, initial=-np.inf)
    return logs


def plan(
    queries: Any,
    keys: Any,
    values: Any = None,
    *,
    kernel: str | Kernel = "gaussian",
    bandwidth: Any = 1.0,
    sample_weight: Any = None,
    key_scale: Any = None,
    method: str = "auto",
    backend: str = "auto",
    tol: float | None = None,
    exclude_self: bool = False,
    n_jobs: int | None = None,
) -> Plan:
    """What `pool` would do with these arguments, without doing it.

    Parameters
    ----------
    queries : array or data frame of shape (m, d)
    keys : array or data frame of shape (n, d)
    values : array of shape (n,) or (n, c), optional
        None: as for `density`.
    kernel, bandwidth, sample_weight, key_scale, method, backend, tol, exclude_self, n_jobs
        As in `pool`.

    Returns
    -------
    Plan
        With attributes ``method, backend, isa, n_threads, pairs, seconds, bytes, reason``; ``str()`` explains it.

    Examples
    --------
    >>> import fastnw
    >>> fastnw.plan([[0.0]], [[0.0], [1.0]], [1.0, 2.0]).pairs
    2.0
    """
    problem, backend, _ = asked(
        queries,
        keys,
        values,
        backend,
        sample_weight=sample_weight,
        key_scale=key_scale,
        kernel=kernel,
        bandwidth=bandwidth,
        exclude_self=exclude_self,
        tol=tol,
    )
    return make_plan(problem, method, backend, n_jobs)


def asked(
    queries: Any, keys: Any, values: Any, backend: str, *, sample_weight: Any, key_scale: Any, **choices: Any
) -> tuple[Problem, str, Callable[[Any], Any]]:
    """What a public function was asked, as a checked problem; the backend; and what turns a result into an array of
    the caller's framework. The preamble that all public functions share.

    `choices` are kernel, bandwidth, exclude_self and tol, as `core.validate.build` takes them.
    """
    arrays = (queries, keys, values, sample_weight, key_scale)
    restore: Callable[[Any], Any] = _unchanged
    if any(type(array) not in _PLAIN for array in arrays):  # a look at each costs 50 µs
        restore = frameworks.restorer(*(array for array in arrays[:3] if array is not None))
        backend = interop.backend_for(backend, *arrays[:3])
        arrays = interop.taken_in(backend, dataframes.matched(queries, keys), *arrays[1:])
    queries, keys, values, sample_weight, key_scale = arrays
    problem = build(queries, keys, values, sample_weight=sample_weight, key_scale=key_scale, **choices)
    return problem, backend, restore


_PLAIN = (np.ndarray, list, tuple, float, int, type(None))  # neither a framework's array nor a data frame


def _unchanged(result: Any) -> Any:
    return result


def _output(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """`out` if it fits, or a new array."""
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray) or out.shape != shape or out.dtype != dtype:
        got = f"{out.dtype} of shape {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise ValueError(f"out must be a numpy array of {dtype} and shape {shape}, got {got}.")
    if not out.flags.writeable:
        raise ValueError("out must be writeable, got a read-only array.")
    return out
