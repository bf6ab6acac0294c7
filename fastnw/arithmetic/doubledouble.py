"""Double-double arithmetic: each number is an unevaluated sum of two float64, which have about 32 digits together.

The algorithms are Dekker's (Numerische Mathematik 18, 1971) and Knuth's two-sum, as in Hida, Li and Bailey's QD library
(ARITH 15, 2001). Arrays broadcast. The result is NaN for magnitudes above 1e290, at which the splitting overflows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Pair = tuple[Any, Any]  # value = first + second, |second| ≤ ulp(first)/2

_SPLITTER = 134217729.0  # 2^27 + 1


def two_sum(a: Any, b: Any) -> Pair:
    """The exact sum a + b."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def two_product(a: Any, b: Any) -> Pair:
    """The exact product a·b."""
    p = a * b
    t = _SPLITTER * a
    a_high = t - (t - a)
    a_low = a - a_high
    t = _SPLITTER * b
    b_high = t - (t - b)
    b_low = b - b_high
    return p, ((a_high * b_high - p) + a_high * b_low + a_low * b_high) + a_low * b_low


def add(x: Pair, y: Pair) -> Pair:
    """x + y, with an error of about 2^-104 (|x| + |y|)."""
    s, e = two_sum(x[0], y[0])
    t, f = two_sum(x[1], y[1])
    s, e = _renormalise(s, e + t)
    return _renormalise(s, e + f)


def multiply(x: Pair, y: Pair) -> Pair:
    """x·y, with a relative error of about 2^-104."""
    p, e = two_product(x[0], y[0])
    return _renormalise(p, e + (x[0] * y[1] + x[1] * y[0]))


def reciprocal(a: Any) -> Pair:
    """1/a for a float64 number `a`."""
    first = 1.0 / a
    p, e = two_product(first, a)
    return _renormalise(first, ((1.0 - p) - e) / a)


def divide(x: Pair, y: Pair) -> Pair:
    """x/y, with a relative error of about 2^-100."""
    first = x[0] / y[0]
    remainder = add(x, negate(multiply(y, (first, np.zeros_like(first)))))
    return _renormalise(first, (remainder[0] + remainder[1]) / y[0])


def root(x: Pair) -> Pair:
    """√x for x ≥ 0, with a relative error of about 2^-100."""
    first = np.sqrt(x[0])
    p, e = two_product(first, first)
    remainder = ((x[0] - p) - e) + x[1]
    return _renormalise(first, np.where(first > 0, remainder / np.where(first > 0, 2.0 * first, 1.0), 0.0))


def negate(x: Pair) -> Pair:
    return -x[0], -x[1]


def total(x: Pair) -> Pair:
    """The sum over the last axis. It is halved repeatedly, which takes few calls of NumPy for any number of terms."""
    first, second = x
    if np.shape(first)[-1] == 0:
        return np.zeros(np.shape(first)[:-1]), np.zeros(np.shape(first)[:-1])
    while (n := np.shape(first)[-1]) > 1:
        half = n // 2
        sums = add((first[..., :half], second[..., :half]), (first[..., -half:], second[..., -half:]))
        middle = slice(half, n - half)  # the middle element of an odd number, or nothing
        first, second = (
            np.concatenate([s, part[..., middle]], axis=-1) for s, part in zip(sums, (first, second), strict=True)
        )
    return first[..., 0], second[..., 0]


def _renormalise(a: Any, b: Any) -> Pair:
    s = a + b
    return s, b - (s - a)
