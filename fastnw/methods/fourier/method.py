"""The Gaussian in up to three coordinates by non-uniform fast Fourier transforms: the cost grows like keys + queries.

On a box that holds all keys, κ is a short Fourier series (`transforms`). So Σ w κ(q − k) takes one transform of the
keys (type 1), a product with the coefficients of κ, and one transform back at the queries (type 2), both by finufft.

The bound on a sum adds up what truncation and the periodic images of the box change, what the rounding of positions
changes in a box of many bandwidths, and what the tolerance of the library means. The last follows from the library's
error for single keys and from the weight of the keys around a query (`nufft_error`). A query whose mass is too small
for its bound, or that lies outside the box, is left to the next method. A few of the others, among them those closest
to the limit, are summed directly as probes: where one of them is off by more than its bound, all bounds are widened.

With `exclude_self` a query's own key is part of the transforms and is subtracted from the sums. The bound is that of
the sums before the subtraction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.core import certify
from fastnw.core.classes import MAX_INDICATOR_BYTES
from fastnw.core.model import Model, Queries
from fastnw.core.pack import coordinates, normalised_values
from fastnw.core.plan import Cost, Plan, Refusal, Rung, Work
from fastnw.core.problem import Problem, row_blocks
from fastnw.core.state import Sums
from fastnw.methods import exact
from fastnw.methods.fourier import nufft_error, transforms
from fastnw.methods.fourier.transforms import HIGH_UPSAMPLING, LOW_UPSAMPLING, MAX_D, Box, Floats, Modes
from fastnw.runtime.cached import cached_property
from fastnw.runtime.threads import Meter, run

# Queries are summed within so many bandwidths around the keys' box.
MARGIN = 0.75
# Share of the tolerance, for a mass of 1, that truncation and periodic images may use.
DROPPED_SHARE = 0.1
# finufft's tolerance over ours, by upsampling. The error of a single key is 0.004 to 0.1 of finufft's tolerance with
# low upsampling and 0.5 of it with high upsampling. In three coordinates a bound is some 30 times larger, since nothing
# cancels in it.
EPSILON = {LOW_UPSAMPLING: 0.01, HIGH_UPSAMPLING: 0.002}
# Below this tolerance, rounding errors dominate.
MIN_TOLERANCE = 1e-12
# Smallest tolerance of finufft with low upsampling; its errors are far smaller.
LOW_UPSAMPLING_EPSILON = 2.5e-10
# Down to this tolerance of the problem, LOW_UPSAMPLING_EPSILON suffices.
LOW_UPSAMPLING_TOLERANCE = 8e-9
# Number of queries that are summed directly; half of them have the smallest masses relative to their bounds.
PROBES = 32
# Factor on the error of a probe that exceeds its bound.
PROBE_SAFETY = 10.0
# Rounding of the position of a query relative to a key, in units of the period: three roundings for each of the two up
# to the angle, which is at most half the period, and two in finufft, which adds 1/2 and takes the remainder as a
# position on the grid.
POSITION_ERROR = 8 * 2.0**-53
# Keys or queries of a transform, which then takes 0.1 s, or 1.3 s for 10⁷ modes in three coordinates. There, twice as
# many would save a quarter of the time.
BLOCK = {1: 1 << 19, 2: 1 << 18, 3: 1 << 18}
PANEL_QUERIES = 1 << 21
# The largest extent of the keys, in bandwidths.
MAX_SPAN = 1e8
# Size of all transforms that run at a time.
MAX_BYTES = 1 << 30

# Nanoseconds to add a coefficient of a block to the sum over blocks.
ADD_NS = 1.0
# Nanoseconds to plan transforms and to measure finufft's errors for single keys.
START_NS = 8e6
# Nanoseconds per pair of a probe.
DIRECT_PAIR_NS = 0.6


def box_of(problem: Problem) -> Box:
    """The box of a problem: as few modes, and as coarse a tolerance of finufft, as the problem's tolerance allows."""
    low, high = transforms.extent(problem)
    centre, half = low / 2 + high / 2, (high / 2 - low / 2) * problem.metric.inverse
    allowed = DROPPED_SHARE * problem.promise / max(problem.total_weight, 1.0)
    distance = transforms.image_distance(problem.d, allowed)
    omega = distance  # the modes beyond Ω add at most √(2/π) exp(−Ω²/2)/Ω
    if distance > 4:  # then Ω is at least 0.8 of it
        omega = math.sqrt(2 * math.log(2 * problem.d * math.sqrt(2 / math.pi) / (allowed * 0.8 * distance)))
    period = 2 * half + MARGIN + distance
    modes = tuple(2 * math.ceil(omega * p / (2 * math.pi)) + 1 for p in period)
    upsampling = LOW_UPSAMPLING if problem.promise >= LOW_UPSAMPLING_TOLERANCE else HIGH_UPSAMPLING
    epsilon = EPSILON[upsampling] * problem.promise
    if upsampling == LOW_UPSAMPLING:
        epsilon = max(epsilon, LOW_UPSAMPLING_EPSILON)
    return Box(centre, half, period, modes, allowed, _position_error(problem, period), epsilon, upsampling)


def at_once(box: Box) -> int:
    """How many transforms fit the memory limit beside the modes that are kept; 0 if none does."""
    return int((MAX_BYTES - 16 * box.size) // box.bytes)


def _position_error(problem: Problem, period: Floats) -> float:
    """Bound on how far rounding moves a query against a key, in bandwidths."""
    square_error, point_error = problem.whitening_errors
    return (POSITION_ERROR + 2 * point_error + square_error) * math.sqrt(np.square(period).sum())


def cost(problem: Problem, backend: Any, n_threads: int, dtype: np.dtype[Any]) -> Cost | Refusal:
    """The work of the transforms of keys and queries and of the probes, or why the method refuses the problem."""
    reason = _refusal(problem, backend)
    if reason:
        return Refusal(reason)
    low, high = transforms.extent(problem)
    with np.errstate(over="ignore", invalid="ignore"):
        span = float(((high - low) * problem.metric.inverse).max())
    if not span < MAX_SPAN:
        return Refusal(f"supports keys that span fewer than {MAX_SPAN:g} bandwidths, got {span:.2g}")
    box = box_of(problem)
    if at_once(box) < 1:
        return Refusal(
            f"supports Fourier modes that fit in {MAX_BYTES >> 20} MiB, "
            f"got {box.size:.2g} modes for keys that span {span:.2g} bandwidths"
        )
    if box.place * math.sqrt(2 * math.log(problem.total_weight + 1)) > problem.promise:
        return Refusal(
            f"supports keys whose coordinates round by less than the tolerance, "
            f"got keys that span {span:.2g} bandwidths and round by {box.place:.1g}"
        )
    point = transforms.point_ns(problem.d, box.epsilon, box.upsampling)
    grid = transforms.grid_ns(box.size, problem.d, box.upsampling)
    ready, pairs = "fourier" in problem.prepared, (problem.c + 2) // 2
    work = []
    for size in (problem.m,) if ready else (problem.n, problem.m):
        tasks = math.ceil(size / BLOCK[problem.d])
        # one thread transforms a block, and memory limits how many transforms are in flight
        seconds = 1e-9 * pairs * (size * point + tasks * grid)
        work.append(Work(seconds, min(tasks, at_once(box))))
    probes = float(min(PROBES, problem.m)) * problem.n
    cells = math.prod(map(float, nufft_error.shape(box, MARGIN)))
    work.append(Work(1e-9 * DIRECT_PAIR_NS * probes, exact.MAX_GROUPS))
    serial = 100.0 * problem.m + START_NS
    if not ready:  # coefficients of blocks are added in the order of the blocks
        blocks = math.ceil(problem.n / BLOCK[problem.d])
        serial += pairs * blocks * ADD_NS * box.size + nufft_error.CELL_NS[problem.d] * cells
    work.append(Work(1e-9 * serial))
    memory = _memory(problem, box, n_threads)
    if problem.classes is not None and memory > MAX_INDICATOR_BYTES:
        return Refusal(
            f"supports transforms of classes in up to {MAX_INDICATOR_BYTES / 2**20:g} MiB, "
            f"got {problem.c} classes, which take {memory / 2**20:.0f} MiB"
        )
    return Cost(probes + problem.n + problem.m, tuple(work), memory)


def _memory(problem: Problem, box: Box, n_threads: int) -> float:
    """Peak of memory in bytes, the larger of that for the keys and that for the queries."""
    d, c, m = problem.d, problem.c, min(problem.m, PANEL_QUERIES)
    pairs, modes = (c + 2) // 2, 16 * box.size

    def in_flight(size: int, pairs: int) -> float:
        """Memory of the grids, of `pairs` arrays of modes each, and of the points of all transforms in flight."""
        count = min(n_threads, math.ceil(size / BLOCK[d]), at_once(box))
        points = min(size, count * BLOCK[d]) * 8 * (d + 3 * c + 6)
        return count * (box.bytes - modes + pairs * modes) + points

    cells = 8 * 6 * math.prod(map(float, nufft_error.shape(box, MARGIN)))
    queries = in_flight(m, 1) + m * 8 * (10 + 4 * c)
    return pairs * modes + cells + max(in_flight(problem.n, pairs), queries)


def _refusal(problem: Problem, backend: Any) -> str | None:
    """Why the method cannot do the problem, or None."""
    if problem.d > MAX_D:
        return f"supports d <= {MAX_D}, got d = {problem.d}"
    if not problem.kernel.facts.has_spectrum:
        return f"supports the Gaussian kernel, got kernel={problem.kernel.name!r}"
    if problem.key_scale is not None:
        return "needs one bandwidth for all keys, got key_scale"
    if problem.tol == 0:
        return "needs tol > 0 or tol=None, got tol=0"
    if problem.promise < MIN_TOLERANCE:
        return f"certifies errors down to {MIN_TOLERANCE:g} of the range, got tol={problem.promise:g}"
    if "fourier" not in backend.methods:
        return f"supports the compiled and Numba backends, got backend={backend.name!r}"
    if not (problem.n and problem.total_weight > 0):
        return "needs a key with a positive weight, got none"
    return None


@dataclass
class Summary:
    """The keys of a model as Fourier coefficients, times those of κ."""

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
        return PANEL_QUERIES

    def wanted(self, queries: Queries, mass: Floats | None) -> NDArray[np.bool_] | None:
        """All queries."""
        return None

    def prepare(self, meter: Meter) -> None:
        """Transform the keys, if that has not been done."""
        self.coefficients(meter)

    def coefficients(self, meter: Meter) -> Coefficients:
        """The keys in Fourier space; they are transformed once."""
        if self._coefficients is None:
            self._coefficients = _coefficients(self.problem, self.plan, self.box, meter)
        return self._coefficients

    def sums(self, queries: Queries, meter: Meter) -> Sums:
        """Sums with bounds on their errors, which are infinite outside the box and where the mass is not positive."""
        problem, m = self.problem, len(queries)
        state = Sums.empty(m, problem.c)
        state.mass_error[:] = np.inf
        inside_rows = np.flatnonzero(_inside(self.box, queries))
        if len(inside_rows):
            inside_queries = queries.at(inside_rows)
            sums, error = _sums(self, inside_queries, meter)
            inside_state = Sums(np.zeros(len(inside_rows)), sums[:, 0], sums[:, 1:], error, error)
            error = error * _probe_factor(self, inside_queries, inside_state, meter)
            error = np.where(inside_state.mass > 0, error, np.inf)
            state.put(inside_rows, replace(inside_state, mass_error=error, total_error=error))
        return state


@dataclass(frozen=True)
class Coefficients:
    """The keys in Fourier space.

    Attributes
    ----------
    modes : list of complex128 arrays
        One for the mass and the first value, one for each further pair of values.
    surroundings : Surroundings
        Bounds on the errors of sums.
    """

    modes: list[Modes]
    surroundings: nufft_error.Surroundings


def summarise(model: Model, rung: Rung) -> Summary:
    """The keys of a model in Fourier space."""
    transforms.library()  # before threads begin
    return Summary(model)


def _scaled(problem: Problem, box: Box, points: NDArray[Any]) -> Floats:
    """Points (rows, d) in bandwidths from the centre of the box; differences of raw coordinates keep digits."""
    return (coordinates(problem, points).astype(np.float64) - box.centre) * problem.metric.inverse


def _inside(box: Box, queries: Queries) -> NDArray[np.bool_]:
    """Whether each of the queries lies in the box, or within MARGIN of it."""
    problem, inside = queries.problem, np.empty(len(queries), bool)
    for rows in row_blocks(queries.rows):
        x = _scaled(problem, box, problem.queries[queries.rows[rows]])
        inside[rows] = np.all(np.abs(x) <= box.half + MARGIN, axis=1)
    return inside


def _angles(problem: Problem, box: Box, points: NDArray[Any]) -> list[Floats]:
    """The coordinates of points as angles in (−π, π), one array for each coordinate."""
    x = _scaled(problem, box, points) * (2 * math.pi / box.period)
    return [np.ascontiguousarray(x[:, j]) for j in range(problem.d)]


def _transform(kind: int, box: Box) -> Any:
    """A plan of finufft for the modes of a box."""
    return transforms.new_plan(kind, box.modes, box.epsilon, box.upsampling)


def _coefficients(problem: Problem, plan: Plan, box: Box, meter: Meter) -> Coefficients:
    """Transforms of type 1 of blocks of keys, added in the order of the blocks, times the coefficients of κ."""
    coefficients = [np.zeros(box.modes, np.complex128) for _ in range((problem.c + 2) // 2)]
    blocks = [slice(i, min(i + BLOCK[problem.d], problem.n)) for i in range(0, problem.n, BLOCK[problem.d])]
    count = min(plan.n_threads, at_once(box))
    shape = nufft_error.shape(box, MARGIN)
    weights = np.zeros(math.prod(shape))
    results: dict[int, tuple[list[Modes], Floats]] = {}

    def transform(i: int) -> float:
        rows = blocks[i]
        spread, angles = _transform(1, box), _angles(problem, box, problem.keys[rows])
        cells = nufft_error.cells_of(box, MARGIN, angles)
        cell_weights = np.bincount(cells, problem.weights_at(rows), len(weights))
        del cells
        spread.setpts(*angles)
        parts = [spread.execute(strengths) for strengths in transforms.strengths(problem, rows)]
        results[i] = parts, cell_weights.astype(np.float64, copy=False)
        return float(rows.stop - rows.start)

    for first in range(0, len(blocks), count):
        group = range(first, min(first + count, len(blocks)))
        run(lambda k, group=group: transform(group[k]), len(group), count, meter, detachable=True)  # type: ignore[misc]
        for i in group:
            parts, cell_weights = results.pop(i)
            weights += cell_weights
            for sums, part in zip(coefficients, parts, strict=True):
                sums += part
    for j, (modes, period) in enumerate(zip(box.modes, box.period, strict=True)):
        kappa = transforms.kernel_modes(period, 2 * math.pi / period * transforms.orders(modes))
        for sums in coefficients:
            sums *= transforms.along(kappa, j, problem.d)
    absolute = max(sum(float(np.abs(row).sum()) for row in sums) for sums in coefficients)
    envelope, longest = nufft_error.measure(box), min(problem.n, BLOCK[problem.d])
    around = nufft_error.surroundings(box, envelope, weights.reshape(shape), absolute, len(blocks), longest)
    return Coefficients(coefficients, around)


def _sums(summary: Summary, queries: Queries, meter: Meter) -> tuple[Floats, Floats]:
    """Mass and totals (rows, 1 + c) by transforms of type 2, block by block, and a bound (rows,) on their errors."""
    problem, box, positions = queries.problem, summary.box, queries.rows
    keys = summary.coefficients(meter)
    sums, error = np.empty((len(positions), problem.c + 1)), np.empty(len(positions))
    size = BLOCK[problem.d]
    blocks = [slice(i, min(i + size, len(positions))) for i in range(0, len(positions), size)]

    def transform(i: int) -> float:
        rows = blocks[i]
        block_positions = positions[rows]
        interpolate, angles = _transform(2, box), _angles(problem, box, problem.queries[block_positions])
        cells = nufft_error.cells_of(box, MARGIN, angles)
        error[rows] = keys.surroundings.bound(cells)
        del cells
        interpolate.setpts(*angles)
        for k, modes in enumerate(keys.modes):
            transformed = interpolate.execute(modes)
            sums[rows, 2 * k] = transformed.real
            if 2 * k < problem.c:
                sums[rows, 2 * k + 1] = transformed.imag
        error[rows] += _rounding_error(problem, box, np.abs(sums[rows, 0]) + error[rows])
        if problem.exclude_self:
            sums[rows] -= _own_terms(problem, block_positions)
        return float(len(block_positions))

    run(transform, len(blocks), min(summary.plan.n_threads, at_once(box)), meter, detachable=True)
    return sums, error


def _own_terms(problem: Problem, positions: NDArray[np.intp]) -> Floats:
    """What the keys at the same positions add to the sums (rows, 1 + c): κ times (w, w t)."""
    differences = coordinates(problem, problem.queries[positions]).astype(np.float64)
    differences -= coordinates(problem, problem.keys[positions])
    weights = problem.weights_at(slice(None))
    terms = np.exp(-np.square(differences * problem.metric.inverse).sum(axis=1) / 2)[:, None].repeat(
        problem.c + 1, axis=1
    )
    if weights is not None:
        terms *= weights[positions, None]
    terms[:, 1:] *= normalised_values(problem, positions).T
    return terms


def _rounding_error(problem: Problem, box: Box, mass: Floats) -> Floats:
    """Bound (rows,) on what the rounding of positions changes in a sum whose mass, with its own key, is at most `mass`.

    Positions that are wrong by δ change Σ w κ by at most δ Σ w u κ, to first order. The mean of u²/2 over the weights
    is at most log(W/mass), W = Σ w, since their divergence from w/W is not negative. An own key is rounded once more
    when it is subtracted.
    """
    max_distance = np.sqrt(2 * np.log(np.maximum(problem.total_weight / mass, 1.0)))
    return (1 + problem.exclude_self) * box.place * np.maximum(max_distance, 1.0) * mass


def _probe_factor(summary: Summary, queries: Queries, state: Sums, meter: Meter) -> float:
    """A factor for all bounds: 1, unless a query that is summed directly shows an error larger than its bound.

    Half of these probes are the certified queries with the largest bounds relative to their masses.
    """
    problem = summary.problem
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(state.mass > state.mass_error, state.mass_error / state.mass, 0.0)
    ratio[~certify.accurate(problem, state, problem.promise)] = 0.0
    nearest = np.argpartition(-ratio, min(PROBES // 2, len(ratio)) - 1)[: PROBES // 2]
    evenly_spaced = np.linspace(0, len(queries) - 1, PROBES // 2).astype(np.intp)
    probes = np.unique(np.concatenate([evenly_spaced, nearest]))
    direct = exact.sweep(exact.keys_of(summary.model), queries.at(probes), np.dtype(np.float64), meter)
    factor = np.exp(direct.shift)[:, None]
    exact_sums = np.concatenate([direct.mass[:, None], direct.total], axis=1) * factor
    sums = np.concatenate([state.mass[probes, None], state.total[probes]], axis=1)
    with np.errstate(invalid="ignore"):  # NaN where a direct sum has no bound: such a probe is ignored
        excess = (np.abs(sums - exact_sums) - direct.mass_error[:, None] * factor).max(axis=1)
        worst = float(np.fmax.reduce(excess / state.mass_error[probes]))
    return 1.0 if worst <= 1 else PROBE_SAFETY * worst
