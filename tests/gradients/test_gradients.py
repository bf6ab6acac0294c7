"""Gradient sums, against differences of the oracle's means in long double and, in tails, against mpmath."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import mpmath
import numpy as np
import oracle
import pytest
from cases import COMPACT_KERNELS, KERNELS, LOG_KERNELS, spread_bandwidth

import fastnw
from fastnw import kernels
from fastnw.backends.compiled import gradients as compiled_gradients
from fastnw.core.validate import build
from fastnw.gradients.sums import by_key, by_query
from fastnw.runtime.threads import Meter

LONG = np.longdouble
NO_METER = Meter(False, 0, "")
# Differences of fourth order leave some 1e-13 in 80 bits, and the sums some 1e-15 of their terms' size. Where long
# double is no longer than double, they leave 1e-9; a longer step would leave less, but crosses kinks of the kernels.
STEP = LONG(1e-5)
RTOL = 1e-10 if oracle.LONGER else 1e-7


class Case:
    """A problem, random cotangents of means and log masses, and the loss whose gradient is asked for."""

    def __init__(self, kernel, shape="number", d=2, c=1, weights=False, key_scale=False, exclude_self=False, m=9, n=12):
        rng = np.random.default_rng([KERNELS.index(kernel), d, c])
        self.kernel, self.shape, self.exclude_self, self.rng = kernel, shape, exclude_self, rng
        m = n if exclude_self else m
        # mostly within two bandwidths of each other, so that compact kernels have windows
        self.parts = {
            "queries": 0.5 * rng.normal(size=(m, d)),
            "keys": 0.5 * rng.normal(size=(n, d)),
            "values": 2 + rng.normal(size=(n, c)),
            "bandwidth": 3 * np.asarray(spread_bandwidth(shape, d, rng)),
        }
        if weights:
            self.parts["sample_weight"] = rng.gamma(2.0, size=n) * (np.arange(n) > 0)
        if key_scale:
            self.parts["key_scale"] = rng.uniform(0.5, 2.0, size=n)
        self.positions = rng.permutation(m)[: m - 2]
        self.alpha = rng.normal(size=(m - 2, c))
        self.beta = rng.normal(size=m - 2)

    @property
    def problem(self):
        return build(**self.parts, kernel=self.kernel, exclude_self=self.exclude_self)

    def pooled(self, **changed):
        means, log_mass = oracle.naive_pool(
            **(self.parts | changed), kernel=self.kernel, exclude_self=self.exclude_self
        )
        return means[self.positions], log_mass[self.positions]

    def sums(self, backend="auto", outer=False):
        means, log_mass = self.pooled()
        assert np.all(log_mass > -np.inf)
        gamma = ((self.alpha * means).sum(axis=1) - self.beta).astype(np.float64)
        arguments = (self.problem, self.positions, log_mass.astype(np.float64), self.alpha, gamma, 1, NO_METER)
        return by_query(*arguments, outer=outer, backend=backend), by_key(*arguments, backend=backend)

    def gradients(self, backend):
        """By the formulas that the module's docstring states."""
        full = self.shape == "matrix"
        queries, keys = self.sums(backend, outer=full)
        metric = self.problem.metric
        back = np.linalg.inv(metric.cholesky) if full else np.diag(metric.inverse)
        by_position = np.zeros(self.parts["queries"].shape)
        by_position[self.positions] = -queries.moved @ back
        found = {"queries": by_position, "keys": keys.moved @ back, "values": keys.values}
        if full:
            found["bandwidth"] = back.T @ queries.outer @ back / 2
        else:
            by_log = queries.squares.sum(axis=0)
            found["bandwidth"] = by_log / self.parts["bandwidth"] if self.shape == "vector" else by_log.sum()
            if self.shape == "number":
                found["bandwidth"] = found["bandwidth"] / self.parts["bandwidth"]
        if "sample_weight" in self.parts:
            weights = self.parts["sample_weight"]
            found["sample_weight"] = keys.weights / np.where(weights > 0, weights, np.inf)
        if "key_scale" in self.parts:
            found["key_scale"] = keys.squares / self.parts["key_scale"]
        return found

    def check(self, backend):
        for name, gradient in self.gradients(backend).items():
            for _ in range(2):
                direction = self.rng.normal(size=np.shape(gradient))
                if name == "bandwidth" and self.shape == "matrix":
                    direction = direction + direction.T
                if name == "sample_weight":
                    direction[self.parts[name] == 0] = 0  # nothing is known of its logarithm
                along = self.slope(name, direction)
                size = max(np.sum(np.abs(gradient * direction)), 1.0)  # the loss is of order 1, too
                np.testing.assert_allclose(np.sum(gradient * direction), along, rtol=0, atol=RTOL * size, err_msg=name)

    def slope(self, name, direction):
        def loss(steps):
            means, log_mass = self.pooled(**{name: self.parts[name].astype(LONG) + steps * STEP * direction})
            return (self.alpha * means).sum() + (self.beta * log_mass).sum()

        return (8 * (loss(1) - loss(-1)) - (loss(2) - loss(-2))) / (12 * STEP)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", ["number", "vector", "matrix"])
def test_every_gradient_is_a_derivative(kernel, shape, backend):
    Case(kernel, shape, d=2, c=3, weights=True, key_scale=True).check(backend)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("shape", "d", "c"), [("number", 1, 1), ("vector", 3, 1), ("matrix", 5, 2)])
def test_without_weights_and_self(kernel, shape, d, c):
    Case(kernel, shape, d=d, c=c, exclude_self=True).check("auto")


@pytest.mark.parametrize("kernel", KERNELS)
def test_masses_alone(kernel):
    """c = 0: density and its likelihoods need no values."""
    case = Case(kernel, "vector", weights=True, key_scale=True)
    case.alpha = np.zeros_like(case.alpha)
    queries, keys = case.sums()
    case.alpha = None
    _, log_mass = case.pooled()
    arguments = (case.problem, case.positions, log_mass.astype(np.float64), None, -case.beta, 1, NO_METER)
    bare, bare_keys = by_query(*arguments), by_key(*arguments)
    np.testing.assert_array_equal(bare.moved, queries.moved)
    np.testing.assert_array_equal(bare.squares, queries.squares)
    assert bare.outer is None
    assert bare_keys.values.shape == (12, 0)
    for name in ("moved", "weights", "squares"):
        np.testing.assert_array_equal(getattr(bare_keys, name), getattr(keys, name))


def test_users_kernels():
    """Differences of their profiles, so some digits fewer; `support` and logarithms count."""
    mine = {
        "gaussian": {"log_profile": lambda u2: -0.5 * u2},
        "cauchy": {},
        "biweight": {"support": 1.0},
        "triweight": {"support": 1.0},
    }
    for name, facts in mine.items():
        case = Case(name, "vector", c=2, weights=True, key_scale=True)
        expected = case.sums()
        kernel = fastnw.Kernel("mine", kernels.get(name).profile, **facts)
        case.__class__ = type("Users", (Case,), {"problem": replace(case.problem, kernel=kernel)})
        for found, right in zip(case.sums(), expected, strict=True):
            for field in ("moved", "squares"):
                size = np.abs(getattr(right, field)).max()
                np.testing.assert_allclose(getattr(found, field), getattr(right, field), rtol=0, atol=1e-8 * size)


@pytest.mark.parametrize("distance", [100.0, 1e4])
@pytest.mark.parametrize("kernel", [k for k in LOG_KERNELS if k != "dot"])
def test_tails(kernel, distance, backend):
    """All keys far away: κ is 0 in float64, the gradients are not. Exponents of 5e7 are known to 1e-8."""
    keys = np.array([[0.0], [0.3], [1.0], [1.02]]) * 3 / distance  # so near each other that all count
    values, weights, query = np.array([1.0, -2.0, 3.0, 0.5]), np.array([1.0, 2.0, 0.5, 1.0]), np.array([[-distance]])
    (shares,), (log_mass,) = oracle.mp_weights(query, keys, kernel, sample_weight=weights)
    with mpmath.workdps(50):
        log_kappa, z = oracle.MP_LOG_KAPPA[kernel], [mpmath.mpf(float(query[0, 0] - k)) for k in keys[:, 0]]
        mean = mpmath.fdot(shares, values)
        pull = [p * (float(v) - mean) for p, v in zip(shares, values, strict=True)]
        slopes = [-mpmath.diff(log_kappa, abs(x)) / abs(x) for x in z]
        moved = [e * s * x for e, s, x in zip(pull, slopes, z, strict=True)]
        squares = [e * x for e, x in zip(moved, z, strict=True)]
    problem = build(query, keys, values, kernel=kernel, bandwidth=1.0, sample_weight=weights)
    arguments = (problem, np.arange(1), np.array([float(log_mass)]), np.ones((1, 1)), np.array([float(mean)]), 1)
    found = by_query(*arguments, NO_METER, backend=backend)
    found_keys = by_key(*arguments, NO_METER, backend=backend)
    rtol = 1e-11 * (distance / 100) ** 2
    each, each_square = np.array(moved, float), np.array(squares, float)
    size = np.abs(each).sum()
    np.testing.assert_allclose(found.moved[0, 0], float(mpmath.fsum(moved)), rtol=0, atol=rtol * size)
    np.testing.assert_allclose(found.squares[0, 0], float(mpmath.fsum(squares)), rtol=0, atol=rtol * distance * size)
    np.testing.assert_allclose(found_keys.moved[:, 0], each, rtol=rtol)
    np.testing.assert_allclose(found_keys.squares, each_square, rtol=rtol)
    np.testing.assert_allclose(found_keys.values[:, 0], np.array(shares, float), rtol=rtol)


@pytest.mark.parametrize("kernel", COMPACT_KERNELS)
def test_empty_windows_take_no_part(kernel, backend):
    keys, queries = np.zeros((3, 1)), np.array([[0.5], [7.0]])
    problem = build(queries, keys, np.arange(3.0), kernel=kernel, bandwidth=1.0)
    alpha, gamma = np.array([[1.0], [np.nan]]), np.array([0.5, np.nan])
    arguments = (problem, np.arange(2), np.array([0.0, -np.inf]), alpha, gamma, 1)
    found = by_query(*arguments, NO_METER, backend=backend)
    found_keys = by_key(*arguments, NO_METER, backend=backend)
    assert found.moved[1, 0] == found.squares[1, 0] == 0
    for sums in (found.moved, found_keys.moved, found_keys.values, found_keys.weights, found_keys.squares):
        assert np.all(np.isfinite(sums))
        assert np.any(sums != 0) or kernel == "boxcar"


@pytest.mark.parametrize("kernel", [k for k in KERNELS if k not in ("dot", "constant")])
def test_keys_whose_squares_overflow_count_for_nothing(kernel, backend):
    keys, values = np.array([[0.2], [0.5], [1e170]]), np.array([1.0, 2.0, 3.0])

    def sums(n):
        problem = build([[0.0]], keys[:n], values[:n], kernel=kernel, bandwidth=1.0)
        arguments = (problem, np.arange(1), np.zeros(1), np.ones((1, 1)), np.array([1.5]), 1, NO_METER)
        found, found_keys = by_query(*arguments, backend=backend), by_key(*arguments, backend=backend)
        return [found.moved, found.squares, found_keys.moved[:2], found_keys.values[:2], found_keys.squares[:2]]

    for with_it, without in zip(sums(3), sums(2), strict=True):
        np.testing.assert_allclose(with_it, without, rtol=1e-14)


def test_at_kinks_and_edges(backend):
    """A key that lies on the query, and one at the edge of the support, leave finite sums."""
    for kernel in (k for k in KERNELS if k != "dot"):
        problem = build([[0.0]], [[0.0], [1.0], [0.5]], [1.0, 2.0, 3.0], kernel=kernel, bandwidth=1.0)
        _, log_mass = oracle.naive_pool([[0.0]], [[0.0], [1.0], [0.5]], [1.0, 2.0, 3.0], kernel)
        arguments = (problem, np.arange(1), log_mass.astype(float), np.ones((1, 1)), np.array([1.5]), 1)
        found = by_key(*arguments, NO_METER, backend=backend)
        assert found.moved[0, 0] == 0
        assert np.all(np.isfinite(found.moved))
        assert np.isfinite(by_query(*arguments, NO_METER, backend=backend).moved[0, 0])


@pytest.mark.parametrize("kernel", [k for k in KERNELS if k != "dot"])
@pytest.mark.parametrize("shape", ["vector", "matrix"])
def test_compiled_sums_are_numpys(kernel, shape, level):
    """Over several strips, to the rounding of sums in another order; with queries asked for twice."""
    rng = np.random.default_rng(2)
    n, d, c = 1300, 3, 2
    keys, values = rng.normal(size=(n, d)), rng.normal(size=(n, c))
    bandwidth = 2 * np.asarray(spread_bandwidth(shape, d, rng))
    options = {"sample_weight": rng.gamma(1.0, size=n), "key_scale": rng.uniform(0.5, 2, n), "exclude_self": True}
    if shape == "vector":  # what is not there has loops of its own
        del options["sample_weight"], options["key_scale"]
    problem = build(keys, keys, values, kernel=kernel, bandwidth=bandwidth, **options)
    positions = rng.integers(0, n, size=700)
    _, log_mass = fastnw.pool(
        keys, keys, values, kernel=kernel, bandwidth=bandwidth, return_mass=True, empty=0.0, **options
    )
    arguments = (problem, positions, log_mass[positions], rng.normal(size=(700, c)), rng.normal(size=700), 1, NO_METER)
    assert compiled_gradients.runs(problem.kernel)
    for sums in (partial(by_query, outer=True), by_key):
        found, expected = sums(*arguments), sums(*arguments, backend="reference")
        for name, right in vars(expected).items():
            size = np.abs(right).max()
            np.testing.assert_allclose(getattr(found, name), right, rtol=0, atol=1e-12 * size, err_msg=name)
            assert size > 0 or kernel in ("boxcar", "constant")


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov", "dot"])
@pytest.mark.parametrize("sizes", [(1500, 900), (40, 20000)])
def test_threads_do_not_change_a_bit(kernel, sizes):
    rng = np.random.default_rng(0)
    queries, keys, values = rng.normal(size=(sizes[0], 2)), rng.normal(size=(sizes[1], 2)), rng.normal(size=sizes[1])
    problem = build(queries, keys, values, kernel=kernel, bandwidth=[1.0, 2.0])
    mean, log_mass = fastnw.pool(
        queries, keys, values, kernel=kernel, bandwidth=[1.0, 2.0], return_mass=True, empty=0.0
    )
    arguments = (problem, np.arange(sizes[0]), log_mass, np.ones((sizes[0], 1)), mean)

    def results(n):
        queries, keys = (
            by_query(*arguments, n, NO_METER, outer=True),
            by_key(*arguments, n, NO_METER),
        )
        return [queries.moved, queries.squares, queries.outer, keys.moved, keys.values, keys.weights, keys.squares]

    for one, many in zip(results(1), results(3), strict=True):
        np.testing.assert_array_equal(one, many)
        assert np.any(one != 0)


@pytest.mark.parametrize("sizes", [(700, 1100), (2, 3000), (3000, 2)])
def test_blocks_are_put_together(sizes, monkeypatch):
    """Many tasks and spans give what one gives."""
    from fastnw.backends import gradient_tiles
    from fastnw.gradients import sums

    rng = np.random.default_rng(1)
    (m, n), d = sizes, 2
    queries, keys, values = rng.normal(size=(m, d)), rng.normal(size=(n, d)), rng.normal(size=(n, 2))
    problem = build(queries, keys, values, kernel="matern32", bandwidth=0.7, key_scale=rng.uniform(1, 2, n))
    log_mass = rng.normal(size=m)
    arguments = (problem, np.arange(m), log_mass, rng.normal(size=(m, 2)), rng.normal(size=m), 1, NO_METER)

    def results():
        queries, keys = by_query(*arguments, outer=True), by_key(*arguments)
        return [queries.moved, queries.squares, queries.outer, keys.moved, keys.values, keys.weights, keys.squares]

    whole = results()
    monkeypatch.setattr(sums, "SPAN_BYTES", 20000)
    monkeypatch.setattr(sums, "TASK_PAIRS", 1)
    monkeypatch.setattr(gradient_tiles, "PAIRS", 1000)
    for found, expected in zip(results(), whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_float32_problems_are_summed_in_float64():
    case = Case("gaussian", weights=True)
    narrow = {name: np.asarray(part, np.float32) for name, part in case.parts.items()}
    case.parts = {name: np.asarray(part, np.float64) for name, part in narrow.items()}
    expected, _ = case.sums()
    case.parts = narrow
    found, _ = case.sums()
    np.testing.assert_array_equal(found.moved, expected.moved)
