"""The sensitivity of a user's kernel: bounds on what an error of u² does to κ (Lipschitz bounds).

The sensitivities of built-in kernels are facts of the registry. That of a user's kernel is proven from the text of its
formula by interval arithmetic on cells that cover all u². There is no proof for a kernel that jumps, oscillates,
touches 0 or has no text: its sums are bounded pair by pair instead, from the values of κ on both sides of u².
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

SAFETY = 1.25  # covers the growth of the derivative within the error of u²
MAX_SENSITIVITY = 16.0  # a larger bound would be useless
CELLS_PER_OCTAVE, MIN_LOG2_U2 = 4, -40
COMPACT_CELLS = 256
MAX_HALVINGS = 12  # of a cell without a proof
MAX_RATIO = 1.5  # of the values of κ in a cell; if they differ more, bounds over the cell are poor
MAX_CELLS = 1 << 15
# The largest u² of a proof; its square is finite. Tiles do not sum keys beyond it.
MAX_U2 = {"float64": 1e100, "float32": 1e18}
# Values of κ, or errors, up to which the error is bounded absolutely instead of relatively.
VANISHED = {"float64": 1e-295, "float32": 1e-31}
MIN_U2_ROUNDINGS = 16.0  # the least error of u² that backends assume, in roundings
MAX_EDGE_SHARE = 1e-15  # κ at the edge of a compact kernel, relative to its maximum, that is no jump
NEGLIGIBLE = 1e-32  # a kernel that works on logs sums a smaller κ only through its logarithm
MAX_ROUNDING_HALVINGS, MAX_ROUNDING_CELLS = 40, 4096
MAX_ROUNDINGS = 4096.0  # more roundings of a formula are counted as an absolute error


class Proof(NamedTuple):
    """What is proven of a kernel.

    |Δ log κ| ≤ (a + b·(log κmax − log κ)) × the error of u², or |Δκ| ≤ `floor`. For a compact kernel, |Δκ| ≤ a × the
    error of u².
    """

    a: float
    b: float
    log_peak: float
    floor: float


@lru_cache(maxsize=256)
def proof(kernel: HasFormulas, dtype: str = "float64") -> Proof | None:
    """The proof for a user's kernel that is computed in the type `dtype`, or None."""
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
    of_logs = None if text is None else _absolute(text, arithmetic, MAX_U2[dtype])
    if of_logs is None:
        return None
    return Proof(
        max(of_profile.a, of_logs.a), max(of_profile.b, of_logs.b), of_logs.log_peak, max(of_profile.floor, 0.0)
    )


@lru_cache(maxsize=256)
def rounding(kernel: HasFormulas) -> tuple[float, float]:
    """The rounding error of the formula as NumPy computes it in float64: relative to κ, plus an absolute part."""
    text, arithmetic = formula_texts.of(kernel, plain=True), Arithmetic.as_numpy()
    if text is None:
        return 64 * arithmetic.unit, arithmetic.tiny
    low, high = _octaves(np.log2(MAX_U2["float64"] if kernel.facts.support is None else kernel.facts.support**2))

    def relative(x: Range) -> Floats:
        with np.errstate(all="ignore"):
            return np.where(x.rounded > 0, x.rounded / np.maximum(x.low, 0.0), 0.0)

    def known(x: Range) -> NDArray[np.bool_]:
        return (relative(x) <= MAX_ROUNDINGS) | (
            np.minimum(x.rounded * arithmetic.unit, x.high) <= 16 * arithmetic.tiny
        )

    parts: list[Range] = []
    for _ in range(MAX_ROUNDING_HALVINGS):
        x = arithmetic.over(text, low, high)
        good = known(x) if 2 * (~known(x)).sum() <= MAX_ROUNDING_CELLS else np.ones(x.low.shape, bool)
        parts.append(_only(x, good))
        low, high = _halved(low[~good], high[~good])
        if not len(low):
            break
    else:
        parts.append(arithmetic.over(text, low, high))
    x = _joined(parts)
    error = np.minimum(x.rounded * arithmetic.unit, x.high)
    lost = np.where(relative(x) <= MAX_ROUNDINGS, 0.0, error) + np.minimum(x.lost, np.maximum(x.high, arithmetic.tiny))
    largest_rate = relative(x)[relative(x) <= MAX_ROUNDINGS].max(initial=0.0)
    return float(largest_rate) * arithmetic.unit, float(lost[np.isfinite(lost)].max(initial=0.0))


def _octaves(top: float) -> tuple[Floats, Floats]:
    """The bounds of cells that cover u² from 0 to 2^top."""
    ends = np.exp2(np.arange(min(MIN_LOG2_U2, top - 1), top, 1 / CELLS_PER_OCTAVE))
    ends = np.concatenate([[0.0], ends, [np.exp2(top)]])
    return ends[:-1], ends[1:]


def _refined(
    low: Floats, high: Floats, over: Callable[[Floats, Floats], Range], proven: Callable[[Range], NDArray[np.bool_]]
) -> Range | None:
    """The ranges over all cells, which are halved until `proven` holds in each; None if that takes too many."""
    finished: list[Range] = []
    for _ in range(MAX_HALVINGS + 1):
        x = over(low, high)
        good = proven(x)
        finished.append(_only(x, good))
        low, high = _halved(low[~good], high[~good])
        if not len(low):
            return _joined(finished)
        if len(low) > MAX_CELLS:
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
    first = arithmetic.over(text, *(cells := _octaves(np.log2(MAX_U2[dtype]))))
    peak = float(first.high.max())
    if not 0 < peak < np.inf:
        return None
    vanished = max(VANISHED[dtype], negligible)

    def rate(x: Range) -> Floats:
        """The relative error of κ per error of u², including its rounding and underflow."""
        with np.errstate(all="ignore"):
            return np.where(x.low > 0, (x.moved + (x.rounded + x.lost / unit) / MIN_U2_ROUNDINGS) / x.low, np.inf)

    def depth(x: Range) -> Floats:
        with np.errstate(divide="ignore"):
            return np.maximum(np.log(peak) - np.log(np.maximum(x.high, 0.0)), 0.0)

    def gone(x: Range) -> NDArray[np.bool_]:
        """Whether κ is so small that it need not have a correct digit."""
        return (x.high <= vanished) & (x.low >= -vanished)

    def floor(x: Range) -> Floats:
        """The absolute error of κ from underflow."""
        return x.lost

    def proven(x: Range) -> NDArray[np.bool_]:
        with np.errstate(all="ignore"):
            without_underflow = np.where(x.low > 0, (x.moved + x.rounded / MIN_U2_ROUNDINGS) / x.low, np.inf)
            limit = MAX_SENSITIVITY * (1 + depth(x))
            similar = x.high <= MAX_RATIO * x.low
            return (
                ((rate(x) <= limit) & similar)
                | gone(x)
                | ((without_underflow <= limit) & similar & (floor(x) <= vanished))
            )

    x = _refined(*cells, lambda low, high: arithmetic.over(text, low, high), proven)
    if x is None:
        return None
    with np.errstate(all="ignore"):
        by_rate = rate(x) <= MAX_SENSITIVITY * (1 + depth(x))
        rates = np.where(by_rate, rate(x), np.where(gone(x), 0.0, (x.moved + x.rounded / MIN_U2_ROUNDINGS) / x.low))
    lost = np.where(by_rate, 0.0, np.where(gone(x), vanished, floor(x)))
    a, b = _line(rates, depth(x))
    return Proof(SAFETY * a, SAFETY * b, float(np.log(peak)), float(lost.max(initial=0.0)))


def _absolute(text: tracing.Traced, arithmetic: Arithmetic, max_u2: float) -> Proof | None:
    """The proof for log κ, whose errors are absolute."""
    cells = _octaves(np.log2(max_u2))
    peak = float(arithmetic.over(text, *cells).high.max())
    if not np.isfinite(peak):
        return None

    def rate(x: Range) -> Floats:
        return np.asarray(x.moved + (x.rounded + x.lost / arithmetic.unit) / MIN_U2_ROUNDINGS)

    x = _refined(
        *cells,
        lambda low, high: arithmetic.over(text, low, high),
        lambda x: rate(x) <= MAX_SENSITIVITY * (1 + np.maximum(peak - x.high, 0.0)),
    )
    if x is None:
        return None
    a, b = _line(rate(x), np.maximum(peak - x.high, 0.0))
    return Proof(SAFETY * a, SAFETY * b, peak, 0.0)


def _line(rates: Floats, depth: Floats) -> tuple[float, float]:
    """(a, b) with rates ≤ a + b·depth in every cell."""
    a = float(rates[depth <= 2].max(initial=0.0))
    deep = (depth > 2) & np.isfinite(depth)
    return a, float((np.maximum(rates[deep] - a, 0.0) / depth[deep]).max(initial=0.0))


def _compact(text: tracing.Traced, arithmetic: Arithmetic, support: float) -> Proof | None:
    """A bound on |Δκ| per error of u², or None if κ jumps inside its support or at its edge."""
    square = support**2
    ends = square * np.linspace(0.0, 1.0, COMPACT_CELLS + 1) ** 2
    first = arithmetic.over(text, ends[:-1], ends[1:])
    peak = float(first.high.max())
    edge = arithmetic.over(text, np.full(1, square), np.full(1, square))
    if not 0 < peak < np.inf or not abs(float(edge.high[0])) <= MAX_EDGE_SHARE * peak:
        return None

    def rate(x: Range) -> Floats:
        return np.asarray(x.moved + (x.rounded + x.lost / arithmetic.unit) / MIN_U2_ROUNDINGS)

    x = _refined(
        ends[:-1],
        ends[1:],
        lambda low, high: arithmetic.over(text, low, high),
        lambda x: rate(x) <= MAX_SENSITIVITY * peak,
    )
    return None if x is None else Proof(SAFETY * float(rate(x).max()), 0.0, float(np.log(peak)), 0.0)
