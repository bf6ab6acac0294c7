"""Gradients of −log κ for the pairs of one query, in double-double arithmetic, for `far_queries`."""

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
    """The forces, which are gradients of −log κ, of J keys on one query, in the coordinates of a `View`.

    Attributes
    ----------
    vector : (J, d) pair
        derivative/λ² · H⁻¹(q − k), with derivative = −2 d log κ/du²; −H⁻¹k/λ for inner products. This is the gradient
        of −log κ by q.
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
        """Elementwise products of `vector` and `other`, (J, d)."""
        return dd.multiply(self.vector, self.other)


def forces(view: View, row: int, positions: Rows) -> Forces:
    """Compute the forces of the keys at `positions` on the query at `row`."""
    problem = view.problem
    q, keys = view.points(problem.queries[row]), view.points(problem.keys[positions])
    factor = factors(problem, positions)
    zeros = np.zeros_like(keys)
    if problem.kernel.inner_product:
        other: dd.Pair = np.broadcast_to(q, keys.shape), zeros
        gradient = dd.negate(_applied(view, (keys, zeros)))
        return Forces(dd.multiply(gradient, _column(factor)), other, _applied(view, other), factor[0])
    other = dd.two_sum(q, -keys)
    applied = _applied(view, other)
    square = dd.multiply(dd.total(dd.multiply(applied, other)), factor)
    scale = dd.multiply(_derivative(view, square), factor)
    return Forces(dd.multiply(applied, _column(scale)), other, applied, factor[0])


def power_of_derivative(view: View) -> int:
    """Return the exponent of the power of two by which derivatives in a scaled view are divided."""
    limit = view.problem.kernel.facts.derivative_at_infinity
    return limit[1] * view.power if view.power and limit else 0


def _column(numbers: dd.Pair) -> dd.Pair:
    """Reshape (J,) to (J, 1)."""
    return numbers[0][:, None], numbers[1][:, None]


def _applied(view: View, points: dd.Pair) -> dd.Pair:
    """Multiply each point by H⁻¹, (J, d)."""
    if np.ndim(view.form[0]) == 1:
        return dd.multiply(points, view.form)
    product = times(view.form, points)
    return times((view.form[0].T, view.form[1].T), product) if view.whitens else product


def _derivative(view: View, square: dd.Pair) -> dd.Pair:
    """Compute −2 d log κ/du² in the units of the view, (J,); 0 at u = 0 where κ has a kink."""
    kernel, zeros = view.problem.kernel, np.zeros_like(square[0])
    facts = kernel.facts
    if facts.log_ratio is None:
        return _compact_derivative(kernel, square), zeros
    present = square[0] > 0
    square = np.where(present, square[0], 1.0), np.where(present, square[1], 0.0)
    if view.power:
        assert facts.derivative_at_infinity is not None
        constant, power = facts.derivative_at_infinity
        derivative = _numbers(constant, zeros)
        derivative = derivative if power == 0 else dd.divide(derivative, dd.root(square) if power == -1 else square)
    else:
        assert facts.precise_derivative is not None
        derivative = facts.precise_derivative(square, dd.root(square))
    assert facts.derivative is not None
    at_zero = float(facts.derivative(np.zeros(1))[0])
    at_zero = at_zero if math.isfinite(at_zero) else 0.0
    return np.where(present, derivative[0], at_zero), np.where(present, derivative[1], 0.0)


def _compact_derivative(kernel: Kernel, square: dd.Pair) -> Floats:
    """Compute −2 d log κ/du² of a compact kernel from 1 − u², (J,): r p u^(p−2)/(1 − u^p) for κ = (1 − u^p)^r."""
    facts = kernel.facts
    first, second = dd.add(_numbers((1.0, 0.0), square[0]), dd.negate(square))
    y, u2 = np.minimum(first + second, 1.0), square[0]
    if facts.window is None:
        assert facts.derivative is not None
        assert facts.edge is not None
        return np.asarray(facts.derivative(u2) / facts.edge(y))
    p, r = facts.window
    u = np.sqrt(u2)
    one_minus_power = {1: y / (1.0 + u), 2: y, 3: y / (1.0 + u) * (1.0 + u + u2)}[p]
    return np.where((u > 0) | (p >= 2), r * p * np.where(u > 0, u, float(p == 2)) ** (p - 2) / one_minus_power, 0.0)


def _numbers(pair: tuple[float, float], like: Any) -> dd.Pair:
    """Make arrays of a double-double constant with the shape of `like`."""
    return np.full_like(like, pair[0]), np.full_like(like, pair[1])
