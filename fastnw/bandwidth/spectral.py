"""The Gaussian's sums at all keys for one bandwidth after another, in up to three coordinates, by Fourier transforms.

One transform of the keys without the kernel (type 1) serves every bandwidth of a level: these only weigh its
coefficients by κ̂ = Π √(2π) h_j exp(−h_j² ω_j²/2), and take one transform back to the keys (type 2). The gradient of a
loss takes one more of type 1, of the loss's derivatives by the sums, whatever the number of coordinates: with
coefficients C of the keys and S of those derivatives, ∂/∂log h_j = Re Σ C S̄ ∂κ̂/∂log h_j, and ∂κ̂/∂log h_j is
(1 − h_j² ω_j²) κ̂.

In one coordinate a level spans a factor of 64, in more little, since its period must hold the widest kernel and its
modes resolve the finest. What a search needs is less than `methods.fourier` certifies: the error of a level is bounded
where it is largest, and checked at some keys, and keys whose mass is not well above it are summed by other means.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw import backends
from fastnw.bandwidth.criteria import Fit, Floats, Loss
from fastnw.bandwidth.fits import forward
from fastnw.bandwidth.sums import Summed, cotangents, mass_cotangents
from fastnw.core.pack import normalised_values
from fastnw.core.plan import Plan
from fastnw.core.problem import Problem
from fastnw.core.validate import metric
from fastnw.gradients import sums as gradient_sums
from fastnw.methods.fourier import method as fourier
from fastnw.methods.fourier import nufft_error
from fastnw.planner import ladder, make_plan
from fastnw.runtime.threads import Meter, run

Modes = NDArray[np.complex128]

FINER, WIDER = {1: 16.0, 2: 1.25, 3: 1.1}, {1: 3.0, 2: 1.6, 3: 1.4}  # a level's bandwidths, by those it is made for
# finufft's tolerance and upsampling: tight where that is cheap
EPSILON = {1: 1e-10, 2: 1e-9, 3: 1e-7}
UPSAMPLING = {1: fourier.WIDE, 2: fourier.WIDE, 3: fourier.NARROW}
DROPPED = {1: 1e-12, 2: 1e-11, 3: 1e-10}  # of Σ w, what truncation and images may change
# Masses below this many times the bound on the error are summed by other means: a thousand, and 4 since the bound is
# known in units of the largest mass, of which it is up to 4 times more at another bandwidth of a level.
SURE = 4e3
SAFETY = 10.0  # on what is seen at some keys, should that be more
PROBES = 64
FEW_PAIRS = 4e6  # summed by NumPy in some 50 ms, and not worth a method's preparations
MOST_MODES = 1.2e7  # some 1 GiB of transforms
SHORTEST = 1 << 14  # keys of a block
LONG = 2e4  # keys and modes from which threads are worth their start
START = 1.5e-4  # seconds of a transform beside its points and its grid


@dataclass(frozen=True)
class Part:
    """Modes of one parity in the first coordinate, or all of them.

    Even ones are those of a period of half the length, odd ones as well, but for a phase. So a transform comes in two,
    of half the modes each, that run side by side.
    """

    modes: tuple[int, ...]
    omega: list[Floats]  # (modes_j,) of each coordinate
    angles: list[Floats]  # (n,) of each coordinate
    phase: Modes | None  # (n,)


def seconds(problem: Problem, h: Floats, with_gradient: bool) -> float:
    """Predicted, on one thread, for a loss at bandwidths h (d,), with the making of its level where that is likely to
    serve few; ∞ where there is none."""
    if problem.d > fourier.MOST_D or not problem.kernel.facts.has_spectrum:
        return math.inf
    if problem.metric.cholesky is not None or problem.key_scale is not None or problem.classes is not None:
        return math.inf
    _, modes = _sizes(problem, h)
    if not math.prod(map(float, modes)) < MOST_MODES:
        return math.inf
    points, grid = _seconds(problem, modes)
    transforms = (1 + (problem.d > 1) + with_gradient) * ((problem.c + 2) // 2)
    return transforms * (points + grid + START)


def _sizes(problem: Problem, h: Floats) -> tuple[Floats, tuple[int, ...]]:
    """Periods and numbers of modes of a level."""
    d, (low, high) = problem.d, fourier._extent(problem)
    reach = math.sqrt(2 * math.log(4 * d / DROPPED[d]))
    period = (high - low) + reach * WIDER[d] * h
    modes = np.ceil(reach * period * FINER[d] / (2 * math.pi * h))
    return period, tuple(2 * int(min(m, 1e9)) + 1 for m in modes)


def _seconds(problem: Problem, modes: tuple[int, ...]) -> tuple[float, float]:
    """Of the points and of the grid."""
    d = problem.d
    digits = -math.log10(EPSILON[d])
    cells = (digits + 1 if UPSAMPLING[d] == fourier.WIDE else 1.5 * digits + 1) ** d
    grid = math.prod(map(float, modes)) * UPSAMPLING[d] ** d
    points = 1e-9 * problem.n * (fourier.POINT + fourier.CELL[d] * cells)
    return points, 1e-9 * fourier.GRID * grid * math.log2(grid + 2)


class Level:
    """Coefficients of the keys, and finufft's plans, for bandwidths of one range."""

    def __init__(self, owner: Spectrum, h: Floats, meter: Meter) -> None:
        problem, d = owner.problem, owner.problem.d
        self.owner, self.worst = owner, 0.0
        self.finest, self.widest = h / FINER[d], h * WIDER[d]
        self.period, self.modes = _sizes(problem, h)
        modes = self.modes
        points, grid = _seconds(problem, modes)
        self.parts = self._parts(modes, d > 1 and grid > points)
        # as many blocks as do not take much longer for their grids than for their keys
        blocks = min(max(round(points * len(self.parts) / grid), 1), math.ceil(problem.n / SHORTEST), 64)
        size = math.ceil(problem.n / blocks)
        self.blocks = [slice(i, min(i + size, problem.n)) for i in range(0, problem.n, size)]
        self.long = problem.n * d + math.prod(modes) > LONG
        self.plans: dict[tuple[int, int, int, int], Any] = {}
        self.coefficients = self.forth(fourier._strengths(problem, slice(0, problem.n)), meter)

    def serves(self, h: Floats) -> bool:
        return bool(np.all(self.finest <= h) and np.all(h <= self.widest))

    def _parts(self, modes: tuple[int, ...], split: bool) -> list[Part]:
        unit = 2 * math.pi / self.period
        angles = [np.ascontiguousarray(x * u) for x, u in zip(self.owner.centred, unit, strict=True)]
        orders = [np.arange(-(count // 2), count // 2 + 1) for count in modes]
        omega = [u * k for u, k in zip(unit, orders, strict=True)]
        if not split:
            return [Part(modes, omega, angles, None)]
        twice = 2 * angles[0]
        most = modes[0] // 2
        even, odd = 2 * np.arange(-(most // 2), most // 2 + 1), 2 * np.arange(-((most + 1) // 2), (most + 1) // 2) + 1
        phases = (None, np.exp(1j * angles[0]))
        return [
            Part((len(k), *modes[1:]), [unit[0] * k, *omega[1:]], [twice, *angles[1:]], phase)
            for k, phase in zip((even, odd), phases, strict=True)
        ]

    def _plan(self, kind: int, part: int, block: int, pair: int) -> Any:
        """A plan with its keys set: one for each transform that may run at the same time."""
        if (kind, part, block, pair) not in self.plans:
            d, here, sign = self.owner.problem.d, self.parts[part], -1 if kind == 1 else 1
            options = {"nthreads": 1, "upsampfac": UPSAMPLING[d], "showwarn": 0}
            plan = fourier.transforms().Plan(kind, here.modes, 1, EPSILON[d], sign, "complex128", **options)
            plan.setpts(*(x[self.blocks[block]] for x in here.angles))
            self.plans[kind, part, block, pair] = plan
        return self.plans[kind, part, block, pair]

    def _run(self, task: Any, pairs: int, meter: Meter) -> None:
        """For each part, block and pair."""
        blocks = len(self.blocks)

        def numbered(i: int) -> float:
            task(i // (blocks * pairs), i // pairs % blocks, i % pairs)
            return 0.0

        threads = self.owner.n_threads if self.long else 1
        run(numbered, len(self.parts) * blocks * pairs, threads, meter, detachable=self.long)

    def forth(self, strengths: list[Modes], meter: Meter) -> list[list[Modes]]:
        """Type 1 of each (n,) strengths: for each part, one array of modes each."""
        found: dict[tuple[int, int, int], Modes] = {}

        def transform(part: int, block: int, pair: int) -> None:
            phase, rows = self.parts[part].phase, self.blocks[block]
            mine = strengths[pair][rows]
            mine = mine if phase is None else mine * np.conj(phase[rows])
            found[part, block, pair] = self._plan(1, part, block, pair).execute(np.ascontiguousarray(mine))

        self._run(transform, len(strengths), meter)

        def added(part: int, pair: int) -> Modes:
            sums = found[part, 0, pair]
            for block in range(1, len(self.blocks)):
                sums = sums + found[part, block, pair]
            return sums

        return [[added(part, pair) for pair in range(len(strengths))] for part in range(len(self.parts))]

    def back(self, h: Floats, meter: Meter) -> Floats:
        """(1 + c, n) Σ w κ and Σ w t κ at the keys."""
        pairs, n = len(self.coefficients[0]), self.owner.problem.n
        found = np.empty((len(self.parts), pairs, n), np.complex128)

        def transform(part: int, block: int, pair: int) -> None:
            here, rows = self.parts[part], self.blocks[block]
            modes = self.coefficients[part][pair]
            for kappa in self._kappa(here, h):
                modes = modes * kappa
            sums = self._plan(2, part, block, pair).execute(modes)
            found[part, pair, rows] = sums if here.phase is None else sums * here.phase[rows]

        self._run(transform, pairs, meter)
        total = found[0] if len(found) == 1 else found[0] + found[1]
        return np.stack([total.real, total.imag], axis=1).reshape(2 * pairs, n)[: 1 + self.owner.problem.c]

    def _kappa(self, part: Part, h: Floats) -> list[Floats]:
        """κ̂ as factors, one a coordinate, shaped to multiply modes."""
        d = len(part.modes)
        return [
            (math.sqrt(2 * math.pi) * h[j] / self.period[j] * np.exp(-np.square(h[j] * omega) / 2)).reshape(
                [-1 if i == j else 1 for i in range(d)]
            )
            for j, omega in enumerate(part.omega)
        ]

    def bound(self, problem: Problem) -> float:
        """On the error of all sums at this problem's bandwidth, where most keys are near: see `methods.nufft_error`."""
        d, inverse = problem.d, problem.metric.inverse
        centred = self.owner.centred
        half = np.array([np.abs(x).max() for x in centred]) * inverse
        box = fourier.Box(
            np.zeros(d), half, self.period * inverse, self.modes, DROPPED[d], 0.0, EPSILON[d], UPSAMPLING[d]
        )
        angles = [x * (2 * math.pi / p) for x, p in zip(centred, self.period, strict=True)]
        cells, shape = nufft_error.cells_of(box, fourier.MARGIN, angles), nufft_error.shape(box, fourier.MARGIN)
        weights = np.bincount(cells, self.owner.own[0], math.prod(shape)).astype(np.float64, copy=False)
        finest = replace(box, period=self.period / self.finest)  # there, finufft's error is largest
        envelope = nufft_error.measure(fourier.transforms(), finest)
        found = nufft_error.surroundings(
            box, envelope, weights.reshape(shape), problem.total_weight, len(self.blocks), problem.n
        )
        return float(found.bound(cells).max())

    def adjoint(self, h: Floats, derivatives: Floats, meter: Meter) -> Floats:
        """(d,) Σ_i Σ_k derivatives_ki ∂sums_ki/∂log h_j, of derivatives (1 + c, n) by the sums that `back` gives."""
        c, n = derivatives.shape
        strengths = [derivatives[k] + 1j * (derivatives[k + 1] if k + 1 < c else np.zeros(n)) for k in range(0, c, 2)]
        found = np.zeros(len(h))
        for part, mine, modes in zip(self.parts, self.coefficients, self.forth(strengths, meter), strict=True):
            product = np.zeros(part.modes)
            for a, b in zip(mine, modes, strict=True):
                product += np.real(a * np.conj(b))
            for kappa in self._kappa(part, h):
                product = product * kappa
            for j, omega in enumerate(part.omega):
                along = product.sum(axis=tuple(i for i in range(len(h)) if i != j))
                found[j] += float(along @ (1 - np.square(h[j] * omega)))
        return found


@dataclass
class SpectralSummed(Summed):
    """Sums at one bandwidth, and which keys' were taken by other means."""

    h: Floats
    level: Level
    tail: NDArray[np.intp]


class Spectrum:
    """Sums at all keys for any bandwidths h (d,), where `seconds` is finite."""

    def __init__(self, problem: Problem, backend: str, n_jobs: int | None, meter: Meter) -> None:
        fourier.transforms()  # before threads begin
        self.problem, self.meter = problem, meter
        self.plan: Plan = make_plan(problem, "exact", backend, n_jobs)
        self.n_threads = self.plan.n_threads
        low, high = fourier._extent(problem)
        self.centred = [problem.keys[:, j].astype(np.float64) - (low[j] / 2 + high[j] / 2) for j in range(problem.d)]
        self.levels: list[Level] = []
        weights = problem.weights_at(slice(None))
        self.own = np.ones((1 + problem.c, problem.n))
        if weights is not None:
            self.own[0] = weights
        self.own[1:] = normalised_values(problem, slice(0, problem.n)) * self.own[0]

    def covers(self, h: Floats) -> bool:
        """Whether a level is there for these bandwidths."""
        return any(level.serves(h) for level in self.levels)

    def _level(self, h: Floats) -> Level:
        """The last one made that serves, or another: of many dimensions none stays that does not."""
        for level in reversed(self.levels):
            if level.serves(h):
                return level
        if self.problem.d > 1:
            self.levels.clear()
        self.levels.append(Level(self, h, self.meter))
        return self.levels[-1]

    def many(self, bandwidths: list[Floats]) -> None:
        """One after another: transforms share what they can."""

    def at(self, h: Floats) -> SpectralSummed:
        """Means and log masses at bandwidths h (d,)."""
        level = self._level(h)
        problem = self.problem.with_metric(metric(h, self.problem.d))
        sums = level.back(h, self.meter)
        if problem.exclude_self:
            sums -= self.own
        centre, half = problem.values_centre
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.clip(sums[1:] / sums[0], -1.0, 1.0).T * half + centre
            log_mass = np.log(np.maximum(sums[0], 0.0)) + problem.log_largest_weight
        fit = Fit(mean, log_mass)
        tail = np.flatnonzero(~(sums[0] > SURE * self._error(level, problem, sums)))
        if len(tail):
            other = self._directly(problem, tail)
            fit.mean[tail], fit.log_mass[tail] = other.mean, other.log_mass
        return SpectralSummed(problem, fit, h, level, tail)

    def gradient(self, summed: SpectralSummed, loss: Loss) -> Floats:
        """(d,) ∂ loss/∂ log h_j."""
        problem, fit, tail = summed.problem, summed.fit, summed.tail
        alpha, gamma = cotangents(fit, loss)
        centre, half = problem.values_centre
        # ∂L = Σ (α·∂N − γ ∂D)/D, with N in units of normalised values
        derivatives = np.empty((1 + problem.c, problem.n))
        derivatives[0] = alpha @ centre - gamma
        derivatives[1:] = alpha.T * half[:, None]
        log_mass = np.where(np.isfinite(fit.log_mass), fit.log_mass, np.inf)
        log_mass[tail] = np.inf  # summed below; one over a mass as small as some are would overflow
        derivatives *= np.exp(problem.log_largest_weight - log_mass)
        found = summed.level.adjoint(summed.h, derivatives, self.meter) + loss.by_log_bandwidth
        if len(tail):
            sums = gradient_sums.by_query(
                problem,
                tail,
                fit.log_mass[tail],
                alpha[tail],
                gamma[tail],
                self.n_threads,
                self.meter,
                by_log_mass=mass_cotangents(problem, loss)[tail],
            )
            found += sums.squares.sum(axis=0)
        return found

    def _error(self, level: Level, problem: Problem, sums: Floats) -> float:
        """Of all sums of a level, for this bandwidth: as bounded once, and checked against sums of single pairs at some
        keys, in units of the largest mass, which both grow with the bandwidth."""
        largest = max(float(sums[0].max()), 1e-300)
        if not level.worst:
            some = np.unique(np.linspace(0, problem.n - 1, PROBES // 2).astype(np.intp))
            least = np.argpartition(sums[0], min(PROBES // 2, problem.n) - 1)[: PROBES // 2]
            probes = np.unique(np.concatenate([some, least]))
            right = self._directly(problem, probes)
            mass = np.exp(right.log_mass - problem.log_largest_weight)
            seen = float(np.abs(sums[0, probes] - mass).max())
            level.worst = max(SAFETY * seen, level.bound(problem), 1e-15 * largest) / largest
        return level.worst * largest + 1e-14 * problem.total_weight

    def _directly(self, problem: Problem, positions: NDArray[np.intp]) -> Fit:
        """Means and log masses at some keys from single pairs."""
        if len(positions) * problem.n > FEW_PAIRS:
            plan = replace(
                self.plan, ladder=ladder(problem, "fourier", backends.get(self.plan.backend), np.dtype(np.float64))[1:]
            )
            return forward(problem, plan, positions, self.meter)
        return _by_numpy(problem, positions)


def _by_numpy(problem: Problem, positions: NDArray[np.intp]) -> Fit:
    keys, rows = problem.keys.astype(np.float64, copy=False), np.arange(len(positions))
    logs = np.zeros((len(positions), problem.n))
    for j in range(problem.d):
        logs -= np.square((keys[positions, j, None] - keys[:, j]) * problem.metric.inverse[j]) / 2
    log_weights = problem.log_weights_at(slice(None))
    if log_weights is not None:
        logs += log_weights
    if problem.exclude_self:
        logs[rows, positions] = -np.inf
    shift = logs.max(axis=1)
    shift[~np.isfinite(shift)] = 0.0
    shares = np.exp(logs - shift[:, None])
    mass = shares.sum(axis=1)
    total = np.einsum("ij,kj->ik", shares, normalised_values(problem, slice(0, problem.n)))  # BLAS would start threads
    centre, half = problem.values_centre
    with np.errstate(divide="ignore", invalid="ignore"):
        return Fit(centre + half * total / mass[:, None], np.log(mass) + shift + problem.log_largest_weight)
