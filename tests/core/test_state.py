"""Sums: merging is the sum of the parts, and the bound of a mean holds for every error it allows."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastnw.core.state import Sums, Units


def state_of(logs, values):
    """One query's state of keys with those log weights, by its definition."""
    shift = logs.max()
    weights = np.exp(logs - shift)
    return Sums(np.array([shift]), weights.sum()[None], (weights @ values)[None], np.zeros(1), np.zeros(1))


def equal(a, b):
    for x, y in ((a.log_mass(), b.log_mass()), (a.finalise()[0], b.finalise()[0])):
        np.testing.assert_allclose(x, y, rtol=1e-13, atol=1e-13)  # some roundings of numbers of size 1


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from([1.0, 30.0, 800.0, 1e6]), st.integers(1, 6))
def test_merging_parts_is_summing_the_whole(seed, spread, parts):
    rng = np.random.default_rng(seed)
    logs, values = spread * rng.normal(size=40), rng.uniform(-1, 1, size=(40, 3))
    cuts = np.array_split(np.arange(40), parts)
    states = [state_of(logs[cut], values[cut]) for cut in cuts]
    equal(Sums.merged(states), state_of(logs, values))
    equal(Sums.merged(states[::-1]), state_of(logs, values))


def test_empty_is_the_identity():
    some = state_of(np.array([-3.0, 2.0]), np.array([[0.5], [-1.0]]))
    nothing = Sums.empty(1, 1)
    for merged in (nothing.merge(some), some.merge(nothing)):
        for field in ("shift", "mass", "total", "mass_error", "total_error"):
            np.testing.assert_array_equal(getattr(merged, field), getattr(some, field))
    both = nothing.merge(Sums.empty(1, 1))
    assert both.is_empty.all()
    assert both.log_mass()[0] == -np.inf
    assert np.isnan(both.finalise()[0]).all()
    assert np.isnan(both.finalise()[1]).all()


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.integers(0, 2**32), st.floats(1e-12, 2.0))
def test_the_bound_holds_for_every_error_it_allows(seed, size):
    rng = np.random.default_rng(seed)
    mass, total = 1.0, rng.uniform(-1, 1, size=(1, 2))
    e_mass, e_total = size * rng.uniform(size=2)
    noisy_mass = mass + e_mass * rng.uniform(-1, 1)
    noisy = Sums(
        np.zeros(1),
        np.array([noisy_mass]),
        total + e_total * rng.uniform(-1, 1, size=(1, 2)),
        np.array([e_mass]),
        np.array([e_total]),
    )
    if noisy_mass > 0:
        mean, bound = noisy.finalise()
        # beyond the range of the values, [-1, 1], the caller clips
        assert np.all(np.abs(np.clip(mean, -1, 1) - total / mass) <= bound * (1 + 1e-12) + 1e-15)


@pytest.mark.parametrize("e_mass", [0.0, 1e-9, 0.3, 0.999])
@pytest.mark.parametrize("e_total", [0.0, 1e-9, 0.3])
def test_the_bound_holds_in_the_worst_corners(e_mass, e_total):
    """Both errors as large as they may be, of either sign, for means at the ends and in the middle of the range."""
    for t, up, right in itertools.product((-1.0, 0.0, 0.5, 1.0), (-1, 1), (-1, 1)):
        mass, total = 1.0 + up * e_mass, t + right * e_total
        state = Sums(np.zeros(1), np.array([mass]), np.array([[total]]), np.array([e_mass]), np.array([e_total]))
        mean, bound = state.finalise()
        assert abs(np.clip(mean[0, 0], -1, 1) - t) <= bound[0] * (1 + 1e-12) + 1e-15
        assert abs(mass - 1) <= state.relative_mass_error()[0] * (1 + 1e-12) + 1e-15  # of rounding 1 + e
    assert bound[0] <= 2


def test_a_bound_that_says_nothing_is_the_whole_range():
    """As much error as mass: any mean is possible."""
    state = Sums(np.zeros(1), np.array([1.0]), np.array([[0.2]]), np.array([1.0]), np.array([0.0]))
    assert state.finalise()[1][0] == 2
    assert state.relative_mass_error()[0] == np.inf


def test_errors_are_merged_like_the_sums_they_bound():
    one = Sums(np.zeros(1), np.ones(1), np.ones((1, 1)), np.array([0.25]), np.array([0.5]))
    two = Sums(np.array([3.0]), np.ones(1), -np.ones((1, 1)), np.array([0.125]), np.array([0.75]))
    for merged in (one.merge(two), two.merge(one)):
        assert merged.shift[0] == 3
        assert merged.mass_error[0] == pytest.approx(0.25 * np.exp(-3) + 0.125, rel=1e-15)
        assert merged.total_error[0] == pytest.approx(0.5 * np.exp(-3) + 0.75, rel=1e-15)
        assert merged.mass[0] == pytest.approx(np.exp(-3) + 1, rel=1e-15)


def test_shifts_of_any_size_do_not_overflow():
    shifts = [-1e300, -800.0, 0.0, 800.0, 1e300]
    states = [Sums(np.array([s]), np.ones(1), np.full((1, 1), 0.5), np.zeros(1), np.zeros(1)) for s in shifts]
    for order in itertools.permutations(states):
        merged = Sums.merged(list(order))
        assert merged.log_mass()[0] == 1e300
        assert merged.finalise()[0][0, 0] == 0.5


def test_rows_and_put():
    whole = Sums.empty(4, 2)
    part = whole.rows(slice(1, 3))
    part.mass[:] = 7  # a view
    assert whole.mass.tolist() == [0, 7, 7, 0]
    whole.put(np.array([3]), Sums(np.ones(1), np.full(1, 2.0), np.ones((1, 2)), np.zeros(1), np.zeros(1)))
    assert whole.mass.tolist() == [0, 7, 7, 2]
    assert whole.is_empty.tolist() == [True, False, False, False]


def a_part(rng, m, n, c):
    """Sums of n keys at m queries in units of their own, and what they are in the users'."""
    values, weights = rng.normal(size=(n, c)) * rng.uniform(0.1, 9) + rng.normal() * 5, rng.gamma(1.0, size=n) * 7
    kappa = np.exp(-rng.gamma(2.0, size=(m, n)) * 3)
    centre, half = (values.max(axis=0) + values.min(axis=0)) / 2, np.ptp(values, axis=0) / 2
    units = Units(centre, half, float(np.log(weights.max())))
    t, w = (values - centre) / half, weights / weights.max()
    shift = np.log(kappa.max(axis=1))
    scaled = kappa / np.exp(shift)[:, None] * w
    errors = 1e-15 * scaled.sum(axis=1)
    state = Sums(shift, scaled.sum(axis=1), scaled @ t, errors, 2 * errors, units)
    exact = (kappa * weights).astype(np.longdouble)
    return state, exact.sum(axis=1), exact @ values.astype(np.longdouble)


def in_users_units(state):
    factor = np.exp(state.shift.astype(np.longdouble) + state.units.log_weight)
    mass = factor * state.mass
    total = factor[:, None] * (
        state.units.half * state.total.astype(np.longdouble) + state.units.centre * state.mass[:, None]
    )
    return mass, total, factor * state.mass_error, factor * state.total_error


@pytest.mark.parametrize("seed", range(30))
def test_parts_of_different_units_are_converted_when_merged(seed):
    rng = np.random.default_rng(seed)
    c = int(rng.integers(1, 4))
    (one, mass_one, total_one), (two, mass_two, total_two) = (a_part(rng, 6, int(rng.integers(2, 40)), c) for _ in "ab")
    for first, second in ((one, two), (two, one)):
        merged = first.merge(second)
        assert merged.units is first.units
        mass, total, mass_error, total_error = in_users_units(merged)
        assert np.all(np.abs(mass - mass_one - mass_two) <= mass_error)
        # of values in the users' units: t's error times half, and the mass's times the centre
        allowed = total_error[:, None] * merged.units.half + mass_error[:, None] * np.abs(merged.units.centre)
        assert np.all(np.abs(total - total_one - total_two) <= allowed)


def test_units_that_cannot_hold_the_other_values_refuse():
    rng = np.random.default_rng(0)
    state, *_ = a_part(rng, 3, 9, 1)
    constant = Units(np.array([2.0]), np.zeros(1), 0.0)
    with pytest.raises(ValueError, match="constant"):
        state.to(constant)
    with pytest.raises(ValueError, match="both states must have known units"):
        Sums.empty(3, 1).merge(state)
    same = Units(state.units.centre.copy(), state.units.half.copy(), state.units.log_weight)
    assert state.merge(replace(state, units=same)).units is state.units


def test_the_driver_says_which_units_sums_are_in():
    from answered import model_and_problem

    from fastnw.core.driver import answers
    from fastnw.runtime.threads import Meter

    rng = np.random.default_rng(1)
    keys, values, weights = rng.normal(size=(50, 2)), rng.normal(size=50) + 3, rng.gamma(1.0, size=50)
    model, problem = model_and_problem(keys[:5], keys, values, sample_weight=weights)
    (found,) = answers(model, problem, Meter(False, 0, ""))
    assert found.sums.units.log_weight == pytest.approx(np.log(weights.max()))
    assert found.sums.units.centre == pytest.approx((values.max() + values.min()) / 2)


@pytest.mark.parametrize("c", [0, 1, 3])
def test_errors_are_those_of_the_formulas(c):
    """Against NumPy, for sums of every kind: empty, certain, less certain than their own size, infinite, no number."""
    rng = np.random.default_rng(c)
    mass = np.concatenate([[0.0, 0.0, 1.0, 1.0, np.inf, np.nan, 5e-324], rng.gamma(1.0, size=200)])
    mass_error = np.concatenate([[0.0, 1.0, 1.0, np.inf, 1.0, 0.0, 0.0], mass[7:] * 10.0 ** rng.uniform(-17, 1, 200)])
    total = rng.uniform(-1, 1, (len(mass), c)) * np.where(np.isfinite(mass), mass, 1.0)[:, None]
    if c:
        total[3] = np.nan
    total_error = 2 * mass_error
    state = Sums(np.zeros(len(mass)), mass, total, mass_error, total_error)
    relative, bound = state.errors()
    with np.errstate(all="ignore"):
        left = mass - mass_error
        expected = np.where(mass == 0, 0.0, np.inf)
        certain = (mass > mass_error) & np.isfinite(mass)
        expected[certain] = (mass_error / left)[certain]
        largest = np.abs(total).max(axis=1, initial=0.0)
        means = np.minimum((largest / mass * mass_error + total_error) / left, 2.0)
        means = np.where(mass > 0, np.where(mass > mass_error, means, 2.0), np.nan)
    np.testing.assert_array_equal(relative, expected)
    np.testing.assert_array_equal(bound, means)
    assert np.all(np.isnan(bound) | (bound <= 2))


def test_an_infinite_error_of_a_negligible_part_is_merged_without_a_word():
    """Nothing is certified then, and NumPy warns of nothing."""
    far = Sums(np.array([-1e5]), np.ones(1), np.ones((1, 1)), np.full(1, np.inf), np.full(1, np.inf))
    near = Sums(np.zeros(1), np.ones(1), np.ones((1, 1)), np.zeros(1), np.zeros(1))
    relative, bound = near.merge(far).errors()
    assert relative == [np.inf]
    assert bound == [2.0]
