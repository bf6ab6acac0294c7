"""Double-double arithmetic against exact rationals."""

from fractions import Fraction

import numpy as np
import pytest

from fastnw.arithmetic import doubledouble as dd

RNG = np.random.default_rng(0)
A, B, C, D = (RNG.normal(size=300) * 10.0 ** RNG.integers(-40, 40, size=300) for _ in range(4))
EPS = Fraction(1, 2**102)  # four times the two-term format's unit


def exact(x):
    """Sums of the pairs, as rationals."""
    return [Fraction(float(a)) + Fraction(float(b)) for a, b in zip(*x, strict=True)]


def test_two_sum_and_two_product_are_exact():
    assert exact(dd.two_sum(A, B)) == [Fraction(a) + Fraction(b) for a, b in zip(A, B, strict=True)]
    assert exact(dd.two_product(A, B)) == [Fraction(a) * Fraction(b) for a, b in zip(A, B, strict=True)]


@pytest.mark.parametrize("scale", [1.0, -1.0 + 2**-50])
def test_add_is_right_relative_to_its_terms(scale):
    x, y = dd.two_product(A, B), dd.two_product(A * scale, B)  # the second case cancels to 2^-50
    for got, a, b in zip(exact(dd.add(x, y)), exact(x), exact(y), strict=True):
        assert abs(got - (a + b)) <= EPS * (abs(a) + abs(b))


def test_multiply_and_reciprocal():
    x, y = dd.two_sum(A, B), dd.two_sum(C, D)
    for got, a, b in zip(exact(dd.multiply(x, y)), exact(x), exact(y), strict=True):
        assert abs(got - a * b) <= 4 * EPS * abs(a * b)
    for got, a in zip(exact(dd.reciprocal(A)), A, strict=True):
        assert abs(got * Fraction(a) - 1) <= 4 * EPS


def test_divide_and_root():
    x, y = dd.two_sum(A, B), dd.two_sum(C, D)
    for got, a, b in zip(exact(dd.divide(x, y)), exact(x), exact(y), strict=True):
        assert abs(got * b / a - 1) <= 16 * EPS
    square = dd.multiply(x, x)
    for got, a in zip(exact(dd.root(square)), exact(square), strict=True):
        assert abs(got * got / a - 1) <= 16 * EPS
    assert exact(dd.root((np.zeros(1), np.zeros(1)))) == [0]


def test_total_sums_the_last_axis():
    x = (A.reshape(30, 10), np.zeros((30, 10)))
    for got, row in zip(exact(dd.total(x)), x[0], strict=True):
        terms = [Fraction(a) for a in row]
        assert abs(got - sum(terms)) <= 10 * EPS * sum(map(abs, terms))
