"""Interval arithmetic on the text of a formula: bounds on its values and its errors over cells of u².

Each number of the text becomes an interval that contains it, with bounds on three kinds of error (Moore, 1966, Interval
Analysis; the errors are those of a running error analysis, Higham, 2002, Accuracy and Stability, section 3.3). All
bounds hold for every u² of a cell. Cells that cover [0, ∞) therefore prove a bound, which a grid of points cannot.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.kernels.tracing import Traced

Floats = NDArray[np.float64]
FUNCTION_ULPS = 4.0  # of an elementary function; those of compilers are accurate to one or two
MAX_U2_ERROR = 2.0**-16  # error of u² up to which a condition must keep its value over a cell


@dataclass(frozen=True)
class Range:
    """The range of a number of the text over each cell, and bounds on its errors.

    Attributes
    ----------
    low, high : (cells,)
    moved : (cells,)
        The change per error of u² (see `fastnw.backends`), to first order.
    rounded : (cells,)
        The rounding error, in units of a rounding of 1.
    lost : (cells,)
        The absolute error from overflow and underflow.
    of_u2 : float or None
        The factor a, if the number is a·u².
    """

    low: Floats
    high: Floats
    moved: Floats
    rounded: Floats
    lost: Floats
    of_u2: float | None = None

    @property
    def size(self) -> Floats:
        return np.maximum(np.abs(self.low), np.abs(self.high))

    @property
    def least(self) -> Floats:
        """The least absolute value."""
        return np.where((self.low <= 0) & (self.high >= 0), 0.0, np.minimum(np.abs(self.low), np.abs(self.high)))


@dataclass(frozen=True)
class Truth:
    """The cells in which a condition holds everywhere (`yes`), and those in which it holds nowhere (`no`)."""

    yes: NDArray[np.bool_]
    no: NDArray[np.bool_]


@dataclass(frozen=True)
class Arithmetic:
    """The floating-point arithmetic in which the text is computed.

    Attributes
    ----------
    unit : float
        The relative rounding error.
    tiny, huge : float
        Smaller numbers may lose digits, larger ones may overflow.
    error : float
        The largest error of u² for which the bounds must hold.
    as_written : bool
        Whether constants are those of the formula, not products or quotients of them.
    """

    unit: float
    tiny: float
    huge: float
    error: float = MAX_U2_ERROR
    as_written: bool = False

    @classmethod
    def of(cls, dtype: Any, error: float = MAX_U2_ERROR) -> Arithmetic:
        """The arithmetic of compiled texts, which may flush results below twice the smallest normal number to 0."""
        info = np.finfo(dtype)
        return cls(float(info.eps) / 2, 4 * float(info.tiny), float(info.max) / 4, error)

    @classmethod
    def as_numpy(cls, error: float = MAX_U2_ERROR) -> Arithmetic:
        """The arithmetic of NumPy in float64, in which numbers lose digits only below the normal ones."""
        return cls(2.0**-53, 4 * 2.0**-1074, float(np.finfo(np.float64).max) / 4, error, True)

    def over(self, traced: Traced, low: Floats, high: Floats) -> Range:
        """The result of the text over the cells low ≤ u² ≤ high."""
        with np.errstate(all="ignore"):
            u = np.sqrt(high)
            known: dict[str, Any] = {"u2": Range(low, high, u * np.maximum(u, 1.0), 0 * u, 0 * u, 1.0)}
            for name, value in traced.constants.items():
                inexact = not self.as_written and np.isfinite(value) and float(np.float32(value)) != value
                outside = not np.isfinite(value) or not (self.tiny < abs(value) < self.huge or value == 0)
                lost = np.inf if outside and self.huge < 1e300 else 0.0
                at = np.full(low.shape, value)
                known[name] = Range(
                    at, at, 0 * u, np.full(low.shape, 2.0 * abs(value) if inexact else 0.0), 0 * u + lost
                )
            for line in traced.lines:
                name, _, expression = line.partition(" = ")
                known[name] = self._line(expression, known)
            return known[traced.result]

    def _line(self, expression: str, known: dict[str, Any]) -> Any:
        call = re.fullmatch(r"(\w+)\((\w+)(?:, (\w+))?\)", expression)
        if call:
            arguments = [known[word] for word in call.groups()[1:] if word]
            return self._tidy(_CALLS[call.group(1)](self, *arguments))
        words = expression.split()
        if len(words) == 5:  # yes if condition else no
            return self._chosen(known[words[2]], known[words[0]], known[words[4]])
        if words[0] == "not":
            return Truth(known[words[1]].no, known[words[1]].yes)
        if len(words) == 1:
            return known[words[0]]
        left, sign, right = known[words[0]], words[1], known[words[2]]
        if sign == "and":
            return Truth(left.yes & right.yes, left.no | right.no)
        if sign == "or":
            return Truth(left.yes | right.yes, left.no & right.no)
        if sign in _SIGNS:
            return self._tidy(_SIGNS[sign](self, left, right))
        return self._compared(left, sign, right)

    def _tidy(self, x: Range) -> Range:
        """Replaces numbers that overflow by infinity, and NaN by the interval of all numbers."""
        bad = np.isnan(x.low) | np.isnan(x.high)
        low, high = np.where(bad, -np.inf, x.low), np.where(bad, np.inf, x.high)
        low, high = np.where(low < -self.huge, -np.inf, low), np.where(high > self.huge, np.inf, high)
        moved, rounded, lost = (np.where(np.isnan(e) | bad, np.inf, e) for e in (x.moved, x.rounded, x.lost))
        return Range(low, high, moved, rounded, lost, x.of_u2)

    def _compared(self, a: Range, sign: str, b: Range) -> Truth:
        with np.errstate(invalid="ignore"):
            slack = (a.moved + b.moved) * self.error + (a.rounded + b.rounded) * self.unit + a.lost + b.lost
            below, above = a.high + slack < b.low, a.low - slack > b.high
            strict = np.where(slack > 0, False, True)
            same = strict & (a.low == a.high) & (b.low == b.high) & (a.low == b.low)
            at_most, at_least = below | (strict & (a.high <= b.low)), above | (strict & (a.low >= b.high))
        if sign in ("<", ">="):
            truth = Truth(below, at_least)
        elif sign in (">", "<="):
            truth = Truth(above, at_most)
        else:
            truth = Truth(same, below | above)
        return Truth(truth.no, truth.yes) if sign in (">=", "<=", "!=") else truth

    def _chosen(self, condition: Truth, a: Range, b: Range) -> Range:
        """a where the condition holds, b where it does not.

        In a cell where both occur, the result is the union, and nothing bounds its change per error of u².
        """

        def either(x: Floats, y: Floats, both: Floats) -> Floats:
            return np.where(condition.yes, x, np.where(condition.no, y, both))

        return Range(
            either(a.low, b.low, np.minimum(a.low, b.low)),
            either(a.high, b.high, np.maximum(a.high, b.high)),
            either(a.moved, b.moved, np.full(a.low.shape, np.inf)),
            either(a.rounded, b.rounded, np.maximum(a.rounded, b.rounded)),
            either(a.lost, b.lost, np.maximum(a.lost, b.lost)),
        )

    def _made(self, low: Floats, high: Floats, parts: list[tuple[Floats, Range]], units: float = 1.0) -> Range:
        """A result from its operands, each with a bound on the derivative by that operand."""
        size = np.maximum(np.abs(low), np.abs(high))
        certain = (low == 0) & (high == 0)
        least = np.where((low <= 0) & (high >= 0), 0.0, np.minimum(np.abs(low), np.abs(high)))
        moved, rounded, lost = (
            np.asarray(sum(np.where(e == 0, 0.0, derivative * e) for derivative, e in errors))
            for errors in zip(*[[(s, x.moved), (s, x.rounded), (s, x.lost)] for s, x in parts], strict=True)
        )
        flushed = np.minimum(self.tiny, 2 * size)  # a number cannot lose more than itself
        lost = lost + np.where((least < self.tiny) & ~certain, flushed, 0.0)
        return Range(low, high, moved, rounded + units * size, lost)

    def add(self, a: Range, b: Range) -> Range:
        one = np.ones(a.low.shape)
        return self._made(a.low + b.low, a.high + b.high, [(one, a), (one, b)])

    def subtract(self, a: Range, b: Range) -> Range:
        one = np.ones(a.low.shape)
        return self._made(a.low - b.high, a.high - b.low, [(one, a), (one, b)])

    def multiply(self, a: Range, b: Range) -> Range:
        if a is b:
            return self._made(a.least**2, a.size**2, [(2 * a.size, a)])
        corners = np.stack([a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high])
        zero = ((a.low == 0) & (a.high == 0)) | ((b.low == 0) & (b.high == 0))
        corners = np.where(np.isnan(corners) & ~zero, np.nan, np.where(np.isnan(corners), 0.0, corners))
        made = self._made(corners.min(axis=0), corners.max(axis=0), [(b.size, a), (a.size, b)])
        for x, y in ((a, b), (b, a)):
            if x.of_u2 is not None and np.all(y.low == y.high) and np.all(y.low > 0) and np.all(y.low == y.low.flat[0]):
                return Range(made.low, made.high, made.moved, made.rounded, made.lost, x.of_u2 * float(y.low.flat[0]))
        return made

    def divide(self, a: Range, b: Range) -> Range:
        corners = np.stack([a.low / b.low, a.low / b.high, a.high / b.low, a.high / b.high])
        least = b.least
        low, high = corners.min(axis=0), corners.max(axis=0)
        # The error is a/b times the relative error of b, since b² may overflow although a/b does not.
        of_b = Range(b.low, b.high, b.moved / least, b.rounded / least, b.lost / least)
        made = self._made(low, high, [(1 / least, a), (a.size / least, of_b)])
        low, high = np.where(least > 0, low, np.nan), np.where(least > 0, high, np.nan)
        # If the divisor may have overflowed, the quotient lies between 0 and its largest value.
        over = np.isinf(b.size) & (least > 0) & np.isfinite(a.size)
        size, zero = a.size / least + self.tiny, np.zeros(low.shape)
        low, high = np.where(over & (a.low < 0), -size, low), np.where(over & (a.high > 0), size, high)
        low, high = np.where(over & (a.low >= 0), 0.0, low), np.where(over & (a.high <= 0), 0.0, high)
        return Range(
            low,
            high,
            np.where(over, zero, made.moved),
            np.where(over, zero, made.rounded),
            np.where(over, 2 * size, made.lost),
        )

    def maximum(self, a: Range, b: Range) -> Range:
        first, second = a.low >= b.high, b.low >= a.high
        return _extreme(np.maximum(a.low, b.low), np.maximum(a.high, b.high), first, second, a, b)

    def minimum(self, a: Range, b: Range) -> Range:
        first, second = a.high <= b.low, b.high <= a.low
        return _extreme(np.minimum(a.low, b.low), np.minimum(a.high, b.high), first, second, a, b)

    def absolute(self, a: Range) -> Range:
        return Range(a.least, a.size, a.moved, a.rounded, a.lost)

    def sqrt(self, a: Range) -> Range:
        if a.of_u2 is not None:  # √u² is u, whose error follows directly from that of u²
            low, high, factor = np.sqrt(a.low), np.sqrt(a.high), np.sqrt(a.of_u2)
            moved = factor * np.maximum(high / factor, 1.0) / 2
            return Range(low, high, moved, FUNCTION_ULPS * high, np.where(low < self.tiny, np.sqrt(self.tiny), 0.0))
        low = np.where(a.low < 0, np.nan, np.sqrt(np.maximum(a.low, 0.0)))
        made = self._made(low, np.sqrt(a.high), [(0.5 / low, a)], FUNCTION_ULPS)
        # |√x − √y| ≤ √|x − y| holds even where the derivative is infinite.
        rounded = np.sqrt(a.rounded / self.unit) + FUNCTION_ULPS * made.size
        flushed = np.where(made.low < self.tiny, np.minimum(self.tiny, 2 * made.size), 0.0)
        lost = np.fmin(made.lost, np.sqrt(a.lost) + flushed)
        return Range(low, made.high, made.moved, np.fmin(made.rounded, rounded), lost)

    def power(self, a: Range, b: Range) -> Range:
        corners = np.stack([x**y for x in (a.low, a.high) for y in (b.low, b.high)])
        low, high = np.where(a.low < 0, np.nan, corners.min(axis=0)), corners.max(axis=0)
        by_base = np.stack([np.abs(y) * x ** (y - 1) for x in (a.low, a.high) for y in (b.low, b.high)]).max(axis=0)
        if (
            a.of_u2 is not None and np.all(b.low == b.high) and np.all(b.low >= 0.5)
        ):  # a power of u with an exponent of at least 1
            p, factor = b.low, np.sqrt(a.of_u2)
            u = np.sqrt(a.high)
            moved = factor * p * u ** (2 * p - 1) * np.maximum(u / factor, 1.0)
            rounded = (p * a.rounded / np.where(a.size > 0, a.size, 1.0) + FUNCTION_ULPS) * high
            return Range(low, high, moved, rounded, np.where(low < self.tiny, self.tiny, 0.0))
        logs = np.maximum(np.abs(np.log(a.low)), np.abs(np.log(a.high)))
        parts = [(by_base, a), (np.where(high == 0, 0.0, high * logs), b)]
        return self._made(low, high, parts, FUNCTION_ULPS)


def _extreme(
    low: Floats, high: Floats, first: NDArray[np.bool_], second: NDArray[np.bool_], a: Range, b: Range
) -> Range:
    def of(x: Floats, y: Floats) -> Floats:
        return np.where(first, x, np.where(second, y, np.maximum(x, y)))

    return Range(low, high, of(a.moved, b.moved), of(a.rounded, b.rounded), of(a.lost, b.lost))


def _function(
    values: Callable[[Range], tuple[Floats, Floats]], derivative: Callable[[Range], Floats]
) -> Callable[[Arithmetic, Range], Range]:
    def over(arithmetic: Arithmetic, a: Range) -> Range:
        low, high = values(a)
        return arithmetic._made(low, high, [(derivative(a), a)], FUNCTION_ULPS)

    return over


def _rising(function: Callable[[Floats], Floats]) -> Callable[[Range], tuple[Floats, Floats]]:
    return lambda a: (function(a.low), function(a.high))


def _wave(function: Callable[[Floats], Floats], top: float) -> Callable[[Range], tuple[Floats, Floats]]:
    """The values of a sine with maxima at `top` plus multiples of 2π."""

    def values(a: Range) -> tuple[Floats, Floats]:
        ends = function(a.low), function(a.high)
        turn = 2 * np.pi

        def has(at: float) -> NDArray[np.bool_]:
            first = np.ceil((a.low - at) / turn - 1e-9) * turn + at
            return ~(first > a.high + 1e-6)  # also True for NaN

        return np.where(has(top + np.pi), -1.0, np.minimum(*ends)), np.where(has(top), 1.0, np.maximum(*ends))

    return values


def _tangent(a: Range) -> tuple[Floats, Floats]:
    inside = a.size < 1.57
    return np.where(inside, np.tan(a.low), np.nan), np.where(inside, np.tan(a.high), np.nan)


def _of_arc(a: Range) -> Floats:
    return np.asarray(1 / np.sqrt(np.maximum(1 - a.size**2, 0.0)))


_SIGNS = {"+": Arithmetic.add, "-": Arithmetic.subtract, "*": Arithmetic.multiply, "/": Arithmetic.divide}
_CALLS: dict[str, Callable[..., Range]] = {
    "maximum": Arithmetic.maximum,
    "minimum": Arithmetic.minimum,
    "absolute": Arithmetic.absolute,
    "sqrt": Arithmetic.sqrt,
    "power": Arithmetic.power,
    "exp": _function(_rising(np.exp), lambda a: np.exp(a.high)),
    "exp2": _function(_rising(np.exp2), lambda a: np.log(2) * np.exp2(a.high)),
    "expm1": _function(_rising(np.expm1), lambda a: np.exp(a.high)),
    "log": _function(_rising(np.log), lambda a: np.where(a.low > 0, 1 / a.low, np.inf)),
    "log1p": _function(_rising(np.log1p), lambda a: np.where(a.low > -1, 1 / (1 + a.low), np.inf)),
    "tanh": _function(_rising(np.tanh), lambda a: np.minimum(4 * np.exp(-2 * a.least), 1.0)),
    "sinh": _function(_rising(np.sinh), lambda a: np.cosh(a.size)),
    "cosh": _function(lambda a: (np.cosh(a.least), np.cosh(a.size)), lambda a: np.sinh(a.size)),
    "sin": _function(_wave(np.sin, np.pi / 2), lambda a: np.ones(a.low.shape)),
    "cos": _function(_wave(np.cos, 0.0), lambda a: np.ones(a.low.shape)),
    "tan": _function(_tangent, lambda a: 1 + np.tan(a.size) ** 2),
    "arctan": _function(_rising(np.arctan), lambda a: 1 / (1 + a.least**2)),
    "arcsin": _function(_rising(np.arcsin), _of_arc),
    "arccos": _function(lambda a: (np.arccos(a.high), np.arccos(a.low)), _of_arc),
}
