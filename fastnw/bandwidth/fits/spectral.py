"""Means and masses of the Gaussian at all keys for many bandwidths, in up to three coordinates, by Fourier transforms.

One transform of the keys without the kernel (type 1) serves every bandwidth of a level. A bandwidth multiplies the
coefficients by κ̂ = Π √(2π) h_j exp(−h_j² ω_j²/2) and takes one transform back to the keys (type 2). The gradient of a
loss takes one more transform of type 1, of the derivatives of the loss by the sums, whatever the number of coordinates:
with coefficients C of the keys and S of those derivatives, ∂/∂log h_j = Re Σ C S̄ ∂κ̂/∂log h_j, and ∂κ̂/∂log h_j is
(1 − h_j² ω_j²) κ̂.

In one coordinate a level spans a factor of 48 in bandwidth. In more it spans little, since its period must hold the
widest kernel and its modes must resolve the narrowest. A search needs less accuracy than `methods.fourier` certifies:
the error of a level is bounded where it is largest and checked at some keys, and keys whose mass is not well above the
error are summed by other means.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw import backends
from fastnw.bandwidth.criteria import Fit, Floats, Loss
from fastnw.bandwidth.fits.at_keys import fit_at_keys
from fastnw.bandwidth.fits.fitter import FitAt, cotangents, mass_cotangents
from fastnw.core.pack import normalised_values
from fastnw.core.plan import Plan
from fastnw.core.problem import Problem
from fastnw.core.validate import metric
from fastnw.gradients import sums as gradient_sums
from fastnw.methods.fourier import nufft_error, transforms
from fastnw.methods.fourier.method import MARGIN
from fastnw.methods.fourier.transforms import HIGH_UPSAMPLING, LOW_UPSAMPLING, MAX_D, Box, Modes
from fastnw.planner import ladder, make_plan
from fastnw.runtime.threads import Meter, run

# The narrowest and the widest bandwidth of a level, as factors of the one it is made for, by dimension.
NARROWER, WIDER = {1: 16.0, 2: 1.25, 3: 1.1}, {1: 3.0, 2: 1.6, 3: 1.4}
# finufft's tolerance and upsampling: tight where that is cheap
EPSILON = {1: 1e-10, 2: 1e-9, 3: 1e-7}
UPSAMPLING = {1: HIGH_UPSAMPLING, 2: HIGH_UPSAMPLING, 3: LOW_UPSAMPLING}
DROPPED = {1: 1e-12, 2: 1e-11, 3: 1e-10}  # the share of Σ w that truncation and periodic images may change
# A mass below this many times the bound on its error is summed by other means: a thousand, times 4 because the bound is
# known relative to the largest mass, which grows by up to 4 at another bandwidth of a level.
MIN_MASS_OVER_ERROR = 4e3
SAFETY = 10.0  # factor on the largest error of a probe, if that is larger than the bound
PROBES = 64
MAX_NUMPY_PAIRS = 4e6  # NumPy sums these in some 50 ms, which is less than the preparations of a method take
MAX_MODES = 1.2e7  # some 1 GiB of transforms
MIN_BLOCK = 1 << 14  # keys of a block
MIN_THREADED_SIZE = 2e4  # keys and modes from which threads save more than their start costs
TRANSFORM_SECONDS = 1.5e-4  # of a transform, beside its points and its grid


@dataclass(frozen=True)
class Part:
    """Modes of one parity in the first coordinate, or all modes.

    Even modes are those of a period of half the length; odd modes are, too, but for a phase. So one transform can be
    computed as two of half the modes each, which run side by side.

    Attributes
    ----------
    modes : tuple of int
        Number of modes of each coordinate.
    omega : list of (modes_j,) float64
        Frequencies of each coordinate.
    angles : list of (n,) float64
        Positions of the keys in each coordinate.
    phase : (n,) complex128 or None
    """

    modes: tuple[int, ...]
    omega: list[Floats]
    angles: list[Floats]
    phase: Modes | None


def seconds(problem: Problem, h: Floats, with_gradient: bool) -> float:
    """Predicted time on one thread for a loss at the bandwidths h (d,); ∞ if transforms do not apply.

    In several coordinates it includes the time to make the level, which is likely to serve few bandwidths.
    """
    if problem.d > MAX_D or not problem.kernel.facts.has_spectrum:
        return math.inf
    if problem.metric.cholesky is not None or problem.key_scale is not None or problem.classes is not None:
        return math.inf
    _, modes = _sizes(problem, h)
    if not math.prod(map(float, modes)) < MAX_MODES:
        return math.inf
    points, grid = _transform_seconds(problem, modes)
    count = (1 + (problem.d > 1) + with_gradient) * ((problem.c + 2) // 2)
    return count * (points + grid + TRANSFORM_SECONDS)


def _sizes(problem: Problem, h: Floats) -> tuple[Floats, tuple[int, ...]]:
    """Periods (d,) and numbers of modes of the level for h."""
    d, (low, high) = problem.d, transforms.extent(problem)
    distance = transforms.image_distance(d, DROPPED[d])
    period = (high - low) + distance * WIDER[d] * h
    modes = np.ceil(distance * period * NARROWER[d] / (2 * math.pi * h))
    return period, tuple(2 * int(min(m, 1e9)) + 1 for m in modes)


def _transform_seconds(problem: Problem, modes: tuple[int, ...]) -> tuple[float, float]:
    """Times of the points and of the grid of one transform."""
    d = problem.d
    points = 1e-9 * problem.n * transforms.point_ns(d, EPSILON[d], UPSAMPLING[d])
    return points, 1e-9 * transforms.grid_ns(math.prod(map(float, modes)), d, UPSAMPLING[d])


class Level:
    """Coefficients of the keys, and plans of finufft, for a range of bandwidths."""

    def __init__(self, owner: SpectralFitter, h: Floats, meter: Meter) -> None:
        problem, d = owner.problem, owner.problem.d
        self.owner, self.relative_error = owner, 0.0
        self.narrowest, self.widest = h / NARROWER[d], h * WIDER[d]
        self.period, self.modes = _sizes(problem, h)
        modes = self.modes
        points, grid = _transform_seconds(problem, modes)
        self.parts = self._parts(modes, d > 1 and grid > points)
        # so many blocks that their grids do not take much longer than their keys
        blocks = min(max(round(points * len(self.parts) / grid), 1), math.ceil(problem.n / MIN_BLOCK), 64)
        size = math.ceil(problem.n / blocks)
        self.blocks = [slice(i, min(i + size, problem.n)) for i in range(0, problem.n, size)]
        self.is_long = problem.n * d + math.prod(modes) > MIN_THREADED_SIZE
        self.plans: dict[tuple[int, int, int, int], Any] = {}
        self.coefficients = self.to_modes(transforms.strengths(problem, slice(0, problem.n)), meter)

    def serves(self, h: Floats) -> bool:
        """Whether the bandwidths h (d,) lie in the range of this level."""
        return bool(np.all(self.narrowest <= h) and np.all(h <= self.widest))

    def _parts(self, modes: tuple[int, ...], split: bool) -> list[Part]:
        """The modes, in two parts by their parity if `split`."""
        unit = 2 * math.pi / self.period
        angles = [np.ascontiguousarray(x * u) for x, u in zip(self.owner.centred, unit, strict=True)]
        omega = [u * transforms.orders(count) for u, count in zip(unit, modes, strict=True)]
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
        """A plan whose keys are set; each transform that may run at the same time as others has its own."""
        if (kind, part, block, pair) not in self.plans:
            d, modes, angles = self.owner.problem.d, self.parts[part].modes, self.parts[part].angles
            plan = transforms.new_plan(kind, modes, EPSILON[d], UPSAMPLING[d])
            plan.setpts(*(x[self.blocks[block]] for x in angles))
            self.plans[kind, part, block, pair] = plan
        return self.plans[kind, part, block, pair]

    def _run(self, task: Any, pairs: int, meter: Meter) -> None:
        """Run a task for each part, block and pair."""
        blocks = len(self.blocks)

        def numbered(i: int) -> float:
            task(i // (blocks * pairs), i // pairs % blocks, i % pairs)
            return 0.0

        threads = self.owner.n_threads if self.is_long else 1
        run(numbered, len(self.parts) * blocks * pairs, threads, meter, detachable=self.is_long)

    def to_modes(self, strengths: list[Modes], meter: Meter) -> list[list[Modes]]:
        """Transforms of type 1 of strengths (n,): for each part, one array of modes for each of the strengths."""
        results: dict[tuple[int, int, int], Modes] = {}

        def transform(part: int, block: int, pair: int) -> None:
            phase, rows = self.parts[part].phase, self.blocks[block]
            block_strengths = strengths[pair][rows]
            if phase is not None:
                block_strengths = block_strengths * np.conj(phase[rows])
            plan = self._plan(1, part, block, pair)
            results[part, block, pair] = plan.execute(np.ascontiguousarray(block_strengths))

        self._run(transform, len(strengths), meter)

        def sum_of_blocks(part: int, pair: int) -> Modes:
            sums = results[part, 0, pair]
            for block in range(1, len(self.blocks)):
                sums = sums + results[part, block, pair]
            return sums

        return [[sum_of_blocks(part, pair) for pair in range(len(strengths))] for part in range(len(self.parts))]

    def to_keys(self, h: Floats, meter: Meter) -> Floats:
        """The sums (1 + c, n) Σ w κ and Σ w t κ at the keys."""
        pairs, n = len(self.coefficients[0]), self.owner.problem.n
        results = np.empty((len(self.parts), pairs, n), np.complex128)

        def transform(part: int, block: int, pair: int) -> None:
            phase, rows = self.parts[part].phase, self.blocks[block]
            modes = self.coefficients[part][pair]
            for kappa in self._kappa(self.parts[part], h):
                modes = modes * kappa
            sums = self._plan(2, part, block, pair).execute(modes)
            results[part, pair, rows] = sums if phase is None else sums * phase[rows]

        self._run(transform, pairs, meter)
        total = results[0] if len(results) == 1 else results[0] + results[1]
        return np.stack([total.real, total.imag], axis=1).reshape(2 * pairs, n)[: 1 + self.owner.problem.c]

    def _kappa(self, part: Part, h: Floats) -> list[Floats]:
        """The factors of κ̂, one for each coordinate, shaped to multiply modes."""
        return [
            transforms.along(transforms.kernel_modes(self.period[j], omega, h[j]), j, len(part.modes))
            for j, omega in enumerate(part.omega)
        ]

    def bound(self, problem: Problem) -> float:
        """Bound on the errors of all sums at the problem's bandwidth; it holds where most keys are near.

        See `fastnw.methods.fourier.nufft_error`.
        """
        d, inverse = problem.d, problem.metric.inverse
        centred = self.owner.centred
        half = np.array([np.abs(x).max() for x in centred]) * inverse
        box = Box(np.zeros(d), half, self.period * inverse, self.modes, DROPPED[d], 0.0, EPSILON[d], UPSAMPLING[d])
        angles = [x * (2 * math.pi / p) for x, p in zip(centred, self.period, strict=True)]
        cells, shape = nufft_error.cells_of(box, MARGIN, angles), nufft_error.shape(box, MARGIN)
        weights = np.bincount(cells, self.owner.own[0], math.prod(shape)).astype(np.float64, copy=False)
        narrowest = replace(box, period=self.period / self.narrowest)  # finufft's error is largest there
        surroundings = nufft_error.surroundings(
            box,
            nufft_error.measure(narrowest),
            weights.reshape(shape),
            problem.total_weight,
            len(self.blocks),
            problem.n,
        )
        return float(surroundings.bound(cells).max())

    def adjoint(self, h: Floats, derivatives: Floats, meter: Meter) -> Floats:
        """Σ_i Σ_k derivatives_ki ∂sums_ki/∂log h_j (d,), for derivatives (1 + c, n) by the sums of `to_keys`."""
        gradient, all_modes = np.zeros(len(h)), self.to_modes(transforms.paired(derivatives), meter)
        for part, coefficients, modes in zip(self.parts, self.coefficients, all_modes, strict=True):
            product = np.zeros(part.modes)
            for a, b in zip(coefficients, modes, strict=True):
                product += np.real(a * np.conj(b))
            for kappa in self._kappa(part, h):
                product = product * kappa
            for j, omega in enumerate(part.omega):
                along_j = product.sum(axis=tuple(i for i in range(len(h)) if i != j))
                gradient[j] += float(along_j @ (1 - np.square(h[j] * omega)))
        return gradient


@dataclass
class SpectralFitAt(FitAt):
    """A fit, and the positions of the keys whose sums were taken by other means."""

    h: Floats
    level: Level
    tail: NDArray[np.intp]


class SpectralFitter:
    """Fits for any bandwidths h (d,) for which `seconds` is finite."""

    def __init__(self, problem: Problem, backend: str, n_jobs: int | None, meter: Meter) -> None:
        transforms.library()  # before threads begin
        self.problem, self.meter = problem, meter
        self.plan: Plan = make_plan(problem, "exact", backend, n_jobs)
        self.n_threads = self.plan.n_threads
        low, high = transforms.extent(problem)
        self.centred = [problem.keys[:, j].astype(np.float64) - (low[j] / 2 + high[j] / 2) for j in range(problem.d)]
        self.levels: list[Level] = []
        weights = problem.weights_at(slice(None))
        self.own = np.ones((1 + problem.c, problem.n))
        if weights is not None:
            self.own[0] = weights
        self.own[1:] = normalised_values(problem, slice(0, problem.n)) * self.own[0]

    def covers(self, h: Floats) -> bool:
        """Whether there already is a level for these bandwidths."""
        return any(level.serves(h) for level in self.levels)

    def _level(self, h: Floats) -> Level:
        """The newest level that serves these bandwidths, or a new one. In several coordinates only one is kept."""
        for level in reversed(self.levels):
            if level.serves(h):
                return level
        if self.problem.d > 1:
            self.levels.clear()
        self.levels.append(Level(self, h, self.meter))
        return self.levels[-1]

    def many(self, bandwidths: list[Floats]) -> None:
        """None: calls of `at` one after another already share the transform of the keys."""

    def at(self, h: Floats) -> SpectralFitAt:
        """Means and log masses at the bandwidths h (d,)."""
        level = self._level(h)
        problem = self.problem.with_metric(metric(h, self.problem.d))
        sums = level.to_keys(h, self.meter)
        if problem.exclude_self:
            sums -= self.own
        centre, half = problem.values_centre
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.clip(sums[1:] / sums[0], -1.0, 1.0).T * half + centre
            log_mass = np.log(np.maximum(sums[0], 0.0)) + problem.log_largest_weight
        fit = Fit(mean, log_mass)
        tail = np.flatnonzero(~(sums[0] > MIN_MASS_OVER_ERROR * self._error(level, problem, sums)))
        if len(tail):
            other = self._directly(problem, tail)
            fit.mean[tail], fit.log_mass[tail] = other.mean, other.log_mass
        return SpectralFitAt(problem, fit, h, level, tail)

    def gradient(self, fit_at: SpectralFitAt, loss: Loss) -> Floats:
        """The derivatives (d,) of the loss by the logarithms of the bandwidths."""
        problem, fit, tail = fit_at.problem, fit_at.fit, fit_at.tail
        alpha, gamma = cotangents(fit, loss)
        centre, half = problem.values_centre
        # ∂L = Σ (α·∂N − γ ∂D)/D, with N in the units of normalised values
        derivatives = np.empty((1 + problem.c, problem.n))
        derivatives[0] = alpha @ centre - gamma
        derivatives[1:] = alpha.T * half[:, None]
        log_mass = np.where(np.isfinite(fit.log_mass), fit.log_mass, np.inf)
        log_mass[tail] = np.inf  # these are summed below; the reciprocals of their masses could overflow
        derivatives *= np.exp(problem.log_largest_weight - log_mass)
        gradient = fit_at.level.adjoint(fit_at.h, derivatives, self.meter) + loss.by_log_bandwidth
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
            gradient += sums.squares.sum(axis=0)
        return gradient

    def _error(self, level: Level, problem: Problem, sums: Floats) -> float:
        """Bound on the errors of all sums of a level at this bandwidth.

        It is computed once for each level, checked against sums of single pairs at some keys, and kept relative to the
        largest mass, since both grow with the bandwidth.
        """
        largest = max(float(sums[0].max()), 1e-300)
        if not level.relative_error:
            evenly_spaced = np.unique(np.linspace(0, problem.n - 1, PROBES // 2).astype(np.intp))
            lightest = np.argpartition(sums[0], min(PROBES // 2, problem.n) - 1)[: PROBES // 2]
            probes = np.unique(np.concatenate([evenly_spaced, lightest]))
            direct = self._directly(problem, probes)
            mass = np.exp(direct.log_mass - problem.log_largest_weight)
            measured = float(np.abs(sums[0, probes] - mass).max())
            level.relative_error = max(SAFETY * measured, level.bound(problem), 1e-15 * largest) / largest
        return level.relative_error * largest + 1e-14 * problem.total_weight

    def _directly(self, problem: Problem, positions: NDArray[np.intp]) -> Fit:
        """Means and log masses at the keys of those positions, from single pairs."""
        if len(positions) * problem.n > MAX_NUMPY_PAIRS:
            rungs = ladder(problem, "fourier", backends.get(self.plan.backend), np.dtype(np.float64))
            return fit_at_keys(problem, replace(self.plan, ladder=rungs[1:]), positions, self.meter)
        return _by_numpy(problem, positions)


def _by_numpy(problem: Problem, positions: NDArray[np.intp]) -> Fit:
    """Means and log masses at the keys of those positions, by NumPy."""
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
    # not by BLAS, which would start threads
    total = np.einsum("ij,kj->ik", shares, normalised_values(problem, slice(0, problem.n)))
    centre, half = problem.values_centre
    with np.errstate(divide="ignore", invalid="ignore"):
        return Fit(centre + half * total / mass[:, None], np.log(mass) + shift + problem.log_largest_weight)
