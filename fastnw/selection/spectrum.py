"""The Gaussian's sums at all keys for one bandwidth after another, in up to three coordinates, by Fourier transforms.

One transform of the keys (type 1, without the kernel) serves every bandwidth of a level: these only weigh its
coefficients by κ̂ = Π √(2π) h_j exp(−h_j² ω_j²/2). Derivatives come the same way: ∂κ̂/∂log h_j = (1 − h_j² ω_j²) κ̂. So a
bandwidth costs one transform back to the keys (type 2), and its gradient one more a coordinate; finufft sorts the keys
once a level.

In one coordinate a level spans a factor of 64, in more only 2, since its period must hold the widest kernel and its
modes resolve the finest. What a search needs is less than `methods.fourier` certifies: the error of a level is measured
at some keys, and keys whose mass is not well above it are summed by other means.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw._pack import normalised_values
from fastnw._plan import Plan, make_plan
from fastnw._problem import Problem
from fastnw._threads import Meter, one_blas_thread, run
from fastnw._validation import metric
from fastnw.methods import fourier, tree
from fastnw.selection.criteria import Fit, Floats, Loss, Sample
from fastnw.selection.sums import STEP, Summed, change, with_copies

SPAN = {1: 64.0, 2: 2.0, 3: 2.0}  # of a level's bandwidths
# finufft's tolerance and upsampling: tight where that is cheap
EPSILON = {1: 1e-10, 2: 1e-9, 3: 1e-7}
UPSAMPLING = {1: fourier.WIDE, 2: fourier.WIDE, 3: fourier.NARROW}
DROPPED = 1e-12  # of Σ w, what truncation and images may change
SURE = 1e4  # masses below this many times the measured error are summed by other means
SAFETY = 10.0
PROBES = 64
FEW_PAIRS = 4e6  # summed by NumPy in some 50 ms, and not worth a method's preparations
MOST_MODES = 3e7
LONG = 2e4  # keys and modes from which threads are worth their start


class Level:
    """Coefficients of the keys, and finufft's plans for the way back, for bandwidths of one range."""

    def __init__(self, owner: Spectrum, finest: Floats, widest: Floats, meter: Meter) -> None:
        problem, d = owner.problem, owner.problem.d
        self.owner, self.worst = owner, 0.0
        reach = math.sqrt(2 * math.log(4 * d / DROPPED))
        self.period = (owner.high - owner.low) + reach * widest
        self.modes = tuple(
            int(2 * math.ceil(reach * p / (2 * math.pi * h)) + 1) for p, h in zip(self.period, finest, strict=True)
        )
        self.omega = [
            2 * math.pi / p * np.arange(-(count // 2), count // 2 + 1)
            for count, p in zip(self.modes, self.period, strict=True)
        ]
        self.angles = [
            np.ascontiguousarray(x * (2 * math.pi / p)) for x, p in zip(owner.centred, self.period, strict=True)
        ]
        self.long = problem.n * len(self.modes) + math.prod(self.modes) > LONG
        self.plans: dict[tuple[int, int], Any] = {}
        self.coefficients = self._transformed(meter)

    def _transformed(self, meter: Meter) -> list[NDArray[np.complex128]]:
        problem, blocks = self.owner.problem, self.owner.blocks
        found: list[Any] = [None] * len(blocks)

        def transform(i: int) -> float:
            rows = blocks[i]
            spread = self._plan(1)
            spread.setpts(*(x[rows] for x in self.angles))
            found[i] = [spread.execute(strengths) for strengths in fourier._strengths(problem, rows)]
            return 0.0

        run(transform, len(blocks), self.owner.n_threads if self.long else 1, meter, detachable=self.long)
        return [sum(parts[1:], parts[0]) for parts in zip(*found, strict=True)]

    def _plan(self, kind: int) -> Any:
        d, sign = self.owner.problem.d, -1 if kind == 1 else 1
        return fourier._finufft().Plan(
            kind, self.modes, 1, EPSILON[d], sign, "complex128", nthreads=1, upsampfac=UPSAMPLING[d], showwarn=0
        )

    def _back(self, slot: int, block: int) -> Any:
        """A plan with its keys set: one for each transform and block that may run at the same time."""
        if (slot, block) not in self.plans:
            plan = self._plan(2)
            plan.setpts(*(x[self.owner.blocks[block]] for x in self.angles))
            self.plans[slot, block] = plan
        return self.plans[slot, block]

    def sums(self, h: Floats, orders: list[int | None], meter: Meter) -> Floats:
        """(orders, 1 + c, n) Σ w κ and Σ w t κ, or their derivatives by log h_j for an order j."""
        owner, n = self.owner, self.owner.problem.n
        factors = []
        for order in orders:
            kappa = [
                math.sqrt(2 * math.pi) * hj / p * np.exp(-np.square(hj * w) / 2)
                for hj, p, w in zip(h, self.period, self.omega, strict=True)
            ]
            if order is not None:
                kappa[order] = kappa[order] * (1 - np.square(h[order] * self.omega[order]))
            factors.append(kappa)
        pairs = len(self.coefficients)
        found = np.empty((len(orders), 2 * pairs, n))

        def transform(task: int) -> float:
            slot, block = divmod(task, len(owner.blocks))
            order, pair = divmod(slot, pairs)
            modes = self.coefficients[pair]
            for j, kappa in enumerate(factors[order]):
                modes = modes * kappa.reshape([-1 if i == j else 1 for i in range(len(factors[order]))])
            rows = owner.blocks[block]
            back = self._back(slot, block).execute(modes)
            found[order, 2 * pair, rows], found[order, 2 * pair + 1, rows] = back.real, back.imag
            return 0.0

        n_tasks = len(orders) * pairs * len(owner.blocks)
        run(transform, n_tasks, owner.n_threads if self.long else 1, meter, detachable=self.long)
        return found[:, : 1 + owner.problem.c]


class SpectralSummed(Summed):
    """Sums at one bandwidth, and where the others came from."""

    def __init__(self, problem: Problem, fit: Fit, h: Floats, mass: Floats, tail: NDArray[np.intp]) -> None:
        super().__init__(problem, fit)
        self.h, self.mass, self.tail = h, mass, tail


class Spectrum:
    """Sums at all keys for any bandwidths h (d,), where `affords` says so."""

    def __init__(self, problem: Problem, sample: Sample, backend: str, n_jobs: int | None, meter: Meter) -> None:
        fourier._finufft()
        self.problem, self.sample, self.backend, self.n_jobs, self.meter = problem, sample, backend, n_jobs, meter
        self.plan: Plan = make_plan(problem, "exact", backend, n_jobs)
        self.n_threads = self.plan.n_threads
        low, high = fourier._extent(problem)
        self.low, self.high, centre = low, high, low / 2 + high / 2
        self.centred = [problem.keys[:, j].astype(np.float64) - centre[j] for j in range(problem.d)]
        size = min(fourier.BLOCK[problem.d], max(math.ceil(problem.n / 2), 1 << 15))
        self.blocks = [slice(i, min(i + size, problem.n)) for i in range(0, problem.n, size)]
        self.levels: dict[tuple[int, ...], Level] = {}
        weights = problem.weights_at(slice(None))
        self.own = np.ones((1 + problem.c, problem.n))
        if weights is not None:
            self.own[0] = weights
        self.own[1:] = normalised_values(problem, slice(0, problem.n)) * self.own[0]

    @staticmethod
    def affords(problem: Problem, h: Floats) -> bool:
        """Whether transforms take less time than summing every pair."""
        if problem.d > fourier.MOST_D or problem.kernel.name != "gaussian" or problem.kernel.facts is None:
            return False
        if problem.metric.cholesky is not None or problem.key_scale is not None:
            return False
        low, high = fourier._extent(problem)
        span = SPAN[problem.d]
        modes = math.prod(2.4 * ((high[j] - low[j]) * span**0.5 / h[j] + 7.6 * span) for j in range(problem.d))
        if not modes < MOST_MODES:
            return False
        grid = modes * UPSAMPLING[problem.d] ** problem.d
        cells = (1 - math.log10(EPSILON[problem.d])) ** problem.d
        by_transforms = problem.n * (fourier.POINT + fourier.CELL[problem.d] * cells) + fourier.GRID * grid * math.log2(
            grid
        )
        return by_transforms + 3e4 < 1.0 * problem.n**2

    def _level(self, h: Floats) -> Level:
        """Levels lie on a grid of bandwidths, so that neighbours share one."""
        span = SPAN[self.problem.d]
        spread = (self.high - self.low) + (self.high == self.low)
        place = tuple(math.floor(math.log(hj / s) / math.log(span)) for hj, s in zip(h, spread, strict=True))
        if place not in self.levels:
            finest = spread * span ** np.array(place, float)
            self.levels[place] = Level(self, finest, finest * span, self.meter)
        return self.levels[place]

    def at(self, h: Floats) -> SpectralSummed:
        """Means and log masses at bandwidths h (d,)."""
        level = self._level(h)
        problem = self.problem.with_metric(metric(h, self.problem.d))
        sums = level.sums(h, [None], self.meter)[0]
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
        return SpectralSummed(problem, with_copies(self.sample, fit, problem), h, sums[0], tail)

    def many(self, bandwidths: list[Floats]) -> None:
        """One after another: transforms share what they can."""

    def gradient(self, summed: SpectralSummed, loss: Loss) -> Floats:
        """(d,) ∂ loss/∂ log h_j."""
        problem, fit, tail = summed.problem, summed.fit, summed.tail
        derivatives = self._level(summed.h).sums(summed.h, list(range(problem.d)), self.meter)
        scale = np.exp(problem.log_largest_weight - fit.log_mass)
        scale[tail] = 0.0
        scale[~np.isfinite(scale)] = 0.0
        found = np.full(problem.d, loss.by_log_bandwidth)
        mean = np.nan_to_num(fit.mean)
        centre, half = problem.values_centre
        for j, (by_mass, *by_total) in enumerate(derivatives):
            if loss.by_log_mass is not None:
                found[j] += loss.by_log_mass @ (by_mass * scale)
            if loss.by_mean is not None:
                # ∂f = (∂N − f ∂D)/D, with values normalised
                for k, by_value in enumerate(by_total):
                    normalised = mean[:, k] - centre[k]
                    found[j] += (loss.by_mean[:, k] * scale) @ (half[k] * by_value - normalised * by_mass)
        if len(tail):
            found += self._tail_gradient(summed, loss)
        return found

    def _tail_gradient(self, summed: SpectralSummed, loss: Loss) -> Floats:
        """By differences: of keys that are few."""
        tail, found = summed.tail, np.empty(self.problem.d)
        of_tail = Loss(
            loss.value,
            None if loss.by_mean is None else loss.by_mean[tail],
            None if loss.by_log_mass is None else loss.by_log_mass[tail],
        )
        at = Fit(summed.fit.mean[tail], summed.fit.log_mass[tail])
        for j in range(self.problem.d):
            sides = []
            for sign in (1.0, -1.0):
                h = summed.h.copy()
                h[j] *= math.exp(sign * STEP)
                problem = self.problem.with_metric(metric(h, self.problem.d))
                sides.append(with_copies(self.sample, self._directly(problem, tail), problem, tail))
            found[j] = change(of_tail, sides[0], sides[1], at) / (2 * STEP)
        return found

    def _error(self, level: Level, problem: Problem, sums: Floats) -> float:
        """Of all sums of a level, for this bandwidth: as measured once against sums of single pairs at some keys, in
        units of the largest mass, which both grow with the bandwidth."""
        largest = max(float(sums[0].max()), 1e-300)
        if not level.worst:
            some = np.unique(np.linspace(0, problem.n - 1, PROBES // 2).astype(np.intp))
            least = np.argpartition(sums[0], min(PROBES // 2, problem.n) - 1)[: PROBES // 2]
            probes = np.unique(np.concatenate([some, least]))
            right = self._directly(problem, probes)
            mass = np.exp(right.log_mass - problem.log_largest_weight)
            seen = float(np.abs(sums[0, probes] - mass).max())
            level.worst = max(SAFETY * seen / largest, 1e-15)
        return level.worst * largest + 1e-14 * problem.total_weight

    def _directly(self, problem: Problem, positions: NDArray[np.intp]) -> Fit:
        """Means and log masses at some keys from single pairs."""
        if len(positions) * problem.n > FEW_PAIRS:
            state = tree.Next(problem, self.plan).accumulate(positions, self.meter)
            centre, half = problem.values_centre
            mean = centre + half * state.finalise()[0] if problem.c else np.empty((len(positions), 0))
            return Fit(mean, state.log_mass() + problem.log_largest_weight)
        return _by_numpy(problem, positions, self.own)


def _by_numpy(problem: Problem, positions: NDArray[np.intp], own: Floats) -> Fit:
    keys, rows = problem.keys.astype(np.float64, copy=False), np.arange(len(positions))
    logs = np.zeros((len(positions), problem.n))
    for j in range(problem.d):
        logs -= np.square((keys[positions, j, None] - keys[:, j]) * problem.metric.inverse[j]) / 2
    if problem.exclude_self:
        logs[rows, positions] = -np.inf
    if problem.weights is not None:
        logs[:, own[0] == 0] = -np.inf
    shift = logs.max(axis=1)
    shift[~np.isfinite(shift)] = 0.0
    kappa = np.exp(logs - shift[:, None])
    with one_blas_thread:
        sums = kappa @ own.T
    centre, half = problem.values_centre
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = centre + half * sums[:, 1:] / sums[:, :1]
        return Fit(mean, np.log(sums[:, 0]) + shift + problem.log_largest_weight)
