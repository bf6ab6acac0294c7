"""The method "moments": prefix sums over sorted keys in one coordinate, in time proportional to n + m.

It supports compact kernels that are polynomials in u, and polynomials times exp(−u) (Laplacian, Matérn). Sorted keys
are split into cells one unit of u wide; each cell begins at the first key beyond the cell before it, so that cells
exist only where keys are. Every 16th key stores the moments (sums of powers) of the keys of its cell before it, and of
the keys of its cell from it on. Prefix sums over all keys would have to be subtracted, which cancels. A window of width
2 is the end of one cell, at most one whole cell and the beginning of another, plus the few keys between each end of the
window and the next stored moments, which are summed one by one. For exp(−u) the moments continue over all cells before
(or after) a key, multiplied by exp(−step) from each cell to the next: a recursion in which errors decay (compare
Hofmeyr, 2021, Fast exact evaluation of univariate kernel sums).

Results are exact up to rounding. Bounds follow term by term from the number of roundings, in units of the weight in the
window (the absolute terms of a polynomial sum to at most Σ |a_j| u_max^j there) or of the mass itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.core.classes import MAX_INDICATOR_BYTES
from fastnw.core.judge import MAX_TAIL_ERROR, MIN_TAIL_ERROR
from fastnw.core.model import Model, Queries
from fastnw.core.pack import normalised_values
from fastnw.core.plan import Cost, Plan, Refusal, Rung, Work
from fastnw.core.problem import Problem, row_blocks
from fastnw.core.state import Sums
from fastnw.methods._prefix_sums import SortedSums, block, find_cells
from fastnw.runtime.cached import cached_property
from fastnw.runtime.threads import Meter, check_stop, run

Floats = NDArray[np.float64]

UNIT, TINY = 2.0**-53, float(np.finfo(np.float64).tiny)
# u² has seven roundings. Keys this far beyond the rim are summed, too, so that no key inside is missed and a window
# without keys is certainly empty. A polynomial kernel is continuous at the rim; a boxcar is not.
RIM_MARGIN = 2.0**-49
# Error bounds of decaying kernels by the length of the polynomial: a constant, and an error per nat below the nearest
# key (two roundings for each unit of the step between cells, with exp and binomials). The absolute terms of a Matérn
# polynomial sum to at most 4.4 times the polynomial, and nats are at most twice log(W p(near)/mass) + 1.3.
DECAY_ERRORS = {1: (96 * UNIT, 12 * UNIT), 2: (544 * UNIT, 80 * UNIT), 3: (544 * UNIT, 80 * UNIT)}
# Masses are rarely less than an 8th of the weight in the window.
TYPICAL_ERROR_FACTOR = 8
# Products of smaller weights (relative to the largest) and exp(−u) may underflow.
MIN_RELATIVE_WEIGHT = 1e-200
# Squares of bandwidths, of their reciprocals and of coordinates up to this magnitude stay in float64's range.
MAX_MAGNITUDE = 1e150

# Number of neighbouring queries that one task sums.
TASK_QUERIES = 1 << 15
# Size of the states of one panel of queries; temporaries take as much again.
PANEL_BYTES = 64 << 20
# Number of keys that one preparation task handles.
TASK_KEYS = 1 << 18
# A bucket sort needs buckets of at least so many keys, and uses at most so many buckets.
MIN_BUCKET_KEYS, MAX_BUCKETS = 1 << 15, 256

# Nanoseconds per key (sorting included) and per query, each as (constant, per stored moment and value, per value).
# Measured on one Zen 4 core (a shared one: ±30 %), over n and m from 1e3 to 1e7, c from 0 to 100.
KEY_COST_NS, QUERY_COST_NS = (100.0, 1.5, 10.0), (240.0, 3.0, 15.0)
# Extra nanoseconds per query for each doubling of the keys beyond what stays in cache.
CACHE_MISS_NS, MAX_CACHED_KEYS = 30.0, 1e5
# Two parts of a key's constant: sorting, which all threads share, and finding cells, which one thread does.
SORT_NS, FIND_CELL_NS = 65.0, 8.0
START_SECONDS = 1e-4


def cost(problem: Problem, backend: Any, n_threads: int, dtype: np.dtype[Any]) -> Cost | Refusal:
    """Predict the cost of sorting the keys and of O(n + m) sums."""
    reason = _refusal(problem, backend)
    if reason is not None:
        return Refusal(reason)
    moments = len(_polynomial(problem)) * (1 + problem.c)
    distant = CACHE_MISS_NS * math.log2(max(problem.n / MAX_CACHED_KEYS, 1.0))
    key, query = (a + b * moments + c * problem.c for a, b, c in (KEY_COST_NS, QUERY_COST_NS))
    work = [Work(START_SECONDS), Work(1e-9 * problem.m * (query + distant), math.ceil(problem.m / TASK_QUERIES))]
    if "moments" not in problem.prepared:
        shared = SORT_NS * problem.n
        work += [Work(1e-9 * FIND_CELL_NS * problem.n), Work(1e-9 * shared, math.ceil(problem.n / TASK_KEYS))]
        # one thread fills the moments forwards, another one backwards
        work.append(Work(1e-9 * (problem.n * (key - FIND_CELL_NS) - shared), 2))
    per_key = 8 * (6 + 2 * problem.c + (4 + 2 * moments / block))
    size = problem.n * per_key + min(problem.m, panel(problem)) * 8 * (8 + 2 * problem.c)
    if problem.classes is not None and size > MAX_INDICATOR_BYTES:
        return Refusal(
            f"supports sums of classes in up to {MAX_INDICATOR_BYTES / 2**20:g} MiB, "
            f"got {problem.c} classes, which take {size / 2**20:.0f} MiB"
        )
    return Cost(float(problem.m) * min(problem.n, 2 * block), tuple(work), size)


def _refusal(problem: Problem, backend: Any) -> str | None:
    if problem.d != 1:
        return f"supports d = 1, got d = {problem.d}"
    if problem.kernel.facts.window is None and problem.kernel.facts.exponential_polynomial is None:
        return f"supports compact polynomial kernels, laplacian and matern kernels, got kernel={problem.kernel.name!r}"
    if problem.key_scale is not None:
        return "needs one bandwidth for all keys, got key_scale"
    if problem.tol == 0:
        return "needs tol > 0 or tol=None, got tol=0"
    if "moments" not in backend.methods:
        return f"supports the compiled backend, got backend={backend.name!r}"
    if problem.tol and problem.tol < TYPICAL_ERROR_FACTOR * _unit_error(problem):
        typical = TYPICAL_ERROR_FACTOR * _unit_error(problem)
        return f"certifies errors down to {typical:.1g} of the range, got tol={problem.tol:g}"
    if not 1 / MAX_MAGNITUDE < _bandwidth(problem) < MAX_MAGNITUDE:
        return f"needs a bandwidth whose square float64 can hold, got {_bandwidth(problem):.3g}"
    return None


def _polynomial(problem: Problem) -> tuple[float, ...]:
    facts = problem.kernel.facts
    if facts.exponential_polynomial is not None:
        return facts.exponential_polynomial[0]
    assert facts.window is not None
    power, exponent = facts.window
    terms = [0.0] * (power * exponent + 1)
    terms[::power] = [(-1.0) ** i * math.comb(exponent, i) for i in range(exponent + 1)]
    return tuple(terms)


def _unit_error(problem: Problem, max_distance: float = 2.0) -> float:
    """Bound on the error of sums in units of the weight in the window; for decaying kernels, of a mass of 20 nats."""
    polynomial = _polynomial(problem)
    if problem.kernel.facts.exponential_polynomial is not None:
        error, slope = DECAY_ERRORS[len(polynomial)]
        return error + 20 * slope
    size = sum(abs(a) * max_distance**j for j, a in enumerate(polynomial))
    return (5 * (len(polynomial) - 1) + 32 + 2 * block) * UNIT * size


def _bandwidth(problem: Problem) -> float:
    cholesky = problem.metric.cholesky
    return float(problem.metric.bandwidth[0] if cholesky is None else cholesky[0, 0])


def panel(problem: Problem) -> int:
    """Number of queries summed at a time."""
    size = max(PANEL_BYTES // (8 * (6 + problem.c)), 1024)
    return size // TASK_QUERIES * TASK_QUERIES or size


class SortedKeys:
    """The keys with positive weight, sorted, with their prefix sums; made once per set of keys and kernel."""

    def __init__(self, problem: Problem, n_threads: int) -> None:
        facts = problem.kernel.facts
        exponential = facts.exponential_polynomial
        self.polynomial, self.decays = _polynomial(problem), exponential is not None
        self.inverse = (exponential[1] if exponential else 1.0) / _bandwidth(problem)
        self.edge = 1.0 if facts.discontinuous or self.decays else 1.0 + RIM_MARGIN
        self.order, self.x = _sort_keys(problem, n_threads)
        max_abs = max(-float(self.x[0]), float(self.x[-1])) if len(self.x) else 0.0
        # if not usable, all queries go to the next rung
        self.usable = max_abs < MAX_MAGNITUDE and not (self.decays and problem.least_weight < MIN_RELATIVE_WEIGHT)
        # |y| from the middle of a cell is at most 2 for query and key together, plus the rounding of the middle
        ulps = float(np.spacing(max_abs)) * self.inverse
        self.unit_error = _unit_error(problem, min(2.0 + 2.0 * ulps, 3.0))
        # each term of each key's polynomial may underflow by TINY, times its coefficient
        underflow = len(self.x) * TINY * sum(abs(a) * 3.0**j for j, a in enumerate(self.polynomial))
        self.vanished = underflow * len(self.polynomial) if problem.least_weight < MIN_RELATIVE_WEIGHT else 0.0
        if self.usable and len(self.x):
            self.sums = self._prefix_sums(problem, n_threads)

    def _find_cells(self) -> NDArray[np.int64]:
        """(cells + 1,) The first key of each cell, followed by n."""
        cell_starts, first, n = [], 0, len(self.x)
        while first < n:
            check_stop()
            starts = np.empty(min(TASK_KEYS, n), np.int64)
            count, first = find_cells(self.x, self.inverse, self.edge, first, starts)
            cell_starts.append(starts[:count].copy())
        return np.append(np.concatenate(cell_starts), n)

    def _prefix_sums(self, problem: Problem, n_threads: int) -> SortedSums:
        """Prefix sums in both directions, each direction filled in order: the bits do not depend on threads."""
        n, starts = len(self.x), self._find_cells()
        cells, blocks, shape = len(starts) - 1, math.ceil(n / block), (len(self.polynomial), 1 + problem.c)
        anchors = self.x[starts[:-1]]
        if not self.decays:  # powers of y are smallest about the middle of a cell
            anchors += 0.5 / self.inverse
        edges = tuple(np.zeros((count, *shape)) for count in (blocks, blocks, *(2 * (cells * self.decays,))))
        factors = tuple(np.empty(n * self.decays) for _ in range(2))
        sums = SortedSums(
            self.x,
            _weighted_rows(problem, self.order, n_threads),
            (starts, anchors),
            edges,
            factors,
            (self.polynomial, problem.kernel.facts.window or (1, 0), self.decays),
            (self.inverse, self.edge),
        )
        if self.decays:
            parts = np.minimum(np.searchsorted(starts, np.arange(0, n + TASK_KEYS, TASK_KEYS)), cells).tolist()

            def fill_factors(i: int) -> float:
                sums.fill_factors(parts[i], parts[i + 1])
                return 0.0

            _run_tasks(fill_factors, len(parts) - 1, n_threads)
        step = max(TASK_KEYS // math.prod(shape), 1)

        def fill(backwards: int) -> float:
            running, k = np.zeros((3, math.prod(shape))), (cells - 1) * backwards
            parts = range(0, blocks, step)
            for first in reversed(parts) if backwards else parts:
                check_stop()
                fill_part = sums.fill_suffix if backwards else sums.fill_prefix
                k = fill_part(first, min(first + step, blocks), k, running)
            return 0.0

        _run_tasks(fill, 2, n_threads)
        return sums


def _run_tasks(task: Any, n_tasks: int, n_threads: int) -> None:
    run(task, n_tasks, n_threads, Meter(False, 0, ""))


def _sort_keys(problem: Problem, n_threads: int) -> tuple[NDArray[np.intp], Floats]:
    """Positions of the keys with positive weight in ascending order of the keys, and the sorted keys."""
    keys = problem.keys[:, 0].astype(np.float64)
    positions = None if problem.weights is None else np.flatnonzero(problem.weights > 0)
    order = sorted_order(keys if positions is None else keys[positions], n_threads)
    x = np.empty(len(order))

    def gather(i: int) -> float:
        rows = slice(i * TASK_KEYS, (i + 1) * TASK_KEYS)
        if positions is not None:
            order[rows] = positions[order[rows]]
        x[rows] = keys[order[rows]]
        return 0.0

    _run_tasks(gather, math.ceil(len(order) / TASK_KEYS), n_threads)
    return order, x


def _weighted_rows(problem: Problem, order: NDArray[np.intp], n_threads: int) -> Floats:
    """(n, 1 + c) w·[1, t] of the sorted keys."""
    rows = np.empty((len(order), 1 + problem.c))

    def task(i: int) -> float:
        for part in row_blocks(rows[i * TASK_KEYS : (i + 1) * TASK_KEYS]):
            check_stop()
            positions = slice(
                i * TASK_KEYS + part.start, min(i * TASK_KEYS + part.stop, (i + 1) * TASK_KEYS, len(order))
            )
            weights = problem.weights_at(order[positions])
            rows[positions, 0] = 1.0 if weights is None else weights
            rows[positions, 1:] = normalised_values(problem, order[positions]).T
            if weights is not None:
                rows[positions, 1:] *= weights[:, None]
        return 0.0

    _run_tasks(task, math.ceil(len(order) / TASK_KEYS), n_threads)
    return rows


@dataclass
class Summary:
    """Sums over sorted keys by prefix sums."""

    problem: Problem
    plan: Plan

    @property
    def panel(self) -> int:
        """Number of queries summed at a time."""
        return panel(self.problem)

    @cached_property
    def keys(self) -> SortedKeys:
        """The sorted keys, cached."""
        return SortedKeys(self.problem, self.plan.n_threads)

    def wanted(self, queries: Queries, mass: Floats | None) -> NDArray[np.bool_] | None:
        """None for all queries; no query if keys or weights exceed the supported range."""
        return None if self.keys.usable else np.zeros(len(queries), bool)

    def prepare(self, meter: Meter) -> None:
        """Sort the keys and make their prefix sums."""
        _ = self.keys

    @cached_property
    def ranks(self) -> NDArray[np.int64]:
        """(n,) The sorted position of each key; −1 for keys without weight."""
        ranks = np.full(self.problem.n, -1, np.int64)
        ranks[self.keys.order] = np.arange(len(self.keys.order))
        return ranks

    def sums(self, queries: Queries, meter: Meter) -> Sums:
        """Sums with bounds on their errors; the bounds are infinite where the tolerance cannot be met."""
        problem, m, positions = self.problem, len(queries), queries.rows
        state = Sums.empty(m, problem.c)
        if not len(self.keys.x):
            return state
        pairs = float(min(problem.n, 2 * block))
        points = queries.problem.queries[positions, 0].astype(np.float64)
        order = sorted_order(points, self.plan.n_threads)
        ranks = self.ranks if problem.exclude_self else np.empty(0, np.int64)

        def task(i: int) -> float:
            rows = order[i * TASK_QUERIES : (i + 1) * TASK_QUERIES]
            own_ranks = ranks[positions[rows]] if problem.exclude_self else ranks
            sums = _sum_sorted(self, points[rows], own_ranks)
            # scattered writes took 90 ns per query within the compiled loop over queries, and take 10 ns here
            state.shift[rows], state.mass[rows], state.total[rows] = sums[:, 0], sums[:, 2], sums[:, 3:]
            state.mass_error[rows] = state.total_error[rows] = sums[:, 1]
            return pairs * len(rows)

        run(task, math.ceil(m / TASK_QUERIES), self.plan.n_threads, meter)
        return state


def summarise(model: Model, rung: Rung) -> Summary:
    """The sorted keys of a model, with their prefix sums."""
    return Summary(model.problem, model.plan)


def sorted_order(numbers: Floats, n_threads: int) -> NDArray[np.intp]:
    """Positions in ascending order of the numbers, the same for any number of threads.

    Numbers are distributed to buckets first, so that threads share the work.
    """
    n = len(numbers)
    count = min(n // MIN_BUCKET_KEYS, MAX_BUCKETS)
    if count < 2:
        return np.argsort(numbers)
    sample = np.sort(numbers[:: n // (64 * count)])
    borders = sample[:: -(-len(sample) // count)][1:]
    chunks = math.ceil(n / TASK_KEYS)
    bucket_orders: list[NDArray[np.intp]] = [None] * chunks  # type: ignore[list-item]
    ends = np.zeros((chunks, count + 1), np.intp)

    def distribute(i: int) -> float:
        chunk = numbers[i * TASK_KEYS : (i + 1) * TASK_KEYS]
        bucket = np.searchsorted(borders, chunk, side="right").astype(np.uint8)
        bucket_orders[i] = np.argsort(bucket, kind="stable") + i * TASK_KEYS  # a radix sort
        ends[i, 1:] = np.cumsum(np.bincount(bucket, minlength=count))
        return 0.0

    run(distribute, chunks, n_threads, Meter(False, 0, ""))
    starts, order = ends.sum(axis=0), np.empty(n, np.intp)

    def sort(b: int) -> float:
        positions = np.concatenate([bucket_orders[i][ends[i, b] : ends[i, b + 1]] for i in range(chunks)])
        order[starts[b] : starts[b + 1]] = positions[np.argsort(numbers[positions])]
        return 0.0

    run(sort, count, n_threads, Meter(False, 0, ""))
    return order


def _sum_sorted(summary: Summary, queries: Floats, own_ranks: Any) -> Floats:
    """(queries, 3 + c) Shift, bound (infinite above the limit), mass and totals of sorted queries."""
    problem, sums = summary.problem, np.empty((len(queries), 3 + summary.problem.c))
    if summary.keys.decays:
        # far tails need smaller errors than plain sums; one limit serves all queries, since nearly all of them meet it
        limit = max(problem.tol, MIN_TAIL_ERROR) if problem.tol else min(problem.promise, MAX_TAIL_ERROR)
        summary.keys.sums.decaying(
            queries, own_ranks, problem.total_weight, *DECAY_ERRORS[len(summary.keys.polynomial)], limit, sums
        )
    else:
        summary.keys.sums.windows(
            queries, own_ranks, summary.keys.unit_error, summary.keys.vanished, problem.promise, sums
        )
    return sums
