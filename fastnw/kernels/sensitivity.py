"""How fast a user's kernel changes: what an error of u² does to κ, for backends that sum κ once.

The built-ins' figures are facts in `kernels`. A user's are proven from the formula's text, over cells of u² that leave
nothing out (`_intervals`). A kernel that jumps or oscillates, touches 0, or has no text, has none: its sums are bounded
key by key instead, from κ on both sides of u².
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastnw.kernels import formula_texts, tracing
from fastnw.kernels.facts import HasFormulas
from fastnw.kernels.intervals import Arithmetic, Range

Floats = NDArray[np.float64]

SAFETY = 1.25  # for what a derivative grows by within the error of u²
STEEPEST = 16.0  # beyond it the bound is not worth having
PER_OCTAVE, LOWEST = 4, -40  # of u², in powers of 2
COMPACT_CELLS = 256
HALVINGS = 12  # of cells over which nothing is proven yet
RATIO = 1.5  # of κ within a cell, beyond which bounds over it are poor
MOST_CELLS = 1 << 15
# Largest u² for which anything is proven: squares of it stay finite. Tiles leave keys beyond it to others.
FARTHEST = {"float64": 1e100, "float32": 1e18}
VANISHED = {"float64": 1e-295, "float32": 1e-31}  # κ, or errors, up to which count as absolute ones
UNITS = 16.0  # the least error of u², in roundings (`exact.score_error`)
FLAT = 1e-15  # κ at a compact kernel's edge, of its largest, up to which it does not jump there
NEGLIGIBLE = 1e-32  # κ below it is in no sum of a kernel that works on logs unless its logarithm is, too
ROUNDING_HALVINGS, ROUNDING_CELLS = 40, 4096
ROUNDINGS = 4096.0  # of a formula whose text is known, that count as a relative error


class Proof(NamedTuple):
    """|Δ log κ| ≤ (a + b·(log κmax − log κ)) × the error of u², or |Δκ| ≤ `floor`; or, for a compact kernel, |Δκ| ≤ a ×
    the error of u²."""

    a: float
    b: float
    log_peak: float
    floor: float


@lru_cache(maxsize=256)
def proof(kernel: HasFormulas, dtype: str = "float64") -> Proof | None:
    """What is proven of a user's kernel as it is computed in that type, or None."""
    text = formula_texts.of(kernel)
    if text is None:
        return None
    arithmetic = Arithmetic.of(dtype)
    if kernel.facts.support is not None:
        return None if kernel.facts.works_on_logs else _compact(text, arithmetic, float(kernel.facts.support))
    of_profile = _relative(text, dtype, NEGLIGIBLE if kernel.facts.works_on_logs else 0.0)
    if of_profile is None or kernel.log_profile is None:
        return of_profile
    text = formula_texts.of(kernel, log=True)
    of_logs = None if text is None else _absolute(text, arithmetic, FARTHEST[dtype])
    if of_logs is None:
        return None
    return Proof(
        max(of_profile.a, of_logs.a), max(of_profile.b, of_logs.b), of_logs.log_peak, max(of_profile.floor, 0.0)
    )


@lru_cache(maxsize=256)
def rounding(kernel: HasFormulas) -> tuple[float, float]:
    """The formula's own rounding, as it is written, in float64: relative to κ, and absolute beside it."""
    text, arithmetic = formula_texts.of(kernel, plain=True), Arithmetic.as_numpy()
    if text is None:
        return 64 * arithmetic.unit, arithmetic.tiny
    low, high = _octaves(np.log2(FARTHEST["float64"] if kernel.facts.support is None else kernel.facts.support**2))

    def relative(x: Range) -> Floats:
        with np.errstate(all="ignore"):
            return np.where(x.rounded > 0, x.rounded / np.maximum(x.low, 0.0), 0.0)

    def known(x: Range) -> NDArray[np.bool_]:
        return (relative(x) <= ROUNDINGS) | (np.minimum(x.rounded * arithmetic.unit, x.high) <= 16 * arithmetic.tiny)

    parts: list[Range] = []
    for _ in range(ROUNDING_HALVINGS):
        x = arithmetic.over(text, low, high)
        good = known(x) if 2 * (~known(x)).sum() <= ROUNDING_CELLS else np.ones(x.low.shape, bool)
        parts.append(_only(x, good))
        low, high = _halved(low[~good], high[~good])
        if not len(low):
            break
    else:
        parts.append(arithmetic.over(text, low, high))
    x = _joined(parts)
    error = np.minimum(x.rounded * arithmetic.unit, x.high)
    lost = np.where(relative(x) <= ROUNDINGS, 0.0, error) + np.minimum(x.lost, np.maximum(x.high, arithmetic.tiny))
    rate = relative(x)[relative(x) <= ROUNDINGS].max(initial=0.0)
    return float(rate) * arithmetic.unit, float(lost[np.isfinite(lost)].max(initial=0.0))


def _octaves(top: float) -> tuple[Floats, Floats]:
    """Cells of u² from 0 to 2^top."""
    ends = np.exp2(np.arange(min(LOWEST, top - 1), top, 1 / PER_OCTAVE))
    ends = np.concatenate([[0.0], ends, [np.exp2(top)]])
    return ends[:-1], ends[1:]


def _refined(
    low: Floats, high: Floats, over: Callable[[Floats, Floats], Range], proven: Callable[[Range], NDArray[np.bool_]]
) -> Range | None:
    """The result over all cells, halved until it is `proven` over each of them, or None."""
    done: list[Range] = []
    for _ in range(HALVINGS + 1):
        x = over(low, high)
        good = proven(x)
        done.append(_only(x, good))
        low, high = _halved(low[~good], high[~good])
        if not len(low):
            return _joined(done)
        if len(low) > MOST_CELLS:
            return None
    return None


def _halved(low: Floats, high: Floats) -> tuple[Floats, Floats]:
    middle = low + (high - low) / 2
    return np.concatenate([low, middle]), np.concatenate([middle, high])


def _only(x: Range, cells: NDArray[np.bool_]) -> Range:
    return Range(x.low[cells], x.high[cells], x.moved[cells], x.rounded[cells], x.lost[cells])


def _joined(parts: list[Range]) -> Range:
    low, high, moved, rounded, lost = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("low", "high", "moved", "rounded", "lost")
    )
    return Range(low, high, moved, rounded, lost)


def _relative(text: tracing.Traced, dtype: str, negligible: float) -> Proof | None:
    arithmetic = Arithmetic.of(dtype)
    unit = arithmetic.unit
    first = arithmetic.over(text, *(cells := _octaves(np.log2(FARTHEST[dtype]))))
    peak = float(first.high.max())
    if not 0 < peak < np.inf:
        return None
    vanished = max(VANISHED[dtype], negligible)

    def slope(x: Range) -> Floats:
        with np.errstate(all="ignore"):
            return np.where(x.low > 0, (x.moved + (x.rounded + x.lost / unit) / UNITS) / x.low, np.inf)

    def depth(x: Range) -> Floats:
        with np.errstate(divide="ignore"):
            return np.maximum(np.log(peak) - np.log(np.maximum(x.high, 0.0)), 0.0)

    def gone(x: Range) -> NDArray[np.bool_]:
        """Where κ is so small that it may be wrong altogether."""
        return (x.high <= vanished) & (x.low >= -vanished)

    def floor(x: Range) -> Floats:
        """The absolute error that rounding and underflow alone leave."""
        return x.lost

    def proven(x: Range) -> NDArray[np.bool_]:
        with np.errstate(all="ignore"):
            by_error = np.where(x.low > 0, (x.moved + x.rounded / UNITS) / x.low, np.inf)
            steep = STEEPEST * (1 + depth(x))
            alike = x.high <= RATIO * x.low
            return ((slope(x) <= steep) & alike) | gone(x) | ((by_error <= steep) & alike & (floor(x) <= vanished))

    x = _refined(*cells, lambda low, high: arithmetic.over(text, low, high), proven)
    if x is None:
        return None
    with np.errstate(all="ignore"):
        by_slope = slope(x) <= STEEPEST * (1 + depth(x))
        rates = np.where(by_slope, slope(x), np.where(gone(x), 0.0, (x.moved + x.rounded / UNITS) / x.low))
    lost = np.where(by_slope, 0.0, np.where(gone(x), vanished, floor(x)))
    a, b = _line(rates, depth(x))
    return Proof(SAFETY * a, SAFETY * b, float(np.log(peak)), float(lost.max(initial=0.0)))


def _absolute(text: tracing.Traced, arithmetic: Arithmetic, farthest: float) -> Proof | None:
    """Of log κ itself."""
    cells = _octaves(np.log2(farthest))
    peak = float(arithmetic.over(text, *cells).high.max())
    if not np.isfinite(peak):
        return None

    def slope(x: Range) -> Floats:
        return np.asarray(x.moved + (x.rounded + x.lost / arithmetic.unit) / UNITS)

    x = _refined(
        *cells,
        lambda low, high: arithmetic.over(text, low, high),
        lambda x: slope(x) <= STEEPEST * (1 + np.maximum(peak - x.high, 0.0)),
    )
    if x is None:
        return None
    a, b = _line(slope(x), np.maximum(peak - x.high, 0.0))
    return Proof(SAFETY * a, SAFETY * b, peak, 0.0)


def _line(rates: Floats, depth: Floats) -> tuple[float, float]:
    """(a, b) with rates ≤ a + b·depth."""
    a = float(rates[depth <= 2].max(initial=0.0))
    deep = (depth > 2) & np.isfinite(depth)
    return a, float((np.maximum(rates[deep] - a, 0.0) / depth[deep]).max(initial=0.0))


def _compact(text: tracing.Traced, arithmetic: Arithmetic, support: float) -> Proof | None:
    """Bound on |dκ| per error of u², unless κ jumps, inside or at its edge."""
    square = support**2
    ends = square * np.linspace(0.0, 1.0, COMPACT_CELLS + 1) ** 2
    first = arithmetic.over(text, ends[:-1], ends[1:])
    peak = float(first.high.max())
    edge = arithmetic.over(text, np.full(1, square), np.full(1, square))
    if not 0 < peak < np.inf or not abs(float(edge.high[0])) <= FLAT * peak:
        return None

    def slope(x: Range) -> Floats:
        return np.asarray(x.moved + (x.rounded + x.lost / arithmetic.unit) / UNITS)

    x = _refined(
        ends[:-1],
        ends[1:],
        lambda low, high: arithmetic.over(text, low, high),
        lambda x: slope(x) <= STEEPEST * peak,
    )
    return None if x is None else Proof(SAFETY * float(slope(x).max()), 0.0, float(np.log(peak)), 0.0)
