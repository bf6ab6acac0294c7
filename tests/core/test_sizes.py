"""Sizes beside those of vectors, groups, strips and leaves, at random: where a loop's end is wrong, it is wrong here.
Under tests/sanitize.sh what it reads and writes beyond its arrays is seen, too."""

from __future__ import annotations

import numpy as np
import pytest
from cases import COMPACT_KERNELS, KERNELS, LOG_KERNELS, PREFIX_SUM_KERNELS, spread_bandwidth
from oracle import naive_log_density, naive_pool
from parity import PROMISE, near_rim

import fastnw

KEYS = (
    1,
    2,
    15,
    16,
    17,
    31,
    32,
    33,
    63,
    64,
    65,
    127,
    128,
    129,
    255,
    256,
    257,
    1023,
    1024,
    1025,
    1151,
    1152,
    1153,
    2177,
)
QUERIES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 32, 33)
COORDINATES = (1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33, 47, 48, 49)
COLUMNS = (0, 1, 2, 3, 8, 15, 16, 17, 32, 33, 47, 48, 49, 65)  # 0: a density


def drawn(rng):
    """A problem's arrays and options, and the methods that sum it."""
    kernel, dtype = str(rng.choice(KERNELS)), str(rng.choice(["float32", "float64"]))
    n, m, d, c = (int(rng.choice(sizes)) for sizes in (KEYS, QUERIES, COORDINATES, COLUMNS))
    options = {"kernel": kernel, "bandwidth": spread_bandwidth(str(rng.choice(["number", "vector", "matrix"])), d, rng)}
    if rng.random() < 0.3:
        options["sample_weight"] = rng.gamma(1.0, size=n)
    if rng.random() < 0.3:
        options["key_scale"] = rng.uniform(0.7, 1.4, size=n)
    keys = rng.normal(size=(n, d)).astype(dtype)
    if n <= 129 and rng.random() < 0.4:
        queries, options["exclude_self"] = keys, True
    else:
        queries = rng.normal(size=(m, d)).astype(dtype)
    methods = ["exact"]
    if kernel in LOG_KERNELS + COMPACT_KERNELS and kernel != "dot":
        methods.append("tree")
    if d == 1 and "key_scale" not in options and kernel in PREFIX_SUM_KERNELS:
        methods.append("moments")
    return queries, keys, rng.normal(size=(n, c)).astype(dtype), options, methods


def check_pool(arrays, method, dtype, options):
    queries, keys, values = arrays
    f, log_mass = naive_pool(queries, keys, values, **options)
    got, got_log_mass = fastnw.pool(*arrays, method=method, return_mass=True, **options)
    sure = np.full(len(queries), True)
    if options["kernel"] == "boxcar":
        sure = ~near_rim(queries, keys, "boxcar", dtype, options["bandwidth"], options.get("key_scale"))
    np.testing.assert_array_equal(np.isneginf(got_log_mass)[sure], np.isneginf(log_mass)[sure])
    sure &= log_mass > -np.inf
    error = abs(got - f)[sure] - np.finfo(dtype).eps * abs(f[sure])
    assert np.all(error <= PROMISE[dtype] * np.ptp(values, axis=0))
    size = np.maximum(1, abs(log_mass[sure]))
    assert np.all(abs(got_log_mass[sure] - log_mass[sure]) <= PROMISE[dtype] * size)


def check_density(queries, keys, method, dtype, options):
    got = fastnw.density(queries, keys, method=method, log=True, **options)
    sure = np.full(len(queries), True)
    if options["kernel"] == "boxcar":
        sure = ~near_rim(queries, keys, "boxcar", dtype, options["bandwidth"], options.get("key_scale"))
    expected = naive_log_density(queries, keys, **options)
    np.testing.assert_allclose(got[sure], expected[sure].astype(float), rtol=PROMISE[dtype], atol=PROMISE[dtype])


def check_many(seed, count):
    rng = np.random.default_rng(seed)
    for number in range(count):
        queries, keys, values, options, methods = drawn(rng)
        dtype, kernel, d = keys.dtype.name, options["kernel"], keys.shape[1]
        for method in methods:
            try:
                if values.shape[1]:
                    check_pool((queries, keys, values), method, dtype, options)
                elif (
                    kernel not in ("dot", "constant")
                    and (kernel != "cauchy" or d == 1)
                    and "exclude_self" not in options
                ):
                    check_density(queries, keys, method, dtype, options)
            except AssertionError as failed:
                shapes = [a.shape for a in (queries, keys, values)]
                raise AssertionError(
                    f"problem {number} of seed {seed}: {method}, {dtype}, {shapes}, {options}"
                ) from failed


@pytest.mark.filterwarnings("ignore::fastnw.EmptyWindowWarning")
def test_sizes(level):
    check_many(0, 12)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore::fastnw.EmptyWindowWarning")
@pytest.mark.parametrize("seed", range(1, 9))
def test_many_sizes(level, seed):
    check_many(seed, 1000)
