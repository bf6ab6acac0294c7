"""attention_weights: the weights themselves, dense or the top k, always computed in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw import backends
from fastnw.backends.cuda import interop
from fastnw.backends.reference import MAX_SQUARE
from fastnw.core import certify
from fastnw.core._top_k import merge_top_k
from fastnw.core.driver import answers
from fastnw.core.empties import Tally, report
from fastnw.core.estimate import warn_of_accuracy
from fastnw.core.judge import Judge
from fastnw.core.model import Model, Queries
from fastnw.core.pack import KeyBlock, pack_inverse, pack_keys, pack_queries
from fastnw.core.problem import Problem
from fastnw.core.validate import Empty, build, check_empty
from fastnw.interop import dataframes, frameworks
from fastnw.kernels.kernel import Kernel
from fastnw.methods.nearest.search import nearest
from fastnw.methods.scoring import Scoring
from fastnw.methods.tails import method as tails
from fastnw.planner import ladder, make_plan, model_of
from fastnw.runtime.threads import Meter, check_stop, run
from fastnw.runtime.threads import progress as progress_meter

Array = NDArray[Any]
Floats = NDArray[np.float64]
Positions = NDArray[np.int64]

VANISHING_NATS = -680.0  # log mass below which κ, which is not much larger, may be no normal number
ROWS, KEYS = 64, 2048  # queries and keys scored at a time: 1 MiB


def attention_weights(
    queries: Any,
    keys: Any,
    *,
    kernel: str | Kernel = "gaussian",
    bandwidth: Any = 1.0,
    sample_weight: Any = None,
    key_scale: Any = None,
    exclude_self: bool = False,
    empty: Empty = "nan",
    method: str = "auto",
    backend: str = "auto",
    n_jobs: int | None = None,
    progress: bool | None = None,
    top_k: int | None = None,
) -> Any:
    """Each key's share of each query's answer: w_i κ(u_i) / Σ_j w_j κ(u_j).

    Parameters
    ----------
    queries : array or data frame of shape (m, d)
    keys : array or data frame of shape (n, d)
    top_k : int, optional
        Return only the largest `top_k` weights of each query, without an (m, n) array.
    kernel, bandwidth, sample_weight, key_scale, exclude_self, empty, method, backend, n_jobs, progress
        As in `pool`. In an empty window the dense row is NaN, all weight on the nearest key, the weights w themselves,
        or the number. With `top_k` an empty window holds no key: "nan" and a number leave index −1 and weight 0 there.

    Returns
    -------
    weights : (m, n) array
        Rows sum to 1. Without `top_k`.
    indices, weights : (m, top_k) int64 and floating arrays
        Descending, equal weights in the order of the keys, normalised over *all* keys; −1 and 0 beyond the support.

    Raises
    ------
    ValueError, TypeError
        As in `pool`; also for a `top_k` that is not between 1 and n.

    Warns
    -----
    EmptyWindowWarning, AccuracyWarning

    Examples
    --------
    >>> import fastnw
    >>> fastnw.attention_weights([[0.0]], [[0.0], [0.5], [2.0]], kernel="triangular").round(2)
    array([[0.67, 0.33, 0.  ]])
    """
    restore = frameworks.restorer(queries, keys)
    backend = interop.backend_for(backend, queries, keys)
    queries = dataframes.matched(queries, keys)
    queries, keys, sample_weight, key_scale = map(frameworks.to_numpy, (queries, keys, sample_weight, key_scale))
    empty = check_empty(empty)
    problem = build(
        queries,
        keys,
        None,
        kernel=kernel,
        bandwidth=bandwidth,
        sample_weight=sample_weight,
        key_scale=key_scale,
        exclude_self=exclude_self,
    )
    plan = make_plan(problem, "exact" if method == "auto" else method, backend, n_jobs)
    if plan.method != "exact":
        raise ValueError(f"method={method!r} supports no weights of single pairs. Use method='auto'.")
    dtype = np.dtype(np.float64)
    plan = replace(plan, dtype=dtype, ladder=ladder(problem, "exact", backends.get(plan.backend), dtype))
    model = model_of(problem, plan)
    with progress_meter(progress, plan.seconds, 2 * plan.pairs, "fastnw") as meter:  # masses, then weights
        if top_k is None:
            return restore(_dense(model, empty, meter))
        indices, weights = _top_k(model, _check_top_k(top_k, problem.n), empty, meter)
    return restore(indices), restore(weights)


def _check_top_k(top_k: Any, n: int) -> int:
    if isinstance(top_k, bool) or not hasattr(top_k, "__index__"):
        raise TypeError(f"top_k must be an integer or None, got {top_k!r}.")
    if not 1 <= top_k.__index__() <= n:
        raise ValueError(f"top_k must be between 1 and the number of keys, {n}, got {top_k}.")
    return int(top_k.__index__())


def _dense(model: Model, empty: Empty, meter: Meter) -> Array:
    problem = model.problem
    weights = np.empty((problem.m, problem.n), problem.dtype)
    sweep = _Sweep.of(model, meter)

    def task(i: int) -> float:
        rows = sweep.rows(i)
        for start, logs in sweep.blocks(rows):
            with np.errstate(invalid="ignore"):
                # a lone key's logarithm and its mass's may differ by a rounding
                weights[rows, start : start + logs.shape[1]] = np.exp(np.minimum(logs - sweep.log_mass[rows, None], 0))
        if not problem.kernel.facts.built_in:  # logarithms so large that those of masses say nothing
            total = weights[rows].sum(axis=1, keepdims=True)
            np.divide(weights[rows], total, out=weights[rows], where=total > 1.5)
        for row in rows.start + np.flatnonzero(sweep.far[rows]):
            positions, shares = tails.weights_of(sweep.scoring, row)
            weights[row] = 0
            weights[row, positions] = shares
        return sweep.pairs(rows)

    run(task, sweep.n_tasks, model.plan.n_threads, meter)
    rows = np.flatnonzero(sweep.empty)
    bare = Tally()
    bare.add(rows)
    report(problem, bare, empty)
    if len(rows):
        if empty == "mean":
            weights[rows] = _own_weights(problem)
        elif empty == "nearest":
            at = nearest(model, problem, rows)
            weights[rows] = 0
            weights[rows[at >= 0], at[at >= 0]] = 1
        else:
            weights[rows] = empty if isinstance(empty, float) else np.nan
    return weights


def _top_k(model: Model, k: int, empty: Empty, meter: Meter) -> tuple[Positions, Array]:
    problem = model.problem
    indices, weights = np.full((problem.m, k), -1), np.zeros((problem.m, k), problem.dtype)
    sweep = _Sweep.of(model, meter)

    def task(i: int) -> float:
        rows = sweep.rows(i)
        count = rows.stop - rows.start
        best, at = np.full((count, k), -np.inf), np.full((count, k), -1, np.int64)
        for start, logs in sweep.blocks(rows):
            merge_top_k(np.ascontiguousarray(logs, np.float64), start, best, at)
        with np.errstate(invalid="ignore"):
            log_mass = np.where(sweep.empty[rows], 0.0, sweep.log_mass[rows])
            shares = np.exp(np.minimum(best - log_mass[:, None], 0))
        for row in np.flatnonzero(sweep.far[rows]):
            at[row], shares[row] = _far_top_k(sweep.scoring, int(rows.start + row), at[row])
        indices[rows], weights[rows] = at, shares
        return sweep.pairs(rows)

    run(task, sweep.n_tasks, model.plan.n_threads, meter)
    rows = np.flatnonzero(sweep.empty)
    bare = Tally()
    bare.add(rows)
    report(problem, bare, empty)
    if len(rows):
        if empty == "mean":
            own = _own_weights(problem)
            order = np.argsort(-own, kind="stable")[:k]
            indices[rows], weights[rows] = np.where(own[order] > 0, order, -1), own[order]
        elif empty == "nearest":
            indices[rows, 0] = nearest(model, problem, rows)
            weights[rows, 0] = indices[rows, 0] >= 0
    return indices, weights


def _far_top_k(scoring: Scoring, row: int, at: Positions) -> tuple[Positions, Floats]:
    """The keys that `tails` finds to matter, then the others in their order, with less than 1e-19 each; of a compact
    kernel, none beyond its window."""
    positions, shares = tails.weights_of(scoring, row)
    order = np.argsort(-shares, kind="stable")[: len(at)]
    positions, shares = positions[order], shares[order]
    others = at[~np.isin(at, positions)][: len(at) - len(positions)]
    at, shares = np.concatenate([positions, others]), np.concatenate([shares, np.zeros(len(others))])
    return (at if scoring.problem.kernel.support is None else np.where(shares > 0, at, -1)), shares


@dataclass(frozen=True)
class _Sweep:
    """Log weights of rows of queries against blocks of keys, and what normalises them."""

    scoring: Scoring
    log_mass: Floats  # (m,) in units of the largest weight
    empty: NDArray[np.bool_]  # (m,)
    far: NDArray[np.bool_]  # (m,) exponents, or κ of keys on a rim, need `tails`

    @classmethod
    def of(cls, model: Model, meter: Meter) -> _Sweep:
        """Sums all masses, in float64 by the plan's method."""
        problem, scoring = model.problem, Scoring.of(model.problem, model.plan, model.errors)
        log_mass, far, empty = np.empty(problem.m), np.empty(problem.m, bool), np.empty(problem.m, bool)
        by_tails = np.array([rung.method == "tails" for rung in model.plan.ladder])
        unsure, judge = Tally(), Judge(model)
        for found in answers(model, problem, meter):
            rows, sums = found.rows, found.sums
            log_mass[rows], empty[rows] = sums.log_mass(), sums.is_empty
            error = _exponent_error(scoring, rows, log_mass[rows])
            far[rows] = error > (judge.limit(Queries(problem, rows), sums) if judge.has_tails else problem.promise)
            if problem.kernel.support is not None:
                far[rows] |= by_tails[found.rungs]
            bound = sums.relative_mass_error()
            late = np.flatnonzero(bound > problem.promise * (1 + 1e-9))
            unsure.add(rows[late], bound[late])
        warn_of_accuracy(problem, unsure)
        return cls(scoring, log_mass, empty, far & ~empty)

    @property
    def problem(self) -> Problem:
        return self.scoring.problem

    @property
    def n_tasks(self) -> int:
        return math.ceil(self.problem.m / ROWS)

    def pairs(self, rows: slice) -> float:
        return float(rows.stop - rows.start) * self.problem.n

    def rows(self, task: int) -> slice:
        return slice(task * ROWS, min((task + 1) * ROWS, self.problem.m))

    def blocks(self, rows: slice) -> Iterator[tuple[int, Floats]]:
        """The first key's position and log w κ (rows, keys), block by block."""
        queries = pack_queries(self.problem, rows, np.float64)
        inverse = pack_inverse(self.problem, np.float64)
        for start in range(0, self.problem.n, KEYS):
            check_stop()
            keys = pack_keys(self.problem, start, min(start + KEYS, self.problem.n), np.float64)
            scores = self.scoring.backend.score_tile(self.problem.kernel, queries, keys, inverse)
            yield start, self._log_weights(rows, keys, scores)

    def _log_weights(self, rows: slice, keys: KeyBlock, u2: Floats) -> Floats:
        """log w κ; −inf beyond the support, without weight, and for a left-out own key."""
        kernel = self.problem.kernel
        if not kernel.facts.built_in:
            u2 = np.fmin(u2, MAX_SQUARE)  # as where the masses are summed
        with np.errstate(all="ignore"):
            if kernel.support is not None:
                inside = u2 <= kernel.support**2
            else:  # polynomials times exponentials are NaN where u² has overflowed
                inside = u2 < np.inf if kernel.works_on_logs else np.ones(u2.shape, bool)
            # the constant kernel is 1 even where u² is no number
            argument = np.fmin(np.where(inside, u2, 0.0), np.finfo(np.float64).max)
            logs = np.where(inside, kernel.log(argument), -np.inf)
        log_weights = self.problem.log_weights_at(slice(keys.start, keys.start + keys.size))
        if log_weights is not None:
            logs += log_weights
        if self.problem.exclude_self:
            own = np.arange(rows.start, rows.stop) - keys.start
            here = np.flatnonzero((own >= 0) & (own < keys.size))
            logs[here, own[here]] = -np.inf
        return logs


def _exponent_error(scoring: Scoring, rows: Positions, log_mass: Floats) -> Floats:
    """(rows,) Bound on the weights' mean relative error from float64 exponents, or, without them, where κ vanishes."""
    problem = scoring.problem
    if problem.kernel.facts.log_ratio is None:
        return np.zeros(len(log_mass))
    if not problem.kernel.works_on_logs:
        return np.where(log_mass < VANISHING_NATS, np.inf, 0.0)
    queries = pack_queries(problem, rows, np.float64)
    return certify.exponent_error(problem, scoring.score_error(queries), log_mass)


def _own_weights(problem: Problem) -> Floats:
    """(n,) w / Σ w."""
    weights = problem.weights_at(slice(None))
    weights = np.ones(problem.n) if weights is None else weights
    return weights / (weights.sum() or np.nan)
