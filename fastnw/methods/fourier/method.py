"""The Gaussian in up to three coordinates by non-uniform fast Fourier transforms: cost grows like keys + queries.

On a box with period P that holds all keys, κ is a Fourier series whose coefficients √(2π)/P · exp(−(2πk/P)²/2) fall
below any tolerance after a few hundred. So Σ w κ(q − k) takes one transform of the keys (type 1), a product, and one
back at the queries (type 2), both by finufft. κ is even, its coefficients real: strengths w + i·w·t carry mass and
total in one complex transform.

What truncation and images of the box add is bounded, and so is what the rounding of places does in a box of many
bandwidths. What the library's own tolerance means follows from its error for single keys and from the weight of the
keys around a query (`nufft_error`). Queries whose mass is too small for that, or that lie outside the box, get no bound
here. At a few of the others, those nearest to the limit among them, sums are taken directly: none may be off by more.

An own key that is to be left out is in the transforms, and is subtracted; the bound is that of the sums before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.core import certify
from fastnw.core.classes import MOST_DENSE_BYTES
from fastnw.core.model import Model, Queries
from fastnw.core.pack import coordinates, normalised_values
from fastnw.core.plan import Cost, Plan, Refusal, Rung, Work
from fastnw.core.problem import Problem, row_blocks
from fastnw.core.state import PoolState
from fastnw.methods import exact
from fastnw.methods.fourier import nufft_error
from fastnw.runtime.cached import cached_property
from fastnw.runtime.threads import Meter, run

Floats = NDArray[np.float64]
Modes = NDArray[np.complex128]

MOST_D = 3
MARGIN = 0.75  # bandwidths around the keys' box within which queries are answered here
DROPPED = 0.1  # share of the promise, for a mass of 1, that truncation and images may take
# finufft's tolerance over the promise, by upsampling. A single key is off by 0.004 to 0.1 of the tolerance where
# upsampling is low, by 0.5 where it is not. In three coordinates a bound is some 30 times that, since nothing cancels.
EPSILON = {1.25: 0.01, 2.0: 0.002}
LEAST_PROMISE = 1e-12  # below it rounding is in the way
# Upsampling by 1.25 takes a quarter of the memory of 2 in three dimensions and is as fast; it reaches 2e-10.
NARROW, WIDE, NARROW_EPSILON = 1.25, 2.0, 2.5e-10
NARROW_PROMISE = 8e-9  # down to which NARROW_EPSILON, which is far better than it says, is enough
PROBES = 32  # queries summed directly, half of them those whose masses are smallest against their bounds
SAFETY = 10.0  # on what one of them is off by, should that be more than its bound
# Roundings, in units of the period, of how a query lies to a key: for each three up to its angle, of at most half the
# period, and in finufft, which adds 1/2 and takes the rest as a place on the grid, another two.
PLACE = 8 * 2.0**-53
# Keys or queries a transform, of 0.1 s, or 1.3 s for 10⁷ modes in three coordinates, where twice as many would spare a
# quarter of the time.
BLOCK = {1: 1 << 19, 2: 1 << 18, 3: 1 << 18}
PANEL = 1 << 21  # queries at a time
WIDEST = 1e8  # bandwidths
MOST_BYTES = 1 << 30  # of transforms at a time

# Nanoseconds for a point, for a cell of the grid that it is spread to or interpolated from, by dimension, and for a
# number of the grid and log2 of their number in the transform. Measured on one Zen 4 core, ±30 %.
POINT, CELL, GRID = 35.0, {1: 4.0, 2: 1.1, 3: 0.37}, 1.65
ADD_NS = 1.0  # to add a coefficient of a block to the others'
START_NS = 8e6  # plans of transforms, and their error at single keys


@dataclass(frozen=True)
class Box:
    """Where keys and queries lie, in bandwidths from `centre`, and how finely κ is resolved."""

    centre: Floats  # (d,) raw, or whitened, coordinates
    half: Floats  # (d,) half of the keys' extent, in bandwidths
    period: Floats  # (d,) in bandwidths
    modes: tuple[int, ...]
    dropped: float  # bound on what truncation and images change in a sum, over Σ w
    place: float  # bound on how far rounding moves a query against a key, in bandwidths
    epsilon: float
    upsampling: float

    @property
    def size(self) -> float:
        return math.prod(map(float, self.modes))

    @property
    def bytes(self) -> float:
        """Of one transform in flight: the grid and its modes."""
        return 16 * self.size * (self.upsampling ** len(self.modes) + 1)

    @property
    def at_once(self) -> int:
        """Transforms in flight, beside the modes that are kept."""
        return int((MOST_BYTES - 16 * self.size) // self.bytes)

    @property
    def cells(self) -> float:
        """Of the grid that a point touches."""
        digits = -math.log10(self.epsilon)
        return (digits + 1 if self.upsampling == WIDE else 1.5 * digits + 1) ** len(self.modes)


def box_of(problem: Problem) -> Box:
    low, high = _extent(problem)
    centre, half = low / 2 + high / 2, (high / 2 - low / 2) * problem.metric.inverse
    allowed = DROPPED * problem.promise / max(problem.total_weight, 1.0)
    # of images in each direction, 2 exp(−reach²/2) is left at most; of the modes beyond Ω, √(2/π) exp(−Ω²/2)/Ω
    reach = math.sqrt(2 * math.log(4 * problem.d / allowed))
    omega = reach
    if reach > 4:  # then Ω is at least 0.8 of it
        omega = math.sqrt(2 * math.log(2 * problem.d * math.sqrt(2 / math.pi) / (allowed * 0.8 * reach)))
    period = 2 * half + MARGIN + reach
    modes = tuple(2 * math.ceil(omega * p / (2 * math.pi)) + 1 for p in period)
    upsampling = NARROW if problem.promise >= NARROW_PROMISE else WIDE
    epsilon = EPSILON[upsampling] * problem.promise
    if upsampling == NARROW:
        epsilon = max(epsilon, NARROW_EPSILON)
    return Box(centre, half, period, modes, allowed, _place_error(problem, period), epsilon, upsampling)


def _place_error(problem: Problem, period: Floats) -> float:
    square_error, point_error = problem.whitening_errors
    return (PLACE + 2 * point_error + square_error) * math.sqrt(np.square(period).sum())


def _extent(problem: Problem) -> tuple[Floats, Floats]:
    """Least and largest coordinate (d,) of the keys."""
    if problem.of_keys.extent is None:
        low, high = np.full(problem.d, np.inf), np.full(problem.d, -np.inf)
        for rows in row_blocks(problem.keys):
            block = coordinates(problem, problem.keys[rows])
            low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
        problem.of_keys.extent = low.astype(np.float64), high.astype(np.float64)
    return problem.of_keys.extent


def cost(problem: Problem, backend: Any, n_threads: int, dtype: np.dtype[Any]) -> Cost | Refusal:
    """Transforms of keys and queries, and probes."""
    reason = _refusal(problem, backend)
    if reason:
        return Refusal(reason)
    low, high = _extent(problem)
    with np.errstate(over="ignore", invalid="ignore"):
        span = float(((high - low) * problem.metric.inverse).max())
    if not span < WIDEST:
        return Refusal(f"supports keys that span fewer than {WIDEST:g} bandwidths, got {span:.2g}")
    box = box_of(problem)
    if box.at_once < 1:
        return Refusal(
            f"supports Fourier modes that fit in {MOST_BYTES >> 20} MiB, "
            f"got {box.size:.2g} modes for keys that span {span:.2g} bandwidths"
        )
    if box.place * math.sqrt(2 * math.log(problem.total_weight + 1)) > problem.promise:
        return Refusal(
            f"supports keys whose coordinates round by less than the tolerance, "
            f"got keys that span {span:.2g} bandwidths and round by {box.place:.1g}"
        )
    point = POINT + CELL[problem.d] * box.cells
    grid = box.size * box.upsampling**problem.d
    transform = GRID * grid * math.log2(grid + 2)
    ready, transforms = "fourier" in problem.prepared, (problem.c + 2) // 2
    work = []
    for size in (problem.m,) if ready else (problem.n, problem.m):
        tasks = math.ceil(size / BLOCK[problem.d])
        # a transform of a block is one thread's, and memory limits how many are in flight
        seconds = 1e-9 * transforms * (size * point + tasks * transform)
        work.append(Work(seconds, min(tasks, box.at_once)))
    probes = float(min(PROBES, problem.m)) * problem.n
    cells = math.prod(map(float, nufft_error.shape(box, MARGIN)))
    work.append(Work(0.6e-9 * probes, exact.MAX_GROUPS))
    serial = 100.0 * problem.m + START_NS
    if not ready:  # blocks of coefficients are added up in their order
        blocks = math.ceil(problem.n / BLOCK[problem.d])
        serial += transforms * blocks * ADD_NS * box.size + nufft_error.CELL_NS[problem.d] * cells
    work.append(Work(1e-9 * serial))
    memory = _memory(problem, box, n_threads)
    if problem.classes is not None and memory > MOST_DENSE_BYTES:
        return Refusal(
            f"supports transforms of classes in up to {MOST_DENSE_BYTES / 2**20:g} MiB, "
            f"got {problem.c} classes, which take {memory / 2**20:.0f} MiB"
        )
    return Cost(probes + problem.n + problem.m, tuple(work), memory)


def _memory(problem: Problem, box: Box, n_threads: int) -> float:
    """Bytes at the peak, while keys or while queries are transformed."""
    d, c, m = problem.d, problem.c, min(problem.m, PANEL)
    pairs, modes = (c + 2) // 2, 16 * box.size

    def in_flight(size: int, pairs: int) -> float:
        """Grids, `pairs` of modes and points of all transforms at a time."""
        at_once = min(n_threads, math.ceil(size / BLOCK[d]), box.at_once)
        points = min(size, at_once * BLOCK[d]) * 8 * (d + 3 * c + 6)
        return at_once * (box.bytes - modes + pairs * modes) + points

    cells = 8 * 6 * math.prod(map(float, nufft_error.shape(box, MARGIN)))
    queries = in_flight(m, 1) + m * 8 * (10 + 4 * c)
    return pairs * modes + cells + max(in_flight(problem.n, pairs), queries)


def _refusal(problem: Problem, backend: Any) -> str | None:
    if problem.d > MOST_D:
        return f"supports d <= {MOST_D}, got d = {problem.d}"
    if not problem.kernel.facts.has_spectrum:
        return f"supports the Gaussian kernel, got kernel={problem.kernel.name!r}"
    if problem.key_scale is not None:
        return "needs one bandwidth for all keys, got key_scale"
    if problem.tol == 0:
        return "needs tol > 0 or tol=None, got tol=0"
    if problem.promise < LEAST_PROMISE:
        return f"certifies errors down to {LEAST_PROMISE:g} of the range, got tol={problem.promise:g}"
    if "fourier" not in backend.methods:
        return f"supports the compiled and Numba backends, got backend={backend.name!r}"
    if not (problem.n and problem.total_weight > 0):
        return "needs a key with a positive weight, got none"
    return None


@dataclass
class Summary:
    """The keys' Fourier coefficients times those of κ; what is handed on, and how."""

    model: Model
    _coefficients: Coefficients | None = None

    def __post_init__(self) -> None:
        self.problem, self.plan = self.model.problem, self.model.plan

    @cached_property
    def box(self) -> Box:
        return box_of(self.problem)

    @property
    def panel(self) -> int:
        """How many queries to sum at a time."""
        return PANEL

    def wanted(self, queries: Queries, mass: Floats | None) -> NDArray[np.bool_] | None:
        """All queries."""
        return None

    def prepare(self, meter: Meter) -> None:
        """Make what is kept of the keys."""
        self.coefficients(meter)

    def coefficients(self, meter: Meter) -> Coefficients:
        """What is kept of the keys."""
        if self._coefficients is None:
            self._coefficients = _coefficients(self.problem, self.plan, self.box, meter)
        return self._coefficients

    def sums(self, queries: Queries, meter: Meter) -> PoolState:
        """Sums with bounds on their errors; infinite ones outside the box, and where no mass is left."""
        problem, m = self.problem, len(queries)
        state = PoolState.empty(m, problem.c)
        state.mass_error[:] = np.inf
        inside = np.flatnonzero(_inside(self.box, queries))
        if len(inside):
            there = queries.at(inside)
            sums, error = _sums(self, there, meter)
            found = PoolState(np.zeros(len(inside)), sums[:, 0], sums[:, 1:], error, error)
            error = error * _worse_than_bound(self, there, found, meter)
            error = np.where(found.mass > 0, error, np.inf)
            state.put(inside, replace(found, mass_error=error, total_error=error))
        return state


@dataclass(frozen=True)
class Coefficients:
    """The keys in Fourier space, and what bounds the errors of sums."""

    modes: list[Modes]  # one for mass and first value, one for each further pair of values
    surroundings: nufft_error.Surroundings


def summarise(model: Model, rung: Rung) -> Summary:
    """The keys of a model in Fourier space."""
    transforms()  # before threads begin
    return Summary(model)


def _scaled(problem: Problem, box: Box, points: NDArray[Any]) -> Floats:
    """(rows, d) in bandwidths from the box's centre: differences of raw coordinates first, which keeps their digits."""
    return (coordinates(problem, points).astype(np.float64) - box.centre) * problem.metric.inverse


def _inside(box: Box, queries: Queries) -> NDArray[np.bool_]:
    problem, found = queries.problem, np.empty(len(queries), bool)
    for rows in row_blocks(queries.rows):
        x = _scaled(problem, box, problem.queries[queries.rows[rows]])
        found[rows] = np.all(np.abs(x) <= box.half + MARGIN, axis=1)
    return found


def _angles(problem: Problem, box: Box, points: NDArray[Any]) -> list[Floats]:
    """Each coordinate in (−π, π)."""
    x = _scaled(problem, box, points) * (2 * math.pi / box.period)
    return [np.ascontiguousarray(x[:, j]) for j in range(problem.d)]


def transforms() -> Any:
    """The library, loaded when it is first needed."""
    from fastnw.methods.fourier import finufft_plans

    return finufft_plans


def _transform(kind: int, box: Box) -> Any:
    """A plan of finufft for one thread: its own threads do not survive a fork, and ours share out blocks."""
    sign = -1 if kind == 1 else 1
    return transforms().Plan(
        kind, box.modes, 1, box.epsilon, sign, "complex128", nthreads=1, upsampfac=box.upsampling, showwarn=0
    )


def _coefficients(problem: Problem, plan: Plan, box: Box, meter: Meter) -> Coefficients:
    """Type 1 of blocks of keys, added up in their order, times the coefficients of κ."""
    found = [np.zeros(box.modes, np.complex128) for _ in range((problem.c + 2) // 2)]
    blocks = [slice(i, min(i + BLOCK[problem.d], problem.n)) for i in range(0, problem.n, BLOCK[problem.d])]
    at_once = min(plan.n_threads, box.at_once)
    shape = nufft_error.shape(box, MARGIN)
    weights = np.zeros(math.prod(shape))
    results: dict[int, tuple[list[Modes], Floats]] = {}

    def transform(i: int) -> float:
        rows = blocks[i]
        spread, angles = _transform(1, box), _angles(problem, box, problem.keys[rows])
        cells = nufft_error.cells_of(box, MARGIN, angles)
        counted = np.bincount(cells, problem.weights_at(rows), len(weights))
        del cells
        spread.setpts(*angles)
        parts = [spread.execute(strengths) for strengths in _strengths(problem, rows)]
        results[i] = parts, counted.astype(np.float64, copy=False)
        return float(rows.stop - rows.start)

    for first in range(0, len(blocks), at_once):
        some = range(first, min(first + at_once, len(blocks)))
        run(lambda k, some=some: transform(some[k]), len(some), at_once, meter, detachable=True)  # type: ignore[misc]
        for i in some:
            parts, counted = results.pop(i)
            weights += counted
            for sums, part in zip(found, parts, strict=True):
                sums += part
    for j, (count, period) in enumerate(zip(box.modes, box.period, strict=True)):
        omega = 2 * math.pi / period * np.arange(-(count // 2), count // 2 + 1)
        kappa = math.sqrt(2 * math.pi) / period * np.exp(-(omega**2) / 2)
        for sums in found:
            sums *= kappa.reshape([-1 if i == j else 1 for i in range(problem.d)])
    absolute = max(sum(float(np.abs(row).sum()) for row in sums) for sums in found)
    envelope, longest = nufft_error.measure(transforms(), box), min(problem.n, BLOCK[problem.d])
    around = nufft_error.surroundings(box, envelope, weights.reshape(shape), absolute, len(blocks), longest)
    return Coefficients(found, around)


def _strengths(problem: Problem, rows: slice) -> list[Modes]:
    """w + i·w·t₁, then w·t₂ + i·w·t₃, …"""
    weights = problem.weights_at(rows)
    columns = np.ones((problem.c + 1, rows.stop - rows.start))
    if weights is not None:
        columns[0] = weights
    columns[1:] = normalised_values(problem, rows) * columns[0]
    pairs = []
    for first in range(0, problem.c + 1, 2):
        pair = columns[first].astype(np.complex128)
        if first < problem.c:
            pair.imag = columns[first + 1]
        pairs.append(pair)
    return pairs


def _sums(summary: Summary, queries: Queries, meter: Meter) -> tuple[Floats, Floats]:
    """(rows, 1 + c) mass and totals, from type 2 of blocks of queries, and the bound (rows,) on the error of each."""
    problem, box, positions = queries.problem, summary.box, queries.rows
    keys = summary.coefficients(meter)
    sums, error = np.empty((len(positions), problem.c + 1)), np.empty(len(positions))
    size = BLOCK[problem.d]
    blocks = [slice(i, min(i + size, len(positions))) for i in range(0, len(positions), size)]

    def transform(i: int) -> float:
        rows = blocks[i]
        mine = positions[rows]
        interpolate, angles = _transform(2, box), _angles(problem, box, problem.queries[mine])
        cells = nufft_error.cells_of(box, MARGIN, angles)
        error[rows] = keys.surroundings.bound(cells)
        del cells
        interpolate.setpts(*angles)
        for k, modes in enumerate(keys.modes):
            found = interpolate.execute(modes)
            sums[rows, 2 * k] = found.real
            if 2 * k < problem.c:
                sums[rows, 2 * k + 1] = found.imag
        error[rows] += _moved(problem, box, np.abs(sums[rows, 0]) + error[rows])
        if problem.exclude_self:
            sums[rows] -= _own(problem, mine)
        return float(len(mine))

    run(transform, len(blocks), min(summary.plan.n_threads, box.at_once), meter, detachable=True)
    return sums, error


def _own(problem: Problem, positions: NDArray[np.intp]) -> Floats:
    """(rows, 1 + c) what the keys of the same positions add: κ times (w, w t)."""
    apart = coordinates(problem, problem.queries[positions]).astype(np.float64)
    apart -= coordinates(problem, problem.keys[positions])
    weights = problem.weights_at(slice(None))
    own = np.exp(-np.square(apart * problem.metric.inverse).sum(axis=1) / 2)[:, None].repeat(problem.c + 1, axis=1)
    if weights is not None:
        own *= weights[positions, None]
    own[:, 1:] *= normalised_values(problem, positions).T
    return own


def _moved(problem: Problem, box: Box, mass: Floats) -> Floats:
    """(rows,) What the rounding of places changes in a sum, where the mass, an own key's included, is `mass` at most.

    Places that are off by δ change Σ w κ by δ Σ w u κ at most, to first order. The mean of u²/2 over the weights is at
    most log(W/mass), W = Σ w, since their divergence from w/W is not negative. An own key is rounded once more where it
    is subtracted.
    """
    far = np.sqrt(2 * np.log(np.maximum(problem.total_weight / mass, 1.0)))
    return (1 + problem.exclude_self) * box.place * np.maximum(far, 1.0) * mass


def _worse_than_bound(summary: Summary, queries: Queries, found: PoolState, meter: Meter) -> float:
    """Factor on all bounds: 1, unless sums that are taken directly at some queries show more than their bounds.

    Half of them are those that come nearest to not being certified.
    """
    problem = summary.problem
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(found.mass > found.mass_error, found.mass_error / found.mass, 0.0)
    ratio[~certify.accurate(problem, found, problem.promise)] = 0.0
    nearest = np.argpartition(-ratio, min(PROBES // 2, len(ratio)) - 1)[: PROBES // 2]
    some = np.linspace(0, len(queries) - 1, PROBES // 2).astype(np.intp)
    probes = np.unique(np.concatenate([some, nearest]))
    direct = exact.sweep(exact.keys_of(summary.model), queries.at(probes), np.dtype(np.float64), meter)
    factor = np.exp(direct.shift)[:, None]
    right = np.concatenate([direct.mass[:, None], direct.total], axis=1) * factor
    sums = np.concatenate([found.mass[probes, None], found.total[probes]], axis=1)
    with np.errstate(invalid="ignore"):  # NaN where a direct sum has no bound: it tells nothing
        seen = (np.abs(sums - right) - direct.mass_error[:, None] * factor).max(axis=1)
        worst = float(np.fmax.reduce(seen / found.mass_error[probes]))
    return 1.0 if worst <= 1 else SAFETY * worst
