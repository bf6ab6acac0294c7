"""Weights over float64's whole range: no key is lost beside another that weighs 10^600 times as much."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from answered import answered
from oracle import COMPACT, LOG_KAPPA, LONG, naive_log_density, naive_pool

import fastnw
from fastnw.core.validate import build
from fastnw.methods.tree import bands

RADIAL = [name for name in LOG_KAPPA if name != "dot"]
SLOW = [  # Numba compiles each kernel; the reference goes pair by pair
    pytest.param(method, backend, marks=pytest.mark.slow)
    for method in ("exact", "tree")
    for backend in ("numba", "reference")
]
WAYS = [
    ("exact", "compiled"),
    ("tree", "compiled"),
    ("moments", "compiled"),
    ("fourier", "compiled"),
    ("auto", "auto"),
]


def weights_of(kind, n, rng):
    if kind == "importance":  # exp of log-weights, the largest at e^700
        logs = rng.normal(size=n) * 150
        return np.exp(logs - logs.max() + 700)
    if kind == "two populations":
        return np.where(rng.random(n) < 0.5, 1e-300, 1e300)
    if kind == "subnormal":
        return np.where(rng.random(n) < 0.5, 1.0, 5e-324 * rng.integers(1, 1000, n))
    weights = 10.0 ** rng.uniform(-300, 300, n)
    weights[rng.random(n) < 0.1] = 0.0
    return weights


KINDS = ["importance", "two populations", "subnormal", "uniform in the exponent"]


def takes(method, kernel, d):
    if method == "moments":
        return d == 1 and kernel not in ("gaussian", "logistic", "cosine")
    return kernel == "gaussian" if method == "fourier" else True


def check(queries, keys, values, kernel, method, backend, **options):
    f, log_mass, bound = fastnw.pool(
        queries, keys, values, kernel=kernel, method=method, backend=backend, empty=0.0,
        return_mass=True, return_error=True, **options,
    )  # fmt: skip
    right, right_log_mass = naive_pool(queries, keys, values, kernel, **options)
    empty = np.isnan(right.astype(float))
    np.testing.assert_array_equal(np.isneginf(log_mass), empty)
    f, log_mass, bound, right, right_log_mass = (a[~empty] for a in (f, log_mass, bound, right, right_log_mass))
    rounding = np.finfo(float).eps * np.abs(right) + 1e-15
    assert np.all(np.abs(f - right) <= bound + rounding)
    assert np.all(bound <= 1.0001e-8 * np.ptp(values))
    assert np.all(np.abs(log_mass - right_log_mass) <= 1e-8 * np.maximum(1, np.abs(right_log_mass) * 1e-3))


@pytest.mark.parametrize("kernel", [*RADIAL, *COMPACT])
@pytest.mark.parametrize(("method", "backend"), [*WAYS, *SLOW])
def test_every_method_and_backend(method, backend, kernel):
    for seed, kind in enumerate(KINDS):
        rng = np.random.default_rng(seed)
        d = 1 if method == "moments" else 1 + seed % 3
        if not takes(method, kernel, d):
            continue
        keys = rng.normal(size=(300, d)) * rng.choice([1.0, 3.0 if method == "fourier" else 30.0], (300, 1))
        weights, values = weights_of(kind, 300, rng), rng.normal(size=300)
        queries = np.concatenate([keys[:30], 3 * rng.normal(size=(10, d))])
        for h in (0.5, 1.0) if method == "fourier" else (0.05, 1.0):
            check(queries, keys, values, kernel, method, backend, bandwidth=h, sample_weight=weights)


@pytest.mark.parametrize("kernel", ["gaussian", "matern52", "logistic", "epanechnikov", "boxcar", "tricube"])
@pytest.mark.parametrize(("method", "backend"), [*(way for way in WAYS if way[0] in ("tree", "auto", "exact")), *SLOW])
@pytest.mark.parametrize("options", ["exclude_self", "key_scale", "matrix"])
def test_with_options(method, backend, kernel, options):
    rng = np.random.default_rng(7)
    keys, values = rng.normal(size=(150, 2)) * rng.choice([1.0, 30.0], (150, 1)), rng.normal(size=150)
    more = {
        "exclude_self": {"bandwidth": 0.5, "exclude_self": True},
        "key_scale": {"bandwidth": 0.5, "key_scale": rng.uniform(0.5, 2, 150)},
        "matrix": {"bandwidth": np.array([[0.5, 0.1], [0.1, 0.3]])},
    }[options]
    for kind in KINDS:
        check(keys, keys, values, kernel, method, backend, sample_weight=weights_of(kind, 150, rng), **more)


@pytest.mark.parametrize("kernel", RADIAL)
def test_a_light_key_beside_the_query(kernel):
    """However heavy the other one, and however far it is."""
    for light, heavy, apart in ((1e-200, 1e200, 60.0), (5e-324, 1e308, 80.0), (1e-150, 1e170, 39.0)):
        apart *= 1 if kernel == "gaussian" else 50
        keys, weights = np.array([[0.0], [apart]]), np.array([light, heavy])
        for method in ("exact", "tree"):
            f, log_mass, bound = fastnw.pool(
                [[0.0]], keys, [1.0, 2.0], kernel=kernel, sample_weight=weights, method=method,
                return_mass=True, return_error=True,
            )  # fmt: skip
            right, right_log_mass = naive_pool([[0.0]], keys, [1.0, 2.0], kernel, sample_weight=weights)
            assert abs(f[0] - right[0]) <= bound[0] + 1e-15
            assert abs(log_mass[0] - right_log_mass[0]) <= 1e-9 * abs(right_log_mass[0])


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "epanechnikov"])
@pytest.mark.parametrize("method", ["exact", "tree"])
def test_densities(kernel, method):
    """Weights are divided by λ^d, too."""
    rng = np.random.default_rng(3)
    keys, scale = rng.normal(size=(200, 3)), 10.0 ** rng.uniform(-40, 0, 200)
    for kind in KINDS:
        weights = weights_of(kind, 200, rng)
        options = {"kernel": kernel, "bandwidth": 1.5, "sample_weight": weights, "key_scale": scale}
        got = fastnw.density(keys[:20], keys, method=method, log=True, **options).astype(LONG)
        right = naive_log_density(keys[:20], keys, **options)
        np.testing.assert_array_equal(np.isneginf(got), np.isneginf(right))
        got, right = got[np.isfinite(got)], right[np.isfinite(got)]
        assert np.all(np.abs(got - right) <= 1e-8 * np.maximum(1, np.abs(right) * 1e-3))


def test_many_keys_stay_in_the_tree():
    """Importance weights neither lose keys nor send each query to far tails."""
    rng = np.random.default_rng(0)
    keys, values = rng.normal(size=(20_000, 2)), rng.normal(size=20_000)
    weights = weights_of("importance", 20_000, rng)
    asked = slice(0, 200)
    arrays, options = (keys[asked], keys, values), {"bandwidth": 0.002, "sample_weight": weights, "method": "tree"}
    f, bound = fastnw.pool(*arrays, **options, return_error=True)
    right, _ = naive_pool(keys[asked], keys, values, bandwidth=0.002, sample_weight=weights)
    assert np.all(np.abs(f - right) <= bound + 1e-15)
    assert answered(*arrays, **options) == {"tree": 200}


@pytest.mark.parametrize("kind", [*KINDS, "ordinary"])
@pytest.mark.parametrize("by_volume", [False, True])
def test_bands_hold_each_key_once(kind, by_volume):
    rng = np.random.default_rng(1)
    weights = rng.gamma(1.0, size=500) if kind == "ordinary" else weights_of(kind, 500, rng)
    scale = 10.0 ** rng.uniform(-30, 30, 500) if by_volume else None
    problem = build(
        np.zeros((1, 4)),
        np.zeros((500, 4)),
        None,
        kernel="gaussian",
        bandwidth=1.0,
        sample_weight=weights,
        key_scale=scale,
    )
    problem = replace(problem, by_volume=by_volume)
    found = list(bands.split(problem))
    assert len(found) <= bands.max_bands(problem) <= bands.MAX_BANDS
    positions = np.concatenate([band.positions for band in found])
    np.testing.assert_array_equal(np.sort(positions), np.flatnonzero(weights))
    with np.errstate(divide="ignore"):
        logs = np.log(weights.astype(LONG)) - (4 * np.log(scale.astype(LONG)) if by_volume else 0)
    logs -= logs.max()
    for band in found:
        mine = band.weights[band.positions]
        assert mine.max() == 1.0
        assert mine.min() >= bands.LEAST_WEIGHT
        assert band.least == pytest.approx(mine.min())
        np.testing.assert_allclose(np.log(mine) + band.log_scale, logs[band.positions].astype(float), atol=1e-11)
        assert band.total == pytest.approx(mine.sum())
