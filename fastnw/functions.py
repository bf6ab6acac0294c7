"""pool, density, plan: validate -> plan -> method -> finalise; empty windows and clipping are resolved here."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.backends.cuda import interop
from fastnw.core import empties
from fastnw.core.array import DeviceRows
from fastnw.core.empties import Tally
from fastnw.core.plan import Plan
from fastnw.core.problem import Problem
from fastnw.core.state import PoolState
from fastnw.core.validate import Empty, build, check_empty
from fastnw.core.warnings import AccuracyWarning, caller_level
from fastnw.interop import dataframes, frameworks
from fastnw.kernels.kernel import Kernel
from fastnw.planner import make_plan
from fastnw.runtime.threads import progress as progress_meter

Array = NDArray[Any]

SEARCHED = 0.5  # of the pairs summed: what a search for the nearest keys of all empty windows counts for in the bar


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
    restore = frameworks.restorer(queries, keys, values)
    backend = interop.backend_for(backend, queries, keys, values)
    queries, keys, values, sample_weight, key_scale = interop.taken_in(
        backend, dataframes.matched(queries, keys), keys, values, sample_weight, key_scale
    )
    empty = check_empty(empty)
    problem = build(
        queries,
        keys,
        _required(values),
        kernel=kernel,
        bandwidth=bandwidth,
        sample_weight=sample_weight,
        key_scale=key_scale,
        exclude_self=exclude_self,
        tol=tol,
    )
    results = pooled(
        problem,
        method,
        backend,
        n_jobs,
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
    problem: Problem,
    method: str,
    backend: str,
    n_jobs: int | None,
    *,
    flat: bool,
    empty: Empty,
    return_mass: bool = False,
    return_error: bool = False,
    out: Array | None = None,
    progress: bool | None = None,
) -> tuple[Any, ...]:
    """`pool` of a checked problem: the means, (m,) if `flat`, and what else was asked for. The means are the CUDA
    device's array where the problem lies there."""
    plan = make_plan(problem, method, backend, n_jobs)
    log_mass = np.empty(problem.m, problem.dtype) if return_mass else None
    error = np.empty(problem.m) if return_error else None
    extras = tuple(extra for extra in (log_mass, error) if extra is not None)
    if out is None and problem.on_device:
        there = problem.keys.empty_rows(problem.m, problem.c, problem.dtype)  # type: ignore[attr-defined]
        run(problem, plan, progress, there, empty=empty, log_mass=log_mass, error=error)
        return (there.finished(flat), *extras)
    result = _output(out, (problem.m,) if flat else (problem.m, problem.c), problem.dtype)
    # results are written while later ones are computed: never over what is still read
    read = (problem.queries, problem.keys, problem.values, problem.weights, problem.key_scale)
    overlaps = out is not None and any(isinstance(a, np.ndarray) and np.may_share_memory(out, a) for a in read)
    mean = result.copy() if overlaps else result
    run(problem, plan, progress, mean.reshape(problem.m, problem.c), empty=empty, log_mass=log_mass, error=error)
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
    restore = frameworks.restorer(queries, keys)
    backend = interop.backend_for(backend, queries, keys)
    queries, keys, sample_weight, key_scale = interop.taken_in(
        backend, dataframes.matched(queries, keys), keys, sample_weight, key_scale
    )
    problem = build(
        queries,
        keys,
        None,
        kernel=kernel,
        bandwidth=bandwidth,
        sample_weight=sample_weight,
        key_scale=key_scale,
        exclude_self=exclude_self,
        tol=tol,
    )
    return restore(log_density(problem, method, backend, n_jobs, progress, log))


def log_density(
    problem: Problem, method: str, backend: str, n_jobs: int | None, progress: bool | None, log: bool
) -> Array:
    """(m,) density of a checked problem without values, or its logarithm."""
    from fastnw.kernels.integrals import log_integral

    log_total = _log_total(replace(problem, by_volume=False) if problem.by_volume else problem)
    log_volume = log_integral(problem.kernel, problem.d) + problem.metric.log_volume
    if problem.key_scale is not None and not problem.by_volume:
        problem = replace(problem, by_volume=True)
    plan = make_plan(problem, method, backend, n_jobs)
    logs = np.empty(problem.m)
    run(problem, plan, progress, np.empty((problem.m, 0)), log_mass=logs)
    np.subtract(logs, log_total + log_volume, out=logs, where=np.isfinite(logs))  # both are −inf for an only key's own
    if log:
        return _as_finite(logs, problem.dtype).astype(problem.dtype)
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
    backend = interop.backend_for(backend, queries, keys, values)
    *arrays, sample_weight, key_scale = interop.taken_in(
        backend, dataframes.matched(queries, keys), keys, values, sample_weight, key_scale
    )
    problem = build(
        *arrays,
        kernel=kernel,
        bandwidth=bandwidth,
        sample_weight=sample_weight,
        key_scale=key_scale,
        exclude_self=exclude_self,
        tol=tol,
    )
    return make_plan(problem, method, backend, n_jobs)


def run(
    problem: Problem,
    plan: Plan,
    progress: bool | None,
    mean: Array | DeviceRows,
    *,
    empty: Empty | None = None,
    log_mass: Array | None = None,
    error: Array | None = None,
) -> None:
    """Sum, panel by panel, into `mean` (m, c), `log_mass` and `error` (m,): the way every result goes.

    Nothing else is kept per query, so that memory does not grow with m. Empty windows are filled as `empty` asks.
    """
    missed, bare = Tally(), Tally()
    summary = plan.steps.summarise(problem, plan)
    # the nearest keys of empty windows are looked for when their panel is summed: a part of the bar is theirs
    reserved = SEARCHED * plan.pairs if empty == "nearest" and problem.kernel.support is not None else 0.0
    with progress_meter(progress, plan.seconds, plan.pairs + reserved, "fastnw") as meter:
        for start in range(0, problem.m, panel := plan.steps.panel(problem)):
            rows = slice(start, min(start + panel, problem.m))
            state = plan.steps.accumulate(summary, np.arange(rows.start, rows.stop), meter)
            _check_masses(problem, state, start)
            bound = _finalise(problem, state, mean[rows])
            if error is not None:
                error[rows] = bound
            if log_mass is not None:
                log_mass[rows] = _as_finite(state.log_mass() + problem.log_largest_weight, log_mass.dtype)
            late = np.flatnonzero(bound > _promised(problem) * (1 + 1e-9))  # NaN, where empty, is not
            missed.add(late + start, bound[late])
            nothing = np.flatnonzero(state.is_empty) + start
            bare.add(nothing)
            if empty is not None and len(nothing):
                empties.fill(problem, plan, mean, nothing, empty, meter, reserved * state.mass.size / problem.m)
    warn_of_accuracy(problem, missed)
    if empty is not None:
        empties.report(problem, bare, empty)


def _as_finite(logs: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """Logarithms within the range of `dtype`; −inf, which means empty, stays."""
    largest = float(np.finfo(dtype).max)
    return np.where(np.isfinite(logs), np.clip(logs, -largest, largest), logs)


def _check_masses(problem: Problem, state: PoolState, start: int) -> None:
    """A user's profile may turn NaN, infinite or negative at a distance that its first check did not try."""
    bad = np.flatnonzero(~np.isfinite(state.mass))
    if len(bad):
        raise ValueError(
            f"kernel {problem.kernel.name!r} is not finite and non-negative at every key of query {bad[0] + start}."
        )


def _finalise(problem: Problem, state: PoolState, out: Array | DeviceRows) -> NDArray[np.float64]:
    """Means in the values' own units into `out`, clipped to their range; the bound (m,) on their error."""
    bound = state.bound()
    if problem.c == 0:
        return np.where(np.isnan(bound), np.nan, state.relative_mass_error())
    (low, high), (centre, half) = problem.values_range, problem.values_centre
    if problem.dtype == np.float32 and problem.values.dtype.kind != "f":
        low, high = low.astype(np.float32), high.astype(np.float32)
    if isinstance(out, DeviceRows) and isinstance(state.total, DeviceRows):
        out.put_means(state.total, state.mass, low, high, centre, half)
    else:
        out[:] = np.clip(centre + half * state.means(), low, high)
    return bound * half.max()


def _promised(problem: Problem) -> float:
    """Largest error within the promise, in the units of `_finalise`'s bound."""
    return problem.promise if problem.c == 0 else problem.promise * 2 * float(problem.values_centre[1].max())


def warn_of_accuracy(problem: Problem, missed: Tally) -> None:
    """Warn of queries whose bounds exceed the promise."""
    if missed.count:
        what = "in relative terms" if problem.c == 0 else "of the values' range (return_error=True gives each bound)"
        warnings.warn(
            f"{missed.count} of {problem.m} results are not certified to {problem.promise:g} {what}; the largest bound "
            f"is {missed.largest:.3g} (first queries: {missed}).",
            AccuracyWarning,
            stacklevel=caller_level(),
        )


def _required(values: Any) -> Any:
    if values is None:
        raise ValueError("values is required; fastnw.density needs none.")
    return values


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
