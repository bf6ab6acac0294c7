"""The two warnings: once a call, from the caller's line, with what a user needs to know; and the bounds behind them."""

from __future__ import annotations

import inspect
import warnings
from fractions import Fraction

import numpy as np
import pytest
from oracle import naive_pool

import fastnw

KEYS, VALUES = np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 2.0, 4.0])
NEAR_AND_FAR = np.array([[0.5], [50.0], [1.5], [60.0], [70.0]])


def caught(function, *arguments, **options):
    """The result, and the warnings as (class, text, file, whether from the line of this call)."""
    with warnings.catch_warnings(record=True) as records:
        warnings.simplefilter("always")
        line, result = inspect.currentframe().f_lineno, function(*arguments, **options)
    return result, [(w.category, str(w.message), w.filename, w.lineno - line) for w in records]


POOLS = {
    "pool": lambda **options: fastnw.pool(NEAR_AND_FAR, KEYS, VALUES, **options),
    "attention_weights": lambda **options: fastnw.attention_weights(NEAR_AND_FAR, KEYS, **options),
    "top_k": lambda **options: fastnw.attention_weights(NEAR_AND_FAR, KEYS, top_k=2, **options),
}


@pytest.mark.parametrize("name", POOLS)
def test_empty_windows_warn_once_with_count_and_first_indices(name, backend):
    for _ in range(2):  # each call anew
        _, found = caught(POOLS[name], kernel="boxcar", backend=backend)
        assert len(found) == 1
        category, text, file, _ = found[0]
        assert category is fastnw.EmptyWindowWarning
        assert issubclass(category, UserWarning)
        assert "3 of 5 queries" in text
        assert "boxcar" in text
        assert "1, 3, 4" in text
        assert "empty=" in text  # what can be done about it
        assert file == __file__


def test_empty_windows_warn_from_the_callers_line():
    _, found = caught(fastnw.pool, NEAR_AND_FAR, KEYS, VALUES, kernel="boxcar")
    assert [(file, offset) for _, _, file, offset in found] == [(__file__, 0)]


def test_of_many_empty_windows_the_first_few_are_named():
    _, found = caught(fastnw.pool, np.full((1000, 1), 9.0), KEYS, VALUES, kernel="boxcar")
    assert "1000 of 1000" in found[0][1]
    assert "0, 1, 2, 3, 4, …" in found[0][1]


@pytest.mark.parametrize("empty", ["nearest", "mean", 0, -1.5, np.float32(3), float("nan")])
@pytest.mark.parametrize("name", POOLS)
def test_other_policies_and_numbers_do_not_warn(name, empty):
    _, found = caught(POOLS[name], kernel="boxcar", empty=empty)
    assert found == []


def test_density_is_0_without_a_warning():
    density, found = caught(fastnw.density, NEAR_AND_FAR, KEYS, kernel="boxcar")
    assert found == []
    np.testing.assert_array_equal(density[[1, 3, 4]], 0)
    log_density, found = caught(fastnw.density, NEAR_AND_FAR, KEYS, kernel="boxcar", log=True)
    assert found == []
    np.testing.assert_array_equal(log_density[[1, 3, 4]], -np.inf)


def test_a_plan_does_not_warn():
    _, found = caught(fastnw.plan, NEAR_AND_FAR, KEYS, VALUES, kernel="boxcar")
    assert found == []


@pytest.mark.parametrize("kernel", ["gaussian", "cauchy", "boxcar", "constant", "dot"])
def test_without_any_weight_every_window_is_empty(kernel, dtype, backend):
    arrays = [array.astype(dtype) for array in (NEAR_AND_FAR, KEYS, VALUES)]
    options = {"sample_weight": np.zeros(3), "kernel": kernel, "backend": backend}
    (got, log_mass, error), found = caught(fastnw.pool, *arrays, return_mass=True, return_error=True, **options)
    assert [category for category, *_ in found] == [fastnw.EmptyWindowWarning]
    assert np.isnan(got).all()
    assert np.isneginf(log_mass).all()
    assert np.isnan(error).all()
    assert np.isnan(fastnw.pool(*arrays, empty="nearest", **options)).all()
    if kernel not in ("constant", "dot", "cauchy"):
        np.testing.assert_array_equal(fastnw.density(*arrays[:2], **options), 0)


def test_one_key_without_itself_is_an_empty_window(backend):
    (got, log_mass), found = caught(
        fastnw.pool, [[0.0]], [[0.0]], [1.0], exclude_self=True, return_mass=True, backend=backend
    )
    assert [category for category, *_ in found] == [fastnw.EmptyWindowWarning]
    assert np.isnan(got[0])
    assert log_mass[0] == -np.inf


def test_the_mean_for_empty_windows_is_that_of_the_promise(backend):
    """Many keys in float32 and float16, large values, equal values: a careless mean fails each of these."""
    options = {"kernel": "boxcar", "empty": "mean", "backend": backend}
    n = 1 << 20
    values = np.random.default_rng(0).random((n, 2)).astype("f4") + np.float32(1)
    exact = values.mean(axis=0, dtype=np.longdouble)
    got = fastnw.pool(np.full((1, 1), 9, "f4"), np.zeros((n, 1), "f4"), values, **options)
    assert np.all(abs(got[0] - exact) <= 2 * np.finfo("f4").eps)  # rounded, not accumulated, in float32
    values = np.array([1.0, 1.001, 1.5], "f2")
    got = fastnw.pool(np.full((1, 1), 9, "f4"), np.zeros((3, 1), "f4"), values, **options)
    assert got[0] == pytest.approx(values.mean(dtype="f8"), rel=1e-7)
    got = fastnw.pool([[9.0]], np.zeros((7, 1)), np.full(7, 1.7e308), **options)
    np.testing.assert_array_equal(got, 1.7e308)
    got = fastnw.pool([[9.0]], np.zeros((3, 1)), np.full(3, 0.1), sample_weight=[0.1, 0.2, 0.7], **options)
    np.testing.assert_array_equal(got, 0.1)  # results lie in [min V, max V]


def test_what_cannot_be_certified_returns_true_bounds_and_one_warning(backend):
    """float64 certifies no 1e-17."""
    rng = np.random.default_rng(0)
    queries, keys, values = rng.normal(size=(50, 2)), rng.normal(size=(200, 2)), rng.normal(size=200)
    for kernel in ("gaussian", "cauchy", "epanechnikov"):
        options = {"kernel": kernel, "bandwidth": 2.0}
        exact, _ = naive_pool(queries, keys, values, **options)
        (got, error), found = caught(
            fastnw.pool, queries, keys, values, tol=1e-17, return_error=True, backend=backend, **options
        )
        assert [(category, file) for category, _, file, _ in found] == [(fastnw.AccuracyWarning, __file__)]
        category, text, _, offset = found[0]
        assert issubclass(category, UserWarning)
        assert "50 of 50" in text
        assert "0, 1, 2, 3, 4, …" in text
        assert offset == 0
        assert np.all(error > 1e-17 * np.ptp(values))
        # "the rounding of the result comes on top"; the oracle's own is 1e-3 of that
        assert np.all(abs(got - exact) <= error + np.spacing(abs(got)))
        assert np.all(error <= 1e-10)  # and not just any number


def test_a_certified_call_does_not_warn(backend):
    rng = np.random.default_rng(0)
    queries, keys, values = rng.normal(size=(50, 2)), rng.normal(size=(200, 2)), rng.normal(size=200)
    for kernel in ("gaussian", "cauchy", "constant", "dot"):
        error, found = caught(fastnw.pool, queries, keys, values, kernel=kernel, return_error=True, backend=backend)
        assert found == []
        assert np.all(error[1] <= 1e-8 * np.ptp(values))


RATIONAL = {
    "triangular": lambda u: 1 - u,
    "epanechnikov": lambda u: 1 - u**2,
    "biweight": lambda u: (1 - u**2) ** 2,
    "triweight": lambda u: (1 - u**2) ** 3,
    "tricube": lambda u: (1 - u**3) ** 3,
}


@pytest.mark.parametrize("kernel", RATIONAL)
@pytest.mark.parametrize("gap", [1e-3, 1e-9, 1e-13, 2.0**-52])
def test_keys_at_the_edge_of_a_window(kernel, gap, backend):
    """1 - u has next to no digits there. Whether certified or warned of, the bound must hold; by exact arithmetic."""
    keys, values = np.array([[1 - gap], [-1 + 2 * gap], [-1 + 1.5 * gap], [7.0]]), np.array([0.0, 1.0, 3.0, 9.0])
    u = [abs(Fraction(key)) for key in keys[:3, 0]]
    weights = [RATIONAL[kernel](x) for x in u]
    exact = sum(w * Fraction(v) for w, v in zip(weights, values[:3], strict=True)) / sum(weights)
    (got, error), found = caught(fastnw.pool, [[0.0]], keys, values, kernel=kernel, return_error=True, backend=backend)
    assert abs(Fraction(got[0]) - exact) <= Fraction(error[0]) + Fraction(np.spacing(got[0]))
    assert [category for category, *_ in found] == [fastnw.AccuracyWarning] * int(error[0] > 1e-8 * 9)


def test_a_user_kernel_with_a_cliff_is_not_certified():
    """A key whose u² is rounded across the cliff: only the profile knows where that is, yet the bound must hold."""
    rng = np.random.default_rng(0)
    for key in rng.uniform(0.5, 1.0, size=20):
        cliff, exact_u2 = key * key, Fraction(key) ** 2
        step = fastnw.Kernel("step", lambda u2, cliff=cliff: np.where(u2 < cliff, 1.0, 0.25))
        exact = np.average([0.0, 1.0], weights=[1.0 if exact_u2 < Fraction(cliff) else 0.25, 1.0])
        (got, error), found = caught(fastnw.pool, [[0.0]], [[key], [0.1]], [0.0, 1.0], kernel=step, return_error=True)
        assert abs(got[0] - exact) <= error[0] + 1e-15  # the rounding of the result
        assert [category for category, *_ in found] == [fastnw.AccuracyWarning]


def test_a_density_that_cannot_be_certified_warns(backend):
    density, found = caught(fastnw.density, [[0.3]], [[0.0], [1.0]], kernel="gaussian", tol=1e-17, backend=backend)
    assert [(category, file) for category, _, file, _ in found] == [(fastnw.AccuracyWarning, __file__)]
    assert density[0] == pytest.approx((np.exp(-0.045) + np.exp(-0.245)) / 2 / np.sqrt(2 * np.pi), rel=1e-14)
