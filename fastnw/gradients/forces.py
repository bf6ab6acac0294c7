"""How log κ of one query's pairs falls with the distance, in double-double arithmetic, for `far_queries`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.arithmetic import doubledouble as dd
from fastnw.kernels.kernel import Kernel
from fastnw.methods.tails.leading_key import View, factors, times

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Forces:
    """The forces of some keys on one query, in the coordinates of a `View`.

    Attributes
    ----------
    vector : (J, d) pair
        slope/λ² · H⁻¹(q − k), with slope = −2 d log κ/du²; −H⁻¹k/λ for inner products. The gradient of −log κ by q.
    other : (J, d) pair
        q − k; q for inner products.
    applied : (J, d) pair
        H⁻¹(q − k); H⁻¹q for inner products.
    factor : (J,) float64
        1/λ², or 1/λ.
    """

    vector: dd.Pair
    other: dd.Pair
    applied: dd.Pair
    factor: Floats

    @property
    def products(self) -> dd.Pair:
        """(J, d) `vector` · `other`, coordinate by coordinate."""
        return dd.multiply(self.vector, self.other)


def forces(view: View, row: int, positions: Rows) -> Forces:
    """Those of the keys at `positions` on the query at `row`."""
    problem = view.problem
    q, keys = view.points(problem.queries[row]), view.points(problem.keys[positions])
    factor = factors(problem, positions)
    zeros = np.zeros_like(keys)
    if problem.kernel.inner_product:
        other: dd.Pair = np.broadcast_to(q, keys.shape), zeros
        falls = dd.negate(_applied(view, (keys, zeros)))
        return Forces(dd.multiply(falls, _column(factor)), other, _applied(view, other), factor[0])
    other = dd.two_sum(q, -keys)
    applied = _applied(view, other)
    square = dd.multiply(dd.total(dd.multiply(applied, other)), factor)
    scale = dd.multiply(_slope(view, square), factor)
    return Forces(dd.multiply(applied, _column(scale)), other, applied, factor[0])


def power_of_slope(view: View) -> int:
    """The power of two that slopes in a scaled view are divided by."""
    limit = view.problem.kernel.facts.derivative_at_infinity
    return limit[1] * view.power if view.power and limit else 0


def _column(numbers: dd.Pair) -> dd.Pair:
    return numbers[0][:, None], numbers[1][:, None]


def _applied(view: View, points: dd.Pair) -> dd.Pair:
    """(J, d) The quadratic form of the bandwidth times each point."""
    if np.ndim(view.form[0]) == 1:
        return dd.multiply(points, view.form)
    found = times(view.form, points)
    return times((view.form[0].T, view.form[1].T), found) if view.whitens else found


def _slope(view: View, square: dd.Pair) -> dd.Pair:
    """(J,) −2 d log κ/du² in the view's units; 0 at u = 0 where κ has a kink."""
    kernel, zeros = view.problem.kernel, np.zeros_like(square[0])
    facts = kernel.facts
    if facts.log_ratio is None:
        return _slope_within(kernel, square), zeros
    present = square[0] > 0
    square = np.where(present, square[0], 1.0), np.where(present, square[1], 0.0)
    if view.power:
        assert facts.derivative_at_infinity is not None
        constant, power = facts.derivative_at_infinity
        slope = _numbers(constant, zeros)
        slope = slope if power == 0 else dd.divide(slope, dd.root(square) if power == -1 else square)
    else:
        assert facts.precise_derivative is not None
        slope = facts.precise_derivative(square, dd.root(square))
    assert facts.derivative is not None
    at_zero = float(facts.derivative(np.zeros(1))[0])
    at_zero = at_zero if math.isfinite(at_zero) else 0.0
    return np.where(present, slope[0], at_zero), np.where(present, slope[1], 0.0)


def _slope_within(kernel: Kernel, square: dd.Pair) -> Floats:
    """(J,) The same for a compact kernel, from 1 − u²: κ = (1 − u^p)^r has slope r p u^(p−2)/(1 − u^p)."""
    facts = kernel.facts
    first, second = dd.add(_numbers((1.0, 0.0), square[0]), dd.negate(square))
    y, u2 = np.minimum(first + second, 1.0), square[0]
    if facts.window is None:
        assert facts.derivative is not None
        assert facts.edge is not None
        return np.asarray(facts.derivative(u2) / facts.edge(y))
    p, r = facts.window
    u = np.sqrt(u2)
    rest = {1: y / (1.0 + u), 2: y, 3: y / (1.0 + u) * (1.0 + u + u2)}[p]
    return np.where((u > 0) | (p >= 2), r * p * np.where(u > 0, u, float(p == 2)) ** (p - 2) / rest, 0.0)


def _numbers(pair: tuple[float, float], like: Any) -> dd.Pair:
    return np.full_like(like, pair[0]), np.full_like(like, pair[1])
