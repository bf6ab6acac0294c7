"""`pool`, `density` and `plan`: signatures, documentation, and the argument handling that public functions share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
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
    """Compute the kernel-weighted mean of the values at each query (Nadaraya, 1964; Watson, 1964).

    f(q) = Σ_i w_i κ(u_i) v_i / Σ_i w_i κ(u_i), where u_i is the distance between q and key i in bandwidths.

    Parameters
    ----------
    queries : array or data frame of shape (m, d)
    keys : array or data frame of shape (n, d)
        The columns of two data frames (pandas, polars, Arrow) are matched by name, in any order.
    values : array of shape (n,) or (n, c)
    kernel : str or Kernel
        A name in `fastnw.kernels.names()`, an alias of one, or a `fastnw.Kernel`.
    bandwidth : float, (d,) or (d, d) array
        In the units of the keys: one number, one per coordinate, or a symmetric positive definite matrix H, with
        u² = (q−k)ᵀH⁻¹(q−k).
    sample_weight : (n,) array, optional
        w ≥ 0; a weight of 2 is equivalent to two equal keys.
    key_scale : (n,) array, optional
        λ > 0; key i has bandwidth h λ_i.
    method : {"auto", "exact", "tree", "moments", "fourier"}
        How the pairs to sum are selected; "auto" uses the fastest method that supports the problem.
    backend : {"auto", "compiled", "numba", "cuda", "reference"}
        What sums the pairs.
    tol : float, optional
        Largest error as a fraction of the values' range; by default 1e-8 in float64 and 1e-4 in float32. 0 sums every
        pair.
    empty : {"nan", "raise", "nearest", "mean"} or float
        Result where no key with positive weight is within the support of the kernel; "nan" also warns.
    exclude_self : bool
        Whether to leave out the pair i == j (leave-one-out), which needs m = n.
    return_mass, return_error : bool
        Whether to return log Σ w κ (−inf in an empty window) and a float64 bound on the error, the largest over the
        values (NaN in an empty window).
    out : array, optional
        Output buffer with the shape and dtype of the result.
    n_jobs : int, optional
        Number of threads; None uses all available cores.
    progress : bool, optional
        Whether to show a progress bar. None shows it on a terminal if the predicted time exceeds 2 s.

    Returns
    -------
    result : (m,) or (m, c) array
        float32 if queries, keys and floating values all are float32, float16 or bfloat16, otherwise float64. It has the
        framework and device of the inputs, and no gradient, even for tensors that require one.
    log_mass, error : (m,) arrays
        If requested, in this order.

    Raises
    ------
    ValueError, TypeError
        An argument is invalid, or the requested method or backend does not support the problem.

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
        raise ValueError("values must be an array, got None. Use fastnw.density for masses without values.")
    question = asked(
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
        make_model(question.problem, method, question.backend, n_jobs),
        question.problem,
        flat=question.flat,
        empty=empty,
        return_mass=return_mass,
        return_error=return_error,
        out=out,
        progress=progress,
    )
    restored = tuple(result if result is out else question.restore(result) for result in results)
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
    """Compute the means at the problem's queries, (m,) if `flat`, and the other requested results.

    For device arrays, the means are an array of the device.
    """
    log_mass = np.empty(problem.m, problem.dtype) if return_mass else None
    error = np.empty(problem.m) if return_error else None
    extras = tuple(extra for extra in (log_mass, error) if extra is not None)
    if out is None and problem.on_device:
        device_mean = problem.keys.empty_rows(problem.m, problem.c, problem.dtype)  # type: ignore[attr-defined]
        predict(model, problem, progress, device_mean, empty=empty, log_mass=log_mass, error=error)
        return (device_mean.finished(flat), *extras)
    result = _output(out, (problem.m,) if flat else (problem.m, problem.c), problem.dtype)
    # Results are written while inputs are still read, so `out` must not overlap an input.
    inputs = (problem.queries, problem.keys, problem.values, problem.weights, problem.key_scale)
    overlaps = out is not None and any(isinstance(a, np.ndarray) and np.may_share_memory(out, a) for a in inputs)
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
    """Compute the kernel density estimate at each query (Rosenblatt, 1956; Parzen, 1962).

    p(q) = Σ_i w_i κ(u_i) λ_i^(−d) / (C_d √det H Σ_i w_i) with C_d = ∫ κ(‖x‖) dx over ℝ^d. For a bandwidth that is no
    matrix, √det H is h^d or Π h_j.

    Parameters
    ----------
    queries : array or data frame of shape (m, d)
    keys : array or data frame of shape (n, d)
    log : bool
        Whether to return log p, which does not underflow; −inf in an empty window.
    kernel, bandwidth, sample_weight, key_scale, method, backend, tol, exclude_self, n_jobs, progress
        As in `pool`, except that `tol` is a relative error. `exclude_self` leaves the pair i == j out of both sums.

    Returns
    -------
    density : (m,) array

    Raises
    ------
    ValueError, TypeError
        As in `pool`; or the kernel has no finite integral: ``constant``, ``dot``, and ``cauchy`` in d ≥ 2.

    Warns
    -----
    AccuracyWarning

    Examples
    --------
    >>> import fastnw
    >>> fastnw.density([[0.0]], [[0.0]], kernel="boxcar", bandwidth=2.0)
    array([0.25])
    """
    question = asked(
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
    log_volume(question.problem)  # an error, if the kernel cannot be normalised
    problem = by_volume(question.problem)
    model = make_model(problem, method, question.backend, n_jobs)
    return question.restore(densities(model, problem, progress, log))


def log_volume(problem: Problem) -> float:
    """log(C_d √det H): the integral of κ over ℝ^d at the problem's bandwidth.

    Raises
    ------
    ValueError
        The kernel cannot be normalised.
    """
    from fastnw.kernels.integrals import log_integral  # brings scipy.integrate

    return log_integral(problem.kernel, problem.d) + problem.metric.log_volume


def by_volume(problem: Problem) -> Problem:
    """Return the problem with weights divided by λ^d, as densities need them with a key scale."""
    return problem if problem.key_scale is None else replace(problem, by_volume=True)


def densities(model: Model, problem: Problem, progress: bool | None, log: bool) -> Array:
    """Compute densities (m,), or their logarithms, of a problem from `by_volume` without values."""
    log_total = _log_total(replace(problem, by_volume=False) if problem.by_volume else problem)
    of_window = log_volume(problem)
    logs = np.empty(problem.m)
    predict(model, problem, progress, np.empty((problem.m, 0)), log_mass=logs)
    np.subtract(
        logs, log_total + of_window, out=logs, where=np.isfinite(logs)
    )  # both are −inf if a query leaves out the only key
    if log:
        return finite_logs(logs, problem.dtype).astype(problem.dtype)
    with np.errstate(over="ignore", under="ignore"):  # a density beyond the type's range is infinite
        return np.exp(logs).astype(problem.dtype)


def _log_total(problem: Problem) -> Any:
    """Compute log Σ w, a number; with `exclude_self`, log Σ_{j ≠ i} w_j for each query i, (m,)."""
    largest, total = problem.log_largest_weight, problem.total_weight
    if not problem.exclude_self:
        return largest + math.log(total or 1.0)
    weights = problem.weights_at(slice(None))
    weights = np.ones(problem.n) if weights is None else weights
    with np.errstate(divide="ignore"):
        logs = largest + np.log(np.maximum(total - weights, 0.0))
        for row in np.flatnonzero(weights > total / 2):  # at most one row; a difference would cancel
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
    """Return the plan that `pool` would follow with these arguments, without computing anything.

    Parameters
    ----------
    queries : array or data frame of shape (m, d)
    keys : array or data frame of shape (n, d)
    values : array of shape (n,) or (n, c), optional
        None plans masses alone, as `density` computes them.
    kernel, bandwidth, sample_weight, key_scale, method, backend, tol, exclude_self, n_jobs
        As in `pool`.

    Returns
    -------
    Plan
        It has attributes ``method, backend, isa, n_threads, pairs, seconds, bytes, reason, ladder``; ``str()`` explains
        them.

    Examples
    --------
    >>> import fastnw
    >>> fastnw.plan([[0.0]], [[0.0], [1.0]], [1.0, 2.0]).pairs
    2.0
    """
    question = asked(
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
    return make_plan(question.problem, method, question.backend, n_jobs)


@dataclass(frozen=True)
class Question:
    """The checked arguments of a public function.

    Attributes
    ----------
    problem : Problem
    backend : str
        The requested backend, or "cuda" for device arrays.
    restore : array -> array
        Converts a result to an array of the caller's framework, on its device.
    flat : bool
        Whether `values` has one dimension.
    """

    problem: Problem
    backend: str
    restore: Callable[[Any], Any]
    flat: bool


def asked(
    queries: Any, keys: Any, values: Any, backend: str, *, sample_weight: Any, key_scale: Any, **choices: Any
) -> Question:
    """Convert and check the arguments that all public functions share.

    `choices` are kernel, bandwidth, exclude_self and tol, as `core.validate.build` takes them.
    """
    arrays = (queries, keys, values, sample_weight, key_scale)
    restore: Callable[[Any], Any] = _unchanged
    if not all(map(_is_plain, arrays)):  # the inspection of each takes 10 µs
        restore = frameworks.restorer(*(array for array in arrays[:3] if array is not None))
        backend = interop.backend_for(backend, *arrays[:3])
        arrays = interop.taken_in(backend, dataframes.matched(queries, keys), *arrays[1:])
    queries, keys, values, sample_weight, key_scale = arrays
    problem = build(queries, keys, values, sample_weight=sample_weight, key_scale=key_scale, **choices)
    shape = getattr(values, "shape", None)
    return Question(problem, backend, restore, np.ndim(values) == 1 if shape is None else len(shape) == 1)


_PLAIN_TYPES = (list, tuple, float, int, type(None))


def _is_plain(array: Any) -> bool:
    """Whether this is neither a framework's array, nor a data frame, nor of a type that NumPy borrows (bfloat16)."""
    return array.dtype.kind in "fiub" if type(array) is np.ndarray else type(array) in _PLAIN_TYPES


def _unchanged(result: Any) -> Any:
    return result


def _output(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return `out` if its shape and dtype fit, or allocate an array for None."""
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray) or out.shape != shape or out.dtype != dtype:
        got = f"{out.dtype} of shape {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise ValueError(f"out must be a numpy array of {dtype} and shape {shape}, got {got}.")
    if not out.flags.writeable:
        raise ValueError("out must be writeable, got a read-only array. Pass a copy.")
    return out
