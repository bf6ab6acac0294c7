"""Subnormal numbers: off inside tiles, which they would slow down, and as ever everywhere else."""

from __future__ import annotations

import sys
import threading
import time

import numpy as np
import pytest
from cases import KERNELS, LOG_KERNELS
from oracle import LONGER, naive_pool

import fastnw

PROMISE = {"float32": 1e-4, "float64": 1e-8}
DISTANCES = [kernel for kernel in KERNELS if kernel != "dot"]


def has_subnormals():
    tiny64, tiny32 = np.nextafter(0.0, 1.0), np.nextafter(np.float32(0), np.float32(1))
    # half of the smallest normal number, computed here and now
    return bool(tiny64 > 0 and tiny32 > 0 and sys.float_info.min * float(np.cos(np.pi / 3)) > 0)


def problem(dtype, m=300, n=2_000, d=3):
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(n, d)).astype(dtype)
    return keys[:m], keys, rng.normal(size=n).astype(dtype)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_call_leaves_them_as_they_were(kernel, level, dtype):
    queries, keys, values = problem(dtype)
    fastnw.pool(queries, keys, values, kernel=kernel, bandwidth=0.2, method="exact", empty=0.0)
    assert has_subnormals()


@pytest.mark.parametrize(
    ("method", "backend"),
    [(method, "compiled") for method in ("exact", "tree", "moments", "fourier")]
    + [(method, backend) for method in ("exact", "tree") for backend in ("numba", "reference")],
)
def test_in_the_threads_that_summed(method, backend):
    """Also where fastnw's own threads did the work, and in a thread of the user's that came to be during it."""
    queries, keys, values = problem("float64", m=2_000, n=3_000, d=1)
    found = []

    def work():
        kernel = "laplacian" if method == "moments" else "gaussian"
        fastnw.pool(queries, keys, values, kernel=kernel, bandwidth=0.05, method=method, backend=backend, n_jobs=3)
        found.append(has_subnormals())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 3
    assert has_subnormals()


def test_after_gradients_and_matrix_products(level):
    rng = np.random.default_rng(1)
    queries, keys = rng.normal(size=(2, 40, 200))
    fastnw.pool(queries, keys, keys[:, 0], bandwidth=0.5, method="exact")
    assert has_subnormals()
    fastnw.select_bandwidth(keys[:, :2], keys[:, 0])
    assert has_subnormals()


@pytest.mark.parametrize(
    ("backend", "kernel", "dtype"),
    [
        (backend, kernel, dtype)
        for backend in ("compiled", "reference")
        for kernel in LOG_KERNELS
        if kernel != "dot"
        for dtype in ("float32", "float64")
    ]
    + [("numba", "gaussian", "float32"), pytest.param("numba", "gaussian", "float64", marks=pytest.mark.slow)],
)
def test_the_time_of_a_pair_does_not_depend_on_the_bandwidth(kernel, backend, dtype):
    """Kernel values from 1 down to 0: the processor's own time of this thread, and a limit far below the 10 to 35
    times that subnormal numbers took."""
    queries, keys, values = problem(dtype, 256, 20_000)
    bandwidths = (2.0, 0.3, 0.2, 0.1, 0.05)

    def seconds(h):
        start = time.thread_time()
        fastnw.pool(queries, keys, values, kernel=kernel, bandwidth=h, method="exact", backend=backend, n_jobs=1)
        return time.thread_time() - start

    seconds(1.0)  # compiles
    best = {h: min(seconds(h) for _ in range(4)) for h in bandwidths}
    assert max(best.values()) < 4 * min(best.values()), best


@pytest.mark.skipif(not LONGER, reason="needs a longer type than float64")
@pytest.mark.parametrize("kernel", DISTANCES)
@pytest.mark.parametrize("unit", [2.0**-1000, 2.0**-900, 2.0**-100, 2.0**100, 2.0**900, 2.0**1000])
def test_units_at_the_ends_of_the_range(kernel, unit, level):
    """Differences, reciprocal bandwidths or their squares would be flushed there, and with them all distances."""
    queries, keys, values = problem("float64", 20, 100, 2)
    f, log_mass = fastnw.pool(
        unit * queries, unit * keys, values, kernel=kernel, bandwidth=unit * 1.5, return_mass=True, method="exact"
    )
    expected, expected_mass = naive_pool(queries, keys, values, kernel, 1.5)
    np.testing.assert_allclose(f, expected, rtol=0, atol=1e-8 * np.ptp(values))
    np.testing.assert_allclose(log_mass, expected_mass, rtol=0, atol=1e-8)


@pytest.mark.skipif(not LONGER, reason="needs a longer type than float64")
@pytest.mark.parametrize("kernel", DISTANCES)
@pytest.mark.parametrize("decades", [10, 30, 44, 150, 300, 310])
def test_weights_and_values_that_vanish(kernel, decades, level, dtype):
    """Products with weights and values of which many are no normal numbers."""
    rng = np.random.default_rng(decades)
    queries, keys, values = problem(dtype, 30, 200, 2)
    values = (values * 10.0 ** rng.uniform(-40, 0, len(values))).astype(dtype)
    weights = 10.0 ** -rng.uniform(0, min(decades, 300), len(keys)) * 10.0 ** min(300 - decades, 0)
    f, bound = fastnw.pool(
        queries, keys, values, kernel=kernel, bandwidth=0.7, sample_weight=weights, return_error=True, empty=0.0
    )
    expected, _ = naive_pool(queries, keys, values, kernel, 0.7, sample_weight=weights)
    error = abs(f - np.nan_to_num(expected.astype(np.float64)))
    assert np.all(error <= PROMISE[dtype] * np.ptp(values))
    assert np.all((error <= bound + np.spacing(abs(f))) | np.isnan(bound))
