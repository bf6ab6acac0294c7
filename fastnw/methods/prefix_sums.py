"""Sorted keys in one coordinate: a window is summed from a few moments, so that time grows like n + m.

For kernels that are polynomials in u (compact ones), or such times exp(−u) (Laplacian, Matérn). Keys go into cells one
unit of u wide, the first key of each where the one before ends, so that there are cells only where keys are. At every
16th key lie the moments of its cell's keys before it, and of those from it on (prefix sums over all keys would have to
be subtracted, which cancels). A window of width 2 takes the end of one cell, perhaps a whole one, and the beginning of
another, and the few keys between its rims and the next stored moments one by one. For exp(−u) the moments go on over
all cells before (after), times exp(−step) at each: a recursion that forgets its errors (compare Hofmeyr, 2021, Fast
exact evaluation of univariate kernel sums).

Results are exact to rounding; bounds follow term by term from the number of roundings, in units of the weight in the
window (a polynomial's terms, added without their signs, are at most Σ |a_j| reach^j there) or of the mass itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.core.classes import MOST_DENSE_BYTES
from fastnw.core.judge import TAIL_FLOOR, TAIL_LIMIT
from fastnw.core.model import Model, Queries
from fastnw.core.pack import normalised_values
from fastnw.core.plan import Cost, Plan, Refusal, Rung, Work
from fastnw.core.problem import Problem, row_blocks
from fastnw.core.state import PoolState
from fastnw.methods._prefix_sums import Sums, block, find_cells
from fastnw.runtime.cached import cached_property
from fastnw.runtime.threads import Meter, check_stop, run

Floats = NDArray[np.float64]

UNIT, TINY = 2.0**-53, float(np.finfo(np.float64).tiny)
# u² has seven roundings: keys this far beyond the rim are summed, too, so that none within is missed, and a window
# without keys is certainly empty. A polynomial is continuous there; a boxcar is not.
RIM = 2.0**-49
# Roundings of a decaying kernel, as a bound in units: constant, and per nat below the nearest key (two for each unit of
# the step from cell to cell, with exp and the binomials). Of a Matérn's polynomial the terms without signs are up to
# 4.4 times the sum; and nats are at most twice log(W p(near)/mass) + 1.3.
DECAY = {1: (96 * UNIT, 12 * UNIT), 2: (544 * UNIT, 80 * UNIT), 3: (544 * UNIT, 80 * UNIT)}
SELDOM = 8  # masses are seldom less than an 8th of the weight in the window
LEAST_WEIGHT = 1e-200  # in units of the largest: products of lesser weights and exp(−u) may vanish
LARGEST = 1e150  # of bandwidths, their inverses and coordinates: squares stay in range

QUERIES = 1 << 15  # neighbours a task
PANEL_BYTES = 64 << 20  # states of the queries worked on at a time, and as much again in temporaries
KEYS = 1 << 18  # a task of the preparations
BUCKET, BUCKETS = 1 << 15, 256  # what is sorted at once, if there are enough buckets for it

# Nanoseconds (constant, per stored moment and value, per value) a key, its sorting included, and a query; and of each
# query for each doubling of the keys beyond what stays in cache. Measured on one Zen 4 core (a shared one: ±30 %), over
# n and m from 1e3 to 1e7, c from 0 to 100.
KEY_NS, QUERY_NS, DISTANT_NS, NEAR_KEYS = (100.0, 1.5, 10.0), (240.0, 3.0, 15.0), 30.0, 1e5
SHARED_NS, CELLS_NS = 65.0, 8.0  # of a key's constant: sorting, which all threads share, and finding cells, alone
START = 1e-4  # seconds


def cost(problem: Problem, backend: Any, n_threads: int, dtype: np.dtype[Any]) -> Cost | Refusal:
    """Sorting and O(n + m)."""
    reason = _refusal(problem, backend)
    if reason is not None:
        return Refusal(reason)
    moments = len(_polynomial(problem)) * (1 + problem.c)
    distant = DISTANT_NS * math.log2(max(problem.n / NEAR_KEYS, 1.0))
    key, query = (a + b * moments + c * problem.c for a, b, c in (KEY_NS, QUERY_NS))
    work = [Work(START), Work(1e-9 * problem.m * (query + distant), math.ceil(problem.m / QUERIES))]
    if "moments" not in problem.prepared:
        shared = SHARED_NS * problem.n
        work += [Work(1e-9 * CELLS_NS * problem.n), Work(1e-9 * shared, math.ceil(problem.n / KEYS))]
        # moments are filled forwards by one thread and backwards by another
        work.append(Work(1e-9 * (problem.n * (key - CELLS_NS) - shared), 2))
    per_key = 8 * (6 + 2 * problem.c + (4 + 2 * moments / block))
    size = problem.n * per_key + min(problem.m, panel(problem)) * 8 * (8 + 2 * problem.c)
    if problem.classes is not None and size > MOST_DENSE_BYTES:
        return Refusal(
            f"supports sums of classes in up to {MOST_DENSE_BYTES / 2**20:g} MiB, "
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
    if problem.tol and problem.tol < SELDOM * _unit_error(problem):
        return f"certifies errors down to {SELDOM * _unit_error(problem):.1g} of the range, got tol={problem.tol:g}"
    if not 1 / LARGEST < _bandwidth(problem) < LARGEST:
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


def _unit_error(problem: Problem, reach: float = 2.0) -> float:
    """Bound on the error of sums, in units of the weight in the window; of a mass of nats 20 deep, if it decays."""
    polynomial = _polynomial(problem)
    if problem.kernel.facts.exponential_polynomial is not None:
        error, slope = DECAY[len(polynomial)]
        return error + 20 * slope
    size = sum(abs(a) * reach**j for j, a in enumerate(polynomial))
    return (5 * (len(polynomial) - 1) + 32 + 2 * block) * UNIT * size


def _bandwidth(problem: Problem) -> float:
    cholesky = problem.metric.cholesky
    return float(problem.metric.bandwidth[0] if cholesky is None else cholesky[0, 0])


def panel(problem: Problem) -> int:
    """Queries to accumulate at a time."""
    size = max(PANEL_BYTES // (8 * (6 + problem.c)), 1024)
    return size // QUERIES * QUERIES or size


class SortedKeys:
    """The keys with positive weight, sorted, and their moments: made once for the same keys and kernel."""

    def __init__(self, problem: Problem, n_threads: int) -> None:
        facts = problem.kernel.facts
        exponential = facts.exponential_polynomial
        self.polynomial, self.decays = _polynomial(problem), exponential is not None
        self.inverse = (exponential[1] if exponential else 1.0) / _bandwidth(problem)
        self.edge = 1.0 if facts.discontinuous or self.decays else 1.0 + RIM
        self.order, self.x = _sorted(problem, n_threads)
        far = max(-float(self.x[0]), float(self.x[-1])) if len(self.x) else 0.0
        # otherwise all queries are handed on
        self.usable = far < LARGEST and not (self.decays and problem.least_weight < LEAST_WEIGHT)
        # from the middle of a cell at most 2 (query and key together), but for what the middle itself is rounded by
        ulps = float(np.spacing(far)) * self.inverse
        self.unit_error = _unit_error(problem, min(2.0 + 2.0 * ulps, 3.0))
        # each term of each key's polynomial may lose as much, times what multiplies it
        lost = len(self.x) * TINY * sum(abs(a) * 3.0**j for j, a in enumerate(self.polynomial))
        self.vanished = lost * len(self.polynomial) if problem.least_weight < LEAST_WEIGHT else 0.0
        if self.usable and len(self.x):
            self.sums = self._sums(problem, n_threads)

    def _cells(self) -> NDArray[np.int64]:
        """(cells + 1,) The first key of each, and n."""
        found, first, n = [], 0, len(self.x)
        while first < n:
            check_stop()
            starts = np.empty(min(KEYS, n), np.int64)
            count, first = find_cells(self.x, self.inverse, self.edge, first, starts)
            found.append(starts[:count].copy())
        return np.append(np.concatenate(found), n)

    def _sums(self, problem: Problem, n_threads: int) -> Sums:
        """The moments, forwards and backwards at once, each in order: bits do not depend on threads."""
        n, starts = len(self.x), self._cells()
        cells, blocks, shape = len(starts) - 1, math.ceil(n / block), (len(self.polynomial), 1 + problem.c)
        anchors = self.x[starts[:-1]]
        if not self.decays:  # in the middle, powers of y are smallest
            anchors += 0.5 / self.inverse
        edges = tuple(np.zeros((count, *shape)) for count in (blocks, blocks, *(2 * (cells * self.decays,))))
        factors = tuple(np.empty(n * self.decays) for _ in range(2))
        sums = Sums(
            self.x,
            _rows(problem, self.order, n_threads),
            starts,
            anchors,
            edges,
            factors,
            self.polynomial,
            problem.kernel.facts.window or (1, 0),
            self.inverse,
            self.edge,
            self.decays,
        )
        if self.decays:
            parts = np.minimum(np.searchsorted(starts, np.arange(0, n + KEYS, KEYS)), cells).tolist()

            def fill_factors(i: int) -> float:
                sums.fill_factors(parts[i], parts[i + 1])
                return 0.0

            _run(fill_factors, len(parts) - 1, n_threads)
        step = max(KEYS // math.prod(shape), 1)

        def fill(backwards: int) -> float:
            sofar, k = np.zeros((3, math.prod(shape))), (cells - 1) * backwards
            parts = range(0, blocks, step)
            for first in reversed(parts) if backwards else parts:
                check_stop()
                of_part = sums.fill_suffix if backwards else sums.fill_prefix
                k = of_part(first, min(first + step, blocks), k, sofar)
            return 0.0

        _run(fill, 2, n_threads)
        return sums


def _run(task: Any, n_tasks: int, n_threads: int) -> None:
    run(task, n_tasks, n_threads, Meter(False, 0, ""))


def _sorted(problem: Problem, n_threads: int) -> tuple[NDArray[np.intp], Floats]:
    """Positions of the keys with positive weight, by key, and those keys."""
    keys = problem.keys[:, 0].astype(np.float64)
    kept = None if problem.weights is None else np.flatnonzero(problem.weights > 0)
    order = sorted_order(keys if kept is None else keys[kept], n_threads)
    x = np.empty(len(order))

    def gather(i: int) -> float:
        part = slice(i * KEYS, (i + 1) * KEYS)
        if kept is not None:
            order[part] = kept[order[part]]
        x[part] = keys[order[part]]
        return 0.0

    _run(gather, math.ceil(len(order) / KEYS), n_threads)
    return order, x


def _rows(problem: Problem, order: NDArray[np.intp], n_threads: int) -> Floats:
    """(n, 1 + c) w·[1, t] of the sorted keys."""
    rows = np.empty((len(order), 1 + problem.c))

    def task(i: int) -> float:
        for part in row_blocks(rows[i * KEYS : (i + 1) * KEYS]):
            check_stop()
            mine = slice(i * KEYS + part.start, min(i * KEYS + part.stop, (i + 1) * KEYS, len(order)))
            weights = problem.weights_at(order[mine])
            rows[mine, 0] = 1.0 if weights is None else weights
            rows[mine, 1:] = normalised_values(problem, order[mine]).T
            if weights is not None:
                rows[mine, 1:] *= weights[:, None]
        return 0.0

    _run(task, math.ceil(len(order) / KEYS), n_threads)
    return rows


@dataclass
class Summary:
    """The sorted keys, and what sums them."""

    problem: Problem
    plan: Plan

    @property
    def panel(self) -> int:
        """How many queries to sum at a time."""
        return panel(self.problem)

    @cached_property
    def keys(self) -> SortedKeys:
        """Made once."""
        return SortedKeys(self.problem, self.plan.n_threads)

    def wanted(self, queries: Queries, mass: Floats | None) -> NDArray[np.bool_] | None:
        """All queries, or none where the keys leave the range of what moments are for."""
        return None if self.keys.usable else np.zeros(len(queries), bool)

    def prepare(self, meter: Meter) -> None:
        """Make what is kept of the keys."""
        _ = self.keys

    @cached_property
    def ranks(self) -> NDArray[np.int64]:
        """(n,) Where each key went; −1 for those without weight."""
        ranks = np.full(self.problem.n, -1, np.int64)
        ranks[self.keys.order] = np.arange(len(self.keys.order))
        return ranks

    def sums(self, queries: Queries, meter: Meter) -> PoolState:
        """Sums with bounds on their errors; infinite ones where no window of moments is near enough."""
        problem, m, positions = self.problem, len(queries), queries.rows
        state = PoolState.empty(m, problem.c)
        if not len(self.keys.x):
            return state
        pairs = float(min(problem.n, 2 * block))
        points = queries.problem.queries[positions, 0].astype(np.float64)
        order = sorted_order(points, self.plan.n_threads)
        ranks = self.ranks if problem.exclude_self else np.empty(0, np.int64)

        def task(i: int) -> float:
            mine = order[i * QUERIES : (i + 1) * QUERIES]
            own = ranks[positions[mine]] if problem.exclude_self else ranks
            found = _sum(self, points[mine], own)
            # straight from the loop over queries, writes to scattered places cost 90 ns a query, here 10
            state.shift[mine], state.mass[mine], state.total[mine] = found[:, 0], found[:, 2], found[:, 3:]
            state.mass_error[mine] = state.total_error[mine] = found[:, 1]
            return pairs * len(mine)

        run(task, math.ceil(m / QUERIES), self.plan.n_threads, meter)
        return state


def summarise(model: Model, rung: Rung) -> Summary:
    """The sorted keys of a model."""
    return Summary(model.problem, model.plan)


def sorted_order(numbers: Floats, n_threads: int) -> NDArray[np.intp]:
    """Positions in ascending order of the numbers, the same for any number of threads.

    Distributed to buckets first, so that threads share the work.
    """
    n = len(numbers)
    count = min(n // BUCKET, BUCKETS)
    if count < 2:
        return np.argsort(numbers)
    sample = np.sort(numbers[:: n // (64 * count)])
    borders = sample[:: -(-len(sample) // count)][1:]
    chunks = math.ceil(n / KEYS)
    found: list[NDArray[np.intp]] = [None] * chunks  # type: ignore[list-item]
    ends = np.zeros((chunks, count + 1), np.intp)

    def distribute(i: int) -> float:
        part = numbers[i * KEYS : (i + 1) * KEYS]
        bucket = np.searchsorted(borders, part, side="right").astype(np.uint8)
        found[i] = np.argsort(bucket, kind="stable") + i * KEYS  # by radix
        ends[i, 1:] = np.cumsum(np.bincount(bucket, minlength=count))
        return 0.0

    run(distribute, chunks, n_threads, Meter(False, 0, ""))
    starts, order = ends.sum(axis=0), np.empty(n, np.intp)

    def sort(b: int) -> float:
        mine = np.concatenate([found[i][ends[i, b] : ends[i, b + 1]] for i in range(chunks)])
        order[starts[b] : starts[b + 1]] = mine[np.argsort(numbers[mine])]
        return 0.0

    run(sort, count, n_threads, Meter(False, 0, ""))
    return order


def _sum(summary: Summary, queries: Floats, own: Any) -> Floats:
    """(queries, 3 + c) Shift, bound (infinite where it is too large), mass and totals of sorted queries."""
    problem, found = summary.problem, np.empty((len(queries), 3 + summary.problem.c))
    if summary.keys.decays:
        # far tails are promised more digits than plain sums; the same limit serves all, since nearly all meet it
        limit = max(problem.tol, TAIL_FLOOR) if problem.tol else min(problem.promise, TAIL_LIMIT)
        summary.keys.sums.decaying(
            queries, own, problem.total_weight, *DECAY[len(summary.keys.polynomial)], limit, found
        )
    else:
        summary.keys.sums.windows(queries, own, summary.keys.unit_error, summary.keys.vanished, problem.promise, found)
    return found
