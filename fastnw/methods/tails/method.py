"""Far queries: exponents relative to a leading key, with 32 digits where float64 loses all of them.

At 10⁶ bandwidths u² is 10¹², and its float64 rounding alone is 10⁻⁴ in the exponent. With key 0 as the leading key,

    u_i² − u_0² = Σ_j (k_0j − k_ij)(2 q_j − k_0j − k_ij)/h_j²

has no such large term, and `Kernel.facts.log_ratio` converts it to log κ(u_i) − log κ(u_0). Keys that can matter are
computed in double-double arithmetic (`leading_key`), since in d ≥ 2 the sum over j may cancel (keys at equal distance
in different directions). Where u² overflows, distances are compared in coordinates scaled by a power of two.

Compact kernels lose digits elsewhere: in 1 − u², where every key in the window is near its edge. Double-double
arithmetic computes this difference, too.

This is the last rung of the ladder, for queries that plain sums cannot certify. The backend scores all keys to find
those that can matter; these few are summed query by query with NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fastnw.core.model import Model, Queries
from fastnw.core.pack import pack_inverse, pack_keys, pack_queries, weighted_totals
from fastnw.core.plan import Rung
from fastnw.core.problem import Problem
from fastnw.core.state import Sums
from fastnw.kernels.kernel import Kernel
from fastnw.methods.scoring import Scoring
from fastnw.methods.tails.leading_key import (
    LARGEST_DISTANCE,
    LOWEST,
    MAX_LOG_ERROR,
    SLICE,
    Leader,
    View,
    edge_distances,
    exact_log_ratios,
    lead,
    log_ratios,
    log_weights,
)
from fastnw.runtime.threads import Meter, check_stop, run

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

# Numbers (keys × coordinates and values) in a block of keys: 512 KiB.
BLOCK_NUMBERS = 1 << 16
# Memory that all tasks together may take.
MAX_TASK_BYTES = 24 << 20
# A smaller 1 − u² is the rounding of a key exactly on the rim, where κ = 0.
MIN_EDGE_DISTANCE = 2.0**-96
# Nats per scaled u²: a slope so steep that only keys at the nearest distance, within rounding, can matter.
SCALED_SLOPE_NATS = 1e270
UNIT = 2.0**-53
# Number of attempts to find the leading key; each gains 16 digits of exponents up to 1e600.
MOST_LEADERS = 40


def known(kernel: Kernel) -> bool:
    """Whether this module has more digits for the kernel than plain float64 sums."""
    return kernel.facts.log_ratio is not None or kernel.facts.edge is not None


@dataclass
class Summary:
    """Sums queries one by one, with more digits than float64; it stores nothing of the keys."""

    model: Model

    @property
    def panel(self) -> int:
        """Number of queries summed at a time: all."""
        return 1 << 62

    def prepare(self, meter: Meter) -> None:
        """Do nothing: few queries reach this rung."""

    def wanted(self, queries: Queries, mass: Floats | None) -> NDArray[np.bool_] | None:
        """None: this rung sums all queries."""
        return None

    def sums(self, queries: Queries, meter: Meter) -> Sums:
        """Sums with bounds on their errors."""
        return accumulate(Scoring.of(queries.problem, self.model.plan, self.model.errors), queries.rows, meter)


def summarise(model: Model, rung: Rung) -> Summary:
    """The summary of far queries; it stores nothing of the keys."""
    return Summary(model)


def accumulate(scoring: Scoring, rows: Rows, meter: Meter) -> Sums:
    """Sum the queries at those positions of ``problem.queries``, for a kernel that is `known`."""
    problem = scoring.problem
    state, view, (queries, _) = Sums.empty(len(rows), problem.c), View.of(problem), block_shape(problem)
    sums = _edge_sums if problem.kernel.facts.log_ratio is None else _log_sums

    def task(i: int) -> float:
        task_rows = slice(i * queries, (i + 1) * queries)
        with np.errstate(all="ignore"):
            state.put(task_rows, sums(scoring, view, rows[task_rows]))
        return 0.0

    # memory is bounded by running fewer tasks at a time; blocks that depend on the threads would change the bits
    threads = min(scoring.n_threads, max(MAX_TASK_BYTES // task_bytes(problem), 1))
    run(task, math.ceil(len(rows) / queries), threads, meter)
    return state


def block_shape(problem: Problem) -> tuple[int, int]:
    """Queries per task, and keys scored at a time."""
    values = problem.c if problem.classes is None else 1
    return min(max(BLOCK_NUMBERS // problem.d, 1), 32), min(max(BLOCK_NUMBERS // (problem.d + values), 16), 1024)


def task_bytes(problem: Problem) -> int:
    """Bytes per task: scores and their logarithms, packed keys, weighted values, double-double temporaries."""
    queries, keys = block_shape(problem)
    values = keys * problem.c if problem.classes is None else keys + problem.c
    numbers = 6 * queries * keys + 3 * (keys * problem.d + values) + 2 * queries * problem.d
    return 8 * (numbers + 12 * max(SLICE, problem.d))


def weights_of(scoring: Scoring, row: int) -> tuple[Rows, Floats]:
    """Positions of the keys that can matter to one query, and their weights w κ/mass."""
    facts, view, rows = scoring.problem.kernel.facts, View.of(scoring.problem), np.array([row])
    with np.errstate(all="ignore"):
        if facts.log_ratio is None:
            parts = [
                (positions, logs + np.log(kappa)) for _, positions, logs, kappa, _ in _edge_terms(scoring, view, rows)
            ]
        else:
            parts = [part[2:4] for part in _relative_logs(scoring, view, rows)]
        if not parts:
            return np.empty(0, np.intp), np.empty(0)
        positions, logs = (np.concatenate(part) for part in zip(*parts, strict=True))
        weights = np.exp(logs - logs.max())
    return positions, weights / weights.sum()


def _log_sums(scoring: Scoring, view: View, rows: Rows) -> Sums:
    # Shifts stay relative to the leader until the end: log κ itself lacks digits (5e17 ± 32 at 10⁹ bandwidths).
    state, base = Sums.empty(len(rows), scoring.problem.c), np.zeros(len(rows))
    for i, leader, positions, logs, errors in _relative_logs(scoring, view, rows):
        base[i] = leader.base
        _merge(scoring.problem, state, i, positions, logs, np.ones(len(logs)), np.expm1(errors))
    # The remaining errors: rounding of log ratios below `_cutoff_nats` in size, of exp and of sums.
    error = (
        state.mass * ((4 * _cutoff_nats(scoring.problem) + 64 + _class_roundings(scoring.problem)) * UNIT)
        + state.mass_error
    )
    error = np.where(np.isnan(error), np.inf, error)
    shift = np.where(base > LOWEST, state.shift + base, np.minimum(state.shift, LOWEST))  # −inf stays where empty
    return Sums(shift, state.mass, state.total, error, error)


def _edge_sums(scoring: Scoring, view: View, rows: Rows) -> Sums:
    """Sums of a compact kernel with 1 − u² in double-double arithmetic."""
    problem = scoring.problem
    state = Sums.empty(len(rows), problem.c)
    for i, positions, logs, kappa, errors in _edge_terms(scoring, view, rows):
        errors = errors + kappa * (4 * UNIT * np.abs(logs))
        _merge(problem, state, i, positions, logs, kappa, errors, relative=False)
    error = state.mass * ((64 + _class_roundings(problem)) * UNIT) + state.mass_error
    error = np.where(np.isnan(error), np.inf, error)
    return Sums(state.shift, state.mass, state.total, error, error)


def _edge_terms(scoring: Scoring, view: View, rows: Rows) -> Iterator[tuple[int, Rows, Floats, Floats, Floats]]:
    """Yield (index in `rows`, positions of keys in the window or on its rim, log weights, κ, bounds on its errors)."""
    problem = scoring.problem
    outside = 1.0 + 1e-6 + 2 * scoring.score_error(pack_queries(problem, rows, np.float64), np.dtype(np.float64))
    for block, u2 in _scores(scoring, view, rows):
        for i, row in enumerate(rows):
            logs = log_weights(problem, block, _own_position(problem, row, block))
            near_keys = np.flatnonzero(~(u2[i] > outside[i]) & (logs > -np.inf))
            y, error, square = edge_distances(view, row, near_keys + block.start)
            inside = ~(y + error <= MIN_EDGE_DISTANCE)
            near_keys, (weights, errors) = (
                near_keys[inside],
                _bounded_kappa(problem.kernel, y[inside], error[inside], square[inside]),
            )
            if len(near_keys):
                yield i, near_keys + block.start, logs[near_keys], weights, errors


def _bounded_kappa(kernel: Kernel, y: Floats, error: Floats, square: Floats) -> tuple[Floats, Floats]:
    """κ of a compact kernel, and bounds on its errors. Near the rim κ is computed from y = 1 − u², elsewhere from u²
    itself: the triangular kernel is 1 − u, and y near 1 would lose a small u."""
    assert kernel.facts.edge is not None
    edge, y = kernel.facts.edge, np.clip(y, 0.0, 1.0)
    # κ increases with 1 − u²; where 1 − u² may be 0, a boxcar may jump
    low = np.where(y - error > MIN_EDGE_DISTANCE, edge(np.maximum(y - error, 0.0)), 0.0)
    by_edge = [low, np.where(y > MIN_EDGE_DISTANCE, edge(y), 0.0), edge(np.minimum(y + error, 1.0))]
    max_square, min_square = square + error + 2 * UNIT * square, np.maximum(square - error - 2 * UNIT * square, 0.0)
    low = np.where(max_square < 1, kernel.profile(np.minimum(max_square, 1.0)), 0.0)
    by_square = [low, kernel.profile(np.minimum(square, 1.0)), kernel.profile(np.minimum(min_square, 1.0))]
    low, kappa, high = (np.where(y < 0.5, a, b) for a, b in zip(by_edge, by_square, strict=True))
    return kappa, np.maximum(high - kappa, kappa - low)


def _class_roundings(problem: Problem) -> float:
    """Additional roundings of totals of classes, whose terms are added one after another."""
    return 0.0 if problem.classes is None else 2.0 * block_shape(problem)[1]


def _merge(
    problem: Problem,
    state: Sums,
    i: int,
    positions: Rows,
    logs: Floats,
    factors: Floats,
    errors: Floats,
    relative: bool = True,
) -> None:
    """Add keys with weights factor·exp(log) to row `i` of the state; `errors` are those of the factors, relative to the
    factors if `relative`."""
    highest = logs.max()
    scale = np.exp(logs - highest)
    weights = factors * scale
    total, error = (
        weighted_totals(problem, positions, weights),
        (errors * (weights if relative else scale)).sum(keepdims=True),
    )
    part = Sums(np.array([highest]), weights.sum(keepdims=True), total[None, :], error, error.copy())
    state.put(slice(i, i + 1), state.rows(slice(i, i + 1)).merge(part))


def _blocks(problem: Problem) -> Iterator[slice]:
    _, keys = block_shape(problem)
    for start in range(0, problem.n, keys):
        check_stop()
        yield slice(start, min(start + keys, problem.n))


def _own_position(problem: Problem, row: int, block: slice) -> int:
    """Position within the block of the query's own key; negative or beyond the end if there is none."""
    return int(row) - block.start if problem.exclude_self else -1


def _scores(scoring: Scoring, view: View, rows: Rows) -> Iterator[tuple[slice, Floats]]:
    """Yield blocks of keys with float64 scores (rows, keys): the backend's, or scaled ones that are computed here."""
    problem, backend = scoring.problem, scoring.backend
    without_values = replace(problem, values=problem.values[:, :0])
    queries, inverse = pack_queries(problem, rows, np.float64), pack_inverse(problem, np.float64)
    for block in _blocks(problem):
        if view.power:
            yield block, np.stack([view.squares(int(row), block) for row in rows])
        else:
            keys = pack_keys(without_values, block.start, block.stop, np.float64)
            yield block, backend.score_tile(problem.kernel, queries, keys, inverse)


def _cutoff_nats(problem: Problem) -> float:
    """Nats below the leading key beyond which all keys together add less than e^-45."""
    return 45.0 + math.log(problem.n)


def _relative_logs(scoring: Scoring, view: View, rows: Rows) -> Iterator[tuple[int, Leader, Rows, Floats, Floats]]:
    """Yield (index in `rows`, leader, positions of keys that can matter, log weights relative to the leader's, bounds
    on their errors)."""
    leaders, lowest, unsure = _leaders(scoring, view, rows)
    is_beyond = np.array([leader is not None and view.beyond(leader) for leader in leaders], bool)
    _correct_leaders(scoring, view, rows, leaders, lowest, unsure & ~is_beyond)
    for i, positions in _candidates(scoring, view, rows, lowest, ~is_beyond):
        leader = leaders[i]
        assert leader is not None
        logs, errors = _ratios(view, int(rows[i]), leader, positions, _cutoff_nats(scoring.problem))
        matters = ~(
            logs < -_cutoff_nats(scoring.problem)
        )  # the leader's own log weight is 0, so the largest is at least 0
        if matters.any():
            yield i, leader, positions[matters], logs[matters], errors[matters]
    for far_row in np.flatnonzero(is_beyond):
        scaled = view.scaled(_power(view, int(rows[far_row]), leaders[far_row]))
        for _, leader, positions, logs, errors in _relative_logs(scoring, scaled, rows[far_row : far_row + 1]):
            yield int(far_row), leader, positions, logs, errors


def _candidates(
    scoring: Scoring, view: View, rows: Rows, lowest: Floats, wanted: NDArray[np.bool_]
) -> Iterator[tuple[int, Rows]]:
    """Yield (index in `rows`, positions of keys that can matter), block by block, for the wanted rows."""
    for block, plain in _plain_logs(scoring, view, rows):
        matters = ~(plain < lowest[:, None]) & (plain > -np.inf) & wanted[:, None]
        for i in np.flatnonzero(matters.any(axis=1)):
            yield int(i), np.flatnonzero(matters[i]) + block.start


def _ratios(view: View, row: int, leader: Leader, positions: Rows, cutoff: float) -> tuple[Floats, Floats]:
    """`log_ratios`, with more digits for the keys that may matter and lack digits."""
    logs, errors = log_ratios(view, row, leader, positions)
    inaccurate = np.flatnonzero(~(errors <= MAX_LOG_ERROR + 8 * UNIT * np.abs(logs)) & ~(logs + errors < -cutoff))
    if len(inaccurate) and view.has_digits:
        logs[inaccurate], errors[inaccurate] = exact_log_ratios(view, row, leader, positions[inaccurate])
    return logs, errors


def _correct_leaders(
    scoring: Scoring,
    view: View,
    rows: Rows,
    leaders: list[Leader | None],
    lowest: Floats,
    unsure: NDArray[np.bool_],
) -> None:
    """Replace leaders that float64 may have chosen so wrongly that logarithms relative to them round too much."""
    for _ in range(MOST_LEADERS):
        if not unsure.any():
            return
        best_logs, leading = np.zeros(len(rows)), np.full(len(rows), -1)
        for i, positions in _candidates(scoring, view, rows, lowest, unsure):
            leader = leaders[i]
            assert leader is not None
            logs, _ = _ratios(view, int(rows[i]), leader, positions, 0.0)
            best_key = int(np.argmax(np.where(np.isnan(logs), -np.inf, logs)))
            if logs[best_key] > best_logs[i]:
                best_logs[i], leading[i] = logs[best_key], positions[best_key]
        unsure = unsure & (best_logs > 1.0)
        for other in np.flatnonzero(unsure):
            leaders[other] = lead(view, int(rows[other]), int(leading[other]))


def _leaders(scoring: Scoring, view: View, rows: Rows) -> tuple[list[Leader | None], Floats, NDArray[np.bool_]]:
    """Each query's key of largest weight in plain float64, the plain log weight below which no key can matter, and
    whether another key may exceed the leader by more than a nat."""
    problem = scoring.problem
    best, leading = np.full(len(rows), -np.inf), np.full(len(rows), -1)
    for block, logs in _plain_logs(scoring, view, rows):
        best_keys = logs.argmax(axis=1)
        best_in_block = logs[np.arange(len(rows)), best_keys]
        leading = np.where(best_in_block > best, best_keys + block.start, leading)
        best = np.maximum(best, best_in_block)
    queries, depth = pack_queries(problem, rows, np.float64), 2.0 + _cutoff_nats(problem) - np.maximum(best, LOWEST)
    if view.power:  # the error of log κ is relative to log κ
        error = view.square_error * depth
    elif problem.kernel.works_on_logs and not problem.kernel.inner_product:
        error = scoring.nats(queries, depth)
    else:
        error = scoring.score_error(queries, np.dtype(np.float64))
        error = error if problem.kernel.inner_product else error * depth
    leaders = [lead(view, int(row), int(k)) if k >= 0 else None for row, k in zip(rows, leading, strict=True)]
    unsure = ~(error < 0.5) & (leading >= 0)
    lowest = best - _cutoff_nats(problem) - 2 * error
    return leaders, np.where(np.isnan(lowest), -np.inf, lowest), unsure  # with an unknown error, all keys may matter


def _plain_logs(scoring: Scoring, view: View, rows: Rows) -> Iterator[tuple[slice, Floats]]:
    """Yield blocks of keys with log w κ (rows, keys) in plain float64."""
    problem = scoring.problem
    for block, scores in _scores(scoring, view, rows):
        logs = np.fmax(_log_profile(view, scores), LOWEST)
        if problem.weighted:
            logs += log_weights(problem, block)
        if problem.exclude_self:
            block_rows = np.flatnonzero((rows >= block.start) & (rows < block.stop))
            logs[block_rows, rows[block_rows] - block.start] = -np.inf
        yield block, logs


def _log_profile(view: View, scores: Floats) -> Floats:
    """log κ up to a constant. For scaled scores only the order is meaningful, except for Cauchy's powers of u."""
    kernel = view.problem.kernel
    if not view.power:
        return np.asarray(kernel.log(scores))
    if kernel.works_on_logs:
        return np.asarray(-SCALED_SLOPE_NATS * scores)
    return -np.log(scores + np.ldexp(1.0, -2 * view.power))  # in scaled coordinates, 1 + u² is 2^(−2 power) + u²


def _power(view: View, row: int, leader: Leader | None) -> int:
    """The power of two of the nearest key's distance in bandwidths, by the largest coordinate; or the power of the
    leader's distance, if the leader is heavy and far beyond the nearest key, as Cauchy's kernel allows."""
    problem, nearest = view.problem, np.inf
    for block in _blocks(problem):
        half = problem.queries[row].astype(np.float64) / 2 - problem.keys[block].astype(np.float64) / 2
        powers = (np.log2(np.abs(half)) + 1 - view.exponents).max(axis=1)
        if problem.key_scale is not None:
            powers -= np.log2(problem.key_scale[block].astype(np.float64))
        present = log_weights(problem, block, _own_position(problem, row, block)) > -np.inf
        nearest = powers.min(initial=nearest, where=present)
    if leader is None or leader.distance >= LARGEST_DISTANCE:
        return math.ceil(nearest)
    return max(math.ceil(nearest), math.frexp(leader.distance)[1])
