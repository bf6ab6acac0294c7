"""Every pair, in tiles, at a memory that does not grow: the method that all others fall back on.

Queries come in panels, keys in spans of packed blocks; a task is a tile of a query tile and some blocks. When there are
few query tiles the blocks of a span are split into groups with a state each, merged in the order of the blocks. All of
this depends on the problem alone, so the result's bits do not depend on threads.

In many coordinates, or where queries are few, the first pass may take matrix products instead (`products`).

A query is answered in the plan's compute type; where the rounding of its exponents exceeds the limit, again in float64;
where that still does, by `tails`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastnw.backends import REFERENCE
from fastnw.core import certify
from fastnw.core.array import DeviceArray
from fastnw.core.pack import (
    Array,
    KeyBlock,
    aligned_rows,
    coordinates,
    keys_there,
    pack_inverse,
    pack_keys,
    pack_queries,
    queries_there,
)
from fastnw.core.plan import Cost, Work
from fastnw.core.problem import Problem, row_blocks
from fastnw.core.state import PoolState, Rows
from fastnw.methods import pair_times, products
from fastnw.methods.tails import method as tails
from fastnw.runtime.cached import cached_property
from fastnw.runtime.threads import Meter, check_stop, run

if TYPE_CHECKING:
    from fastnw.core.plan import Plan

FLOAT64 = np.dtype(np.float64)
TILE = 256  # queries a tile at most: with 64, calls cost 5 (d = 3) to 15 % (d = 64)
# The last tiles are shorter, so that no thread is left alone with a long one: 4 % of 0.1 s on two threads.
SHRINK, SHORTEST = 16, 32
BLOCK_BYTES = 1 << 20  # a packed block: stays in L2 while a query tile passes over it
SPAN_BYTES = 16 << 20  # blocks packed at a time
PANEL_BYTES = 4 << 20  # coordinates and states of the queries worked on at a time
STATE_BYTES = 16 << 20  # of all groups' states
MAX_GROUPS = 4
FEW_TILES = 8  # below this many query tiles the keys are split, too

KEPT_BYTES = 40 << 20  # of packed blocks that a fitted model keeps, within the 64 MiB promised
READ_NS = 0.1  # to read a byte of packed blocks, which is all that few queries cost

PACKERS = 4  # threads that whiten blocks, each with up to 6 MiB of copies

FROM_L1 = 128  # coordinates up to which a strip of keys stays near; each further one takes twice as long
SERIAL_PAIRS = 1 << 20  # work below a millisecond is not worth a thread's start

# In a far tail float64 sums count as accurate up to LIMIT. It is a worst case: errors are some tenth of it, within the
# 1e-12 of the tails' promise. FLOOR is what plain sums themselves may lose; nothing is gained by asking tails for less.
# A far tail is where the keys that count lie DEEP nats below κ(0). What float64 loses of an exponent does not grow with
# d (the bound does): measured for d from 1 to 200, 2e-13 of the range at 5e3 nats, 8e-13 at 5e4, 8e-12 at 5e5.
LIMIT, FLOOR, DEEP = 4e-12, 2e-13, 2e4
RIM = 16  # the promise for a boxcar: pairs within 16 d ε of u = 1 may fall on either side
FUSED = 4  # queries that share a pass over the keys
MANY_VALUES = 1024  # beyond which float64 products after float32 ones would take more than the memory promised
LEAST_PANEL = 16  # queries, where the totals of classes are long
VANISHED = 1e-280  # mean κ of a user's kernel below which it may have been flushed to 0
VANISHING = -680.0  # log mass below which κ, which is not much larger, may be no normal number


@dataclass(frozen=True)
class Layout:
    """How a problem is cut: keys a block, blocks a span, queries a panel, groups of blocks a span."""

    block: int
    span: int
    panel: int
    groups: int


def layout(problem: Problem, m: int, dtype: np.dtype[Any]) -> Layout:
    """For `m` queries in that compute type. A function of the problem alone."""
    per_key = dtype.itemsize * (problem.d + 1 + (problem.key_scale is not None)) + _value_bytes(problem, dtype)
    per_query = 8 * (4 + problem.c)
    block = min(max(BLOCK_BYTES // per_key // 32 * 32, 32), 32768, problem.n)
    span = max(SPAN_BYTES // (per_key * block), 1)
    panel = max(PANEL_BYTES // (per_query + 24 * problem.d), 4 if problem.classes is None else LEAST_PANEL)
    # of a tile at most, coordinates take four times as much: for 5 queries at a time (d = 30,000), packing took half
    panel = max(panel // TILE * TILE or panel, min(PANEL_BYTES // (per_query + 6 * problem.d), TILE))
    tiles = max(math.ceil(min(m, panel) / TILE), 1)
    groups = min(MAX_GROUPS if tiles > 2 else 4 * MAX_GROUPS, max(STATE_BYTES // (tiles * TILE * per_query), 1))
    groups = 1 if tiles >= FEW_TILES else min(span, math.ceil(problem.n / block), groups)
    return Layout(block, span, panel, groups)


def _value_bytes(problem: Problem, dtype: np.dtype[Any]) -> int:
    """Of a packed key."""
    classes = problem.classes
    return dtype.itemsize * problem.c if classes is None else classes.codes.itemsize * classes.codes.shape[1]


def cost(problem: Problem, backend: Any, n_threads: int, dtype: np.dtype[Any]) -> Cost:
    """Every pair; never refused."""
    pairs = float(problem.m) * problem.n
    if _sweeps(backend):
        work: tuple[Work, ...] = (Work(_seconds(problem, backend, dtype)),)
    elif _by_products(problem, backend, dtype):
        work = products.work(problem, dtype)
    else:
        work = _work(problem, backend, dtype)
    shape = layout(problem, problem.m, dtype)
    per_key = dtype.itemsize * (problem.d + 1) + _value_bytes(problem, dtype)
    packed = min(shape.span * shape.block, problem.n) * per_key
    states = min(shape.panel, problem.m) * (shape.groups + 1) * 8 * (4 + problem.c)
    return Cost(pairs, work, packed + states)


def _seconds(problem: Problem, backend: Any, dtype: np.dtype[Any]) -> float:
    """Predicted for differences, on one thread: packing keys and summing pairs."""
    return sum(part.seconds for part in _work(problem, backend, dtype))


def _work(problem: Problem, backend: Any, dtype: np.dtype[Any]) -> tuple[Work, ...]:
    """Of differences: packing keys, whitening queries, and summing pairs."""
    n, m, d = problem.n, problem.m, problem.d
    coded = problem.classes is not None and not _sweeps(backend)
    c = 1 if coded else problem.c
    base, per_coordinate, _, per_element = pair_times.nanoseconds(problem, backend, dtype)
    pair = base + per_coordinate * (d + max(d - FROM_L1, 0)) + pair_times.values_ns(problem, backend, dtype)
    pair *= pair_times.ALONE if problem.exclude_self else 1.0
    shape = layout(problem, m, dtype)
    packers: float = min(shape.span, math.ceil(n / shape.block))
    if keeps_blocks(problem, dtype, dtype):
        pack = READ_NS * dtype.itemsize * (d + c)
    else:
        values = pair_times.SEVERAL_NS[0] + pair_times.SEVERAL_NS[1] * c if c > 1 else per_element * c
        pack = per_element * d + values + pair_times.WEIGHT_NS * problem.weighted
        if problem.metric.cholesky is not None:
            packers = min(packers, PACKERS)
            pack += 1e9 * pair_times.whitening(problem, n) / n
        if problem.prepared:  # a fitted model packs anew at each prediction only where that pays on one thread, too
            packers = 1
    serial = m * n <= SERIAL_PAIRS
    tasks = 1 if serial else _tasks(min(m, shape.panel), shape.groups)
    seconds = 1e-9 * n * m * pair + (pair_times.states_seconds(problem, shape.groups) if coded else 0.0)
    return Work(1e-9 * n * pack, packers), Work(pair_times.whitening(problem, m)), Work(seconds, tasks)


def _tasks(m: int, groups: int) -> int:
    """How many tiles of `m` queries threads share."""
    return groups * len(_tiles(m, TILE) if groups > 1 else _tiles(m))


def keeps_blocks(problem: Problem, dtype: np.dtype[Any], first: np.dtype[Any]) -> bool:
    """Whether a fitted model keeps its keys packed in that type; `first` is the plan's compute type."""
    values = problem.c if problem.classes is None else problem.classes.codes.shape[1]
    numbers = problem.n * (problem.d + 1 + values + (problem.key_scale is not None))
    size = numbers * (dtype.itemsize + (first.itemsize if dtype != first else 0))
    return "exact" in problem.prepared and size <= KEPT_BYTES


def _sweeps(tiles: Any) -> bool:
    """Whether the backend goes over all keys by itself."""
    return tiles.sweep is not None


def narrow_is_enough(problem: Problem, tiles: Any) -> bool:
    """Whether float32 is worth a try: inner products of long vectors may leave it no digits, in any form.

    Distances do not: their error is relative.
    """
    if not problem.kernel.inner_product or problem.on_device or _sweeps(tiles):
        return True
    dtype = np.dtype(np.float32)
    if products.can(problem, tiles) and products.promising(problem, dtype, 0.75 * problem.promise):
        return True
    factor = 1.0 if problem.key_scale is None else 1.0 / float(problem.key_scale.min())
    with np.errstate(over="ignore", invalid="ignore"):
        sizes = products.norms(problem, problem.queries) * products.norms(problem, problem.keys).max()
        error = (problem.d + 4) * 2.0**-24 * np.sqrt(sizes) / float(problem.metric.inverse.min()) * factor
        return bool((error <= problem.promise).mean() > 0.5)


def _by_products(problem: Problem, tiles: Any, dtype: np.dtype[Any]) -> bool:
    if _sweeps(tiles):
        return bool(tiles.by_products(problem, dtype))
    return (
        products.can(problem, tiles)
        and products.seconds(problem, dtype) < _seconds(problem, tiles, dtype)
        and products.promising(problem, dtype, 0.75 * problem.promise)
    )


@dataclass
class Summary:
    """The keys, packed span by span; a span that holds them all is packed once."""

    problem: Problem
    plan: Plan

    def __post_init__(self) -> None:
        self._kept: dict[tuple[str, int], list[KeyBlock]] = {}
        self.on_device: dict[Any, Any] = {}  # what a backend keeps there

    def prepare(self, meter: Meter) -> None:
        """Pack what a fitted model keeps; other blocks are packed when their turn comes."""
        dtype = self.plan.dtype
        if not (_sweeps(self.plan.tiles) or self.by_products) and keeps_blocks(self.problem, dtype, dtype):
            self._all_blocks(layout(self.problem, self.problem.m, dtype), dtype)

    def room(self, shape: Layout, dtype: np.dtype[Any]) -> Array | None:
        """(blocks, d, keys) for the coordinates of one span after another; None where a single one holds all keys, or
        a fitted model keeps them.

        Blocks of their own, made by many threads, left the allocator with 30 MiB more than what was in use.
        """
        if shape.span * shape.block >= self.problem.n or keeps_blocks(self.problem, dtype, self.plan.dtype):
            return None
        d = self.problem.d
        return aligned_rows(shape.span * d, shape.block, dtype).reshape(shape.span, d, shape.block)

    def span(self, shape: Layout, start: int, dtype: np.dtype[Any], room: Array | None) -> list[KeyBlock]:
        """The blocks from key `start` on, `shape.span` of them, in `room`."""
        if keeps_blocks(self.problem, dtype, self.plan.dtype):
            first = start // shape.block
            return self._all_blocks(shape, dtype)[first : first + shape.span]
        key = (dtype.name, shape.block)
        if key in self._kept:
            return self._kept[key]
        n = self.problem.n
        blocks = self._packed(range(start, min(start + shape.span * shape.block, n), shape.block), shape, dtype, room)
        if len(blocks) * shape.block >= n:
            self._kept = {key: blocks}
        return blocks

    def _all_blocks(self, shape: Layout, dtype: np.dtype[Any]) -> list[KeyBlock]:
        """Those that a fitted model keeps."""
        kept, key = self.problem.kept, ("packed", dtype.name, shape.block, self.problem.kernel.inner_product)
        if key not in kept:
            kept[key] = self._packed(range(0, self.problem.n, shape.block), shape, dtype, None)
        return kept[key]

    def _packed(self, starts: range, shape: Layout, dtype: np.dtype[Any], room: Array | None) -> list[KeyBlock]:
        n = self.problem.n
        blocks: list[KeyBlock] = [None] * len(starts)  # type: ignore[list-item]

        def pack(i: int) -> float:
            stop = min(starts[i] + shape.block, n)
            blocks[i] = pack_keys(self.problem, starts[i], stop, dtype, None if room is None else room[i])
            return 0.0

        # a matrix whitens in float64: fewer at a time, so that its copies stay small for any number of threads
        threads = self.plan.n_threads if self.problem.metric.cholesky is None else min(self.plan.n_threads, PACKERS)
        run(pack, len(starts), threads, Meter(False, 0, ""))
        return blocks

    @cached_property
    def by_products(self) -> bool:
        """Whether the first sweep takes matrix products rather than differences."""
        return _by_products(self.problem, self.plan.tiles, self.plan.dtype)

    @cached_property
    def again_by_products(self) -> bool:
        """Whether float64 takes them, too, for queries of which float32 was not certain."""
        return _by_products(self.problem, self.plan.tiles, np.dtype(np.float64))

    @cached_property
    def extent(self) -> tuple[NDArray[np.float64], float]:
        """Largest |k_j| of the (whitened) keys, and the largest factor that a key scale puts on a score."""
        problem = self.problem
        kept, key = problem.kept, ("extent", problem.kernel.inner_product)
        if problem.on_device:
            low, high = keys_there(problem).extremes
            return np.maximum(high, -low), 1.0 / problem.key_scale_range[0]
        if key not in kept:
            reach = np.zeros(problem.d)
            for rows in row_blocks(problem.keys):
                block = coordinates(problem, problem.keys[rows])
                reach = np.maximum(reach, np.maximum(block.max(axis=0), -block.min(axis=0).astype(np.float64)))
            kept[key] = reach
        return kept[key], 1.0 / problem.key_scale_range[0]

    @cached_property
    def places(self) -> Any:
        """A tree of the keys' coordinates, to count those within a distance."""
        from scipy.spatial import cKDTree  # few need it

        return cKDTree(coordinates(self.problem, self.problem.keys))

    def _sizes(self, queries: Array, reach: NDArray[np.float64]) -> NDArray[np.float64]:
        """(m,) Bound on Σ_j |q_j k_j|/h_j over all keys: by each coordinate's largest, or by Cauchy and Schwarz."""
        root = np.sqrt(self.problem.metric.inverse)
        with np.errstate(over="ignore"):
            norms = np.sqrt(np.square(queries.astype(np.float64) * root).sum(axis=1))
            by_coordinate: NDArray[np.float64] = np.abs(queries).astype(np.float64) @ reach
            return np.minimum(by_coordinate, (1 + 1e-12) * norms * self.largest_norm)

    @cached_property
    def largest_norm(self) -> float:
        """The largest √(Σ_j k_j²/h_j) of the (whitened) keys."""
        problem, largest = self.problem, 0.0
        root = np.sqrt(problem.metric.inverse)
        for rows in row_blocks(problem.keys):
            block = coordinates(problem, problem.keys[rows]).astype(np.float64) * root
            with np.errstate(over="ignore"):
                largest = max(largest, float(np.square(block).sum(axis=1).max()))
        return math.sqrt(largest)

    def queries(self, rows: Rows, dtype: np.dtype[Any]) -> Any:
        """(m, d) Those queries where the backend's sweeps read them: a device, if the problem lies there."""
        there = self.problem.on_device and _sweeps(self.plan.tiles)
        return (queries_there if there else pack_queries)(self.problem, rows, dtype)

    def nats(self, queries: Any, depth: NDArray[np.float64]) -> NDArray[np.float64]:
        """(m,) Bound on the float64 error of log κ of each query's keys down to so deep below the kernel's peak."""
        return certify.nats(self.problem, self.score_error(queries, FLOAT64), depth)

    def score_error(self, queries: Any, dtype: np.dtype[Any]) -> NDArray[np.float64]:
        """(m,) Bound on the relative error of u² (the absolute one for u < 1), or that of an inner product.

        A difference costs one rounding, 1/h_j and the product with it two, squared: 6 units and one for the square;
        sums go in parts of four or eight; turning u² into an exponent costs three. Whitened coordinates carry an
        absolute error e of their own, which changes u² by 2 u e + e². Infinite where squares leave float64's range.
        """
        problem, unit, there = self.problem, float(np.finfo(dtype).eps) / 2, isinstance(queries, DeviceArray)
        scaled = 0 if problem.key_scale is None else 3
        if problem.kernel.facts.constant:
            return np.zeros(len(queries))  # κ does not depend on u²
        if not problem.squares_in_range:
            return np.full(len(queries), np.inf)
        square_error, point_error = problem.whitening_errors
        point_error += unit  # whitened in float64, rounded to `dtype`
        with np.errstate(over="ignore", invalid="ignore"):  # such a query goes to `tails`
            if problem.kernel.inner_product:
                reach, factor = self.extent
                reach = reach * problem.metric.inverse
                size = (queries.sizes(reach) if there else self._sizes(queries, reach)) * factor
                error = (problem.d + 4 + scaled) * unit * size
                if problem.metric.factor is None:
                    return error
                norms = np.sqrt(_squares(queries, problem.d)) * np.sqrt(np.square(reach).sum()) * factor
                return error + (square_error + 2.1 * point_error) * norms
            relative = certify.relative_error(problem, dtype)
            if problem.metric.factor is None:
                return np.full(len(queries), relative)
            reach, factor = self.extent
            apart = (
                point_error
                * (np.sqrt(_squares(queries, problem.d)) + np.sqrt(np.square(reach).sum()))
                * max(factor, 1.0)
            )
            return relative + 2 * apart + apart**2


def _squares(queries: Any, d: int) -> NDArray[np.float64]:
    """(m,) Squared norms of the packed queries."""
    if isinstance(queries, DeviceArray):
        return queries.norms(np.ones(d))
    return np.asarray(np.square(queries, dtype=np.float64).sum(axis=1))


def summarise(problem: Problem, plan: Plan) -> Summary:
    return Summary(problem, plan)


def panel(problem: Problem) -> int:
    """Queries to accumulate at a time."""
    return layout(problem, problem.m, np.dtype(np.float64)).panel


def accumulate(summary: Summary, positions: NDArray[np.intp], meter: Meter) -> PoolState:
    """The sums of those queries, each with a certified bound."""
    return accumulate_and_tell(summary, positions, meter)[0]


def accumulate_and_tell(
    summary: Summary, positions: NDArray[np.intp], meter: Meter
) -> tuple[PoolState, NDArray[np.intp]]:
    """The same, and which of them `tails` summed, since plain float64 sums are not accurate there."""
    problem, plan = summary.problem, summary.plan
    state = _first_sweep(summary, positions, plan.dtype, summary.by_products, meter)
    if plan.dtype == np.float32 and summary.again_by_products and not _sweeps(plan.tiles):
        again = np.flatnonzero(~certify.accurate(problem, state, problem.promise))
        if len(again) > products.FEW and problem.c <= MANY_VALUES:
            state.put(again, _first_sweep(summary, positions[again], np.dtype(np.float64), True, meter))
    if plan.dtype == np.float32 or summary.by_products:
        again = np.flatnonzero(~certify.accurate(problem, state, problem.promise))
        if len(again):
            state.put(again, sweep(summary, positions[again], np.dtype(np.float64), meter))
    if tails.known(problem.kernel):
        limit = exponent_limit(summary, positions, state.log_mass()) if plan.dtype == np.float64 else problem.promise
        again = np.flatnonzero(~certify.accurate(problem, state, limit) | on_the_rim(summary, positions))
        if len(again):
            state.put(again, tails.accumulate(summary, positions[again], meter))
        return state, again
    if not problem.kernel.facts.built_in and not plan.tiles.as_written and not problem.on_device:
        # compiled, the least numbers are flushed and the largest left alone: NumPy has the formula's own values there
        vanished = ~(state.mass > VANISHED * problem.total_weight)
        again = np.flatnonzero(vanished & ~certify.accurate(problem, state, problem.promise))
        if len(again):
            by_numpy = Summary(problem, replace(plan, tiles=REFERENCE, dtype=np.dtype(np.float64)))
            state.put(again, sweep(by_numpy, positions[again], np.dtype(np.float64), meter))
    if not problem.kernel.facts.built_in and problem.least_weight < certify.LEAST_WEIGHT:
        _unsettle(summary, state, positions, meter)
    return state, np.empty(0, np.intp)


def _unsettle(summary: Summary, state: PoolState, positions: NDArray[np.intp], meter: Meter) -> None:
    """A window of a user's kernel whose keys all weigh too little for float64 beside the heaviest is not empty: it gets
    a mass of which nothing is known, so that the result is the middle of the range, under a bound that says so."""
    problem = summary.problem
    empty = np.flatnonzero(state.is_empty)
    if not len(empty) or problem.weights is None:
        return
    present = (problem.weights > 0).astype(np.float64)
    alike = replace(problem, weights=present, values=problem.values[:, :0], by_volume=False)
    counted = sweep(Summary(alike, summary.plan), positions[empty], FLOAT64, meter)
    light = empty[counted.mass > 0]
    state.shift[light], state.mass[light], state.mass_error[light] = 0.0, float(np.finfo(np.float64).tiny), 1.0


def on_the_rim(summary: Summary, rows: Rows) -> NDArray[np.bool_]:
    """(rows,) Queries of a kernel that jumps at its rim which may have a whitened key on its wrong side.

    Within RIM roundings a coordinate it may lie on either.
    """
    problem = summary.problem
    if not problem.kernel.facts.discontinuous or problem.metric.factor is None or problem.on_device:
        return np.zeros(1, bool)
    queries = pack_queries(problem, rows, np.float64)
    error = summary.score_error(queries, FLOAT64)
    found = ~(error <= RIM * problem.d * 2.0**-52)
    wide = np.flatnonzero(found & (error < 1))
    if len(wide) and problem.key_scale is None:
        near, far = (
            summary.places.query_ball_point(queries[wide], r, return_length=True)
            for r in (1 - error[wide], 1 + error[wide])
        )
        found[wide] = near != far
    return found


def exponent_limit(summary: Summary, rows: Rows, log_mass: NDArray[np.float64]) -> Any:
    """(rows,) or a number: the bound up to which float64 sums count as accurate."""
    problem = summary.problem
    if not problem.kernel.works_on_logs:
        return problem.promise
    if problem.tol:
        return max(problem.tol, FLOOR)
    depth = math.log(problem.total_weight or 1.0) - log_mass
    if problem.kernel.inner_product:  # the terms of a product may be large where their sum is not
        depth = summary.score_error(summary.queries(rows, np.dtype(np.float64)), np.dtype(np.float64))
        depth /= (problem.d + 4) * 2.0**-53
    return np.where(depth > DEEP, LIMIT, problem.promise)


def _first_sweep(
    summary: Summary, positions: NDArray[np.intp], dtype: np.dtype[Any], by_products: bool, meter: Meter
) -> PoolState:
    """Sums over all keys in one compute type, by matrix products or by differences."""
    if not by_products or _sweeps(summary.plan.tiles):
        return sweep(summary, positions, dtype, meter, by_products)
    problem = summary.problem
    state, key_norm, query_norm = products.sweep(problem, summary.plan, positions, dtype, meter)
    few = key_norm == 0  # there differences were taken, and their error is relative
    relative = np.full(len(positions), certify.relative_error(problem, dtype))
    with np.errstate(over="ignore", invalid="ignore"):  # not finite: the query is handed on
        exponent = np.where(
            few,
            certify.exponent_error(problem, relative, state.log_mass(), dtype),
            products.exponent_error(problem, query_norm, key_norm, dtype),
        )
    return certify.certified(problem, state, exponent, dtype, products.values_spread(problem, dtype))


def sweep(
    summary: Summary, positions: NDArray[np.intp], dtype: np.dtype[Any], meter: Meter, by_products: bool = False
) -> PoolState:
    """Sums over all keys in one compute type, with their bounds."""
    problem, plan = summary.problem, summary.plan
    m, shape = len(positions), layout(problem, len(positions), dtype)
    queries, inverse = summary.queries(positions, dtype), pack_inverse(problem, dtype)
    error = summary.score_error(queries, dtype)
    if plan.tiles.prepare is not None:
        plan.tiles.prepare(problem.kernel, inverse, problem.c, problem.key_scale is not None)
    if _sweeps(plan.tiles):
        state, exponent = plan.tiles.sweep(summary, positions, queries, inverse, error, meter, by_products)
        if exponent is None:
            exponent = certify.error_of_weights(problem, plan.tiles, error, state, dtype)
        return certify.certified(problem, state, exponent, dtype)
    serial = m * problem.n <= SERIAL_PAIRS  # then fewer calls are what counts
    tiles = _tiles(m, TILE) if serial or shape.groups > 1 else _tiles(m)
    if problem.classes is not None and shape.groups == 1 and m < TILE:  # totals are long, panels short
        tiles = _tiles(m, FUSED)
    states = [PoolState.empty(m, problem.c) for _ in range(shape.groups)]
    if not problem.kernel.works_on_logs:
        for state in states:
            state.shift[:] = 0.0
    room = summary.room(shape, dtype)
    for start in range(0, problem.n, shape.span * shape.block):
        blocks = summary.span(shape, start, dtype, room)
        per_group = math.ceil(len(blocks) / shape.groups)

        def tile(task: int, blocks: list[KeyBlock] = blocks, per_group: int = per_group) -> float:
            rows, group = tiles[task // shape.groups], task % shape.groups
            mine = blocks[group * per_group : (group + 1) * per_group]
            for block in mine:
                check_stop()
                own = (positions[rows] - block.start).astype(np.int64) if problem.exclude_self else None
                state = states[group].rows(rows)
                plan.tiles.sum_tile(problem.kernel, queries[rows], block, inverse, own, state, error[rows])
                meter.add(float(rows.stop - rows.start) * block.size)
            return 0.0

        threads = 1 if serial else plan.n_threads
        run(tile, len(tiles) * shape.groups, threads, meter)
    merged = normalised(problem, PoolState.merged(states))
    exponent = certify.error_of_weights(problem, plan.tiles, error, merged, dtype)
    return certify.certified(problem, merged, exponent, dtype, as_written=plan.tiles.as_written)


def normalised(problem: Problem, state: PoolState) -> PoolState:
    """The state of values t = 2 [class] − 1 from one whose totals are the masses of classes, which is overwritten."""
    if problem.classes is None:
        return state
    np.multiply(state.total, 2.0, out=state.total)
    np.subtract(state.total, state.mass[:, None], out=state.total)
    roundings = 2.0 * problem.classes.most_rows + 8.0  # those of a class are added one after another, in float64
    return replace(state, total_error=state.total_error + roundings * 2.0**-53 * state.mass)


def _tiles(m: int, shortest: int = SHORTEST) -> list[slice]:
    """The queries in tiles, each at most a SHRINKth of those left."""
    tiles, start = [], 0
    while start < m:
        stop = min(start + max(min((m - start) // SHRINK // 8 * 8, TILE), shortest), m)
        tiles.append(slice(start, stop))
        start = stop
    return tiles


def exponent_error(summary: Summary, rows: Rows, log_mass: NDArray[np.float64]) -> NDArray[np.float64]:
    """(rows,) Bound on the weights' mean relative error from float64 exponents, or, without them, where κ vanishes."""
    problem = summary.problem
    if problem.kernel.facts.log_ratio is None:
        return np.zeros(len(log_mass))
    if not problem.kernel.works_on_logs:
        return np.where(log_mass < VANISHING, np.inf, 0.0)
    queries = pack_queries(problem, rows, np.float64)
    return certify.exponent_error(problem, summary.score_error(queries, np.dtype(np.float64)), log_mass)
