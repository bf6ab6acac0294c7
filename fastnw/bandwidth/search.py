"""Where the loss is least: a scan along one line of bandwidths, then descents by `scipy.optimize` on log-bandwidths."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import optimize

from fastnw.bandwidth.criteria import INFINITE, Criterion, Floats, Loss, Sample
from fastnw.kernels.kernel import Kernel
from fastnw.runtime.threads import one_blas_thread

STEP = 1.6  # of the scan's bandwidths
SHORT_STEP, VERY_FEW = 1.25, 700  # the losses of very few keys have more than one valley more often
# The loss of a compact kernel has a kink at each distance of two keys, so that small samples have many minima: these
# are looked at closely.
CLOSE_STEP, FEW = 1.05, 10_000
# That of the boxcar is constant between jumps.
CLOSEST_STEP, FEWEST = 1.02, 3_000
MANY = 10_000  # keys from which the line is walked, not scanned
FIRST, LAST = 1 / 24, 12.0  # of the reference rule, where it begins and ends; further where the least is at an end
NARROWEST, WIDEST = 1e-4, 1e3  # of the reference rule, where a search ends
STARTS = 2  # descents from the best places
SCATTER = 0.7  # of log-bandwidths of random starts about the best of the line
RANDOM = 4  # random starts looked at, in several coordinates
CLEARLY = 0.01  # a loss that is larger by this part at LAST of the rule is not flat beyond
FLAT = 1e-6  # a loss that falls by less than this part of it has no relation to the coordinate
FIRST_STEP = 0.2  # of a descent, in log-bandwidths
# A loss that falls by less than this part of it is at its least; that of a large sample takes long and says no more.
PRECISE, PRECISE_LARGE = 1e-10, 3e-8
NEAR = 0.1  # of log-bandwidths: the same minimum
UNLIKELY = 3.0  # what stands for an infinite loss on a line search, of the largest that was met
# Looks at a line with many minima: how many of them, at how many places to each side, and close to an edge.
LOOKS, FINER, AT_THE_EDGE = (8, 6, 4), 6, (1e-9, 1e-6, 1e-4, 1e-3, 1e-2)
ZOOMS, ZOOM = 5, 24  # of a line, where the loss has no derivative


@dataclass
class Path:
    """Every bandwidth looked at, and its loss."""

    bandwidth: list[Floats] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    chosen: int | None = None  # by other reasons than the least loss

    def sort(self, order: Any) -> None:
        """Put what was looked at into another order."""
        self.bandwidth = [self.bandwidth[i] for i in order]
        self.score = [self.score[i] for i in order]

    @property
    def best(self) -> int:
        return int(np.argmin(self.score)) if self.chosen is None else self.chosen


class Objective:
    """The loss as a function of bandwidths, remembered."""

    def __init__(
        self,
        sums: Callable[[Floats, bool], Any],
        criterion: Criterion,
        sample: Sample,
        kernel: Kernel,
        tell: Callable[[float], None],
        narrowest: Callable[[Floats], float] = lambda unit: 0.0,
        unit: Any = 1.0,
    ) -> None:
        self.sums_for, self.criterion, self.sample, self.kernel, self.tell = sums, criterion, sample, kernel, tell
        self.narrowest = narrowest  # the factor of bandwidths below which some window is empty
        self.unit = unit  # what bandwidths are measured in, where a loss depends on their volume
        self.path = Path()
        self._last: tuple[Any, Loss, Any] = (None, INFINITE, None)

    def __call__(self, h: Floats, *, with_gradient: bool = False) -> float:
        """The loss at bandwidths h (d,); say so if its gradient will be asked for."""
        sums = self.sums_for(h, with_gradient)
        summed = sums.at(h)
        loss = self.criterion(self.sample, summed.fit)
        self._last = (sums, loss, summed)
        return self._noted(h, loss)

    def many(self, unit: Floats, factors: list[float]) -> list[float]:
        """The losses at multiples of bandwidths, in one pass over the pairs where pairs are summed."""
        hs = [unit * factor for factor in factors]
        fits = self.sums_for(hs[len(hs) // 2], False).many(hs)
        if fits is None:
            return [self(h) for h in hs]
        return [self._noted(h, self.criterion(self.sample, fit)) for h, fit in zip(hs, fits, strict=True)]

    def value(self, h: Floats, loss: Loss) -> float:
        """The loss, with what depends on the bandwidths' volume."""
        return loss.value + loss.by_log_bandwidth * float(np.log(h / self.unit).sum())

    def _noted(self, h: Floats, loss: Loss) -> float:
        value = self.value(h, loss)
        self.path.bandwidth.append(h.copy())
        self.path.score.append(value)
        self.tell(value)
        return value

    def gradient(self) -> Floats:
        """(d,) By log-bandwidths, at those last asked for."""
        sums, loss, summed = self._last
        found: Floats = sums.gradient(summed, loss)
        return found


@dataclass
class Directions:
    """What is free: bandwidths h = unit · exp(shift + free @ basis), one for each coordinate or one for all."""

    unit: Floats  # (d,)
    basis: Floats  # (p, d)
    shift: Any = 0.0  # (d,) or a number

    def bandwidth(self, t: Floats) -> Floats:
        return self.unit * np.exp(self.shift + np.asarray(t) @ self.basis)


def step_for(objective: Objective) -> float:
    """Of the scan."""
    n = len(objective.sample.values)
    if not is_smooth(objective.kernel) and n <= FEWEST:
        return CLOSEST_STEP
    if objective.kernel.support is not None and n <= FEW:
        return CLOSE_STEP
    return STEP if n > VERY_FEW else SHORT_STEP


def line(objective: Objective, unit: Floats) -> list[tuple[float, float]]:
    """(log factor, loss) along the multiples of `unit`: until the least is not at an end."""
    if len(objective.sample.values) > MANY:
        return valley(objective, unit)
    step = math.log(step_for(objective))
    found: dict[float, float] = {}

    def look(first: float, count: int) -> None:
        """From there down."""
        places = [first - k * step for k in range(count)]
        found.update(zip(places, objective.many(unit, [math.exp(t) for t in places]), strict=True))

    look(math.log(LAST), math.ceil(math.log(LAST / FIRST) / step) + 1)
    further = round(math.log(STEP) / step)
    while True:
        best = min(found, key=lambda t: (found[t], -t))
        if best == min(found) and best > math.log(NARROWEST) and math.isfinite(found[best]):
            look(min(found) - step, further)
        elif best == max(found) and best < math.log(WIDEST):
            look(max(found) + further * step, further)
        else:
            return sorted(found.items())


def has_kinks(objective: Objective) -> bool:
    """Whether the line has to be looked at closely."""
    return len(objective.sample.values) <= FEW and (
        objective.kernel.support is not None or objective.kernel.needs_pair_bounds
    )


def closely(objective: Objective, unit: Floats, places: list[tuple[float, float]]) -> tuple[list[float], float]:
    """Ever finer looks at the best places of a line with many minima; returns these, best first, and the last step.

    One of them may be where the loneliest key's window is about to become empty, beyond which the loss is infinite.
    """
    found, width = dict(places), math.log(step_for(objective))
    edge = objective.narrowest(unit)
    some = [math.log(edge) + by for by in AT_THE_EDGE] if edge > 0 else []
    for looks in LOOKS:
        best = [t for t, loss in minima(sorted(found.items()))[:looks] if math.isfinite(loss)]
        some += [t + by for t in best for by in np.linspace(-width, width, 2 * FINER + 1) if by]
        some = sorted({t for t in some if math.log(NARROWEST) <= t <= math.log(WIDEST)}, reverse=True)
        if not some:
            break
        losses = objective.many(unit, [math.exp(t) for t in some])
        found.update(zip(some, losses, strict=True))
        some, width = [], width / FINER
    return [t for t, loss in minima(sorted(found.items())) if math.isfinite(loss)][:STARTS], width


def valley(objective: Objective, unit: Floats) -> list[tuple[float, float]]:
    """The same from the middle on: to the wider side until the loss has risen twice, to the narrower one, which takes
    long, until it has risen once. The losses of large samples are smooth."""
    step = math.log(STEP)
    found = {0: objective(unit)}
    for sign, rises in ((1, 2), (-1, 1)):
        k = sign
        while rises and NARROWEST <= math.exp(k * step) <= WIDEST:
            found[k] = objective(unit * math.exp(k * step))
            alone = math.isinf(found[k]) and sign > 0  # a wider window may have a key
            rises -= not (found[k] < found[k - sign] or alone)
            k += sign
    return [(k * step, found[k]) for k in sorted(found)]


class _Known(Exception):
    """A descent has come to where another one ended."""


def descend(
    objective: Objective, directions: Directions, start: Floats, low: Floats, high: Floats, known: list[Floats]
) -> None:
    """Go down to a local minimum by L-BFGS-B with analytic gradients, between `low` and `high`.

    `known` are the minima found so far: it is added to them, or the descent ends where it comes near one.
    """

    def loss(t: Floats) -> tuple[float, Floats]:
        if any(np.abs(t - other).max() < NEAR for other in known):
            raise _Known
        value = objective(directions.bandwidth(t), with_gradient=True)
        if not math.isfinite(value):
            return UNLIKELY * (scale or [1.0])[0] * max(
                map(abs, filter(math.isfinite, objective.path.score))
            ), np.zeros(len(t))
        gradient = directions.basis @ objective.gradient()
        if not scale:  # L-BFGS-B first goes as far as the gradient is long, which without a scale may be nowhere
            scale.append(FIRST_STEP / max(float(np.linalg.norm(gradient)), 1e-12 * abs(value), 1e-300))
        return value * scale[0], gradient * scale[0]

    scale: list[float] = []
    large = len(objective.sample.values) > MANY
    options = {"ftol": PRECISE_LARGE if large else PRECISE, "gtol": 1e-9, "maxiter": 60, "maxls": 12}
    bounds = list(zip(low, high, strict=True))
    with suppress(_Known), one_blas_thread:  # L-BFGS-B's few numbers would start BLAS's threads
        found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        known.append(found.x)


def zoom(objective: Objective, directions: Directions, start: Floats, width: float) -> None:
    """A low place of a loss that jumps: ever finer lines, one coordinate after another."""
    best, value = start.copy(), objective(directions.bandwidth(start))
    for _ in range(ZOOMS):
        for j in range(len(best)):
            for by in np.linspace(-width, width, ZOOM):
                t = best.copy()
                t[j] = start[j] + by if len(best) == 1 else best[j] + by
                other = objective(directions.bandwidth(t))
                if other < value:
                    best, value = t, other
        start, width = best.copy(), width / 4


def is_smooth(kernel: Kernel) -> bool:
    """Whether the loss has a derivative to go by: not where κ is flat but for a jump."""
    return not kernel.needs_pair_bounds and not kernel.facts.discontinuous


def minima(places: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """(log factor, loss) of the line's local minima, the least first."""
    losses = [math.inf, *(loss for _, loss in places), math.inf]
    found = [
        place
        for place, before, after in zip(places, losses[:-2], losses[2:], strict=True)
        if before >= place[1] <= after
    ]
    return sorted(found, key=lambda place: place[1])


def scattered(
    objective: Objective, free: Directions, best: Floats, rng: np.random.RandomState
) -> list[tuple[float, Floats]]:
    """(loss, start) at random about the best of the line, and with one coordinate at a time as good as left out."""
    count = RANDOM if len(objective.sample.values) <= MANY else RANDOM // 2
    starts = [best + SCATTER * rng.standard_normal(len(best)) for _ in range(count)]
    for j in range(len(best)):
        start = best.copy()
        start[j] = math.log(LAST)
        starts.append(start)
    return [(objective(free.bandwidth(start)), start) for start in starts]


def distinct(starts: list[tuple[float, Floats]]) -> list[tuple[float, Floats]]:
    """The best STARTS with a finite loss, no two in the same place."""
    chosen: list[tuple[float, Floats]] = []
    for value, start in starts:
        apart = all(float(np.abs(start - other).max()) > math.log(STEP) / 2 for _, other in chosen)
        if math.isfinite(value) and apart and len(chosen) < STARTS:
            chosen.append((value, start))
    return chosen


def remarks(objective: Objective, free: Directions, unit: Floats, kind: str) -> list[str]:
    """What to say of the best: coordinates as good as left out, which then they are, and the ends of the search."""
    flat, notes = without_relation(objective, free, unit, kind), []
    if flat:
        notes.append(
            f"No relation to coordinate{'s' * (len(flat) > 1)} {', '.join(map(str, flat))}: the loss is least where "
            f"{'its bandwidth is' if len(flat) == 1 else 'their bandwidths are'} so wide that it does not count."
        )
        settle(objective, unit, flat)
    path = objective.path
    if math.isinf(path.score[path.best]):
        few = "" if objective.sample.weights is None else ", or few rows have nearly all the weight"
        return [*notes, f"The fit is exact: equal rows have equal values{few}, and any narrow bandwidth interpolates."]
    narrow = np.flatnonzero(np.log(path.bandwidth[path.best] / unit) < math.log(NARROWEST) + 1e-6)
    if len(narrow):
        endless = "equal rows or values let the likelihood grow without bound"
        notes.append(
            f"The loss is least at the narrow end of the search for coordinate {', '.join(map(str, narrow))}, "
            f"{NARROWEST:g} of the reference rule: {endless if kind == 'likelihood' else 'it does not rise'}."
        )
    return notes


def without_relation(objective: Objective, free: Directions, unit: Floats, kind: str) -> list[int]:
    """Coordinates that cost nothing to leave out; the others are searched again without them."""
    d, path, wide = len(unit), objective.path, math.log(WIDEST)
    best = int(np.argmin(path.score))
    at, value = np.log(path.bandwidth[best] / unit), path.score[best]
    if len(free.basis) < d:
        return list(range(d)) if at[0] >= wide - 1e-9 else []
    if kind == "likelihood" or (d == 1 and seen_wide(path, unit) > value + CLEARLY * abs(value)):
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
        low, high = np.full(len(rest), math.log(NARROWEST)), np.full(len(rest), wide)
        descend(objective, others, at[rest], low, high, [])
    return flat


def seen_wide(path: Path, unit: Floats) -> float:
    """The least loss at widths that smooth nearly everything away."""
    losses = [loss for h, loss in zip(path.bandwidth, path.score, strict=True) if np.all(h >= 0.8 * LAST * unit)]
    return min(losses, default=-math.inf)


def settle(objective: Objective, unit: Floats, flat: list[int]) -> None:
    """Make the best place with those coordinates left out the path's best: others are better by less than FLAT."""
    path = objective.path
    there = [i for i, h in enumerate(path.bandwidth) if np.all(h[flat] >= WIDEST * unit[flat] * (1 - 1e-9))]
    best = min(there, key=lambda i: path.score[i])
    path.chosen = best
