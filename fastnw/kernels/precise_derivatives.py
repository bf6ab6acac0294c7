"""−2 d log κ/du² from (u², u) in double-double arithmetic: about 32 digits, which gradients of far queries need."""

from __future__ import annotations

import numpy as np

from fastnw.arithmetic import doubledouble as dd

SQRT3, SQRT5 = (1.7320508075688772, 1.0035084221806903e-16), (2.23606797749979, -1.0864230407365012e-16)
SATURATED_TANH_U = 38.0  # from this u on, tanh(u/2) is 1 − 2e^−u to 32 digits


def gaussian(square: dd.Pair, u: dd.Pair) -> dd.Pair:
    return _numbers(1.0, u)


def laplacian(square: dd.Pair, u: dd.Pair) -> dd.Pair:
    return dd.divide(_numbers(1.0, u), u)


def matern32(square: dd.Pair, u: dd.Pair) -> dd.Pair:
    return dd.divide(_numbers(3.0, u), _one_plus(dd.multiply(u, SQRT3)))


def matern52(square: dd.Pair, u: dd.Pair) -> dd.Pair:
    """5 (1 + z)/(3 (1 + z) + z²), z = √5 u."""
    linear = _one_plus(dd.multiply(u, SQRT5))
    five, three = _numbers(5.0, u), _numbers(3.0, u)
    return dd.divide(dd.multiply(linear, five), dd.add(dd.multiply(linear, three), dd.multiply(square, five)))


def logistic(square: dd.Pair, u: dd.Pair) -> dd.Pair:
    """tanh(u/2)/u."""
    minus, is_far = -2.0 * np.exp(-u[0]), u[0] > SATURATED_TANH_U
    far = dd.divide(_one_plus((minus, np.zeros_like(minus))), u)
    return np.where(is_far, far[0], np.tanh(u[0] / 2.0) / u[0]), np.where(is_far, far[1], 0.0)


def cauchy(square: dd.Pair, u: dd.Pair) -> dd.Pair:
    return dd.divide(_numbers(2.0, square), _one_plus(square))


def _numbers(number: float, like: dd.Pair) -> dd.Pair:
    return np.full_like(like[0], number), np.zeros_like(like[0])


def _one_plus(x: dd.Pair) -> dd.Pair:
    return dd.add(_numbers(1.0, x), x)
