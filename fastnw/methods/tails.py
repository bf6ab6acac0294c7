"""Far queries: exponents relative to the leading key, with 32 digits where float64 has none left.

At 10⁶ bandwidths u² is 10¹², and its float64 rounding alone is 10⁻⁴ in the exponent. With key 0 the leading one,

    u_i² − u_0² = Σ_j (k_0j − k_ij)(2 q_j − k_0j − k_ij)/h_j²

has no such term, and `Kernel.facts.log_ratio` turns it into log κ(u_i) − log κ(u_0). Keys that can matter get it in
double-double arithmetic (`ratios`), since in d ≥ 2 the sum over j may cancel (keys at equal distance in different
directions). Where u² overflows, distances are compared in coordinates scaled by a power of two.

Compact kernels lose digits elsewhere: in 1 − u², where every key in the window is near its edge. It gets the same care.

This is the last step of `exact`, for the queries that plain sums cannot certify. The backend scores all keys to find
those that can matter; they are few, and go one query at a time through NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastnw._pack import normalised_values, pack_inverse, pack_keys, pack_queries
from fastnw._problem import Problem
from fastnw._state import PoolState
from fastnw._threads import Meter, check_stop, run
from fastnw.kernels import Kernel
from fastnw.methods.ratios import LOWEST, SLICE, Leader, View, edge_distances, lead, log_ratios, log_weights

if TYPE_CHECKING:
    from fastnw.methods.exact import Summary

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

BLOCK = 1 << 16  # numbers (keys × coordinates and values) in a block of keys: 512 KiB
BUDGET = 24 << 20  # bytes that all tasks together may take
RIM = 2.0**-96  # 1 − u² below this is the rounding of a key exactly on the rim, where κ = 0
STEEP = 1e270  # nats per u², once u² is scaled: any key not the nearest to within rounding is out of the question
UNIT = 2.0**-53


def known(kernel: Kernel) -> bool:
    """Whether this module can do better than plain float64 sums."""
    return kernel.facts is not None and (kernel.facts.log_ratio is not None or kernel.facts.edge is not None)


def accumulate(summary: Summary, rows: Rows, meter: Meter) -> PoolState:
    """The state of those queries (positions in ``problem.queries``), if the kernel is `known`."""
    problem = summary.problem
    state, view, (queries, _) = PoolState.empty(len(rows), problem.c), View.of(problem), block_shape(problem)
    assert problem.kernel.facts is not None
    sums = _edge_sums if problem.kernel.facts.log_ratio is None else _log_sums

    def task(i: int) -> float:
        mine = slice(i * queries, (i + 1) * queries)
        with np.errstate(all="ignore"):
            state.put(mine, sums(summary, view, rows[mine]))
        return 0.0

    # memory is bounded by running fewer tasks at a time: blocks that depend on threads would change the bits
    threads = min(summary.plan.n_threads, max(BUDGET // task_bytes(problem), 1))
    run(task, math.ceil(len(rows) / queries), threads, meter)
    return state


def block_shape(problem: Problem) -> tuple[int, int]:
    """Queries a task, and keys scored at a time."""
    return min(max(BLOCK // problem.d, 1), 32), min(max(BLOCK // (problem.d + problem.c), 16), 1024)


def task_bytes(problem: Problem) -> int:
    """What a task takes: scores and their logarithms, packed keys, weighted values, double-double temporaries."""
    queries, keys = block_shape(problem)
    numbers = 6 * queries * keys + 3 * keys * (problem.d + problem.c) + 2 * queries * problem.d
    return 8 * (numbers + 12 * max(SLICE, problem.d))


def weights_of(summary: Summary, row: int) -> tuple[Rows, Floats]:
    """Positions of the keys that can matter to one query, and w κ/mass there."""
    with np.errstate(all="ignore"):
        found = [part for _, _, *part in _relative_logs(summary, View.of(summary.problem), np.array([row]))]
        if not found:
            return np.empty(0, np.intp), np.empty(0)
        positions, logs = (np.concatenate(part) for part in zip(*found, strict=True))
        weights = np.exp(logs - logs.max())
    return positions, weights / weights.sum()


def _log_sums(summary: Summary, view: View, rows: Rows) -> PoolState:
    # Shifts stay relative to the leader until the end: log κ itself has no digits to spare (5e17 ± 32 at 10⁹).
    state, base = PoolState.empty(len(rows), summary.problem.c), np.zeros(len(rows))
    for i, leader, positions, logs in _relative_logs(summary, view, rows):
        base[i] = leader.base
        _merge(state, i, logs, np.ones(len(logs)), normalised_values(summary.problem, positions))
    # What is left: the rounding of log ratios (their size is at most `_reach` where they matter), of exp and of sums.
    error = state.mass * ((8 * _reach(summary.problem) + 64) * UNIT + _log_weight_error(summary.problem))
    shift = np.where(base > LOWEST, state.shift + base, np.minimum(state.shift, LOWEST))  # −inf stays where empty
    return PoolState(shift, state.mass, state.total, error, error)


def _edge_sums(summary: Summary, view: View, rows: Rows) -> PoolState:
    """Sums of a compact kernel with 1 − u² in double-double arithmetic."""
    problem = summary.problem
    assert problem.kernel.facts is not None
    assert problem.kernel.facts.edge is not None
    state = PoolState.empty(len(rows), problem.c)
    for block, u2 in _scores(summary, view, rows):
        for i, row in enumerate(rows):
            logs = log_weights(problem, block, _own(problem, row, block))
            near = np.flatnonzero((u2[i] < 1.0 + 1e-6) & (logs > -np.inf))
            y = edge_distances(view, row, near + block.start)
            near, y = near[y > RIM], np.minimum(y[y > RIM], 1.0)
            if len(near):
                values = normalised_values(problem, near + block.start)
                _merge(state, i, logs[near], problem.kernel.facts.edge(y), values)
    error = state.mass * (64 * UNIT + _log_weight_error(problem))
    return PoolState(state.shift, state.mass, state.total, error, error)


def _log_weight_error(problem: Problem) -> float:
    """Bound on the rounding of a difference of two keys' log weights: weights of 1e±300 have logarithms of ±690."""
    largest = problem.log_largest_weight
    return 8 * UNIT * max(abs(largest), abs(largest + problem.log_least_weight))


def _merge(state: PoolState, i: int, logs: Floats, factors: Floats, values: Floats) -> None:
    """Add keys of weights factor·exp(log) and values (c, keys) to the state's row `i`."""
    highest = logs.max()
    weights = factors * np.exp(logs - highest)
    total = (values * weights).sum(axis=1)
    part = PoolState(np.array([highest]), np.array([weights.sum()]), total[None, :], np.zeros(1), np.zeros(1))
    state.put(slice(i, i + 1), state.rows(slice(i, i + 1)).merge(part))


def _blocks(problem: Problem) -> Iterator[slice]:
    _, keys = block_shape(problem)
    for start in range(0, problem.n, keys):
        check_stop()
        yield slice(start, min(start + keys, problem.n))


def _own(problem: Problem, row: int, block: slice) -> int:
    """Position within the block of the key that the query leaves out; negative or beyond the end if there is none."""
    return int(row) - block.start if problem.exclude_self else -1


def _scores(summary: Summary, view: View, rows: Rows) -> Iterator[tuple[slice, Floats]]:
    """Blocks of keys, and the float64 scores (rows, keys) that the backend gives them; scaled ones are made here."""
    problem, tiles = summary.problem, summary.plan.tiles
    bare = replace(problem, values=problem.values[:, :0])
    queries, inverse = pack_queries(problem, rows, np.float64), pack_inverse(problem, np.float64)
    for block in _blocks(problem):
        if view.power:
            yield block, np.stack([view.squares(int(row), block) for row in rows])
        else:
            keys = pack_keys(bare, block.start, block.stop, np.float64)
            yield block, tiles.score_tile(problem.kernel, queries, keys, inverse)


def _reach(problem: Problem) -> float:
    """Nats below the leading key from which on all keys together add less than e^-45."""
    return 45.0 + math.log(problem.n)


def _relative_logs(summary: Summary, view: View, rows: Rows) -> Iterator[tuple[int, Leader, Rows, Floats]]:
    """(index in `rows`, leader, positions of keys that can matter, log weights relative to the leader's)."""
    leaders, lowest = _leaders(summary, view, rows)
    beyond = np.array([leader is not None and view.beyond(leader) for leader in leaders], bool)
    for block, plain in _plain_logs(summary, view, rows):
        matters = (plain >= lowest[:, None]) & (plain > -np.inf) & ~beyond[:, None]
        for i in np.flatnonzero(matters.any(axis=1)):
            leader, positions = leaders[i], np.flatnonzero(matters[i]) + block.start
            assert leader is not None
            logs = log_ratios(view, int(rows[i]), leader, positions)
            kept = logs >= -_reach(summary.problem)  # the leader's own is 0, so the largest is at least that
            if kept.any():
                yield int(i), leader, positions[kept], logs[kept]
    for i in np.flatnonzero(beyond):
        scaled = view.scaled(_power(view, int(rows[i])))
        for _, leader, positions, logs in _relative_logs(summary, scaled, rows[i : i + 1]):
            yield int(i), leader, positions, logs


def _leaders(summary: Summary, view: View, rows: Rows) -> tuple[list[Leader | None], Floats]:
    """Each query's key of largest weight by plain float64 (its errors cost nothing, since any near key will do), and
    the plain log weight below which no key can matter."""
    problem = summary.problem
    best, leading = np.full(len(rows), -np.inf), np.full(len(rows), -1)
    for block, logs in _plain_logs(summary, view, rows):
        at = logs.argmax(axis=1)
        top = logs[np.arange(len(rows)), at]
        leading = np.where(top > best, at + block.start, leading)
        best = np.maximum(best, top)
    error: Floats = np.full(len(rows), view.square_error)
    if not view.power:
        error = summary.score_error(pack_queries(problem, rows, np.float64), np.dtype(np.float64))
    if not problem.kernel.inner_product:  # relative: log κ errs by at most that much of itself
        error = error * (2.0 + _reach(problem) - np.maximum(best, LOWEST))
    leaders = [lead(view, int(row), int(k)) if k >= 0 else None for row, k in zip(rows, leading, strict=True)]
    return leaders, np.fmax(best - _reach(problem) - 2 * error, -np.inf)  # an error that is not known: all may matter


def _plain_logs(summary: Summary, view: View, rows: Rows) -> Iterator[tuple[slice, Floats]]:
    """Blocks of keys, and log w κ (rows, keys) in plain float64."""
    problem = summary.problem
    for block, scores in _scores(summary, view, rows):
        logs = np.fmax(_log_profile(view, scores), LOWEST)
        if problem.weighted:
            logs += log_weights(problem, block)
        if problem.exclude_self:
            here = np.flatnonzero((rows >= block.start) & (rows < block.stop))
            logs[here, rows[here] - block.start] = -np.inf
        yield block, logs


def _log_profile(view: View, scores: Floats) -> Floats:
    """log κ, up to a constant; of scaled scores only their order tells anything, except for Cauchy's powers of u."""
    kernel = view.problem.kernel
    if kernel.log_profile is None:
        return np.log(kernel.profile(scores)) if not view.power else -np.log(scores)
    return np.asarray(-STEEP * scores if view.power else kernel.log_profile(scores))


def _power(view: View, row: int) -> int:
    """The power of two of the nearest key's distance in bandwidths, from the largest coordinate."""
    problem, nearest = view.problem, np.inf
    for block in _blocks(problem):
        half = problem.queries[row].astype(np.float64) / 2 - problem.keys[block].astype(np.float64) / 2
        powers = (np.log2(np.abs(half)) + 1 - view.exponents).max(axis=1)
        if problem.key_scale is not None:
            powers -= np.log2(problem.key_scale[block].astype(np.float64))
        present = log_weights(problem, block, _own(problem, row, block)) > -np.inf
        nearest = powers.min(initial=nearest, where=present)
    return math.ceil(nearest)
