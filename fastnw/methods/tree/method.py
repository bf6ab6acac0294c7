"""The method "tree": it skips pairs that cannot matter, for compact and exponentially decaying kernels in any d.

Keys are sorted into a k-d tree (Bentley, 1975) whose leaves hold LEAF keys each, so that a node of any level is a range
of the sorted keys with a bounding box. Queries are sorted likewise, and descend the tree in blocks of neighbours; then
each query chooses its own leaves by its distance to their boxes. (With other backends than the compiled one, a block
chooses leaves together: `blockwise`.) The chosen leaves are summed as in `exact`.

* A compact kernel is summed over its whole window: nothing is skipped inside. Where the kernel is a polynomial of u²,
  nodes that lie wholly within the windows of a block are summed from their moments, however many keys they have.
* Weights of very different size are split into trees of their own (`bands`), so that no weight underflows.
* For a kernel that decays exponentially, the method skips keys whose sums are at most SKIPPED_SHARE of the tolerance
  times the mass. The leaves nearest to the query give a lower bound on the mass, however far they are (compare Gray and
  Moore, 2003, Nonparametric density estimation: toward computational tractability).

Nodes are not approximated by an expansion about their mean: to first order its relative error is max(1, u²)/2 times the
mean squared distance from the mean, so tol=1e-4 would need leaves smaller than a hundredth of a bandwidth, and the
default tolerance leaves smaller than a ten-thousandth. In one coordinate "moments" does what the expansion would do, in
up to three "fourier".

Sums are in float64, for float32 data too. Queries whose exponents lose all digits go to `tails`, those of a user's
kernel to `exact`.
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
from fastnw.core.state import Sums
from fastnw.methods import exact, pair_times
from fastnw.methods.tree import bands, blockwise, selectivity
from fastnw.methods.tree.kdtree import (
    FLOAT64,
    LEAF,
    PIECE_KEYS,
    SUBTREE_POINTS,
    Positions,
    Tree,
    build,
    moments,
    sorted_order,
    terms_of,
)
from fastnw.runtime._constants import QUERIES_PER_WALK
from fastnw.runtime.cached import cached_property
from fastnw.runtime.hardware import vendor
from fastnw.runtime.threads import Meter, check_stop, run

Floats = NDArray[np.float64]

# Relative rounding of float64, and nats from 1 to its smallest number.
UNIT_ROUNDOFF, RANGE_NATS = 2.0**-53, 745.0
# Share of the tolerance that the skipped keys may take; rounding takes the rest.
SKIPPED_SHARE = 0.5
TASK_QUERIES = 1 << 11
# Pairs after which a task responds to Ctrl-C: 0.1 s in six coordinates, more where other work competes for the cores.
TASK_PAIRS = 2e7
# Size of the coordinates and states of one panel of queries, sorted and unsorted.
PANEL_BYTES = 128 << 20

# Fewer pairs take 10 ms, too little time to pay for a prediction of the selectivity.
MIN_PAIRS_TO_PREDICT = 2e7
# Moments of nodes pay off if a window holds at least so many keys.
MIN_KEYS_FOR_MOMENTS = 64 * LEAF
# If a node has at most so many moments, those of a leaf take less time than its keys.
MAX_LEAF_MOMENTS = 40

# The following times were measured on one Zen 4 core (a shared one: ±30 %).
# Nanoseconds to sort a point per level.
SORT_NS = 9.0
# Nanoseconds to choose leaves: per query, per leaf and per coordinate of a leaf's box.
CHOOSE_QUERY_NS, CHOOSE_LEAF_NS, CHOOSE_COORDINATE_NS = 300.0, 2.0, 0.25
# Nanoseconds per number of the moments of whole nodes.
MOMENT_NS = 0.3
# How much longer a coordinate takes than in the tiles of `exact`, where queries share its loads.
SINGLE_QUERY_FACTOR = 2.2
# Nanoseconds to gather the leaves of a block: for NumPy's calls, and per coordinate of every leaf's box.
BLOCK_NS, ARRAY_NS = 4e5, 20.0
# Seconds that any call takes, without and with trees that exist already.
START_SECONDS, START_READY_SECONDS = 1e-3, 1.5e-4
# The part of SORT_NS that selects medians, which threads do not share within a half.
SELECT_NS = 7.0
# Nanoseconds to gather a coordinate, one value, and a row of values (constant, per value) of a sorted key: measured on
# a Xeon (Sapphire Rapids); on Zen 4, SORT_NS includes them.
GATHER_COORDINATE_NS, GATHER_VALUE_NS, GATHER_ROW_NS = 25.0, 30.0, (80.0, 12.0)
# Extra nanoseconds per coordinate for each doubling of the keys beyond what stays in cache.
CACHE_MISS_NS, MAX_CACHED_KEYS = 18.0, 1e5
# Extra nanoseconds per leaf to bound the mass of skipped keys.
JUDGE_LEAF_NS = 8.0


def cost(problem: Problem, backend: Any, n_threads: int, dtype: np.dtype[Any]) -> Cost | Refusal:
    """Predict the cost of sorting, of choosing leaves, and of the pairs in the chosen leaves."""
    reason = refusal(problem, backend)
    if reason is not None:
        return Refusal(reason)
    if not problem.squares_in_range:  # then all queries go to the next rung
        every_pair = exact.cost(problem, backend, n_threads, dtype)
        return Cost(every_pair.pairs, (Work(START_SECONDS), *every_pair.work), every_pair.bytes)
    n, m, d, shares = problem.n, problem.m, problem.d, _selectivity(problem)
    by_query = backend.sum_leaves is not None
    numbers = _moment_numbers(problem, shares) if by_query else 0
    pairs = float(m) * n * ((shares.summed if by_query else shares.examined) - (shares.inside if numbers else 0.0))
    base, per_coordinate, per_value, _ = pair_times.nanoseconds(problem, backend, FLOAT64)
    pair = base + SINGLE_QUERY_FACTOR * per_coordinate * d
    pair += per_value if problem.c < 2 else pair_times.values_ns(problem, backend, FLOAT64)
    trees = bands.max_bands(problem)
    fitted = "tree" in problem.prepared
    values = problem.c if problem.classes is None else 1
    work = [Work(START_READY_SECONDS if fitted else START_SECONDS), *_sorting_work(m, d)]
    if not fitted:
        work += [*_sorting_work(n, d), Work(1e-9 * n * _gather_ns(n, d, values), math.ceil(n / PIECE_KEYS))]
    if problem.metric.factor is not None:
        work.append(Work(pair_times.whitening_seconds(problem, m if fitted else m + n)))
    leaf = CHOOSE_LEAF_NS + CHOOSE_COORDINATE_NS * d + (JUDGE_LEAF_NS if problem.kernel.support is None else 0.0)
    choose_ns = m * (CHOOSE_QUERY_NS * trees + n / LEAF * _open_share(shares.examined, m, d) * leaf)
    if not by_query:
        choose_ns = m / blockwise.BLOCK_QUERIES * (BLOCK_NS * trees + n / LEAF * ARRAY_NS * d)
    moment_ns = numbers * MOMENT_NS * (m * n / LEAF / 4 * shares.inside + 10 * n * (not fitted))
    tasks = max(math.ceil(min(m, panel(problem)) / _task_queries(problem)), 1)
    work.append(Work(1e-9 * (choose_ns + moment_ns + pairs * pair), tasks))
    if problem.classes is not None:
        work.append(Work(pair_times.states_seconds(problem, 2)))
    memory = n * 8 * (2 * d + 3 + values + numbers / LEAF) + min(m, panel(problem)) * 16 * (4 + problem.c + d)
    return Cost(pairs, tuple(work), memory)


def _open_share(share: float, m: int, d: int) -> float:
    """Share of the leaves that a block of neighbours examines: the share of one query, widened by the extent of the
    block, which is large for few queries."""
    extent = (min(m, QUERIES_PER_WALK) - 1) / max(m, 1)
    side = share ** (1 / d) + max(extent, 0.0) ** (1 / d)
    return float(min(side, 1.0) ** d)


def _sorting_work(size: int, d: int) -> list[Work]:
    """Work of bringing points into a tree's order. Threads sort subtrees and share the halves above them, but one
    thread selects the median of each half, so the first selection is serial."""
    upper_levels = math.ceil(math.log2(max(size / SUBTREE_POINTS, 1.0)))
    total = SORT_NS * size * (2 + math.log2(size / LEAF + 1)) * (1 + d / 8)
    select_work = [Work(1e-9 * SELECT_NS * size, 2**level) for level in range(upper_levels)]
    return [*select_work, Work(1e-9 * (total - upper_levels * SELECT_NS * size), 2**upper_levels)]


def _gather_ns(n: int, d: int, c: int) -> float:
    """Nanoseconds to gather a sorted key and its values."""
    if vendor() != "intel":
        return 0.0
    doublings = math.log2(max(n / MAX_CACHED_KEYS, 1.0))
    values = GATHER_ROW_NS[0] + GATHER_ROW_NS[1] * c if c > 1 else GATHER_VALUE_NS * c
    return d * (GATHER_COORDINATE_NS + CACHE_MISS_NS * doublings) + values


def _selectivity(problem: Problem) -> selectivity.Shares:
    if not problem.prepared:
        facts = problem.of_queries
        if facts.selectivity is None:
            facts.selectivity = _predict_selectivity(problem)
        predicted: selectivity.Shares = facts.selectivity
        return predicted
    # a fitted model predicts the selectivity once, with its keys as queries, whatever queries come later
    cached, key = problem.of_metric.selectivity, (problem.kernel, problem.promise)
    if key not in cached:
        cached[key] = _predict_selectivity(problem.asked(problem.keys, kernel=problem.kernel, tol=problem.tol))
    shares: selectivity.Shares = cached[key]
    return shares


def _predict_selectivity(problem: Problem) -> selectivity.Shares:
    if problem.m * problem.n < MIN_PAIRS_TO_PREDICT:
        return selectivity.Shares(1.0, 1.0, 0.0)
    return selectivity.predict(problem, math.log(problem.n / (SKIPPED_SHARE * problem.promise)))


def _moment_power(problem: Problem) -> int | None:
    """The power of a kernel (1 − u²)^power, or None if the nodes have no moments for the kernel."""
    facts = problem.kernel.facts
    if facts.window is None or problem.key_scale is not None:
        return None
    base, power = facts.window
    return power if base == 2 or power == 0 else None


def _moment_numbers(problem: Problem, shares: selectivity.Shares) -> int:
    """How many numbers the moments of a node have; 0 if moments do not pay off."""
    power = _moment_power(problem)
    if problem.classes is not None or power is None or shares.inside * problem.n < MIN_KEYS_FOR_MOMENTS:
        return 0
    return terms_of(power, problem.d) * (1 + problem.c)


def refusal(problem: Problem, backend: Any) -> str | None:
    """Why the method refuses the problem, a clause that follows its name; None if it does not refuse."""
    kernel = problem.kernel
    if not kernel.monotone:
        return f"needs a kernel created with monotone=True, got kernel={kernel.name!r}"
    if kernel.facts.built_in and not (kernel.inner_product or kernel.works_on_logs or kernel.support is not None):
        return f"supports kernels that are compact or decay exponentially, got kernel={kernel.name!r}"
    if kernel.inner_product:
        return f"supports kernels of a distance, got kernel={kernel.name!r}"
    if problem.tol == 0:
        return "needs tol > 0 or tol=None, got tol=0"
    if bands.max_bands(problem) > bands.MAX_BANDS:
        orders = -problem.log_least_weight / math.log(10)
        return f"supports weights over {bands.MAX_BANDS * 200} decimal orders of magnitude, got {orders:.0f}"
    if "tree" not in backend.methods:
        return f"supports CPU backends, got backend={backend.name!r}"
    return None


def panel(problem: Problem) -> int:
    """Number of queries summed at a time."""
    size = PANEL_BYTES // (16 * (4 + problem.c + problem.d))
    if problem.classes is not None and size // 4 < TASK_QUERIES:  # totals are long, and every panel allocates them
        return max(size // 4 // QUERIES_PER_WALK, 1) * QUERIES_PER_WALK
    return max(size, TASK_QUERIES) // TASK_QUERIES * TASK_QUERIES


def _task_queries(problem: Problem) -> int:
    """Number of queries per task."""
    return TASK_QUERIES if problem.classes is None else min(TASK_QUERIES, max(panel(problem) // 8, QUERIES_PER_WALK))


@dataclass
class Summary:
    """Sums over the k-d trees of a model's keys."""

    model: Model
    optional: bool  # whether to sum only where that takes less time than summing every pair

    def __post_init__(self) -> None:
        self.problem, self.plan = self.model.problem, self.model.plan
        self.backend: Backend = backends.get(self.plan.backend)
        self._rounding: dict[float, certify.Rounding] = {}

    @property
    def panel(self) -> int:
        """Number of queries summed at a time."""
        return panel(self.problem)

    @cached_property
    def trees(self) -> tuple[Tree, ...]:
        """One tree for each band of weights, shared by all summaries of the keys; none if no key has a weight."""
        keys = self.problem.of_keys
        if keys.trees is None:
            keys.trees = tuple(build(self.problem, band, self.plan.n_threads) for band in bands.split(self.problem))
        return keys.trees

    @cached_property
    def moments(self) -> tuple[tuple[Any, int, int, float], ...]:
        """For each tree, its nodes' moments or None, the kernel's power, the lowest level whose moments are used, and a
        bound on their error per weight: the terms sum to at most (1 + 2 + 2)^power, each with some dozens of roundings.
        """
        numbers, power = _moment_numbers(self.problem, _selectivity(self.problem)), _moment_power(self.problem)
        if not numbers or power is None or self.backend.sum_leaves is None:
            return ((None, 0, 0, 0.0),) * len(self.trees)
        inverse = pack_inverse(self.problem, FLOAT64)
        node_moments = [moments(tree, inverse, power, self.plan.n_threads) for tree in self.trees]
        error = (2 * terms_of(power, self.problem.d) + 128) * 5.0**power * UNIT_ROUNDOFF
        return tuple((sums, power, 0 if numbers <= MAX_LEAF_MOMENTS else 1, error) for sums in node_moments)

    def prepare(self, meter: Meter) -> None:
        """Make the trees and the moments of their nodes."""
        _ = self.moments

    @cached_property
    def ranks(self) -> tuple[NDArray[np.int64], ...]:
        """For each tree (n,), the sorted position of each key; −1 for keys that are not in it."""
        ranks = tuple(np.full(self.problem.n, -1, np.int64) for _ in self.trees)
        for places, tree in zip(ranks, self.trees, strict=True):
            places[tree.order] = np.arange(len(tree.order))
        return ranks

    def rounding(self, band: bands.Band) -> certify.Rounding:
        """The rounding errors of sums over the keys of one band, cached."""
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
        """None for all queries. No query where squares leave float64's range, nor, if the summary is optional, where
        summing every pair takes less time.
        """
        problem = queries.problem
        if problem.squares_in_range:
            if not self.optional:
                return None
            open_problem = problem.asked(problem.queries[queries.rows], kernel=problem.kernel, tol=problem.tol)
            tree_cost = cost(open_problem, self.backend, 1, FLOAT64)
            exact_cost = exact.cost(open_problem, self.backend, 1, self.plan.dtype)
            if isinstance(tree_cost, Cost) and tree_cost.seconds(NOMINAL_THREADS) < exact_cost.seconds(NOMINAL_THREADS):
                return None
        return np.zeros(len(queries), bool)

    def sums(self, queries: Queries, meter: Meter) -> Sums:
        """Sums with bounds on their rounding and on the sums of skipped keys."""
        problem, m = self.problem, len(queries)
        if not self.trees:
            return Sums.empty(m, problem.c)
        inverse, points = pack_inverse(problem, FLOAT64), pack_queries(queries.problem, queries.rows, FLOAT64)
        order = sorted_order(points, inverse, self.plan.n_threads)
        error = self.model.errors.of(points)
        states = []
        for number in range(len(self.trees)):
            sums = _sums_of_band(self, number, queries.rows[order], points[order], error[order], meter)
            states.append(Sums.empty(m, problem.c))
            states[-1].put(order, sums)
        return _certify(self, states, error)


def summarise(model: Model, rung: Rung) -> Summary:
    """The summary that sums over k-d trees of a model's keys."""
    return Summary(model, optional=rung.form == "if fast")


def _sums_of_band(
    summary: Summary, number: int, positions: Positions, queries: Floats, error: Floats, meter: Meter
) -> Sums:
    """Sum one tree at sorted queries, in units of its largest weight."""
    problem, backend, tree, m = summary.problem, summary.backend, summary.trees[number], len(positions)
    sums, inverse = Sums.empty(m, problem.c), pack_inverse(problem, FLOAT64)
    if not problem.kernel.works_on_logs:
        sums.shift[:] = 0.0
    own_ranks = summary.ranks[number][positions] if problem.exclude_self else None
    limits = (tree.band.total, tree.band.least, SKIPPED_SHARE * problem.promise, TASK_PAIRS)
    sum_leaves = backend.sum_leaves or partial(blockwise.sum_leaves, backend)
    node_moments = summary.moments[number]
    if backend.prepare is not None:
        backend.prepare(problem.kernel, inverse, problem.c, problem.key_scale is not None)

    size = _task_queries(problem)

    def task(i: int) -> float:
        start, stop, pairs = i * size, min((i + 1) * size, m), 0.0
        while start < stop:
            check_stop()
            rows = slice(start, stop)
            task_ranks = None if own_ranks is None else own_ranks[rows]
            n_done, summed = sum_leaves(
                problem.kernel,
                queries[rows],
                tree,
                inverse,
                task_ranks,
                sums.rows(rows),
                error[rows],
                limits,
                node_moments,
            )
            start, pairs = start + n_done, pairs + summed
        return pairs

    run(task, math.ceil(m / size), summary.plan.n_threads, meter)
    return exact.normalised(problem, sums)


def _certify(summary: Summary, states: list[Sums], error: Floats) -> Sums:
    """Merge the bands' sums into one state, with bounds on their rounding.

    The mass of all bands gives the mean of −log κ, which bounds the errors of exponents.
    """
    problem, backend, trees = summary.problem, summary.backend, summary.trees
    if len(trees) == 1:
        weight_error = certify.error_of_weights(problem, backend, error, states[0])
        return summary.rounding(trees[0].band).certified(states[0], weight_error)
    scales = [tree.band.log_scale for tree in trees]
    merged = Sums.merged([_convert_units(state, scale) for state, scale in zip(states, scales, strict=True)])
    weight_error = certify.error_of_weights(problem, backend, error, merged)
    parts = []
    for state, tree, scale in zip(states, trees, scales, strict=True):
        scale_error = 4 * (RANGE_NATS - scale) * UNIT_ROUNDOFF if scale else 0.0  # error of a difference of logarithms
        band_error = weight_error + scale_error
        bounded_state = summary.rounding(tree.band).certified(state, band_error)
        parts.append(_convert_units(bounded_state, scale))
    return Sums.merged(parts)


def _convert_units(state: Sums, log_scale: float) -> Sums:
    """Convert a state to units of the largest weight of all bands. States without mass become the empty state, since
    their shift could make the other bands' sums underflow."""
    empty_rows = np.flatnonzero((state.mass == 0) & ((state.mass_error == 0) | np.isneginf(state.shift)))
    parts = (state.shift + log_scale, state.mass, state.total, state.mass_error, state.total_error)
    converted = Sums(*(part.copy() for part in parts))
    converted.put(empty_rows, Sums.empty(len(empty_rows), state.total.shape[1]))
    return converted
