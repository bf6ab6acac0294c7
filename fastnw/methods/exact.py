"""Every pair, in tiles, at a memory that does not grow: the method that all others fall back on.

Queries come in panels, keys in spans of packed blocks; a task is a tile of a query tile and some blocks. When there are
few query tiles the blocks of a span are split into groups with a state each, merged in the order of the blocks. All of
this depends on the problem alone, so the result's bits do not depend on threads.

In many coordinates, or where queries are few, a rung may take matrix products instead (`products`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastnw import backends
from fastnw.backends.backend import Backend
from fastnw.core import certify
from fastnw.core.model import Model, Queries, Summary
from fastnw.core.pack import Array, KeyBlock, aligned_rows, pack_inverse, pack_keys, pack_queries, queries_there
from fastnw.core.plan import Cost, Plan, Rung, Work
from fastnw.core.problem import Problem
from fastnw.core.score_errors import ScoreErrors
from fastnw.core.state import PoolState
from fastnw.methods import pair_times, products
from fastnw.methods.tails import method as tails
from fastnw.runtime.cached import cached_property
from fastnw.runtime.threads import Meter, check_stop, run

Floats = NDArray[np.float64]
T = TypeVar("T")
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

FUSED = 4  # queries that share a pass over the keys
MANY_VALUES = 1024  # beyond which float64 products after float32 ones would take more than the memory promised
LEAST_PANEL = 16  # queries, where the totals of classes are long
VANISHED_KAPPA = 1e-280  # mean κ of a user's kernel below which it may have been flushed to 0


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
    if backend.sweep is not None:
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
    coded = problem.classes is not None and not backend.sweep is not None
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


def narrow_is_enough(problem: Problem, tiles: Any) -> bool:
    """Whether float32 is worth a try: inner products of long vectors may leave it no digits, in any form.

    Distances do not: their error is relative.
    """
    if not problem.kernel.inner_product or problem.on_device or tiles.sweep is not None:
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
    if tiles.sweep is not None:
        return bool(tiles.by_products(problem, dtype))
    return (
        products.can(problem, tiles)
        and products.seconds(problem, dtype) < _seconds(problem, tiles, dtype)
        and products.promising(problem, dtype, 0.75 * problem.promise)
    )


@dataclass
class Keys:
    """The keys, packed span by span, for all of the exact rungs; a span that holds them all is packed once."""

    problem: Problem
    plan: Plan
    errors: ScoreErrors

    def __post_init__(self) -> None:
        self.backend: Backend = backends.get(self.plan.backend)
        self._kept: dict[tuple[str, int], list[KeyBlock]] = {}
        self._facts: dict[Hashable, Any] = {}
        self.on_device: dict[Any, Any] = {}  # what a backend keeps there

    def rounding(self, dtype: np.dtype[Any]) -> certify.Rounding:
        """What the compute type does to sums."""
        return self._once(
            "rounding", dtype, lambda: certify.Rounding(self.problem, dtype, as_written=self.backend.as_written)
        )

    def inverse(self, dtype: np.dtype[Any]) -> Array:
        """(d,) See `pack_inverse`."""
        return self._once("inverse", dtype, lambda: pack_inverse(self.problem, dtype))

    def keeps(self, dtype: np.dtype[Any]) -> bool:
        """Whether all blocks are kept in that type."""
        return self._once("keeps", dtype, lambda: keeps_blocks(self.problem, dtype, self.plan.dtype))

    def layout(self, m: int, dtype: np.dtype[Any]) -> Layout:
        """For `m` queries."""
        return self._once(-(-m // TILE), dtype, lambda: layout(self.problem, m, dtype))

    def _once(self, name: Hashable, dtype: np.dtype[Any], make: Callable[[], T]) -> T:
        key = (name, dtype.char)
        if key not in self._facts:
            self._facts[key] = make()
        found: T = self._facts[key]
        return found

    @property
    def extent(self) -> tuple[NDArray[np.float64], float]:
        """See `ScoreErrors.extent`."""
        return self.errors.extent

    def prepare(self, dtype: np.dtype[Any], meter: Meter) -> None:
        """Pack what a fitted model keeps; other blocks are packed when their turn comes."""
        if self.backend.sweep is None and self.keeps(dtype):
            self._all_blocks(layout(self.problem, self.problem.m, dtype), dtype)

    def buffer(self, shape: Layout, dtype: np.dtype[Any]) -> Array | None:
        """(blocks, d, keys) for the coordinates of one span after another; None where a single one holds all keys, or
        a fitted model keeps them.

        Blocks of their own, made by many threads, left the allocator with 30 MiB more than what was in use.
        """
        if shape.span * shape.block >= self.problem.n or self.keeps(dtype):
            return None
        d = self.problem.d
        return aligned_rows(shape.span * d, shape.block, dtype).reshape(shape.span, d, shape.block)

    def span(self, shape: Layout, start: int, dtype: np.dtype[Any], buffer: Array | None) -> list[KeyBlock]:
        """The blocks from key `start` on, `shape.span` of them, in `buffer`."""
        if self.keeps(dtype):
            first = start // shape.block
            return self._all_blocks(shape, dtype)[first : first + shape.span]
        key = (dtype.char, shape.block)
        if key in self._kept:
            return self._kept[key]
        n = self.problem.n
        blocks = self._packed(range(start, min(start + shape.span * shape.block, n), shape.block), shape, dtype, buffer)
        if len(blocks) * shape.block >= n:
            self._kept = {key: blocks}
        return blocks

    def _all_blocks(self, shape: Layout, dtype: np.dtype[Any]) -> list[KeyBlock]:
        """Those that a fitted model keeps."""
        key = (dtype.char, shape.block)
        if key not in self._kept:
            self._kept[key] = self._packed(range(0, self.problem.n, shape.block), shape, dtype, None)
        return self._kept[key]

    def _packed(self, starts: range, shape: Layout, dtype: np.dtype[Any], buffer: Array | None) -> list[KeyBlock]:
        n = self.problem.n
        blocks: list[KeyBlock] = [None] * len(starts)  # type: ignore[list-item]

        def pack(i: int) -> float:
            stop = min(starts[i] + shape.block, n)
            blocks[i] = pack_keys(self.problem, starts[i], stop, dtype, None if buffer is None else buffer[i])
            return 0.0

        # a matrix whitens in float64: fewer at a time, so that its copies stay small for any number of threads
        threads = self.plan.n_threads if self.problem.metric.cholesky is None else min(self.plan.n_threads, PACKERS)
        run(pack, len(starts), threads, Meter(False, 0, ""))
        return blocks


def rungs(problem: Problem, backend: Backend, dtype: np.dtype[Any]) -> tuple[Rung, ...]:
    """The exact rungs of a ladder whose first compute type is `dtype`, and the tails where there are any.

    Ranks: 1 for float32, 2 for products and 3 for differences in float64, 4 for a user's formula as it is written, 5
    for tails, 6 for the presence of keys whose weights vanish.
    """
    narrow, by_products = dtype == np.float32, _by_products(problem, backend, dtype)
    form = "products" if by_products else "differences"
    found = [Rung("exact", form, dtype.name, 1.0 if narrow else 2.0 if by_products else 3.0)]
    if narrow and backend.sweep is None and problem.c <= MANY_VALUES and _by_products(problem, backend, FLOAT64):
        found.append(Rung("exact", "products", "float64", 2.0))
    if narrow or by_products:
        found.append(Rung("exact", "differences", "float64", 3.0))
    users = not problem.kernel.facts.built_in
    if tails.known(problem.kernel):
        found.append(Rung("tails", "", "double-double", 5.0))
    elif users and not backend.as_written and not problem.on_device:
        found.append(Rung("exact", "reference", "float64", 4.0))
    if users and problem.weights is not None and problem.least_weight < certify.LEAST_WEIGHT:
        found.append(Rung("exact", "presence", "float64", 6.0))
    return tuple(found)


def summarise(model: Model, rung: Rung) -> Summary:
    """What sums every pair in the form and the precision of the rung."""
    return _FORMS[rung.form](model, keys_of(model), np.dtype(rung.precision))


def keys_of(model: Model) -> Keys:
    """The packed keys that all exact rungs of a model share."""
    return model.shared("exact keys", lambda: Keys(model.problem, model.plan, model.errors))


@dataclass
class Differences:
    """Sums over all keys from squared differences of coordinates, or whatever the backend takes for them."""

    model: Model
    keys: Keys
    dtype: np.dtype[Any]

    @cached_property
    def panel(self) -> int:
        """How many queries to sum at a time."""
        return panel(self.model.problem)

    def prepare(self, meter: Meter) -> None:
        """Pack what a fitted model keeps."""
        self.keys.prepare(self.dtype, meter)

    def wanted(self, queries: Queries, mass: Floats | None) -> NDArray[np.bool_] | None:
        """All queries."""
        return None

    def sums(self, queries: Queries, meter: Meter) -> PoolState:
        """Sums with bounds on their rounding."""
        return sweep(self.keys, queries, self.dtype, meter)


class Products(Differences):
    """Sums over all keys whose exponents come from matrix products."""

    def prepare(self, meter: Meter) -> None:
        """Nothing: rows are read where they lie."""

    def wanted(self, queries: Queries, mass: Floats | None) -> NDArray[np.bool_] | None:
        """As a second try only where many queries share the products."""
        few = mass is not None and len(queries) <= products.FEW
        return np.zeros(len(queries), bool) if few else None

    def sums(self, queries: Queries, meter: Meter) -> PoolState:
        """Sums with bounds on their rounding."""
        if self.keys.backend.sweep is not None:
            return sweep(self.keys, queries, self.dtype, meter, by_products=True)
        problem, dtype = self.model.problem, self.dtype
        state, key_norm, query_norm = products.sweep(queries, self.keys.plan, self.keys.backend, dtype, meter)
        few = key_norm == 0  # there differences were taken, and their error is relative
        relative = np.full(len(queries), certify.relative_error(problem, dtype))
        with np.errstate(over="ignore", invalid="ignore"):  # a bound that is not finite certifies nothing
            exponent = np.where(
                few,
                certify.exponent_error(problem, relative, state.log_mass(), dtype),
                products.exponent_error(problem, query_norm, key_norm, dtype),
            )
        return self.keys.rounding(dtype).certified(state, exponent, products.values_spread(problem, dtype))


class Reference(Differences):
    """A user's formula as NumPy computes it, where compiled code may have flushed its least numbers to 0."""

    def prepare(self, meter: Meter) -> None:
        """Nothing: few queries come here."""

    def wanted(self, queries: Queries, mass: Floats | None) -> NDArray[np.bool_] | None:
        """Queries whose masses vanished."""
        return None if mass is None else ~(mass > VANISHED_KAPPA * self.model.problem.total_weight)

    def sums(self, queries: Queries, meter: Meter) -> PoolState:
        """Sums with bounds on their rounding."""
        plan = replace(self.keys.plan, backend="reference", dtype=FLOAT64)
        return sweep(Keys(self.keys.problem, plan, self.keys.errors), queries, FLOAT64, meter)


class Presence(Differences):
    """A window of a user's kernel whose keys all weigh too little for float64 beside the heaviest is not empty: it gets
    a mass of which nothing is known, so that the result is the middle of the range, under a bound that says so."""

    def prepare(self, meter: Meter) -> None:
        """Nothing: few queries come here."""

    def wanted(self, queries: Queries, mass: Floats | None) -> NDArray[np.bool_] | None:
        """Queries without a mass."""
        return None if mass is None else ~(mass > 0)

    def sums(self, queries: Queries, meter: Meter) -> PoolState:
        """Empty, or a mass of which nothing is known."""
        problem = self.keys.problem
        assert problem.weights is not None
        present = (problem.weights > 0).astype(np.float64)
        alike = replace(problem, weights=present, values=problem.values[:, :0], by_volume=False)
        asked = Queries(replace(alike, queries=queries.problem.queries), queries.rows)
        counted = sweep(Keys(alike, self.keys.plan, self.keys.errors), asked, FLOAT64, meter)
        state, light = PoolState.empty(len(queries), problem.c), counted.mass > 0
        state.shift[light], state.mass[light], state.mass_error[light] = 0.0, float(np.finfo(np.float64).tiny), 1.0
        return state


_FORMS: dict[str, type[Differences]] = {
    "differences": Differences,
    "products": Products,
    "reference": Reference,
    "presence": Presence,
}


def panel(problem: Problem) -> int:
    """How many queries to sum at a time."""
    return layout(problem, problem.m, FLOAT64).panel


def sweep(keys: Keys, queries: Queries, dtype: np.dtype[Any], meter: Meter, by_products: bool = False) -> PoolState:
    """Sums over all keys in one compute type, with their bounds."""
    problem, plan, backend = keys.problem, keys.plan, keys.backend
    m, shape = len(queries), keys.layout(len(queries), dtype)
    positions, inverse = queries.rows, keys.inverse(dtype)
    pack = queries_there if problem.on_device and backend.sweep is not None else pack_queries
    points = pack(queries.problem, positions, dtype)
    error = keys.errors.of(points, dtype)
    if backend.prepare is not None:
        backend.prepare(problem.kernel, inverse, problem.c, problem.key_scale is not None)
    if backend.sweep is not None:
        state, exponent = backend.sweep(keys, positions, points, inverse, error, meter, by_products)
        if exponent is None:
            exponent = certify.error_of_weights(problem, backend, error, state, dtype)
        return keys.rounding(dtype).certified(state, exponent)
    serial = m * problem.n <= SERIAL_PAIRS  # then fewer calls are what counts
    tiles = _tiles(m, TILE) if serial or shape.groups > 1 else _tiles(m)
    if problem.classes is not None and shape.groups == 1 and m < TILE:  # totals are long, panels short
        tiles = _tiles(m, FUSED)
    states = [PoolState.empty(m, problem.c) for _ in range(shape.groups)]
    if not problem.kernel.works_on_logs:
        for state in states:
            state.shift[:] = 0.0
    buffer = keys.buffer(shape, dtype)
    for start in range(0, problem.n, shape.span * shape.block):
        blocks = keys.span(shape, start, dtype, buffer)
        per_group = math.ceil(len(blocks) / shape.groups)

        def tile(task: int, blocks: list[KeyBlock] = blocks, per_group: int = per_group) -> float:
            rows, group = tiles[task // shape.groups], task % shape.groups
            for block in blocks[group * per_group : (group + 1) * per_group]:
                check_stop()
                own = (positions[rows] - block.start).astype(np.int64) if problem.exclude_self else None
                state = states[group].rows(rows)
                backend.sum_tile(problem.kernel, points[rows], block, inverse, own, state, error[rows])
                meter.add(float(rows.stop - rows.start) * block.size)
            return 0.0

        run(tile, len(tiles) * shape.groups, 1 if serial else plan.n_threads, meter)
    merged = normalised(problem, PoolState.merged(states))
    exponent = certify.error_of_weights(problem, backend, error, merged, dtype)
    return keys.rounding(dtype).certified(merged, exponent)


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
