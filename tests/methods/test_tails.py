"""Far tails: kernels that work on logs against 50 digits, up to 1e9 bandwidths from the keys and beyond."""

from __future__ import annotations

import zlib
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from cases import LOG_KERNELS
from oracle import MP_LOG_KAPPA, mp_pool, naive_pool

import fastnw
from fastnw.methods.tails import method as tails

DISTANCES = {
    "float64": (1.0, 10.0, 1e2, 190.0, 1e3, 1e4, 1e6, 1e7, 1e9),
    "float32": (1.0, 30.0, 1e3, 1e6, 1e9),
    "beyond": (1e12, 1e20, 1e100),  # where even the difference of two keys' u² is nothing float64 could subtract
}
TOLERANCE = {"float64": 1e-12, "float32": 1e-4}  # SPEC's promises, times range(V); the result's own rounding on top
LOG_MASS = {"float64": 1e-13, "float32": 1e-4}  # a few roundings of a number as large as the logarithm, or 1


class Tail(NamedTuple):
    """Where the keys lie, seen from queries that are R bandwidths away."""

    layout: str  # a function of this file
    d: int
    bandwidth: str = "number"
    weights: bool = False
    key_scale: bool = False
    centre: float = 0.0

    def __str__(self):
        options = ["weights"] * self.weights + ["scale"] * self.key_scale + [f"at {self.centre:g}"] * (self.centre > 0)
        return " ".join([self.layout, f"d{self.d}", self.bandwidth, *options])


def unit_vectors(rng, d):
    """Two orthogonal unit vectors: along the first axis (where ties are exact) or in a random direction (nearly so)."""
    if rng.random() < 0.5:
        return np.eye(d)[0], np.eye(d)[1 % d] * (d > 1)
    rotation, _ = np.linalg.qr(rng.normal(size=(d, d)))
    return rotation[0], rotation[1 % d] * (d > 1)


def spread(rng, d, distance):
    """Keys a few bandwidths apart."""
    along, _ = unit_vectors(rng, d)
    return distance * along[None], 2 * rng.normal(size=(10, d))


def clustered(rng, d, distance):
    """Keys 1e-9 to 1e-3 bandwidths apart, and some of them twice."""
    along, _ = unit_vectors(rng, d)
    spacing = 10.0 ** rng.uniform(-9, -3, size=(10, 1))
    keys = spacing * rng.normal(size=(10, d))
    return distance * along[None], np.concatenate([keys, keys[:3]])


def mirrored(rng, d, distance):
    """Keys at R and at -R, exactly or all but; queries in the middle and a step of 1/R off it."""
    along, _ = unit_vectors(rng, d)
    steps = np.array([0, 0, 1, -1, 2, 0.5, 0.1])[:, None] / distance
    keys = np.concatenate([distance * along + steps * along, -(distance * along + steps[::-1] * along)])
    return np.stack([0 * along, along / distance, along * 0.3 / distance]), keys


def orthogonal(rng, d, distance):
    """Keys apart across the direction of the query only, and others closer to or further from it by about 1/R."""
    along, across = unit_vectors(rng, d)
    offsets, steps = rng.normal(size=(12, 1)), rng.normal(size=(12, 1)) / distance
    offsets[1::3] = -offsets[0::3]
    steps[:6] = 0
    return distance * along[None], offsets * across + steps * along


LAYOUTS = {function.__name__: function for function in (spread, clustered, mirrored, orthogonal)}


@cache
def problems(tail, dtype, distances):
    """A list, over distances R, of queries, keys, values and options."""
    rng = np.random.default_rng(zlib.crc32(str(tail).encode()))
    made = []
    for distance in DISTANCES[distances]:
        queries, keys = LAYOUTS[tail.layout](rng, tail.d, distance)
        options = {"bandwidth": tail_bandwidth(tail.bandwidth, tail.d)}
        unit = np.mean(np.sqrt(np.diag(options["bandwidth"]))) if tail.bandwidth == "matrix" else options["bandwidth"]
        queries, keys = queries * unit, keys * unit
        if tail.weights:
            options["sample_weight"] = rng.gamma(1.0, size=len(keys))
            options["sample_weight"][2] = 0.0
        if tail.key_scale:
            ulps = 1 + np.finfo(np.float64).eps * np.arange(len(keys))  # ties in dist/λ to the last digit of λ
            options["key_scale"] = np.where(np.arange(len(keys)) % 3 > 0, ulps, rng.uniform(0.5, 2, len(keys)))
            if tail.layout != "spread":
                options["key_scale"] = np.minimum(options["key_scale"], ulps)
        values = rng.normal(size=(len(keys), 2))
        made.append((*((a + tail.centre).astype(dtype) for a in (queries, keys)), values.astype(dtype), options))
    return made


def tail_bandwidth(shape, d):
    if shape == "number":
        return 0.37
    if shape == "vector":
        return np.array([0.3, 1.1, 0.7])[:d]
    return np.array([[0.5, 0.2, 0.1], [0.2, 0.4, -0.1], [0.1, -0.1, 0.3]])[:d, :d]


@cache
def expected(tail, dtype, distances, kernel):
    digits = 320 if distances == "beyond" else 50
    return [
        mp_pool(queries, keys, values, kernel, digits=digits, **options)
        for queries, keys, values, options in problems(tail, dtype, distances)
    ]


def check(tail, dtype, distances, kernel, backend):
    answers = expected(tail, dtype, distances, kernel)
    for problem, (f, log_mass) in zip(problems(tail, dtype, distances), answers, strict=True):
        queries, keys, values, options = problem
        got, got_log_mass, bound = fastnw.pool(
            queries, keys, values, kernel=kernel, backend=backend, return_mass=True, return_error=True, **options
        )
        assert got.dtype == dtype
        error = abs(got - f) - np.finfo(dtype).eps * abs(f)
        assert np.all(error <= TOLERANCE[dtype] * np.ptp(values, axis=0)), (queries, got, f)
        assert np.all(error.max(axis=1) <= bound), (queries, got, f, bound)
        assert np.all(np.isfinite(got_log_mass))
        mass_error = abs(got_log_mass - log_mass)
        assert np.all(mass_error <= LOG_MASS[dtype] * np.maximum(1, abs(log_mass))), (queries, got_log_mass, log_mass)


TAILS = [
    *(Tail(layout, d) for layout in LAYOUTS for d in (1, 2, 3) if not (layout == "orthogonal" and d == 1)),
    *(Tail(layout, 2, "vector") for layout in LAYOUTS),
    *(Tail(layout, 3, "matrix", weights=True) for layout in LAYOUTS),
    *(Tail(layout, 2, key_scale=True) for layout in LAYOUTS),
    *(Tail(layout, 2, "matrix", key_scale=True) for layout in LAYOUTS),
    *(Tail(layout, 3, "vector", weights=True, key_scale=True, centre=1e4) for layout in LAYOUTS),
    *(Tail(layout, 2, centre=1e8) for layout in LAYOUTS),
]
IN_FLOAT32 = [tail for tail in TAILS if tail.centre < 1e8]  # where float32 still tells the keys apart


def test_the_oracle_has_every_kernel_that_works_on_logs():
    assert set(MP_LOG_KAPPA) == set(LOG_KERNELS)


@pytest.mark.parametrize("kernel", LOG_KERNELS)
@pytest.mark.parametrize("tail", TAILS, ids=str)
def test_float64(kernel, tail, backend):
    check(tail, "float64", "float64", kernel, backend)


@pytest.mark.parametrize("kernel", LOG_KERNELS)
@pytest.mark.parametrize("tail", IN_FLOAT32, ids=str)
def test_float32(kernel, tail, backend):
    check(tail, "float32", "float32", kernel, backend)


@pytest.mark.parametrize("kernel", LOG_KERNELS)
@pytest.mark.parametrize("layout", ["spread", "orthogonal"])
@pytest.mark.parametrize("bandwidth", ["number", "vector", "matrix"])
def test_beyond(kernel, layout, bandwidth, backend):
    check(Tail(layout, 2, bandwidth), "float64", "beyond", kernel, backend)


@pytest.mark.parametrize("kernel", ["laplacian", "matern32", "matern52", "logistic"])
def test_kernels_with_exponential_tails_are_no_nearest_neighbour(kernel, backend):
    """In d = 1 their ratios stay what they are at any distance: at 1e6 bandwidths f is still a mean."""
    keys, values = np.array([[0.0], [-1.0]]), np.array([0.0, 1.0])
    rate = {"matern32": np.sqrt(3), "matern52": np.sqrt(5)}.get(kernel, 1.0)
    got = fastnw.pool([[1e6]], keys, values, kernel=kernel, backend=backend)
    assert got[0] == pytest.approx(1 / (1 + np.exp(rate)), abs=1e-5)  # the polynomial of Matérn is off by 1e-6


def test_gaussian_is_the_nearest_key(backend):
    rng = np.random.default_rng(4)
    keys, values = rng.normal(size=(400, 3)), rng.normal(size=400)
    queries = 1e6 * rng.normal(size=(50, 3))
    u2 = np.sort(((queries[:, None] - keys).astype(np.longdouble) ** 2).sum(axis=2), axis=1)
    assert np.all(u2[:, 1] - u2[:, 0] > 100)  # no other comes close to a tie
    nearest = np.argmin(((queries[:, None] - keys).astype(np.longdouble) ** 2).sum(axis=2), axis=1)
    got = fastnw.pool(queries, keys, values, backend=backend)
    assert np.all(abs(got - values[nearest]) <= 4 * np.finfo(np.float64).eps * abs(values).max())  # rounding alone


def test_many_keys_far_away(backend):
    """Several strips and blocks of keys, the nearest ones in the last; the mass must be found in each of them."""
    rng = np.random.default_rng(5)
    keys = np.sort(rng.normal(size=(6000, 1)), axis=0)
    values = rng.normal(size=6000)
    queries = np.array([[60.0], [500.0], [1e5], [-60.0], [-1e5]])
    u = (queries - keys.T).astype(np.longdouble)
    log = -(u**2) / 2
    weights = np.exp(log - log.max(axis=1, keepdims=True))
    exact = weights @ values / weights.sum(axis=1)
    got, log_mass = fastnw.pool(queries, keys, values, backend=backend, return_mass=True)
    # u² in long double is right to 1e-9 at 1e5 bandwidths, where the nearest key alone remains
    assert np.all(abs(got - exact) <= 1e-9 * np.ptp(values))
    np.testing.assert_allclose(log_mass, (log.max(axis=1) + np.log(weights.sum(axis=1))).astype(float), rtol=1e-12)


@pytest.mark.parametrize(("kernel", "bandwidth"), [("gaussian", 1.0), ("gaussian", 0.5), ("dot", 768**0.5)])
def test_ordinary_data_in_many_coordinates_is_no_far_tail(kernel, bandwidth, monkeypatch):
    """Each query would take a hundred times as long there, for digits that nobody was promised."""
    rng = np.random.default_rng(8)
    queries, keys, values = rng.normal(size=(6, 768)), rng.normal(size=(100, 768)), rng.normal(size=100)
    f, _ = naive_pool(queries, keys, values, kernel, bandwidth)
    monkeypatch.setattr(tails, "accumulate", None)
    got, bound = fastnw.pool(queries, keys, values, kernel=kernel, bandwidth=bandwidth, return_error=True)
    assert np.all(abs(got - f) <= 1e-12 * np.ptp(values))
    assert np.all(bound <= 1e-8 * np.ptp(values))


@pytest.mark.parametrize("kernel", LOG_KERNELS)
@pytest.mark.parametrize("far", [30.0, 400.0, 1e4, 1e6, 1e8])
def test_the_nearest_key_may_have_no_weight_or_be_the_query_itself(kernel, far, dtype, backend):
    keys = np.array([[0, 0], [far, 0], [far, 2], [-3 * far, 5]]).astype(dtype)
    values = np.array([1.0, 2.0, 5.0, 7.0]).astype(dtype)
    options = {"bandwidth": 0.5, "sample_weight": np.array([1.0, 0.0, 1e-3, 2.0]), "exclude_self": True}
    f, log_mass = mp_pool(keys, keys, values, kernel, **options)
    got, got_log_mass, bound = fastnw.pool(
        keys, keys, values, kernel=kernel, backend=backend, return_mass=True, return_error=True, **options
    )
    error = abs(got - f) - np.finfo(dtype).eps * abs(f)
    assert np.all(error <= TOLERANCE[dtype] * 6)
    assert np.all(error <= bound)
    np.testing.assert_allclose(got_log_mass, log_mass, rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "logistic"])
def test_weights_of_any_size(kernel, backend):
    """Weights from 1e-300 to 1e300: a far key may outweigh the near ones."""
    rng = np.random.default_rng(6)
    keys, values = 20 * rng.normal(size=(40, 2)), rng.normal(size=40)
    queries, weights = 30 * rng.normal(size=(9, 2)), 10.0 ** rng.uniform(-300, 300, size=40)
    f, log_mass = mp_pool(queries, keys, values, kernel, sample_weight=weights)
    got, got_log_mass = fastnw.pool(
        queries, keys, values, kernel=kernel, sample_weight=weights, backend=backend, return_mass=True
    )
    assert np.all(abs(got - f) <= 1e-8 * np.ptp(values))  # the promise for any problem
    np.testing.assert_allclose(got_log_mass, log_mass, rtol=1e-8)
