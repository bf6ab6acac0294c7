"""The arithmetic of far tails where it is hardest: adversarial pairs, total cancellation, the ends of its range.

test_doubledouble.py has the plain cases.
"""

from fractions import Fraction

import mpmath
import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from fastnw.arithmetic import doubledouble as dd

EPS = Fraction(1, 2**102)  # four times the two-term format's unit
RNG = np.random.default_rng(0)
# two_product splits its factors: 2^±300 keeps what it computes with from under- and overflow.
reals = st.one_of(st.just(0.0), st.floats(2.0**-300, 2.0**300), st.floats(-(2.0**300), -(2.0**-300)))


@st.composite
def pairs(draw):
    """A normalised pair, its second part anything from 0 to half a unit of the first."""
    first, share = draw(reals), draw(st.sampled_from([0.0, 1.0, -1.0, 1 - 2.0**-53, 2.0**-40, -(2.0**-53)]))
    second = share * np.spacing(abs(first)) / 2 if first else 0.0
    assume(first + second == first)  # a tie may round away
    return first, second


def value(x):
    return Fraction(float(x[0])) + Fraction(float(x[1]))


@given(x=pairs(), y=pairs())
def test_adversarial_pairs(x, y):
    """hypothesis looks for exponents and cancellations that random numbers do not meet."""
    for got, exact, size in (
        (dd.add(x, y), value(x) + value(y), abs(value(x)) + abs(value(y))),
        (dd.add(x, dd.negate(x)), 0, 0),
        (dd.multiply(x, y), value(x) * value(y), 4 * abs(value(x) * value(y))),
    ):
        assert abs(value(got) - exact) <= EPS * size
        assert got[0] + got[1] == got[0]  # normalised, as the next operation expects


@given(x=reals, ulps=st.integers(-4, 4), shift=reals)
def test_differences_of_neighbours(x, ulps, shift):
    """What the module is for: (x + s) - (y + s) with x next to y keeps the digits that float64 loses."""
    y = x + ulps * float(np.spacing(x))
    a, b = dd.two_sum(x, shift), dd.two_sum(y, shift)
    assert value(dd.add(a, dd.negate(b))) == Fraction(x) - Fraction(y)


@given(a=reals)
def test_reciprocals(a):
    assume(a != 0)
    with mpmath.workdps(60):
        first, second = map(mpmath.mpf, map(float, dd.reciprocal(a)))
        assert abs((first + second) * mpmath.mpf(a) - 1) <= mpmath.mpf(2) ** -100


def test_squared_distances_at_a_million_bandwidths():
    """u_i² - u_0² as tails.py forms it, from coordinates alone, against 60 digits: no digit of the exponent is lost."""
    queries, keys, h = 1e6 * RNG.normal(size=(50, 3)), RNG.normal(size=(50, 3)), RNG.uniform(0.1, 1, size=3)
    leaders = RNG.normal(size=(50, 3))
    near = dd.two_sum(leaders, -keys)
    far = dd.add(dd.two_sum(2 * queries, -leaders), (-keys, np.zeros_like(keys)))
    inverse = dd.reciprocal(h)
    got = dd.total(dd.multiply(dd.multiply(near, far), dd.multiply(inverse, inverse)))
    with mpmath.workdps(60):
        for i in range(50):
            u2 = [
                mpmath.fsum(
                    ((mpmath.mpf(q) - mpmath.mpf(k)) / mpmath.mpf(s)) ** 2 for q, k, s in zip(*row, strict=True)
                )
                for row in (
                    (queries[i].tolist(), keys[i].tolist(), h.tolist()),
                    (queries[i].tolist(), leaders[i].tolist(), h.tolist()),
                )
            ]
            error = mpmath.mpf(float(got[0][i])) + mpmath.mpf(float(got[1][i])) - (u2[0] - u2[1])
            assert abs(error) <= 1e-22  # of terms of 1e8: 30 digits
            assert abs(error) < abs(float(u2[0]) - float(u2[1]) - (u2[0] - u2[1])) or u2[0] == u2[1]


def test_a_hundred_terms_that_cancel():
    """exp's series at -30: terms up to 8e11 leave 1e-13, of which float64 has no digit."""
    terms, term = [], Fraction(1)
    for k in range(1, 160):
        terms.append(term)
        term = term * -30 / k
    first = np.array([float(t) for t in terms])
    second = np.array([float(t - Fraction(float(t))) for t in terms])
    got, exact = value(dd.total((first, second))), sum(terms)
    assert abs(got - exact) <= 160 * EPS * sum(map(abs, terms))
    assert abs(float(got / exact) - 1) < 1e-4
    assert abs(first.sum() / float(exact) - 1) > 1e3  # so the test can tell


def test_arrays_broadcast():
    x, y = dd.two_sum(RNG.normal(size=(6, 1)), RNG.normal(size=(6, 1))), dd.two_sum(RNG.normal(size=4), RNG.normal())
    for operation in (dd.add, dd.multiply):
        got = operation(x, y)
        assert got[0].shape == got[1].shape == (6, 4)
        for i, j in np.ndindex(6, 4):
            assert (got[0][i, j], got[1][i, j]) == operation((x[0][i, 0], x[1][i, 0]), (y[0][j], y[1][j]))


def test_total_of_nothing_is_0():
    assert [part.tolist() for part in dd.total((np.empty((3, 0)), np.empty((3, 0))))] == [[0.0] * 3] * 2


def test_beyond_its_range_it_is_nan_and_never_just_wrong():
    with np.errstate(all="ignore"):
        for a in (1e290, 1e300, 1e308):
            product = dd.two_product(np.float64(a), np.float64(3.0))
            assert np.isnan(product[1]) or value(product) == Fraction(a) * 3
