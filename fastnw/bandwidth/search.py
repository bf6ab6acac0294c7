"""The search for the least loss: a scan along one line of bandwidths, then descents on log-bandwidths by SciPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import optimize

from fastnw.bandwidth.criteria import INFINITE, LIKELIHOOD, Floats, Loss, LossFunction, Sample
from fastnw.bandwidth.fits.fitter import Fitter
from fastnw.kernels.kernel import Kernel
from fastnw.runtime.threads import one_blas_thread

STEP = 1.6  # factor between neighbouring bandwidths of the scan
SHORT_STEP, MAX_SHORT_STEP_KEYS = 1.25, 700  # the losses of few keys have several minima more often
# The loss of a compact kernel has a kink at every distance between two keys, so small samples have many minima. The
# scan of these is refined.
KINKS_STEP, MAX_KINKS_KEYS = 1.05, 10_000
# The loss of the boxcar is constant between jumps.
JUMPS_STEP, MAX_JUMPS_KEYS = 1.02, 3_000
MAX_SCANNED_KEYS = 10_000  # with more keys the search walks along the line, which takes fewer losses than a scan
# The line begins and ends at these factors of the reference rule; it goes on where the least loss is at an end.
FIRST_FACTOR, LAST_FACTOR = 1 / 24, 12.0
MIN_FACTOR, MAX_FACTOR = 1e-4, 1e3  # of the reference rule: the search goes no further
MAX_DESCENTS = 2  # from the best starts
RANDOM_SPREAD = 0.7  # of log-bandwidths of random starts about the best of the line
RANDOM_STARTS = 4  # in several coordinates
CLEAR_RISE = 0.01  # a loss that is larger by this part at LAST_FACTOR is not flat beyond
FLAT = 1e-6  # a coordinate has no relation to the values if leaving it out raises the loss by less than this part
FIRST_LOG_STEP = 0.2  # of a descent
# A descent ends when the loss falls by less than this part. The losses of a large sample take long to compute.
PRECISION, PRECISION_LARGE = 1e-10, 3e-8
SAME_MINIMUM = 0.1  # distance of log-bandwidths below which two minima are the same
INFINITE_FACTOR = 3.0  # a line search sees an infinite loss as this many times the largest finite one
# Refinement of a line with many minima: the number of minima, places to each side, and log-distances from an edge.
REFINED_MINIMA, REFINED_PLACES, EDGE_STEPS = (8, 6, 4), 6, (1e-9, 1e-6, 1e-4, 1e-3, 1e-2)
ZOOM_ROUNDS, ZOOM_PLACES = 5, 24  # of a line, where the loss has no derivative


@dataclass
class Path:
    """Every bandwidth that was tried, and its loss."""

    bandwidth: list[Floats] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    chosen: int | None = None  # set where the choice is not the least loss

    def sort(self, order: Any) -> None:
        """Reorder the entries."""
        self.bandwidth = [self.bandwidth[i] for i in order]
        self.score = [self.score[i] for i in order]

    @property
    def best(self) -> int:
        """The position of the chosen bandwidth, by default that of the least loss."""
        return int(np.argmin(self.score)) if self.chosen is None else self.chosen


class Objective:
    """The loss as a function of bandwidths, which records what was tried.

    Parameters
    ----------
    fitter_for : callable
        From bandwidths h (d,), and whether a gradient is wanted, to the fitter to use.
    loss : LossFunction
    sample : Sample
    kernel : Kernel
    report : callable
        Is called with each loss.
    narrowest_factor : callable
        From bandwidths to the factor of them below which some window is empty.
    unit : (d,) array or number
        The unit of bandwidths in losses that depend on their volume.
    """

    def __init__(
        self,
        fitter_for: Callable[[Floats, bool], Fitter],
        loss: LossFunction,
        sample: Sample,
        kernel: Kernel,
        report: Callable[[float], None],
        narrowest_factor: Callable[[Floats], float] = lambda unit: 0.0,
        unit: Any = 1.0,
    ) -> None:
        self.fitter_for, self.loss, self.sample, self.kernel, self.report = fitter_for, loss, sample, kernel, report
        self.narrowest_factor, self.unit = narrowest_factor, unit
        self.path = Path()
        self._last: tuple[Any, Loss, Any] = (None, INFINITE, None)

    def __call__(self, h: Floats, *, with_gradient: bool = False) -> float:
        """The loss at the bandwidths h (d,); `with_gradient` says that a call of `gradient` follows."""
        fitter = self.fitter_for(h, with_gradient)
        fit_at = fitter.at(h)
        loss = self.loss(self.sample, fit_at.fit)
        self._last = (fitter, loss, fit_at)
        return self._recorded(h, loss)

    def many(self, unit: Floats, factors: list[float]) -> list[float]:
        """The losses at multiples of the bandwidths `unit`, in one pass over the pairs if pairs are summed."""
        hs = [unit * factor for factor in factors]
        fits = self.fitter_for(hs[len(hs) // 2], False).many(hs)
        if fits is None:
            return [self(h) for h in hs]
        return [self._recorded(h, self.loss(self.sample, fit)) for h, fit in zip(hs, fits, strict=True)]

    def value(self, h: Floats, loss: Loss) -> float:
        """The value of a loss, with the term that depends on the volume of the bandwidths."""
        return loss.value + loss.by_log_bandwidth * float(np.log(h / self.unit).sum())

    def _recorded(self, h: Floats, loss: Loss) -> float:
        value = self.value(h, loss)
        self.path.bandwidth.append(h.copy())
        self.path.score.append(value)
        self.report(value)
        return value

    def gradient(self) -> Floats:
        """The derivatives (d,) by log-bandwidths at the bandwidths of the last call."""
        fitter, loss, fit_at = self._last
        gradient: Floats = fitter.gradient(fit_at, loss)
        return gradient


@dataclass
class Directions:
    """The free parameters t (p,) of a search: bandwidths are unit · exp(shift + t @ basis).

    Attributes
    ----------
    unit : (d,) float64
    basis : (p, d) float64
        The unit matrix for one parameter a coordinate, a row of ones for one bandwidth for all.
    shift : (d,) float64 or number
    """

    unit: Floats
    basis: Floats
    shift: Any = 0.0

    def bandwidth(self, t: Floats) -> Floats:
        """The bandwidths (d,) at parameters t (p,)."""
        return self.unit * np.exp(self.shift + np.asarray(t) @ self.basis)


def step_for(objective: Objective) -> float:
    """The factor between neighbouring bandwidths of the scan."""
    n = len(objective.sample.values)
    if not is_smooth(objective.kernel) and n <= MAX_JUMPS_KEYS:
        return JUMPS_STEP
    if objective.kernel.support is not None and n <= MAX_KINKS_KEYS:
        return KINKS_STEP
    return STEP if n > MAX_SHORT_STEP_KEYS else SHORT_STEP


def scan_line(objective: Objective, unit: Floats) -> list[tuple[float, float]]:
    """(log factor, loss) along the multiples of `unit`, extended until the least loss is not at an end."""
    if len(objective.sample.values) > MAX_SCANNED_KEYS:
        return walk_line(objective, unit)
    step = math.log(step_for(objective))
    losses: dict[float, float] = {}

    def try_down_from(first: float, count: int) -> None:
        log_factors = [first - k * step for k in range(count)]
        losses.update(zip(log_factors, objective.many(unit, [math.exp(t) for t in log_factors]), strict=True))

    try_down_from(math.log(LAST_FACTOR), math.ceil(math.log(LAST_FACTOR / FIRST_FACTOR) / step) + 1)
    extension = round(math.log(STEP) / step)
    while True:
        best = min(losses, key=lambda t: (losses[t], -t))
        if best == min(losses) and best > math.log(MIN_FACTOR) and math.isfinite(losses[best]):
            try_down_from(min(losses) - step, extension)
        elif best == max(losses) and best < math.log(MAX_FACTOR):
            try_down_from(max(losses) + extension * step, extension)
        else:
            return sorted(losses.items())


def has_kinks(objective: Objective) -> bool:
    """Whether the loss along a line has so many minima that the scan must be refined."""
    kernel = objective.kernel
    return len(objective.sample.values) <= MAX_KINKS_KEYS and (kernel.support is not None or kernel.needs_pair_bounds)


def refine_line(objective: Objective, unit: Floats, line: list[tuple[float, float]]) -> tuple[list[float], float]:
    """Refine the best minima of a line that has many, in rounds; return the log factors, best first, and the last step.

    One minimum may be where the window of the most isolated key is about to become empty: the loss is infinite beyond.
    """
    losses, width = dict(line), math.log(step_for(objective))
    edge = objective.narrowest_factor(unit)
    log_factors = [math.log(edge) + distance for distance in EDGE_STEPS] if edge > 0 else []
    for n_minima in REFINED_MINIMA:
        best = [t for t, loss in local_minima(sorted(losses.items()))[:n_minima] if math.isfinite(loss)]
        offsets = np.linspace(-width, width, 2 * REFINED_PLACES + 1)
        log_factors += [t + offset for t in best for offset in offsets if offset]
        allowed = {t for t in log_factors if math.log(MIN_FACTOR) <= t <= math.log(MAX_FACTOR)}
        if not allowed:
            break
        widest_first = sorted(allowed, reverse=True)
        losses.update(zip(widest_first, objective.many(unit, [math.exp(t) for t in widest_first]), strict=True))
        log_factors, width = [], width / REFINED_PLACES
    best = [t for t, loss in local_minima(sorted(losses.items())) if math.isfinite(loss)]
    return best[:MAX_DESCENTS], width


def walk_line(objective: Objective, unit: Floats) -> list[tuple[float, float]]:
    """(log factor, loss) from `unit` outwards, for large samples, whose losses are smooth.

    The walk ends on the wide side when the loss has risen twice, and on the narrow side, where a loss takes longer,
    when it has risen once.
    """
    step = math.log(STEP)
    losses = {0: objective(unit)}
    for sign, rises in ((1, 2), (-1, 1)):
        k = sign
        while rises and MIN_FACTOR <= math.exp(k * step) <= MAX_FACTOR:
            losses[k] = objective(unit * math.exp(k * step))
            may_become_finite = math.isinf(losses[k]) and sign > 0  # a wider window may contain another key
            rises -= not (losses[k] < losses[k - sign] or may_become_finite)
            k += sign
    return [(k * step, losses[k]) for k in sorted(losses)]


class _KnownMinimum(Exception):
    """A descent approaches a minimum that another descent has found."""


def descend(
    objective: Objective, directions: Directions, start: Floats, low: Floats, high: Floats, known_minima: list[Floats]
) -> None:
    """Descend to a local minimum between `low` and `high` by L-BFGS-B with analytic gradients.

    The minimum is added to `known_minima`. The descent ends early if it comes near one of them.
    """

    def loss(t: Floats) -> tuple[float, Floats]:
        if any(np.abs(t - minimum).max() < SAME_MINIMUM for minimum in known_minima):
            raise _KnownMinimum
        value = objective(directions.bandwidth(t), with_gradient=True)
        if not math.isfinite(value):
            largest = max(map(abs, filter(math.isfinite, objective.path.score)))
            return INFINITE_FACTOR * (scale or [1.0])[0] * largest, np.zeros(len(t))
        gradient = directions.basis @ objective.gradient()
        if not scale:  # the first step of L-BFGS-B is as long as the gradient, which may be far too short
            scale.append(FIRST_LOG_STEP / max(float(np.linalg.norm(gradient)), 1e-12 * abs(value), 1e-300))
        return value * scale[0], gradient * scale[0]

    scale: list[float] = []
    is_large = len(objective.sample.values) > MAX_SCANNED_KEYS
    options = {"ftol": PRECISION_LARGE if is_large else PRECISION, "gtol": 1e-9, "maxiter": 60, "maxls": 12}
    bounds = list(zip(low, high, strict=True))
    with suppress(_KnownMinimum), one_blas_thread:  # L-BFGS-B would start BLAS's threads for a few numbers
        result = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        known_minima.append(result.x)


def zoom(objective: Objective, directions: Directions, start: Floats, width: float) -> None:
    """Approach a minimum of a loss that jumps by ever finer scans of one coordinate after another."""
    best, least = start.copy(), objective(directions.bandwidth(start))
    for _ in range(ZOOM_ROUNDS):
        for j in range(len(best)):
            for offset in np.linspace(-width, width, ZOOM_PLACES):
                t = best.copy()
                t[j] = start[j] + offset if len(best) == 1 else best[j] + offset
                value = objective(directions.bandwidth(t))
                if value < least:
                    best, least = t, value
        start, width = best.copy(), width / 4


def is_smooth(kernel: Kernel) -> bool:
    """Whether the loss has useful derivatives; it has none where κ is constant up to a jump."""
    return not kernel.needs_pair_bounds and not kernel.facts.discontinuous


def local_minima(line: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """(log factor, loss) of the local minima of a line, the least first."""
    losses = [math.inf, *(loss for _, loss in line), math.inf]
    minima = [
        point for point, before, after in zip(line, losses[:-2], losses[2:], strict=True) if before >= point[1] <= after
    ]
    return sorted(minima, key=lambda point: point[1])


def random_starts(
    objective: Objective, free: Directions, best: Floats, rng: np.random.RandomState
) -> list[tuple[float, Floats]]:
    """(loss, start) at random about the best of the line, and for each coordinate with its bandwidth very wide."""
    count = RANDOM_STARTS if len(objective.sample.values) <= MAX_SCANNED_KEYS else RANDOM_STARTS // 2
    starts = [best + RANDOM_SPREAD * rng.standard_normal(len(best)) for _ in range(count)]
    for j in range(len(best)):
        start = best.copy()
        start[j] = math.log(LAST_FACTOR)
        starts.append(start)
    return [(objective(free.bandwidth(start)), start) for start in starts]


def distinct(starts: list[tuple[float, Floats]]) -> list[tuple[float, Floats]]:
    """The best MAX_DESCENTS starts with a finite loss, no two of them close together."""
    chosen: list[tuple[float, Floats]] = []
    for value, start in starts:
        apart = all(float(np.abs(start - other).max()) > math.log(STEP) / 2 for _, other in chosen)
        if math.isfinite(value) and apart and len(chosen) < MAX_DESCENTS:
            chosen.append((value, start))
    return chosen


def remarks(objective: Objective, free: Directions, unit: Floats) -> list[str]:
    """Remarks on the best bandwidth: coordinates without relation to the values, and ends of the search.

    Coordinates without relation are left out: the best bandwidth that ignores them becomes the choice.
    """
    flat, notes = without_relation(objective, free, unit), []
    if flat:
        notes.append(
            f"No relation to coordinate{'s' * (len(flat) > 1)} {', '.join(map(str, flat))}: the loss is least where "
            f"{'its bandwidth is' if len(flat) == 1 else 'their bandwidths are'} so wide that it has no influence."
        )
        choose_without(objective, unit, flat)
    path = objective.path
    if math.isinf(path.score[path.best]):
        weights = "" if objective.sample.weights is None else ", or few rows have nearly all the weight"
        return [
            *notes,
            f"The fit is exact: equal rows have equal values{weights}, and any narrow bandwidth interpolates.",
        ]
    narrow = np.flatnonzero(np.log(path.bandwidth[path.best] / unit) < math.log(MIN_FACTOR) + 1e-6)
    if len(narrow):
        is_likelihood = objective.loss is LIKELIHOOD
        why = "equal rows or values let the likelihood grow without bound" if is_likelihood else "it does not rise"
        notes.append(
            f"The loss is least at the narrow end of the search for coordinate {', '.join(map(str, narrow))}, "
            f"{MIN_FACTOR:g} of the reference rule: {why}."
        )
    return notes


def without_relation(objective: Objective, free: Directions, unit: Floats) -> list[int]:
    """Coordinates that can be left out without raising the loss; the search is repeated for the others."""
    d, path, wide = len(unit), objective.path, math.log(MAX_FACTOR)
    best = int(np.argmin(path.score))
    at, value = np.log(path.bandwidth[best] / unit), path.score[best]
    if len(free.basis) < d:
        return list(range(d)) if at[0] >= wide - 1e-9 else []
    if objective.loss is LIKELIHOOD or (d == 1 and _least_wide(path, unit) > value + CLEAR_RISE * abs(value)):
        return []
    flat = []
    for j in range(d):
        other = at.copy()
        other[j] = wide
        without = objective(unit * np.exp(other)) if at[j] < wide else value
        if without <= value + FLAT * abs(value):
            at, value = other, min(without, value)
            flat.append(j)
    if flat and len(flat) < d and is_smooth(objective.kernel):
        rest = [j for j in range(d) if j not in flat]
        others = Directions(unit, np.eye(d)[rest], np.where(np.isin(np.arange(d), flat), wide, 0.0))
        low, high = np.full(len(rest), math.log(MIN_FACTOR)), np.full(len(rest), wide)
        descend(objective, others, at[rest], low, high, [])
    return flat


def _least_wide(path: Path, unit: Floats) -> float:
    """The least loss that was found at bandwidths so wide that the fit is nearly constant."""
    widest = 0.8 * LAST_FACTOR * unit
    losses = [loss for h, loss in zip(path.bandwidth, path.score, strict=True) if np.all(h >= widest)]
    return min(losses, default=-math.inf)


def choose_without(objective: Objective, unit: Floats, flat: list[int]) -> None:
    """Choose the best bandwidth that leaves those coordinates out; others are better by less than FLAT."""
    path = objective.path
    without = [i for i, h in enumerate(path.bandwidth) if np.all(h[flat] >= MAX_FACTOR * unit[flat] * (1 - 1e-9))]
    path.chosen = min(without, key=lambda i: path.score[i])
