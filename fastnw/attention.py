"""`attention_weights`: the normalised weights of the keys, dense or top-k, computed in float64."""

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

# Below this log mass, κ of the keys may be subnormal.
MIN_NORMAL_LOG_MASS = -680.0
# The numbers of queries and keys in one tile of scores, which takes 1 MiB.
ROWS, KEYS = 64, 2048


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
    """Compute the weight of each key in the mean at each query: w_i κ(u_i) / Σ_j w_j κ(u_j).

    Parameters
    ----------
    queries : array or data frame of shape (m, d)
    keys : array or data frame of shape (n, d)
    top_k : int, optional
        Return the `top_k` largest weights of each query only, and allocate no (m, n) array.
    kernel, bandwidth, sample_weight, key_scale, exclude_self, empty, method, backend, n_jobs, progress
        As in `pool`. In an empty window, the row of dense weights is NaN for "nan", 1 at the nearest key for "nearest",
        w_i / Σ_j w_j for "mean", or the number. With `top_k`, "nan" and a number give index −1 and weight 0.

    Returns
    -------
    weights : (m, n) array
        Each row sums to 1. Returned without `top_k`.
    indices, weights : (m, top_k) int64 and floating arrays
        In descending order, equal weights in the order of the keys, normalised over *all* keys; −1 and 0 in place of
        keys beyond the support.

    Raises
    ------
    ValueError, TypeError
        As in `pool`; or `top_k` is not an integer between 1 and n.

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
    with progress_meter(progress, plan.seconds, 2 * plan.pairs, "fastnw") as meter:  # for masses and for weights
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
                # The log weight of a single key may exceed the log mass by a rounding.
                weights[rows, start : start + logs.shape[1]] = np.exp(np.minimum(logs - sweep.log_mass[rows, None], 0))
        if not problem.kernel.facts.built_in:  # rounding of very large logarithms may make sums of shares exceed 1
            total = weights[rows].sum(axis=1, keepdims=True)
            np.divide(weights[rows], total, out=weights[rows], where=total > 1.5)
        for row in rows.start + np.flatnonzero(sweep.far[rows]):
            positions, shares = tails.weights_of(sweep.scoring, row)
            weights[row] = 0
            weights[row, positions] = shares
        return sweep.pairs(rows)

    run(task, sweep.n_tasks, model.plan.n_threads, meter)
    rows = np.flatnonzero(sweep.empty)
    empty_windows = Tally()
    empty_windows.add(rows)
    report(problem, empty_windows, empty)
    if len(rows):
        if empty == "mean":
            weights[rows] = _key_shares(problem)
        elif empty == "nearest":
            positions = nearest(model, problem, rows)
            weights[rows] = 0
            weights[rows[positions >= 0], positions[positions >= 0]] = 1
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
        top, keys = np.full((count, k), -np.inf), np.full((count, k), -1, np.int64)
        for start, logs in sweep.blocks(rows):
            merge_top_k(np.ascontiguousarray(logs, np.float64), start, top, keys)
        with np.errstate(invalid="ignore"):
            log_mass = np.where(sweep.empty[rows], 0.0, sweep.log_mass[rows])
            shares = np.exp(np.minimum(top - log_mass[:, None], 0))
        for row in np.flatnonzero(sweep.far[rows]):
            keys[row], shares[row] = _far_top_k(sweep.scoring, int(rows.start + row), keys[row])
        indices[rows], weights[rows] = keys, shares
        return sweep.pairs(rows)

    run(task, sweep.n_tasks, model.plan.n_threads, meter)
    rows = np.flatnonzero(sweep.empty)
    empty_windows = Tally()
    empty_windows.add(rows)
    report(problem, empty_windows, empty)
    if len(rows):
        if empty == "mean":
            shares = _key_shares(problem)
            order = np.argsort(-shares, kind="stable")[:k]
            indices[rows], weights[rows] = np.where(shares[order] > 0, order, -1), shares[order]
        elif empty == "nearest":
            indices[rows, 0] = nearest(model, problem, rows)
            weights[rows, 0] = indices[rows, 0] >= 0
    return indices, weights


def _far_top_k(scoring: Scoring, row: int, keys: Positions) -> tuple[Positions, Floats]:
    """Compute the top-k keys of a query in a far tail, given its top-k `keys` by float64 scores, and their shares.

    The keys that contribute to the sum come from `tails`. The others, whose shares are below 1e-19, follow in the order
    of their scores with share 0; for a compact kernel, −1 takes their place.
    """
    positions, shares = tails.weights_of(scoring, row)
    order = np.argsort(-shares, kind="stable")[: len(keys)]
    positions, shares = positions[order], shares[order]
    others = keys[~np.isin(keys, positions)][: len(keys) - len(positions)]
    keys, shares = np.concatenate([positions, others]), np.concatenate([shares, np.zeros(len(others))])
    return (keys if scoring.problem.kernel.support is None else np.where(shares > 0, keys, -1)), shares


@dataclass(frozen=True)
class _Sweep:
    """Log weights of blocks of queries against blocks of keys, and the log masses that normalise them."""

    scoring: Scoring
    log_mass: Floats  # (m,), relative to the largest weight
    empty: NDArray[np.bool_]  # (m,)
    far: NDArray[np.bool_]  # (m,), queries whose exponents, or κ of keys near the rim, need `tails`

    @classmethod
    def of(cls, model: Model, meter: Meter) -> _Sweep:
        """Compute all masses in float64 with the ladder of the model."""
        problem, scoring = model.problem, Scoring.of(model.problem, model.plan, model.errors)
        log_mass, far, empty = np.empty(problem.m), np.empty(problem.m, bool), np.empty(problem.m, bool)
        by_tails = np.array([rung.method == "tails" for rung in model.plan.ladder])
        missed, judge = Tally(), Judge(model)
        for answer in answers(model, problem, meter):
            rows, sums = answer.rows, answer.sums
            log_mass[rows], empty[rows] = sums.log_mass(), sums.is_empty
            error = _exponent_error(scoring, rows, log_mass[rows])
            far[rows] = error > (judge.limit(Queries(problem, rows), sums) if judge.has_tails else problem.promise)
            if problem.kernel.support is not None:
                far[rows] |= by_tails[answer.rungs]
            bound = sums.relative_mass_error()
            uncertified = np.flatnonzero(bound > problem.promise * (1 + 1e-9))
            missed.add(rows[uncertified], bound[uncertified])
        warn_of_accuracy(problem, missed)
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
        """Yield the position of the first key of each block, and log w κ, (rows, keys)."""
        queries = pack_queries(self.problem, rows, np.float64)
        inverse = pack_inverse(self.problem, np.float64)
        for start in range(0, self.problem.n, KEYS):
            check_stop()
            keys = pack_keys(self.problem, start, min(start + KEYS, self.problem.n), np.float64)
            scores = self.scoring.backend.score_tile(self.problem.kernel, queries, keys, inverse)
            yield start, self._log_weights(rows, keys, scores)

    def _log_weights(self, rows: slice, keys: KeyBlock, u2: Floats) -> Floats:
        """Compute log w κ; −inf beyond the support, for a weight of 0, and for the key left out by `exclude_self`."""
        kernel = self.problem.kernel
        if not kernel.facts.built_in:
            u2 = np.fmin(u2, MAX_SQUARE)  # as in the sums of the masses
        with np.errstate(all="ignore"):
            if kernel.support is not None:
                inside = u2 <= kernel.support**2
            else:  # polynomials times exponentials are NaN where u² has overflowed
                inside = u2 < np.inf if kernel.works_on_logs else np.ones(u2.shape, bool)
            # the constant kernel is 1 even where u² is NaN
            argument = np.fmin(np.where(inside, u2, 0.0), np.finfo(np.float64).max)
            logs = np.where(inside, kernel.log(argument), -np.inf)
        log_weights = self.problem.log_weights_at(slice(keys.start, keys.start + keys.size))
        if log_weights is not None:
            logs += log_weights
        if self.problem.exclude_self:
            columns = np.arange(rows.start, rows.stop) - keys.start
            in_block = np.flatnonzero((columns >= 0) & (columns < keys.size))
            logs[in_block, columns[in_block]] = -np.inf
        return logs


def _exponent_error(scoring: Scoring, rows: Positions, log_mass: Floats) -> Floats:
    """Bound the mean relative error of the weights from float64 exponents, (rows,).

    A kernel without exponents has no such error, unless κ may be subnormal: inf there.
    """
    problem = scoring.problem
    if problem.kernel.facts.log_ratio is None:
        return np.zeros(len(log_mass))
    if not problem.kernel.works_on_logs:
        return np.where(log_mass < MIN_NORMAL_LOG_MASS, np.inf, 0.0)
    queries = pack_queries(problem, rows, np.float64)
    return certify.exponent_error(problem, scoring.score_error(queries), log_mass)


def _key_shares(problem: Problem) -> Floats:
    """Compute w / Σ w, (n,)."""
    weights = problem.weights_at(slice(None))
    weights = np.ones(problem.n) if weights is None else weights
    return weights / (weights.sum() or np.nan)
