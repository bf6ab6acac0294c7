"""The exact method: it sums every pair in tiles, in bounded memory, and is the fallback of all other methods.

Queries come in panels, keys in spans of packed blocks. A task sums one tile of queries over a group of blocks. Where
there are few tiles, the blocks of a span are split into groups with a state each, which are merged in the order of the
blocks. All of this depends on the problem alone, so the bits of a result do not depend on the number of threads.

In many coordinates, or for few queries, a rung may compute exponents by matrix products instead (`products`).
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
from fastnw.core.pack import Array, KeyBlock, aligned_rows, device_queries, pack_inverse, pack_keys, pack_queries
from fastnw.core.plan import Cost, Plan, Rung, Work
from fastnw.core.problem import Problem
from fastnw.core.score_errors import ScoreErrors
from fastnw.core.state import Sums
from fastnw.methods import pair_times, products
from fastnw.methods.tails import method as tails
from fastnw.runtime.cached import cached_property
from fastnw.runtime.threads import Meter, check_stop, run

Floats = NDArray[np.float64]
T = TypeVar("T")
FLOAT64 = np.dtype(np.float64)
# Tiles of 64 queries make calls 5 % (d = 3) to 15 % (d = 64) slower.
MAX_TILE_QUERIES = 256
# Each tile has at most 1/TILE_DIVISOR of the remaining queries, so that no thread works alone on a long last tile. That
# saves 4 % of 0.1 s on two threads.
TILE_DIVISOR, MIN_TILE_QUERIES = 16, 32
# A packed block stays in the L2 cache while the queries of a tile pass over it.
BLOCK_BYTES = 1 << 20
# Size of the blocks that are packed at a time.
SPAN_BYTES = 16 << 20
# Size of the coordinates and states of one panel of queries.
PANEL_BYTES = 4 << 20
# Size of the states of all groups together.
STATE_BYTES = 16 << 20
MAX_GROUPS = 4
# With fewer query tiles than this, the keys are split into groups, too.
MIN_TILES_FOR_ONE_GROUP = 8

# A fitted model caches packed blocks up to this size, which leaves a margin below its documented limit of 64 MiB.
MAX_CACHED_BYTES = 40 << 20
# Reading packed blocks is the only cost of the keys when they are cached.
READ_NS_PER_BYTE = 0.1

# Each thread that whitens blocks needs up to 6 MiB of copies.
MAX_PACKING_THREADS = 4

# Up to this d, a strip of keys stays in the L1 cache; each further coordinate takes twice as long.
MAX_L1_COORDINATES = 128
# Fewer pairs take less than a millisecond, which does not pay for the start of a thread.
SERIAL_PAIRS = 1 << 20

# The compiled code passes over the keys once for this many queries.
FUSED_QUERIES = 4
# With more values, float64 products after float32 products would exceed the documented memory limit.
MAX_VALUES_FOR_SECOND_PRODUCTS = 1024
# A panel of a classification has at least this many queries, however many classes there are.
MIN_PANEL_QUERIES = 16
# Below this mean κ, compiled code may have flushed values of a user's kernel to 0.
MIN_MEAN_KAPPA = 1e-280


@dataclass(frozen=True)
class Layout:
    """Sizes of the parts of a problem: keys per block, blocks per span, queries per panel, groups per span."""

    block: int
    span: int
    panel: int
    groups: int


def layout(problem: Problem, m: int, dtype: np.dtype[Any]) -> Layout:
    """The layout for `m` queries in a compute type; a pure function of its arguments."""
    key_bytes = dtype.itemsize * (problem.d + 1 + (problem.key_scale is not None)) + _value_bytes(problem, dtype)
    query_bytes = 8 * (4 + problem.c)
    block = min(max(BLOCK_BYTES // key_bytes // 32 * 32, 32), 32768, problem.n)
    span = max(SPAN_BYTES // (key_bytes * block), 1)
    panel = max(PANEL_BYTES // (query_bytes + 24 * problem.d), 4 if problem.classes is None else MIN_PANEL_QUERIES)
    # a panel of at most one tile may use four times as many bytes for coordinates: with only 5 queries per panel
    # (d = 30,000), packing the keys took half of the time
    panel = max(
        panel // MAX_TILE_QUERIES * MAX_TILE_QUERIES or panel,
        min(PANEL_BYTES // (query_bytes + 6 * problem.d), MAX_TILE_QUERIES),
    )
    tiles = max(math.ceil(min(m, panel) / MAX_TILE_QUERIES), 1)
    groups = min(
        MAX_GROUPS if tiles > 2 else 4 * MAX_GROUPS, max(STATE_BYTES // (tiles * MAX_TILE_QUERIES * query_bytes), 1)
    )
    groups = 1 if tiles >= MIN_TILES_FOR_ONE_GROUP else min(span, math.ceil(problem.n / block), groups)
    return Layout(block, span, panel, groups)


def _value_bytes(problem: Problem, dtype: np.dtype[Any]) -> int:
    """Bytes of the values of one packed key."""
    classes = problem.classes
    return dtype.itemsize * problem.c if classes is None else classes.codes.itemsize * classes.codes.shape[1]


def cost(problem: Problem, backend: Any, n_threads: int, dtype: np.dtype[Any]) -> Cost:
    """Predict the cost of summing every pair; the exact method refuses no problem."""
    pairs = float(problem.m) * problem.n
    if backend.sweep is not None:
        work: tuple[Work, ...] = (Work(_difference_seconds(problem, backend, dtype)),)
    elif _uses_products(problem, backend, dtype):
        work = products.work(problem, dtype)
    else:
        work = _difference_work(problem, backend, dtype)
    sizes = layout(problem, problem.m, dtype)
    per_key = dtype.itemsize * (problem.d + 1) + _value_bytes(problem, dtype)
    packed = min(sizes.span * sizes.block, problem.n) * per_key
    states = min(sizes.panel, problem.m) * (sizes.groups + 1) * 8 * (4 + problem.c)
    return Cost(pairs, work, packed + states)


def _difference_seconds(problem: Problem, backend: Any, dtype: np.dtype[Any]) -> float:
    """Predicted seconds of the form "differences" on one thread."""
    return sum(part.seconds for part in _difference_work(problem, backend, dtype))


def _difference_work(problem: Problem, backend: Any, dtype: np.dtype[Any]) -> tuple[Work, ...]:
    """Work of the form "differences": packing keys, whitening queries and summing pairs."""
    n, m, d = problem.n, problem.m, problem.d
    integer_classes = problem.classes is not None and not backend.sweep is not None
    c = 1 if integer_classes else problem.c
    base, per_coordinate, _, per_element = pair_times.nanoseconds(problem, backend, dtype)
    pair = base + per_coordinate * (d + max(d - MAX_L1_COORDINATES, 0)) + pair_times.values_ns(problem, backend, dtype)
    pair *= pair_times.OWN_KEY_FACTOR if problem.exclude_self else 1.0
    sizes = layout(problem, m, dtype)
    packers: float = min(sizes.span, math.ceil(n / sizes.block))
    if keeps_blocks(problem, dtype, dtype):
        pack = READ_NS_PER_BYTE * dtype.itemsize * (d + c)
    else:
        values = pair_times.ROW_NS[0] + pair_times.ROW_NS[1] * c if c > 1 else per_element * c
        pack = per_element * d + values + pair_times.WEIGHT_NS * problem.weighted
        if problem.metric.cholesky is not None:
            packers = min(packers, MAX_PACKING_THREADS)
            pack += 1e9 * pair_times.whitening_seconds(problem, n) / n
        if problem.prepared:  # a fitted model packs again for a prediction only where that pays off on one thread, too
            packers = 1
    serial = m * n <= SERIAL_PAIRS
    tasks = 1 if serial else _n_tasks(min(m, sizes.panel), sizes.groups)
    seconds = 1e-9 * n * m * pair + (pair_times.states_seconds(problem, sizes.groups) if integer_classes else 0.0)
    return Work(1e-9 * n * pack, packers), Work(pair_times.whitening_seconds(problem, m)), Work(seconds, tasks)


def _n_tasks(m: int, groups: int) -> int:
    """Number of tasks that threads share for a panel of `m` queries."""
    return groups * len(_tiles(m, MAX_TILE_QUERIES) if groups > 1 else _tiles(m))


def keeps_blocks(problem: Problem, dtype: np.dtype[Any], first: np.dtype[Any]) -> bool:
    """Whether a fitted model caches its keys packed in `dtype`, where `first` is the plan's compute type."""
    values = problem.c if problem.classes is None else problem.classes.codes.shape[1]
    numbers = problem.n * (problem.d + 1 + values + (problem.key_scale is not None))
    size = numbers * (dtype.itemsize + (first.itemsize if dtype != first else 0))
    return "exact" in problem.prepared and size <= MAX_CACHED_BYTES


def narrow_is_enough(problem: Problem, backend: Any) -> bool:
    """Whether float32 sums are worth trying. The errors of inner products of long vectors can exceed the tolerance.

    The errors of distances cannot: they are relative.
    """
    if not problem.kernel.inner_product or problem.on_device or backend.sweep is not None:
        return True
    dtype = np.dtype(np.float32)
    if products.supports(problem, backend) and products.promising(problem, dtype, 0.75 * problem.promise):
        return True
    factor = 1.0 if problem.key_scale is None else 1.0 / float(problem.key_scale.min())
    with np.errstate(over="ignore", invalid="ignore"):
        sizes = products.norms(problem, problem.queries) * products.norms(problem, problem.keys).max()
        error = (problem.d + 4) * 2.0**-24 * np.sqrt(sizes) / float(problem.metric.inverse.min()) * factor
        return bool(2 * (error <= problem.promise).sum() > len(error))


def _uses_products(problem: Problem, backend: Any, dtype: np.dtype[Any]) -> bool:
    if backend.sweep is not None:
        return backend.by_products(problem) and products.promising(problem, dtype, 0.75 * problem.promise)
    return (
        products.supports(problem, backend)
        and products.seconds(problem, dtype) < _difference_seconds(problem, backend, dtype)
        and products.promising(problem, dtype, 0.75 * problem.promise)
    )


@dataclass
class Keys:
    """The packed keys that all exact rungs share, packed span by span. A span that holds all keys is packed once."""

    problem: Problem
    plan: Plan
    errors: ScoreErrors

    def __post_init__(self) -> None:
        self.backend: Backend = backends.get(self.plan.backend)
        self._blocks: dict[tuple[str, int], list[KeyBlock]] = {}
        self._cache: dict[Hashable, Any] = {}
        self.on_device: dict[Any, Any] = {}  # a cache of the backend's device arrays

    def rounding(self, dtype: np.dtype[Any]) -> certify.Rounding:
        """The rounding errors of sums in that compute type."""
        return self._cached(
            "rounding", dtype, lambda: certify.Rounding(self.problem, dtype, as_written=self.backend.as_written)
        )

    def inverse(self, dtype: np.dtype[Any]) -> Array:
        """(d,) Reciprocals of the bandwidth; see `pack_inverse`."""
        return self._cached("inverse", dtype, lambda: pack_inverse(self.problem, dtype))

    def keeps(self, dtype: np.dtype[Any]) -> bool:
        """Whether all blocks packed in `dtype` are cached."""
        return self._cached("keeps", dtype, lambda: keeps_blocks(self.problem, dtype, self.plan.dtype))

    def layout(self, m: int, dtype: np.dtype[Any]) -> Layout:
        """The layout for `m` queries."""
        return self._cached(-(-m // MAX_TILE_QUERIES), dtype, lambda: layout(self.problem, m, dtype))

    def _cached(self, name: Hashable, dtype: np.dtype[Any], make: Callable[[], T]) -> T:
        key = (name, dtype.char)
        if key not in self._cache:
            self._cache[key] = make()
        value: T = self._cache[key]
        return value

    @property
    def extent(self) -> tuple[NDArray[np.float64], float]:
        """The extent of the keys; see `ScoreErrors.extent`."""
        return self.errors.extent

    def prepare(self, dtype: np.dtype[Any], meter: Meter) -> None:
        """Pack the blocks that a fitted model caches; all other blocks are packed while queries are summed."""
        if self.backend.sweep is None and self.keeps(dtype):
            self._all_blocks(layout(self.problem, self.problem.m, dtype), dtype)

    def buffer(self, shape: Layout, dtype: np.dtype[Any]) -> Array | None:
        """(blocks, d, keys) buffer that spans reuse for their coordinates, or None if one span holds all keys or all
        blocks are cached.

        When many threads allocated each block separately, the allocator held 30 MiB more than was in use.
        """
        if shape.span * shape.block >= self.problem.n or self.keeps(dtype):
            return None
        d = self.problem.d
        return aligned_rows(shape.span * d, shape.block, dtype).reshape(shape.span, d, shape.block)

    def span(self, shape: Layout, start: int, dtype: np.dtype[Any], buffer: Array | None) -> list[KeyBlock]:
        """The blocks of the span that begins at key `start`, packed into `buffer`."""
        if self.keeps(dtype):
            first = start // shape.block
            return self._all_blocks(shape, dtype)[first : first + shape.span]
        key = (dtype.char, shape.block)
        if key in self._blocks:
            return self._blocks[key]
        n = self.problem.n
        blocks = self._pack(range(start, min(start + shape.span * shape.block, n), shape.block), shape, dtype, buffer)
        if len(blocks) * shape.block >= n:
            self._blocks = {key: blocks}
        return blocks

    def _all_blocks(self, shape: Layout, dtype: np.dtype[Any]) -> list[KeyBlock]:
        """All blocks, which a fitted model caches."""
        key = (dtype.char, shape.block)
        if key not in self._blocks:
            self._blocks[key] = self._pack(range(0, self.problem.n, shape.block), shape, dtype, None)
        return self._blocks[key]

    def _pack(self, starts: range, shape: Layout, dtype: np.dtype[Any], buffer: Array | None) -> list[KeyBlock]:
        n = self.problem.n
        blocks: list[KeyBlock] = [None] * len(starts)  # type: ignore[list-item]

        def pack(i: int) -> float:
            stop = min(starts[i] + shape.block, n)
            blocks[i] = pack_keys(self.problem, starts[i], stop, dtype, None if buffer is None else buffer[i])
            return 0.0

        # whitening by a matrix copies keys in float64: fewer threads bound the memory of these copies
        threads = (
            self.plan.n_threads
            if self.problem.metric.cholesky is None
            else min(self.plan.n_threads, MAX_PACKING_THREADS)
        )
        run(pack, len(starts), threads, Meter(False, 0, ""))
        return blocks


def rungs(problem: Problem, backend: Backend, dtype: np.dtype[Any]) -> tuple[Rung, ...]:
    """The exact rungs of a ladder whose first compute type is `dtype`, followed by the tails if the kernel has them.

    Ranks: 1 for float32, 2 for products in float64, 3 for differences in float64, 4 for a user's formula evaluated by
    NumPy, 5 for tails, 6 for the presence of keys whose weights underflow.
    """
    narrow, by_products = dtype == np.float32, _uses_products(problem, backend, dtype)
    form = "products" if by_products else "differences"
    ladder = [Rung("exact", form, dtype.name, 1.0 if narrow else 2.0 if by_products else 3.0)]
    if (
        narrow
        and backend.sweep is None
        and problem.c <= MAX_VALUES_FOR_SECOND_PRODUCTS
        and _uses_products(problem, backend, FLOAT64)
    ):
        ladder.append(Rung("exact", "products", "float64", 2.0))
    if narrow or by_products:
        ladder.append(Rung("exact", "differences", "float64", 3.0))
    by_user = not problem.kernel.facts.built_in
    if tails.known(problem.kernel):
        ladder.append(Rung("tails", "", "double-double", 5.0))
    elif by_user and not backend.as_written and not problem.on_device:
        ladder.append(Rung("exact", "reference", "float64", 4.0))
    if by_user and problem.weights is not None and problem.least_weight < certify.LEAST_WEIGHT:
        ladder.append(Rung("exact", "presence", "float64", 6.0))
    return tuple(ladder)


def summarise(model: Model, rung: Rung) -> Summary:
    """The summary that sums every pair in the form and precision of the rung."""
    return _FORMS[rung.form](model, keys_of(model), np.dtype(rung.precision))


def keys_of(model: Model) -> Keys:
    """The packed keys that all exact rungs of a model share."""
    return model.shared("exact keys", lambda: Keys(model.problem, model.plan, model.errors))


@dataclass
class Differences:
    """Sums over all keys from squared differences of coordinates, or from the form that the backend prefers."""

    model: Model
    keys: Keys
    dtype: np.dtype[Any]

    @cached_property
    def panel(self) -> int:
        """Number of queries summed at a time."""
        return panel(self.model.problem)

    def prepare(self, meter: Meter) -> None:
        """Pack the blocks that a fitted model caches."""
        self.keys.prepare(self.dtype, meter)

    def wanted(self, queries: Queries, mass: Floats | None) -> NDArray[np.bool_] | None:
        """None: this rung sums all queries."""
        return None

    def sums(self, queries: Queries, meter: Meter) -> Sums:
        """Sum all keys, with bounds on the rounding of the sums."""
        return sweep(self.keys, queries, self.dtype, meter)


class Products(Differences):
    """Sums over all keys with exponents from matrix products."""

    def prepare(self, meter: Meter) -> None:
        """Do nothing: products read the user's rows in place."""

    def wanted(self, queries: Queries, mass: Floats | None) -> NDArray[np.bool_] | None:
        """None for the first rung of a ladder; after another rung, no query if only few_retried are open."""
        few_retried = mass is not None and len(queries) <= products.MAX_DIRECT_QUERIES
        return np.zeros(len(queries), bool) if few_retried else None

    def sums(self, queries: Queries, meter: Meter) -> Sums:
        """Sum all keys, with bounds on the rounding of the sums."""
        if self.keys.backend.sweep is not None:
            return sweep(self.keys, queries, self.dtype, meter, by_products=True)
        problem, dtype = self.model.problem, self.dtype
        state, key_norm, query_norm = products.sweep(queries, self.keys.plan, self.keys.backend, dtype, meter)
        by_differences = (
            key_norm == 0
        )  # differences were taken for these queries, and the error of differences is relative
        relative = np.full(len(queries), certify.relative_error(problem, dtype))
        with np.errstate(over="ignore", invalid="ignore"):  # a bound that is not finite certifies nothing
            exponent = np.where(
                by_differences,
                certify.exponent_error(problem, relative, state.log_mass(), dtype),
                products.exponent_error(problem, query_norm, key_norm, dtype),
            )
        return self.keys.rounding(dtype).certified(state, exponent, products.value_error_factor(problem, dtype))


class Reference(Differences):
    """Sums of a user's formula evaluated by NumPy, for which compiled code may have flushed tiny values to 0."""

    def prepare(self, meter: Meter) -> None:
        """Do nothing: few queries reach this rung."""

    def wanted(self, queries: Queries, mass: Floats | None) -> NDArray[np.bool_] | None:
        """Queries whose masses may have underflowed."""
        return None if mass is None else ~(mass > MIN_MEAN_KAPPA * self.model.problem.total_weight)

    def sums(self, queries: Queries, meter: Meter) -> Sums:
        """Sum all keys, with bounds on the rounding of the sums."""
        plan = replace(self.keys.plan, backend="reference", dtype=FLOAT64)
        return sweep(Keys(self.keys.problem, plan, self.keys.errors), queries, FLOAT64, meter)


class Presence(Differences):
    """Finds out whether a window of a user's kernel is empty or its keys only have weights too small for float64.

    A window that has a key gets a mass with an infinite relative error, so that the result is the middle of the range
    of the values, with a bound that covers the range.
    """

    def prepare(self, meter: Meter) -> None:
        """Do nothing: few queries reach this rung."""

    def wanted(self, queries: Queries, mass: Floats | None) -> NDArray[np.bool_] | None:
        """Queries without mass."""
        return None if mass is None else ~(mass > 0)

    def sums(self, queries: Queries, meter: Meter) -> Sums:
        """The empty state, or a tiny mass with an error of 1 where a key is present."""
        problem = self.keys.problem
        assert problem.weights is not None
        present = (problem.weights > 0).astype(np.float64)
        unit_weights = replace(problem, weights=present, values=problem.values[:, :0], by_volume=False)
        unit_queries = Queries(replace(unit_weights, queries=queries.problem.queries), queries.rows)
        counts = sweep(Keys(unit_weights, self.keys.plan, self.keys.errors), unit_queries, FLOAT64, meter)
        state, occupied = Sums.empty(len(queries), problem.c), counts.mass > 0
        state.shift[occupied], state.mass[occupied], state.mass_error[occupied] = (
            0.0,
            float(np.finfo(np.float64).tiny),
            1.0,
        )
        return state


_FORMS: dict[str, type[Differences]] = {
    "differences": Differences,
    "products": Products,
    "reference": Reference,
    "presence": Presence,
}


def panel(problem: Problem) -> int:
    """Number of queries summed at a time."""
    return layout(problem, problem.m, FLOAT64).panel


def sweep(keys: Keys, queries: Queries, dtype: np.dtype[Any], meter: Meter, by_products: bool = False) -> Sums:
    """Sum all keys in one compute type, with bounds on the rounding of the sums."""
    problem, plan, backend = keys.problem, keys.plan, keys.backend
    m, shape = len(queries), keys.layout(len(queries), dtype)
    positions, inverse = queries.rows, keys.inverse(dtype)
    pack_points = device_queries if problem.on_device and backend.sweep is not None else pack_queries
    points = pack_points(queries.problem, positions, dtype)
    error = keys.errors.of(points, dtype)
    if backend.prepare is not None:
        backend.prepare(problem.kernel, inverse, problem.c, problem.key_scale is not None)
    if backend.sweep is not None:
        state, exponent = backend.sweep(keys, positions, points, inverse, error, meter, by_products)
        if exponent is None:
            exponent = certify.error_of_weights(problem, backend, error, state, dtype)
        return keys.rounding(dtype).certified(state, exponent)
    serial = m * problem.n <= SERIAL_PAIRS  # for so few pairs, the number of calls determines the time
    tiles = _tiles(m, MAX_TILE_QUERIES) if serial or shape.groups > 1 else _tiles(m)
    if problem.classes is not None and shape.groups == 1 and m < MAX_TILE_QUERIES:  # long totals make panels short
        tiles = _tiles(m, FUSED_QUERIES)
    states = [Sums.empty(m, problem.c) for _ in range(shape.groups)]
    if not problem.kernel.works_on_logs:
        for state in states:
            state.shift[:] = 0.0
    buffer = keys.buffer(shape, dtype)
    for start in range(0, problem.n, shape.span * shape.block):
        blocks = keys.span(shape, start, dtype, buffer)
        per_group = math.ceil(len(blocks) / shape.groups)

        def sum_group(task: int, blocks: list[KeyBlock] = blocks, per_group: int = per_group) -> float:
            rows, group = tiles[task // shape.groups], task % shape.groups
            for block in blocks[group * per_group : (group + 1) * per_group]:
                check_stop()
                own_positions = (positions[rows] - block.start).astype(np.int64) if problem.exclude_self else None
                state = states[group].rows(rows)
                backend.sum_tile(problem.kernel, points[rows], block, inverse, own_positions, state, error[rows])
                meter.add(float(rows.stop - rows.start) * block.size)
            return 0.0

        run(sum_group, len(tiles) * shape.groups, 1 if serial else plan.n_threads, meter)
    merged = normalised(problem, Sums.merged(states))
    exponent = certify.error_of_weights(problem, backend, error, merged, dtype)
    return keys.rounding(dtype).certified(merged, exponent)


def normalised(problem: Problem, state: Sums) -> Sums:
    """Convert a state whose totals are masses of classes to one of values t = 2 [class] − 1, overwriting its totals."""
    if problem.classes is None:
        return state
    np.multiply(state.total, 2.0, out=state.total)
    np.subtract(state.total, state.mass[:, None], out=state.total)
    roundings = 2.0 * problem.classes.most_rows + 8.0  # float64 adds the rows of one class sequentially
    return replace(state, total_error=state.total_error + roundings * 2.0**-53 * state.mass)


def _tiles(m: int, shortest: int = MIN_TILE_QUERIES) -> list[slice]:
    """Split `m` queries into tiles, each with at most 1/TILE_DIVISOR of the remaining queries."""
    tiles, start = [], 0
    while start < m:
        stop = min(start + max(min((m - start) // TILE_DIVISOR // 8 * 8, MAX_TILE_QUERIES), shortest), m)
        tiles.append(slice(start, stop))
        start = stop
    return tiles
