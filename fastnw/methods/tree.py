"""Any number of coordinates, kernels that are compact or decay exponentially: pairs that cannot matter are skipped.

Keys are sorted into a k-d tree (Bentley, 1975) whose leaves hold LEAF keys each, so that a node of any level is a range
of them, and has a box. Queries are sorted likewise, and go down the tree in blocks of neighbours; each then chooses its
own leaves by its distance to their boxes. What is summed is summed as in `exact`.

* A compact kernel is summed wherever its window reaches: nothing is left out.
* A kernel that decays exponentially leaves out keys which together weigh less than SHARE of the promise times the mass.
  That is judged by the mass itself, known from below from the leaves nearest to the query, however far they are
  (compare Gray and Moore, 2003, Nonparametric density estimation: toward computational tractability).

Sums are in float64, for float32 data too. Queries whose exponents have no digits left go to `tails`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastnw._pack import (
    KeyBlock,
    aligned_rows,
    coordinates,
    empty_values,
    normalised_values,
    pack_inverse,
    pack_queries,
    pack_scale,
)
from fastnw._state import PoolState
from fastnw._threads import Meter, check_stop, run
from fastnw._validation import Problem
from fastnw.methods import Cost, Refusal, exact, tails
from fastnw.methods._tree import split

if TYPE_CHECKING:
    from fastnw._plan import Plan

Floats = NDArray[np.float64]
Positions = NDArray[np.intp]
FLOAT64 = np.dtype(np.float64)

LEAF, FAN = 32, 16  # keys in a leaf, children of a node: as in src_cython/_leaves.pxi
SHARE = 0.5  # of the promise, for what is left out; rounding takes the rest
PIECE = 1 << 15  # keys a task, a multiple of LEAF
SUBTREE = 1 << 15  # points of a subtree that one task sorts
QUERIES = 1 << 11  # a task
TASK_PAIRS = 2e8  # after which Ctrl-C is heard: about 0.2 s

# What a plan is made from: sizes of the samples of keys and queries; keys within a radius below which a sample says
# little; how much wider than a ball its leaves reach, and nats that the choice by mass spares, both measured over d = 1
# to 8, h from 0.02 to 1.
SAMPLE, ASKED, FEW, WIDER, SPARED = 2048, 48, 4, 1.2, 3.0
MANY_PAIRS = 1e6  # fewer than these are not worth a sample
# Nanoseconds to sort a point a level; a query, a leaf and a coordinate of its box to choose leaves; and how much longer a
# coordinate takes than in the tiles of `exact`, where several queries share its loads. Measured on one Zen 4 core (a shared
# one: ±30 %).
SORT_NS, QUERY_NS, LEAF_NS, BOX_NS, SINGLE = 9.0, 300.0, 2.0, 0.25, 2.2
START = 1e-3  # seconds

PANEL_BYTES = 128 << 20  # of the queries worked on at a time: coordinates and states, sorted and not


def cost(problem: Problem, backend: Any, n_threads: int, dtype: np.dtype[Any]) -> Cost | Refusal:
    """Sorting, choosing leaves, and the pairs of the leaves that queries reach."""
    reason = _refusal(problem, backend)
    if reason is not None:
        return Refusal(reason)
    n, m, d = problem.n, problem.m, problem.d
    reached, looked_at = _shares(problem)
    pairs = float(m) * n * reached
    plain, with_exp, per_coordinate, per_value, _ = exact.NANOSECONDS[backend.isa(), "float64"]
    pair = (with_exp if problem.kernel.works_on_logs else plain) + SINGLE * per_coordinate * d
    pair += per_value * max(problem.c, 1)
    sort = sum(SORT_NS * size * (2 + math.log2(size / LEAF + 1)) * (1 + d / 8) for size in (n, m))
    choose = m * (QUERY_NS + n / LEAF * looked_at * (LEAF_NS + BOX_NS * d))
    tasks = max(math.ceil(m / QUERIES), 1)
    seconds = START + 1e-9 * (sort + choose / min(n_threads, tasks) + pairs * pair / min(n_threads, tasks))
    memory = n * 8 * (2 * d + 3 + problem.c) + min(m, panel(problem)) * 16 * (4 + problem.c + d)
    return Cost(pairs, seconds, memory)


def _shares(problem: Problem) -> tuple[float, float]:
    """Which share of the keys a query sums, and of the leaves it looks at, predicted from a sample of both.

    A ball of radius r is found to reach leaves as if it were larger by WIDER of the radius of a ball of LEAF keys; a block
    of queries, which is as large, looks at leaves that lie as far again.
    """
    if "shares" not in problem.seen:
        many = problem.m * problem.n >= MANY_PAIRS
        problem.seen["shares"] = _predicted_shares(problem) if many else (1.0, 1.0)
    return problem.seen["shares"]  # type: ignore[no-any-return]


def _predicted_shares(problem: Problem) -> tuple[float, float]:
    inverse, n, d = pack_inverse(problem, FLOAT64), problem.n, problem.d
    some = np.unique(np.linspace(0, n - 1, SAMPLE).astype(np.intp))
    keys = coordinates(problem, problem.keys[some]).astype(np.float64)
    asked = np.unique(np.linspace(0, problem.m - 1, ASKED).astype(np.intp))
    queries = coordinates(problem, problem.queries[asked]).astype(np.float64)
    with np.errstate(over="ignore"):
        squares = sum((np.subtract.outer(queries[:, j], keys[:, j]) * inverse[j]) ** 2 for j in range(d))
    if problem.key_scale is not None:
        squares = squares / problem.key_scale[some].astype(np.float64) ** 2
    distances = np.sqrt(np.sort(squares, axis=1))
    of_leaf = _quantile(distances, LEAF / n, d)
    if problem.kernel.support is not None:
        radius = np.full(len(asked), problem.kernel.support)
    else:
        nearest = _quantile(distances, 1 / n, d)
        nats = math.log(problem.n / (SHARE * problem.promise))
        radius = np.array([_radius(problem.kernel.name, u, nats - SPARED) for u in nearest])
    inside = [_share(distances, radius + factor * WIDER * of_leaf, d) for factor in (1.0, 2.5)]
    return float(np.mean(inside[0])), float(np.mean(inside[1]))


def _quantile(distances: Floats, share: float, d: int) -> Floats:
    """(queries,) Radius of a ball that holds such a share of the keys; by volume where the sample has too few."""
    place = share * distances.shape[1]
    if place >= FEW:
        return distances[:, min(int(place), distances.shape[1] - 1)]
    return distances[:, FEW - 1] * (place / FEW) ** (1 / d)


def _share(distances: Floats, radius: Floats, d: int) -> Floats:
    """(queries,) Share of the keys within a radius of each."""
    size = distances.shape[1]
    found = (distances <= radius[:, None]).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        by_volume = FEW * (radius / distances[:, FEW - 1]) ** d
    return np.where(found >= FEW, found, np.minimum(np.nan_to_num(by_volume, nan=FEW), FEW)) / size


def _radius(name: str, nearest: float, nats: float) -> float:
    """u where κ is e^(−nats) times its value at `nearest`, about."""
    if name == "gaussian":
        return math.sqrt(nearest**2 + 2 * nats)
    rate = {"matern32": math.sqrt(3.0), "matern52": math.sqrt(5.0)}.get(name, 1.0)
    degree = {"matern32": 1, "matern52": 2}.get(name, 0)
    return nearest + (nats + degree * math.log1p(nats / (1 + rate * nearest))) / rate


def _refusal(problem: Problem, backend: Any) -> str | None:
    kernel = problem.kernel
    if kernel.facts is None or kernel.inner_product or not (kernel.works_on_logs or kernel.support is not None):
        return f"skips pairs of kernels that are compact or decay exponentially, not of {kernel.name}"
    if problem.tol == 0:
        return "skips pairs, and tol=0 asks for every one"
    if not hasattr(backend, "sum_leaves"):
        return f"its sums are compiled code, not for backend {backend.NAME!r}"
    return None


def panel(problem: Problem) -> int:
    """Queries to accumulate at a time."""
    size = max(PANEL_BYTES // (16 * (4 + problem.c + problem.d)), QUERIES)
    return size // QUERIES * QUERIES


@dataclass(frozen=True)
class Tree:
    """Keys with positive weight, sorted, and boxes of the nodes.

    Attributes
    ----------
    order : (n,) intp
        Positions of the sorted keys among all.
    block : KeyBlock
        The sorted keys, filled up to whole leaves with keys without weight.
    low, high : (d, nodes) float64
        Boxes of the nodes, level after level, leaves first.
    node_weights : (nodes,) float64
    node_scales : (nodes,) float64 or None
        Least `scale` of their keys.
    levels : (depth + 1,) int64
        Where the nodes of each level begin, and their number.
    """

    order: Positions
    block: KeyBlock
    low: Floats
    high: Floats
    node_weights: Floats
    node_scales: Floats | None
    levels: NDArray[np.int64]


@dataclass
class Summary:
    """The tree, made once for the same keys."""

    problem: Problem
    plan: Plan

    @cached_property
    def tree(self) -> Tree | None:
        """None if no key has a weight."""
        kept = self.problem.kept
        if "tree" not in kept:
            kept["tree"] = build(self.problem, self.plan.n_threads)
        return kept["tree"]  # type: ignore[no-any-return]

    @cached_property
    def ranks(self) -> NDArray[np.int64]:
        """(n,) Where each key went; −1 for those without weight."""
        ranks = np.full(self.problem.n, -1, np.int64)
        if self.tree is not None:
            ranks[self.tree.order] = np.arange(len(self.tree.order))
        return ranks

    @cached_property
    def exact(self) -> exact.Summary:
        """For queries handed on."""
        return exact.summarise(self.problem, self.plan)


def summarise(problem: Problem, plan: Plan) -> Summary:
    return Summary(problem, plan)


def build(problem: Problem, n_threads: int) -> Tree | None:
    """The tree of a problem's keys; None if none has a weight."""
    points = np.ascontiguousarray(coordinates(problem, problem.keys), np.float64)
    weights = problem.weights_at(slice(None))
    kept = None if weights is None else np.flatnonzero(weights > 0)
    n = problem.n if kept is None else len(kept)
    if n == 0:
        return None
    inverse = pack_inverse(problem, FLOAT64)
    order = sorted_order(points, inverse, n_threads, kept)
    size = -(-n // LEAF) * LEAF
    coords, values = aligned_rows(problem.d, size, FLOAT64), empty_values(problem.c, size, FLOAT64)
    packed, scale = np.zeros(size), None if problem.key_scale is None else np.empty(size)
    levels = _levels(size // LEAF)
    low, high = np.empty((problem.d, levels[-1])), np.empty((problem.d, levels[-1]))

    def fill(i: int) -> float:
        part = slice(i * PIECE, min((i + 1) * PIECE, n))
        mine, end = order[part], min((i + 1) * PIECE, size)
        coords[:, part] = points[mine].T
        packed[part] = 1.0 if weights is None else weights[mine]
        values[:, part] = normalised_values(problem, mine) * packed[part]
        if scale is not None:
            scale[part] = pack_scale(problem, mine, FLOAT64)
        if end > n:  # keys without weight, where the last one is
            coords[:, n:end], values[:, n:end] = coords[:, n - 1 : n], 0.0
            if scale is not None:
                scale[n:end] = scale[n - 1]
        whole, nodes = slice(part.start, end), slice(part.start // LEAF, end // LEAF)
        leaves = coords[:, whole].reshape(problem.d, -1, LEAF)
        np.min(leaves, axis=2, out=low[:, nodes])
        np.max(leaves, axis=2, out=high[:, nodes])
        return 0.0

    run(fill, math.ceil(size / PIECE), n_threads, Meter(False, 0, ""))
    block = KeyBlock(0, coords, scale, packed, problem.weighted, values)
    node_weights = packed.reshape(-1, LEAF).sum(axis=1)
    node_scales = None if scale is None else scale.reshape(-1, LEAF).min(axis=1)
    node_weights, node_scales = _upwards(low, high, node_weights, node_scales, levels)
    return Tree(order, block, low, high, node_weights, node_scales, levels)


def sorted_order(points: Floats, inverse: Floats, n_threads: int, positions: Positions | None = None) -> Positions:
    """Those points' positions in the order of a k-d tree with whole leaves; the same for any number of threads."""
    order = np.arange(len(points)) if positions is None else positions.copy()
    parts, done = [slice(0, len(order))], [False]
    while not all(done):
        halves = [0] * len(parts)

        def sort(i: int, parts: list[slice] = parts, done: list[bool] = done, halves: list[int] = halves) -> float:
            if not done[i]:
                mine = order[parts[i]]
                halves[i] = split(points, inverse, mine, LEAF, len(mine) <= SUBTREE)
                check_stop()
            return 0.0

        run(sort, len(parts), n_threads, Meter(False, 0, ""))
        new = []
        for part, half, finished in zip(parts, halves, done, strict=True):
            if finished or half == part.stop - part.start:
                new.append((part, True))
            else:
                new += [(slice(part.start, part.start + half), False), (slice(part.start + half, part.stop), False)]
        parts, done = [part for part, _ in new], [finished for _, finished in new]
    return order


def _levels(leaves: int) -> NDArray[np.int64]:
    counts = [leaves]
    while counts[-1] > FAN:
        counts.append(-(-counts[-1] // FAN))
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _upwards(
    low: Floats, high: Floats, weights: Floats, scales: Floats | None, levels: NDArray[np.int64]
) -> tuple[Floats, Floats | None]:
    """Fill the boxes above the leaves; weights and least scales of all nodes."""
    all_weights, all_scales = [weights], [] if scales is None else [scales]
    for first, stop, end in zip(levels[:-2], levels[1:-1], levels[2:], strict=True):
        starts = np.arange(0, stop - first, FAN)
        np.minimum.reduceat(low[:, first:stop], starts, axis=1, out=low[:, stop:end])
        np.maximum.reduceat(high[:, first:stop], starts, axis=1, out=high[:, stop:end])
        all_weights.append(np.add.reduceat(all_weights[-1], starts))
        if scales is not None:
            all_scales.append(np.minimum.reduceat(all_scales[-1], starts))
    return np.concatenate(all_weights), None if scales is None else np.concatenate(all_scales)


def accumulate(summary: Summary, positions: Positions, meter: Meter) -> PoolState:
    """The sums of those queries, each with a certified bound."""
    problem, tiles, m, tree = summary.problem, summary.plan.tiles, len(positions), summary.tree
    state = PoolState.empty(m, problem.c)
    if tree is None:
        return state
    inverse, points = pack_inverse(problem, FLOAT64), pack_queries(problem, positions, FLOAT64)
    order = sorted_order(points, inverse, summary.plan.n_threads)
    queries, error = points[order], summary.exact.score_error(points, FLOAT64)
    sorted_error, sums = error[order], PoolState.empty(m, problem.c)
    if not problem.kernel.works_on_logs:
        sums.shift[:] = 0.0
    own = summary.ranks[positions[order]] if problem.exclude_self else None
    weighing = (problem.total_weight, problem.least_weight, SHARE * problem.promise)

    def task(i: int) -> float:
        start, stop, pairs = i * QUERIES, min((i + 1) * QUERIES, m), 0.0
        while start < stop:
            check_stop()
            rows = slice(start, stop)
            mine = None if own is None else own[rows]
            done, summed = tiles.sum_leaves(
                problem.kernel,
                queries[rows],
                tree,
                inverse,
                mine,
                sums.rows(rows),
                sorted_error[rows],
                weighing,
                TASK_PAIRS,
            )
            start, pairs = start + done, pairs + summed
        return pairs

    run(task, math.ceil(m / QUERIES), summary.plan.n_threads, meter)
    state.put(order, sums)
    state = exact.certified(problem, state, exact.error_of_weights(problem, tiles, error, state), FLOAT64)
    limit = exact.exponent_limit(summary.exact, positions, state.log_mass())
    again = np.flatnonzero(~exact.accurate(problem, state, limit))
    if len(again):
        state.put(again, tails.accumulate(summary.exact, positions[again], meter))
    return state
