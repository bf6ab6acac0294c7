"""Far queries: exponents relative to the leading key, with 32 digits where float64 has none left.

At 10⁶ bandwidths u² is 10¹², and its float64 rounding alone is 10⁻⁴ in the exponent. With key 0 the leading one,

    u_i² − u_0² = Σ_j (k_0j − k_ij)(2 q_j − k_0j − k_ij)/h_j²

has no such term, and `Kernel.facts.log_ratio` turns it into log κ(u_i) − log κ(u_0). Keys that can matter get it in
double-double arithmetic, since in d ≥ 2 the sum over j may cancel (keys at equal distance in different directions).

Compact kernels lose digits elsewhere: in 1 − u², where every key in the window is near its edge. It gets the same care.

This is the last step of `exact`, for the few queries that plain sums cannot certify: plain NumPy, one query at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw import _doubledouble as dd
from fastnw._pack import normalised_values
from fastnw._state import PoolState
from fastnw._threads import Meter, run
from fastnw._validation import Problem
from fastnw.kernels import Kernel

Floats = NDArray[np.float64]
KEYS, QUERIES = 1 << 14, 16  # keys worked on at a time, queries a task
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


def accumulate(problem: Problem, rows: NDArray[np.intp], n_threads: int, meter: Meter) -> PoolState:
    """The state of those queries (positions in ``problem.queries``), if the kernel is `known`."""
    state = PoolState.empty(len(rows), problem.c)
    form = _form(problem)
    sums = _sums if problem.kernel.works_on_logs else _edge_sums

    def task(i: int) -> float:
        mine = slice(i * QUERIES, (i + 1) * QUERIES)
        with np.errstate(all="ignore"):
            state.put(mine, sums(problem, form, rows[mine]))
        return 0.0

    run(task, math.ceil(len(rows) / QUERIES), n_threads, meter)
    return state


def weights_of(problem: Problem, row: int) -> tuple[NDArray[np.intp], Floats]:
    """Positions of the keys that can matter to one query, and w κ/mass there."""
    form = _form(problem)
    with np.errstate(all="ignore"):
        leader = _leaders(problem, form, np.array([row]))[0]
        if leader is None:
            return np.empty(0, np.intp), np.empty(0)
        parts = [_matter(problem, form, row, leader, start, -np.inf) for start in range(0, problem.n, KEYS)]
        positions, logs = (np.concatenate(part) for part in zip(*parts, strict=True))
        weights = np.exp(logs - logs.max())
    return positions, weights / weights.sum()


def _sums(problem: Problem, form: dd.Pair, rows: NDArray[np.intp]) -> PoolState:
    # Shifts stay relative to the leader until the end: log κ itself has no digits to spare (5e17 ± 32 at 10⁹).
    state = PoolState.empty(len(rows), problem.c)
    leaders = _leaders(problem, form, rows)
    for start in range(0, problem.n, KEYS):
        values = normalised_values(problem, slice(start, start + KEYS))
        for i, leader in enumerate(leaders):
            if leader is None:
                continue
            row = state.rows(slice(i, i + 1))
            positions, logs = _matter(problem, form, int(rows[i]), leader, start, float(row.shift[0]))
            if len(positions) == 0:
                continue
            highest = logs.max()
            weights = np.exp(logs - highest)
            totals = (values[:, positions - start] * weights).sum(axis=1)
            part = PoolState(np.array([highest]), np.array([weights.sum()]), totals[None, :], np.zeros(1), np.zeros(1))
            state.put(slice(i, i + 1), row.merge(part))
    # What is left: the rounding of log ratios (their size is at most `_reach` where they matter), of exp and of sums.
    error = state.mass * ((8 * _reach(problem) + 64) * UNIT)
    base = np.array([0.0 if leader is None else leader.base for leader in leaders])
    return PoolState(state.shift + base, state.mass, state.total, error, error)


def _edge_sums(problem: Problem, form: dd.Pair, rows: NDArray[np.intp]) -> PoolState:
    """Sums of a compact kernel with 1 − u² in double-double arithmetic."""
    assert problem.kernel.facts is not None
    assert problem.kernel.facts.edge is not None
    state = PoolState.empty(len(rows), problem.c)
    state.shift[:] = 0.0
    for start in range(0, problem.n, KEYS):
        block = slice(start, min(start + KEYS, problem.n))
        keys, factors = problem.keys[block].astype(np.float64), _factors(problem, block)
        values = normalised_values(problem, block)
        for i, q in enumerate(problem.queries[rows].astype(np.float64)):
            log_weights = _log_weights(problem, block, int(rows[i]))
            u2 = factors[0] * _direct(problem, form[0], q, keys)
            chosen = np.flatnonzero((u2 < 1.0 + 1e-6) & (log_weights > -np.inf))
            difference = dd.two_sum(q, -keys[chosen])
            u2_exactly = dd.multiply(_apply(form, difference, difference), (factors[0][chosen], factors[1][chosen]))
            y = dd.add((np.ones(len(chosen)), np.zeros(len(chosen))), dd.negate(u2_exactly))
            weights = problem.kernel.facts.edge(np.clip(y[0] + y[1], 0.0, 1.0)) * np.exp(log_weights[chosen])
            state.mass[i] += weights.sum()
            state.total[i] += (values[:, chosen] * weights).sum(axis=1)
    error = state.mass * (64 * UNIT)
    return PoolState(state.shift, state.mass, state.total, error, error)


def _reach(problem: Problem) -> float:
    """Nats below the leading key from which on all keys together add less than e^-45."""
    return 45.0 + math.log(problem.n)


def _leaders(problem: Problem, form: dd.Pair, rows: NDArray[np.intp]) -> list[_Leader | None]:
    """Each query's key of largest weight by plain float64; its errors cost nothing, since any near key will do."""
    queries = problem.queries[rows].astype(np.float64)
    best, leading = np.full(len(rows), -np.inf), np.full(len(rows), -1)
    for start in range(0, problem.n, KEYS):
        block = slice(start, start + KEYS)
        keys, factors = problem.keys[block].astype(np.float64), _factors(problem, block)[0]
        for i, q in enumerate(queries):
            log_weights = _log_weights(problem, block, int(rows[i]))
            scores = factors * _direct(problem, form[0], q, keys)
            logs = np.fmax(_log_profile(problem, scores), -1e300) + log_weights
            at = int(np.argmax(logs))
            if logs[at] > best[i]:
                best[i], leading[i] = logs[at], start + at
    return [_leader(problem, form, q, int(k)) if k >= 0 else None for q, k in zip(queries, leading, strict=True)]


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


def _matter(
    problem: Problem, form: dd.Pair, row: int, leader: _Leader, start: int, top: float
) -> tuple[NDArray[np.intp], Floats]:
    """Positions of a block's keys that can matter, and their log weights relative to the leader's.

    `top` is the largest such log weight seen so far; the leader's own is 0.
    """
    lowest = max(top, 0.0) - _reach(problem)
    block = slice(start, min(start + KEYS, problem.n))
    q, keys = problem.queries[row].astype(np.float64), problem.keys[block].astype(np.float64)
    factors, log_weights = _factors(problem, block), _log_weights(problem, block, row)
    assert problem.kernel.facts is not None
    assert problem.kernel.facts.log_ratio is not None
    log_ratio = problem.kernel.facts.log_ratio
    near, far = _plain_terms(problem, q, leader, keys)
    jump = (factors[0] - leader.factor[0]) * leader.score[0]
    plain = log_ratio(_plain(form[0], near, far) * factors[0] + jump, leader.u2) + log_weights - leader.log_weight
    # log κ changes by at most 1/2 per unit of u², by 1 per unit of an inner product
    size = _plain(np.abs(form[0]), np.abs(near), np.abs(far)) * factors[0] + np.abs(jump)
    slack = 1.0 + (8 + len(q)) * UNIT * size
    chosen = np.flatnonzero(~(plain + slack < lowest) & (log_weights > -np.inf))
    factor = (factors[0][chosen], factors[1][chosen])
    scaled = dd.multiply(_apply(form, *_exact_terms(problem, q, leader, keys[chosen])), factor)
    e = dd.add(scaled, dd.multiply(dd.add(factor, dd.negate(leader.factor)), leader.score))
    logs = log_ratio(e[0] + e[1], leader.u2) + (log_weights[chosen] - leader.log_weight)
    logs = np.where(np.isnan(logs), plain[chosen], logs)  # beyond the range of the splitting
    kept = logs >= lowest
    return chosen[kept] + start, logs[kept]


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
    if problem.weights is None:
        logs = np.zeros(len(problem.keys[block]))
    else:
        logs = np.log(problem.weights[block].astype(np.float64)) - math.log(problem.largest_weight)
    if problem.exclude_self and block.start <= row < block.start + len(logs):
        logs[row - block.start] = -np.inf
    return logs


def _direct(problem: Problem, form: Floats, q: Floats, keys: Floats) -> Floats:
    if problem.kernel.inner_product:
        return _plain(form, np.broadcast_to(q, keys.shape), keys)
    return _plain(form, q - keys, q - keys)


def _plain_terms(problem: Problem, q: Floats, leader: _Leader, keys: Floats) -> tuple[Floats, Floats]:
    """Factors a, b with score − leader's score = aᵀ form b."""
    if problem.kernel.inner_product:
        return np.broadcast_to(q, keys.shape), keys - leader.key
    return leader.key - keys, (2 * q - leader.key) - keys


def _exact_terms(problem: Problem, q: Floats, leader: _Leader, keys: Floats) -> tuple[dd.Pair, dd.Pair]:
    if problem.kernel.inner_product:
        fixed = np.broadcast_to(q, keys.shape)
        return (fixed, np.zeros_like(fixed)), dd.two_sum(keys, -leader.key)
    return dd.two_sum(leader.key, -keys), dd.add(dd.two_sum(2 * q, -leader.key), (-keys, np.zeros_like(keys)))


def _plain(form: Floats, near: Floats, far: Floats) -> Floats:
    return ((near * form if form.ndim == 1 else near @ form) * far).sum(axis=-1)


def _apply(form: dd.Pair, near: dd.Pair, far: dd.Pair) -> dd.Pair:
    if np.ndim(form[0]) == 1:
        return dd.total(dd.multiply(dd.multiply(near, far), form))
    columns = (near[0][..., None, :], near[1][..., None, :])
    return dd.total(dd.multiply(dd.total(dd.multiply(columns, form)), far))
