"""Far queries: exponents relative to the leading key, with 32 digits where float64 has none left.

At 10⁶ bandwidths u² is 10¹², and its float64 rounding alone is 10⁻⁴ in the exponent. With key 0 the leading one,

    u_i² − u_0² = Σ_j (k_0j − k_ij)(2 q_j − k_0j − k_ij)/h_j²

has no such term, and `Kernel.facts.log_ratio` turns it into log κ(u_i) − log κ(u_0). Keys that can matter get it in
double-double arithmetic, since in d ≥ 2 the sum over j may cancel (keys at equal distance in different directions).

Compact kernels lose digits elsewhere: in 1 − u², where every key in the window is near its edge. It gets the same care.

This is the last step of `exact`, for the queries that plain sums cannot certify. The backend scores all keys to find
those that can matter; they are few, and go one query at a time through NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastnw import _doubledouble as dd
from fastnw._pack import normalised_values, pack_inverse, pack_keys, pack_queries
from fastnw._state import PoolState
from fastnw._threads import Meter, check_stop, run
from fastnw._validation import Problem
from fastnw.kernels import Kernel

if TYPE_CHECKING:
    from fastnw.methods.exact import Summary

Floats = NDArray[np.float64]
QUERIES, KEYS = 32, 4096  # queries a task, keys scored at a time: 1 MiB
RIM = 2.0**-96  # 1 − u² below this is the rounding of a key exactly on the rim, where κ = 0
LOWEST = -1e300  # stands for log κ where u² has overflowed
UNIT = 2.0**-53


@dataclass(frozen=True)
class _Leader:
    """The key with (nearly) the largest weight, and the query's relation to it."""

    key: Floats  # (d,)
    log_weight: float
    factor: dd.Pair  # 1/λ², 1/λ for inner products
    score: dd.Pair  # Σ_j (q_j − k_j)²/h_j² or Σ_j q_j k_j/h_j, before the factor
    u2: float  # the kernel's argument: score · factor
    base: float  # log w κ(u)


def known(kernel: Kernel) -> bool:
    """Whether this module can do better than plain float64 sums."""
    return kernel.facts is not None and (kernel.facts.log_ratio is not None or kernel.facts.edge is not None)


def accumulate(summary: Summary, rows: NDArray[np.intp], meter: Meter) -> PoolState:
    """The state of those queries (positions in ``problem.queries``), if the kernel is `known`."""
    state = PoolState.empty(len(rows), summary.problem.c)
    form = _form(summary.problem)
    sums = _log_sums if summary.problem.kernel.works_on_logs else _edge_sums

    def task(i: int) -> float:
        mine = slice(i * QUERIES, (i + 1) * QUERIES)
        with np.errstate(all="ignore"):
            state.put(mine, sums(summary, form, rows[mine]))
        return 0.0

    run(task, math.ceil(len(rows) / QUERIES), summary.plan.n_threads, meter)
    return state


def weights_of(summary: Summary, row: int) -> tuple[NDArray[np.intp], Floats]:
    """Positions of the keys that can matter to one query, and w κ/mass there."""
    form, rows = _form(summary.problem), np.array([row])
    with np.errstate(all="ignore"):
        leaders, lowest = _leaders(summary, form, rows)
        found = [part for _, _, part in _relative_logs(summary, form, rows, leaders, lowest)]
        if not found:
            return np.empty(0, np.intp), np.empty(0)
        positions, logs = (np.concatenate(part) for part in zip(*found, strict=True))
        weights = np.exp(logs - logs.max())
    return positions, weights / weights.sum()


def _log_sums(summary: Summary, form: dd.Pair, rows: NDArray[np.intp]) -> PoolState:
    # Shifts stay relative to the leader until the end: log κ itself has no digits to spare (5e17 ± 32 at 10⁹).
    state = PoolState.empty(len(rows), summary.problem.c)
    leaders, lowest = _leaders(summary, form, rows)
    for i, values, (positions, logs) in _relative_logs(summary, form, rows, leaders, lowest):
        highest = logs.max()
        weights = np.exp(logs - highest)
        totals = (values[:, positions % KEYS] * weights).sum(axis=1)
        part = PoolState(np.array([highest]), np.array([weights.sum()]), totals[None, :], np.zeros(1), np.zeros(1))
        state.put(slice(i, i + 1), state.rows(slice(i, i + 1)).merge(part))
    # What is left: the rounding of log ratios (their size is at most `_reach` where they matter), of exp and of sums.
    error = state.mass * ((8 * _reach(summary.problem) + 64) * UNIT)
    base = np.array([0.0 if leader is None else leader.base for leader in leaders])
    return PoolState(state.shift + base, state.mass, state.total, error, error)


def _edge_sums(summary: Summary, form: dd.Pair, rows: NDArray[np.intp]) -> PoolState:
    """Sums of a compact kernel with 1 − u² in double-double arithmetic."""
    problem = summary.problem
    assert problem.kernel.facts is not None
    assert problem.kernel.facts.edge is not None
    state = PoolState.empty(len(rows), problem.c)
    state.shift[:] = 0.0
    for block, u2 in _scores(summary, rows):
        keys, factors = problem.keys[block].astype(np.float64), _factors(problem, block)
        values = normalised_values(problem, block)
        for i, q in enumerate(problem.queries[rows].astype(np.float64)):
            log_weights = _log_weights(problem, block, int(rows[i]))
            chosen = np.flatnonzero((u2[i] < 1.0 + 1e-6) & (log_weights > -np.inf))
            difference = dd.two_sum(q, -keys[chosen])
            u2_exactly = dd.multiply(_apply(form, difference, difference), (factors[0][chosen], factors[1][chosen]))
            y = dd.add((np.ones(len(chosen)), np.zeros(len(chosen))), dd.negate(u2_exactly))
            inside = np.where(y[0] > RIM, np.minimum(y[0] + y[1], 1.0), 0.0)
            weights = problem.kernel.facts.edge(inside) * np.exp(log_weights[chosen])
            state.mass[i] += weights.sum()
            state.total[i] += (values[:, chosen] * weights).sum(axis=1)
    error = state.mass * (64 * UNIT)
    return PoolState(state.shift, state.mass, state.total, error, error)


def _scores(summary: Summary, rows: NDArray[np.intp]) -> Iterator[tuple[slice, Floats]]:
    """Blocks of keys, and the float64 scores (rows, keys) that the backend gives them."""
    problem, tiles = summary.problem, summary.plan.tiles
    bare = replace(problem, values=problem.values[:, :0])
    queries, inverse = pack_queries(problem, rows, np.float64), pack_inverse(problem, np.float64)
    for start in range(0, problem.n, KEYS):
        check_stop()
        block = slice(start, min(start + KEYS, problem.n))
        keys = pack_keys(bare, block.start, block.stop, np.float64)
        yield block, tiles.score_tile(problem.kernel, queries, keys, inverse)


def _reach(problem: Problem) -> float:
    """Nats below the leading key from which on all keys together add less than e^-45."""
    return 45.0 + math.log(problem.n)


def _leaders(summary: Summary, form: dd.Pair, rows: NDArray[np.intp]) -> tuple[list[_Leader | None], Floats]:
    """Each query's key of largest weight by plain float64 (its errors cost nothing, since any near key will do), and
    the plain log weight below which no key can matter."""
    problem = summary.problem
    best, leading = np.full(len(rows), -np.inf), np.full(len(rows), -1)
    for block, logs in _plain_logs(summary, rows):
        at = logs.argmax(axis=1)
        top = logs[np.arange(len(rows)), at]
        leading = np.where(top > best, at + block.start, leading)
        best = np.maximum(best, top)
    error = summary.score_error(pack_queries(problem, rows, np.float64), np.dtype(np.float64))
    if not problem.kernel.inner_product:  # relative: log κ errs by at most that much of itself
        error = error * (2.0 + _reach(problem) - np.maximum(best, LOWEST))
    queries = problem.queries[rows].astype(np.float64)
    leaders = [_leader(problem, form, q, int(k)) if k >= 0 else None for q, k in zip(queries, leading, strict=True)]
    return leaders, best - _reach(problem) - 2 * error


def _plain_logs(summary: Summary, rows: NDArray[np.intp]) -> Iterator[tuple[slice, Floats]]:
    """Blocks of keys, and log w κ (rows, keys) in plain float64."""
    problem = summary.problem
    for block, scores in _scores(summary, rows):
        logs = np.fmax(_log_profile(problem, scores), LOWEST)
        if problem.weighted:
            logs += _log_weights(problem, block, -1)
        if problem.exclude_self:
            here = np.flatnonzero((rows >= block.start) & (rows < block.stop))
            logs[here, rows[here] - block.start] = -np.inf
        yield block, logs


def _leader(problem: Problem, form: dd.Pair, q: Floats, k: int) -> _Leader:
    key = problem.keys[k].astype(np.float64)
    factors = _factors(problem, slice(k, k + 1))
    factor = (factors[0][0], factors[1][0])
    if problem.kernel.inner_product:
        score = _apply(form, (q, np.zeros_like(q)), (key, np.zeros_like(key)))
    else:
        difference = dd.two_sum(q, -key)
        score = _apply(form, difference, difference)
    argument = dd.multiply(score, factor)
    u2 = argument[0] + argument[1]
    log_weight = float(_log_weights(problem, slice(k, k + 1), -1)[0])
    return _Leader(key, log_weight, factor, score, u2, float(_log_profile(problem, u2)) + log_weight)


def _log_profile(problem: Problem, u2: Any) -> Any:
    assert problem.kernel.log_profile is not None
    return problem.kernel.log_profile(u2)


def _relative_logs(
    summary: Summary, form: dd.Pair, rows: NDArray[np.intp], leaders: list[_Leader | None], lowest: Floats
) -> Iterator[tuple[int, Floats, tuple[NDArray[np.intp], Floats]]]:
    """(query, values of the block, (positions of keys that can matter, log weights relative to the leader's))."""
    problem = summary.problem
    for block, plain in _plain_logs(summary, rows):
        values = normalised_values(problem, block)
        matters = (plain >= lowest[:, None]) & (plain > -np.inf)
        for i in np.flatnonzero(matters.any(axis=1)):
            leader = leaders[i]
            assert leader is not None
            chosen = np.flatnonzero(matters[i])
            logs = _relative_log(problem, form, int(rows[i]), leader, block, chosen)
            kept = logs >= -_reach(problem)  # the leader's own is 0, so the largest is at least that
            if kept.any():
                yield int(i), values, (chosen[kept] + block.start, logs[kept])


def _relative_log(
    problem: Problem, form: dd.Pair, row: int, leader: _Leader, block: slice, chosen: NDArray[np.intp]
) -> Floats:
    """log w κ of those keys of the block, less the leader's."""
    assert problem.kernel.facts is not None
    assert problem.kernel.facts.log_ratio is not None
    q, keys = problem.queries[row].astype(np.float64), problem.keys[block][chosen].astype(np.float64)
    all_factors = _factors(problem, block)
    factors = (all_factors[0][chosen], all_factors[1][chosen])
    scaled = dd.multiply(_apply(form, *_terms(problem, q, leader, keys)), factors)
    e = dd.add(scaled, dd.multiply(dd.add(factors, dd.negate(leader.factor)), leader.score))
    log_weights = _log_weights(problem, block, -1)[chosen]
    return problem.kernel.facts.log_ratio(e[0] + e[1], leader.u2) + (log_weights - leader.log_weight)


def _form(problem: Problem) -> dd.Pair:
    """The quadratic form of the bandwidth: (d,) factors 1/h_j² (1/h_j for inner products), or (d, d) H⁻¹."""
    cholesky = problem.metric.cholesky
    if cholesky is None:
        inverse = dd.reciprocal(problem.metric.bandwidth)
        return inverse if problem.kernel.inner_product else dd.multiply(inverse, inverse)
    from scipy.linalg import cho_solve  # 0.2 s to import, and few need it

    h = problem.metric.bandwidth
    inverse = cho_solve((cholesky, True), np.eye(len(h)))
    # one Newton step with a double-double residual: H⁻¹ + H⁻¹(I − H H⁻¹)
    product = dd.total(dd.two_product(h[:, None, :], inverse.T[None, :, :]))
    residual = dd.add((np.eye(len(h)), np.zeros_like(h)), dd.negate(product))
    return dd.two_sum(inverse, inverse @ (residual[0] + residual[1]))


def _factors(problem: Problem, block: slice) -> dd.Pair:
    """What key scales multiply scores by: 1/λ², for inner products 1/λ."""
    if problem.key_scale is None:
        ones = np.ones(len(problem.keys[block]))
        return ones, np.zeros_like(ones)
    inverse = dd.reciprocal(problem.key_scale[block].astype(np.float64))
    return inverse if problem.kernel.inner_product else dd.multiply(inverse, inverse)


def _log_weights(problem: Problem, block: slice, row: int) -> Floats:
    """log of w/max w; −inf for a query's own key where that is left out."""
    weights = problem.weights_at(block)
    weights = np.ones(len(problem.keys[block])) if weights is None else weights
    logs = np.log(weights) - math.log(problem.largest_weight)
    if problem.exclude_self and block.start <= row < block.start + len(logs):
        logs[row - block.start] = -np.inf
    return logs


def _terms(problem: Problem, q: Floats, leader: _Leader, keys: Floats) -> tuple[dd.Pair, dd.Pair]:
    """Pairs a, b with score − leader's score = aᵀ form b."""
    if problem.kernel.inner_product:
        fixed = np.broadcast_to(q, keys.shape)
        return (fixed, np.zeros_like(fixed)), dd.two_sum(keys, -leader.key)
    return dd.two_sum(leader.key, -keys), dd.add(dd.two_sum(2 * q, -leader.key), (-keys, np.zeros_like(keys)))


def _apply(form: dd.Pair, near: dd.Pair, far: dd.Pair) -> dd.Pair:
    if np.ndim(form[0]) == 1:
        return dd.total(dd.multiply(dd.multiply(near, far), form))
    result = (np.zeros(np.shape(near[0])[:-1]), np.zeros(np.shape(near[0])[:-1]))
    for j, column in enumerate(zip(*form, strict=True)):  # one at a time: no (keys, d, d) array
        product = dd.total(dd.multiply(near, column))
        result = dd.add(result, dd.multiply(product, (far[0][..., j], far[1][..., j])))
    return result
