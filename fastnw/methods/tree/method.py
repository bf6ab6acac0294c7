"""Any number of coordinates, kernels that are compact or decay exponentially: pairs that cannot matter are skipped.

Keys are sorted into a k-d tree (Bentley, 1975) whose leaves hold LEAF keys each, so that a node of any level is a range
of them, and has a box. Queries are sorted likewise, and go down the tree in blocks of neighbours; each then chooses its
own leaves by its distance to their boxes (other backends than compiled tiles: block by block, `gathered`). What is
summed is summed as in `exact`.

* A compact kernel is summed wherever its window reaches: nothing is left out. Where it is a polynomial of u², nodes
  that lie wholly within the windows of a block are summed from their moments, whatever the number of their keys.
* Weights of very different size are in trees of their own (`bands`), so that none vanishes beside another.
* A kernel that decays exponentially leaves out keys which together weigh less than SHARE of the promise times the mass.
  That is judged by the mass itself, known from below from the leaves nearest to the query, however far they are
  (compare Gray and Moore, 2003, Nonparametric density estimation: toward computational tractability).

Nodes are not approximated by an expansion about their mean: to first order its relative error is max(1, u²)/2 times the
mean squared distance from it, so for tol=1e-4 a leaf would have to be smaller than a hundredth of a bandwidth, and for
the default than a ten-thousandth. In one coordinate `moments`, in up to three `fourier` do what that would.

Sums are in float64, for float32 data too. Queries whose exponents have no digits left go to `tails` (those of a user's
kernel to `exact`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw import backends
from fastnw.backends.backend import Backend
from fastnw.core import certify
from fastnw.core.model import Model, Queries
from fastnw.core.pack import pack_inverse, pack_queries
from fastnw.core.plan import NOMINAL_THREADS, Cost, Refusal, Rung, Work
from fastnw.core.problem import Problem
from fastnw.core.state import PoolState
from fastnw.methods import exact, pair_times
from fastnw.methods.tree import bands, blockwise, selectivity
from fastnw.methods.tree.kdtree import (
    FLOAT64,
    LEAF,
    PIECE,
    SUBTREE,
    Positions,
    Tree,
    build,
    moments,
    sorted_order,
    terms_of,
)
from fastnw.runtime.cached import cached_property
from fastnw.runtime.hardware import vendor
from fastnw.runtime.threads import Meter, check_stop, run

Floats = NDArray[np.float64]

UNIT, LOG_RANGE = 2.0**-53, 745.0  # float64: relative rounding, nats from 1 to its smallest number
SHARE = 0.5  # of the promise, for what is left out; rounding takes the rest
QUERIES = 1 << 11  # a task
TASK_PAIRS = 2e7  # after which Ctrl-C is heard: 0.1 s in six coordinates, more where others take the cores
PANEL_BYTES = 128 << 20  # of the queries worked on at a time: coordinates and states, sorted and not

MANY_PAIRS = 2e7  # fewer than these, 10 ms, are not worth a look at the data
MANY_KEYS = 64 * LEAF  # in a window, from which moments are worth their making
LIGHT = 40  # numbers in a node's moments up to which a leaf's take less time than its keys

# Nanoseconds to sort a point a level; a query, a leaf and a coordinate of its box to choose leaves; a number of the
# moments of whole nodes; and how much longer a coordinate takes than in the tiles of `exact`, where queries share its
# loads. Measured on one Zen 4 core (a shared one: ±30 %).
SORT_NS, QUERY_NS, LEAF_NS, BOX_NS, MOMENT_NS, SINGLE = 9.0, 300.0, 2.0, 0.25, 0.3, 2.2
BLOCK_NS, ARRAY_NS = 4e5, 20.0  # to gather a block's leaves: NumPy's calls, and a coordinate of every leaf's box
START, START_READY = 1e-3, 1.5e-4  # seconds; of trees that are there
SELECT_NS = 7.0  # of sorting a point a level: the part in which threads do not share a half
# To gather a coordinate and a value of a sorted key, and a coordinate more for each doubling of the keys beyond what
# stays in cache: measured on a Xeon (Sapphire Rapids). On Zen 4 SORT_NS holds both.
FILL_NS, VALUE_NS, SEVERAL_NS, DISTANT_NS, NEAR_KEYS = 25.0, 30.0, (80.0, 12.0), 18.0, 1e5
NEIGHBOURS = 32  # queries that look at the same leaves: src_cython/_boxes.pxi
DECAY_NS = 8.0  # more a leaf where the mass of what is left out is judged


def cost(problem: Problem, backend: Any, n_threads: int, dtype: np.dtype[Any]) -> Cost | Refusal:
    """Sorting, choosing leaves, and the pairs of the leaves that queries reach."""
    reason = refusal(problem, backend)
    if reason is not None:
        return Refusal(reason)
    if not problem.squares_in_range:  # all queries are handed on
        every = exact.cost(problem, backend, n_threads, dtype)
        return Cost(every.pairs, (Work(START), *every.work), every.bytes)
    n, m, d, shares = problem.n, problem.m, problem.d, _shares(problem)
    by_query = backend.sum_leaves is not None
    numbers = _moment_numbers(problem, shares) if by_query else 0
    pairs = float(m) * n * ((shares.reached if by_query else shares.looked_at) - (shares.inside if numbers else 0.0))
    base, per_coordinate, per_value, _ = pair_times.nanoseconds(problem, backend, FLOAT64)
    pair = base + SINGLE * per_coordinate * d
    pair += per_value if problem.c < 2 else pair_times.values_ns(problem, backend, FLOAT64)
    trees = bands.most(problem)
    ready = "tree" in problem.prepared
    values = problem.c if problem.classes is None else 1
    work = [Work(START_READY if ready else START), *_sorting(m, d)]
    if not ready:
        work += [*_sorting(n, d), Work(1e-9 * n * _fill(n, d, values), math.ceil(n / PIECE))]
    if problem.metric.factor is not None:
        work.append(Work(pair_times.whitening_seconds(problem, m if ready else m + n)))
    leaf = LEAF_NS + BOX_NS * d + (DECAY_NS if problem.kernel.support is None else 0.0)
    choose = m * (QUERY_NS * trees + n / LEAF * _looked_at(shares.looked_at, m, d) * leaf)
    if not by_query:
        choose = m / blockwise.BLOCK * (BLOCK_NS * trees + n / LEAF * ARRAY_NS * d)
    whole = numbers * MOMENT_NS * (m * n / LEAF / 4 * shares.inside + 10 * n * (not ready))
    tasks = max(math.ceil(min(m, panel(problem)) / _task(problem)), 1)
    work.append(Work(1e-9 * (choose + whole + pairs * pair), tasks))
    if problem.classes is not None:
        work.append(Work(pair_times.states_seconds(problem, 2)))
    memory = n * 8 * (2 * d + 3 + values + numbers / LEAF) + min(m, panel(problem)) * 16 * (4 + problem.c + d)
    return Cost(pairs, tuple(work), memory)


def _looked_at(share: float, m: int, d: int) -> float:
    """Share of the leaves that a block of neighbours does not drop: what one query would look at, wider by the
    block's own extent, which is large where queries are few."""
    extent = (min(m, NEIGHBOURS) - 1) / max(m, 1)
    side = share ** (1 / d) + max(extent, 0.0) ** (1 / d)
    return float(min(side, 1.0) ** d)


def _sorting(size: int, d: int) -> list[Work]:
    """To bring points into a tree's order: threads sort subtrees, and share out the halves above them. Of these each is
    selected by one thread, so the first by one alone."""
    above = math.ceil(math.log2(max(size / SUBTREE, 1.0)))
    total = SORT_NS * size * (2 + math.log2(size / LEAF + 1)) * (1 + d / 8)
    alone = [Work(1e-9 * SELECT_NS * size, 2**level) for level in range(above)]
    return [*alone, Work(1e-9 * (total - above * SELECT_NS * size), 2**above)]


def _fill(n: int, d: int, c: int) -> float:
    """Nanoseconds to gather a sorted key and its values."""
    if vendor() != "intel":
        return 0.0
    distant = math.log2(max(n / NEAR_KEYS, 1.0))
    values = SEVERAL_NS[0] + SEVERAL_NS[1] * c if c > 1 else VALUE_NS * c
    return d * (FILL_NS + DISTANT_NS * distant) + values


def _shares(problem: Problem) -> selectivity.Shares:
    if not problem.prepared:
        facts = problem.of_queries
        if facts.selectivity is None:
            facts.selectivity = _predicted(problem)
        asked: selectivity.Shares = facts.selectivity
        return asked
    # of a fitted model those of its keys, looked at once, whatever is asked later
    known, key = problem.of_metric.selectivity, (problem.kernel, problem.promise)
    if key not in known:
        known[key] = _predicted(problem.asked(problem.keys, kernel=problem.kernel, tol=problem.tol))
    found: selectivity.Shares = known[key]
    return found


def _predicted(problem: Problem) -> selectivity.Shares:
    if problem.m * problem.n < MANY_PAIRS:
        return selectivity.Shares(1.0, 1.0, 0.0)
    return selectivity.predict(problem, math.log(problem.n / (SHARE * problem.promise)))


def _power(problem: Problem) -> int | None:
    """The power of a kernel (1 − u²)^power, if there are moments for it."""
    facts = problem.kernel.facts
    if facts.window is None or problem.key_scale is not None:
        return None
    base, power = facts.window
    return power if base == 2 or power == 0 else None


def _moment_numbers(problem: Problem, shares: selectivity.Shares) -> int:
    """How many numbers the moments of a node are; 0 if none are made."""
    power = _power(problem)
    if problem.classes is not None or power is None or shares.inside * problem.n < MANY_KEYS:
        return 0
    return terms_of(power, problem.d) * (1 + problem.c)


def refusal(problem: Problem, backend: Any) -> str | None:
    kernel = problem.kernel
    if not kernel.monotone:
        return f"needs a kernel created with monotone=True, got kernel={kernel.name!r}"
    if kernel.facts.built_in and not (kernel.inner_product or kernel.works_on_logs or kernel.support is not None):
        return f"supports kernels that are compact or decay exponentially, got kernel={kernel.name!r}"
    if kernel.inner_product:
        return f"supports kernels of a distance, got kernel={kernel.name!r}"
    if problem.tol == 0:
        return "needs tol > 0 or tol=None, got tol=0"
    if bands.most(problem) > bands.MOST_BANDS:
        orders = -problem.log_least_weight / math.log(10)
        return f"supports weights over {bands.MOST_BANDS * 200} decimal orders of magnitude, got {orders:.0f}"
    if "tree" not in backend.methods:
        return f"supports CPU backends, got backend={backend.name!r}"
    return None


def panel(problem: Problem) -> int:
    """Queries to accumulate at a time."""
    size = PANEL_BYTES // (16 * (4 + problem.c + problem.d))
    if problem.classes is not None and size // 4 < QUERIES:  # totals are long, and made anew for every panel
        return max(size // 4 // NEIGHBOURS, 1) * NEIGHBOURS
    return max(size, QUERIES) // QUERIES * QUERIES


def _task(problem: Problem) -> int:
    """Queries a task."""
    return QUERIES if problem.classes is None else min(QUERIES, max(panel(problem) // 8, NEIGHBOURS))


@dataclass
class Summary:
    """The tree, made once for the same keys."""

    model: Model
    optional: bool  # whether to sum only where that takes less time than every pair

    def __post_init__(self) -> None:
        self.problem, self.plan = self.model.problem, self.model.plan
        self.backend: Backend = backends.get(self.plan.backend)
        self._rounding: dict[float, certify.Rounding] = {}

    @property
    def panel(self) -> int:
        """How many queries to sum at a time."""
        return panel(self.problem)

    @cached_property
    def trees(self) -> tuple[Tree, ...]:
        """One for each band of weights; none if no key has a weight."""
        kept = self.problem.of_keys
        if kept.trees is None:
            kept.trees = tuple(build(self.problem, band, self.plan.n_threads) for band in bands.split(self.problem))
        return kept.trees

    @cached_property
    def moments(self) -> tuple[tuple[Any, int, int, float], ...]:
        """Of each tree, its nodes' moments or None, the kernel's power, the lowest level whose moments are used, and
        their error per weight: a sum of terms that together are at most (1 + 2 + 2)^power, each of some dozens of
        roundings."""
        numbers, power = _moment_numbers(self.problem, _shares(self.problem)), _power(self.problem)
        if not numbers or power is None or self.backend.sum_leaves is None:
            return ((None, 0, 0, 0.0),) * len(self.trees)
        inverse = pack_inverse(self.problem, FLOAT64)
        made = [moments(tree, inverse, power, self.plan.n_threads) for tree in self.trees]
        error = (2 * terms_of(power, self.problem.d) + 128) * 5.0**power * UNIT
        return tuple((found, power, 0 if numbers <= LIGHT else 1, error) for found in made)

    def prepare(self, meter: Meter) -> None:
        """Make what is kept of the keys."""
        _ = self.moments

    @cached_property
    def ranks(self) -> tuple[NDArray[np.int64], ...]:
        """For each tree (n,) where each key went; −1 for those that are not there."""
        ranks = tuple(np.full(self.problem.n, -1, np.int64) for _ in self.trees)
        for places, tree in zip(ranks, self.trees, strict=True):
            places[tree.order] = np.arange(len(tree.order))
        return ranks

    def rounding(self, band: bands.Band) -> certify.Rounding:
        """Of sums over the keys of one band; made once."""
        if band.log_scale not in self._rounding:
            self._rounding[band.log_scale] = certify.Rounding(
                self.problem,
                FLOAT64,
                as_written=self.backend.as_written,
                least_weight=band.least,
                total_weight=band.total,
            )
        return self._rounding[band.log_scale]

    def wanted(self, queries: Queries, mass: Floats | None) -> NDArray[np.bool_] | None:
        """All queries; none where squares leave float64's range or, as a second try, where every pair takes less."""
        problem = queries.problem
        if problem.squares_in_range:
            if not self.optional:
                return None
            asked = problem.asked(problem.queries[queries.rows], kernel=problem.kernel, tol=problem.tol)
            here = cost(asked, self.backend, 1, FLOAT64)
            every = exact.cost(asked, self.backend, 1, self.plan.dtype)
            if isinstance(here, Cost) and here.seconds(NOMINAL_THREADS) < every.seconds(NOMINAL_THREADS):
                return None
        return np.zeros(len(queries), bool)

    def sums(self, queries: Queries, meter: Meter) -> PoolState:
        """Sums with bounds on their rounding, and on what the keys that were skipped would add."""
        problem, m = self.problem, len(queries)
        if not self.trees:
            return PoolState.empty(m, problem.c)
        inverse, points = pack_inverse(problem, FLOAT64), pack_queries(queries.problem, queries.rows, FLOAT64)
        order = sorted_order(points, inverse, self.plan.n_threads)
        error = self.model.errors.of(points)
        states = []
        for number in range(len(self.trees)):
            sums = _sums_of_band(self, number, queries.rows[order], points[order], error[order], meter)
            states.append(PoolState.empty(m, problem.c))
            states[-1].put(order, sums)
        return _certified(self, states, error)


def summarise(model: Model, rung: Rung) -> Summary:
    """The tree of a model's keys."""
    return Summary(model, optional=rung.form == "if fast")


def _sums_of_band(
    summary: Summary, number: int, positions: Positions, queries: Floats, error: Floats, meter: Meter
) -> PoolState:
    """Sums of sorted queries over one tree, in units of its largest weight."""
    problem, tiles, tree, m = summary.problem, summary.backend, summary.trees[number], len(positions)
    sums, inverse = PoolState.empty(m, problem.c), pack_inverse(problem, FLOAT64)
    if not problem.kernel.works_on_logs:
        sums.shift[:] = 0.0
    own = summary.ranks[number][positions] if problem.exclude_self else None
    weighing = (tree.band.total, tree.band.least, SHARE * problem.promise, TASK_PAIRS)
    sum_leaves = tiles.sum_leaves or partial(blockwise.sum_leaves, tiles)
    whole = summary.moments[number]
    if tiles.prepare is not None:
        tiles.prepare(problem.kernel, inverse, problem.c, problem.key_scale is not None)

    size = _task(problem)

    def task(i: int) -> float:
        start, stop, pairs = i * size, min((i + 1) * size, m), 0.0
        while start < stop:
            check_stop()
            rows = slice(start, stop)
            mine = None if own is None else own[rows]
            done, summed = sum_leaves(
                problem.kernel, queries[rows], tree, inverse, mine, sums.rows(rows), error[rows], weighing, whole
            )
            start, pairs = start + done, pairs + summed
        return pairs

    run(task, math.ceil(m / size), summary.plan.n_threads, meter)
    return exact.normalised(problem, sums)


def _certified(summary: Summary, states: list[PoolState], error: Floats) -> PoolState:
    """The bands' sums in one state, with bounds on their rounding.

    Errors of exponents are bounded by the mass of all bands, whose mean of −log κ is known (`exact`).
    """
    problem, tiles, trees = summary.problem, summary.backend, summary.trees
    if len(trees) == 1:
        of_weights = certify.error_of_weights(problem, tiles, error, states[0])
        return summary.rounding(trees[0].band).certified(states[0], of_weights)
    scales = [tree.band.log_scale for tree in trees]
    merged = PoolState.merged([_moved(state, scale) for state, scale in zip(states, scales, strict=True)])
    of_weights = certify.error_of_weights(problem, tiles, error, merged)
    parts = []
    for state, tree, scale in zip(states, trees, scales, strict=True):
        of_scale = 4 * (LOG_RANGE - scale) * UNIT if scale else 0.0  # of a difference of two logarithms
        of_band = of_weights + of_scale
        bounded = summary.rounding(tree.band).certified(state, of_band)
        parts.append(_moved(bounded, scale))
    return PoolState.merged(parts)


def _moved(state: PoolState, log_scale: float) -> PoolState:
    """The state in units of the largest weight of all. Where nothing was met it is the empty one, lest its shift make
    the other bands' sums underflow."""
    nothing = np.flatnonzero((state.mass == 0) & ((state.mass_error == 0) | np.isneginf(state.shift)))
    parts = (state.shift + log_scale, state.mass, state.total, state.mass_error, state.total_error)
    moved = PoolState(*(part.copy() for part in parts))
    moved.put(nothing, PoolState.empty(len(nothing), state.total.shape[1]))
    return moved
