"""Numbers at their limits: 50 digits for every kernel and method, sums of very many terms, offsets that 32 bits do not
hold. Far tails are in test_tails.py and test_extremes.py."""

from __future__ import annotations

from functools import cache

import mpmath
import numpy as np
import pytest
from cases import COMPACT_KERNELS, KERNELS, LOG_KERNELS, PREFIX_SUM_KERNELS
from oracle import MP_CAUCHY, MP_LOG_KAPPA, mp_pool, mp_squares

import fastnw

PROMISE = {"float32": 1e-4, "float64": 1e-8}
N = 300
BANDWIDTHS = {
    "number": 0.8,
    "vector": np.array([0.6, 0.9, 1.3]),
    "matrix": np.array([[0.5, 0.2, 0.1], [0.2, 0.8, -0.1], [0.1, -0.1, 0.6]]),
}
MP_KAPPA = {  # of u < 1, but for the last
    "boxcar": lambda u: mpmath.mpf(1),
    "triangular": lambda u: 1 - u,
    "epanechnikov": lambda u: 1 - u**2,
    "biweight": lambda u: (1 - u**2) ** 2,
    "triweight": lambda u: (1 - u**2) ** 3,
    "tricube": lambda u: (1 - u**3) ** 3,
    "cosine": lambda u: mpmath.cos(mpmath.pi * u / 2),
    "constant": lambda u: mpmath.mpf(1),
}


@cache
def problem(d, shape, dtype):
    """Queries, keys, values and options: ordinary distances, a query within reach of a key or two."""
    rng = np.random.default_rng(d)
    keys, queries = rng.normal(size=(N, d)), 1.2 * rng.normal(size=(5, d))
    bandwidth = BANDWIDTHS[shape] if shape == "number" else BANDWIDTHS[shape][(slice(d),) * BANDWIDTHS[shape].ndim]
    queries[0] = 0
    queries[0, 0] = keys[:, 0].max() + 0.99 * np.min(bandwidth)
    weights, scale = rng.gamma(1.0, size=N), rng.uniform(0.7, 1.4, size=N)
    options = {"bandwidth": bandwidth} | ({"sample_weight": weights, "key_scale": scale} if shape != "number" else {})
    return queries.astype(dtype), keys.astype(dtype), rng.normal(size=(N, 2)).astype(dtype), options


@cache
def squares(d, shape, dtype):
    queries, keys, _, options = problem(d, shape, dtype)
    scale = options.get("key_scale", np.ones(N))
    return [mp_squares(query, keys, options["bandwidth"], scale) for query in queries]


@cache
def expected(kernel, d, shape, dtype):
    """f and log_mass to 50 digits, rounded to float64; NaN and −inf where no key is in the window."""
    queries, keys, values, options = problem(d, shape, dtype)
    if kernel in MP_LOG_KAPPA or kernel in MP_CAUCHY:
        return mp_pool(queries, keys, values, kernel, **options)
    f, log_mass = np.full((len(queries), 2), np.nan), np.full(len(queries), -np.inf)
    with mpmath.workdps(50):
        w = [mpmath.mpf(float(x)) for x in options.get("sample_weight", np.ones(N))]
        for i, row in enumerate(squares(d, shape, dtype)):
            terms = {
                j: w[j] * MP_KAPPA[kernel](mpmath.sqrt(s)) for j, s in enumerate(row) if s < 1 or kernel == "constant"
            }
            mass = mpmath.fsum(terms.values())
            if mass > 0:
                log_mass[i] = mpmath.log(mass)
                for k in range(2):
                    f[i, k] = mpmath.fsum(t * mpmath.mpf(float(values[j, k])) for j, t in terms.items()) / mass
    return f, log_mass


def methods(kernel, d, shape):
    """Those that can sum the problem."""
    can = {
        "exact": True,
        "tree": kernel in LOG_KERNELS + COMPACT_KERNELS and kernel != "dot",
        "moments": d == 1 and kernel in PREFIX_SUM_KERNELS,
        "fourier": kernel == "gaussian" and shape == "number",
    }
    return [method for method in can if can[method]]


EACH = [
    pytest.param(kernel, d, shape, method, id=f"{kernel}-d{d}-{shape}-{method}")
    for kernel in KERNELS
    for d, shape in [(1, "number"), (3, "number"), (3, "vector"), (3, "matrix")]
    for method in methods(kernel, d, shape)
]


@pytest.mark.filterwarnings("ignore::fastnw.EmptyWindowWarning")
@pytest.mark.parametrize(("kernel", "d", "shape", "method"), EACH)
def test_fifty_digits(kernel, d, shape, method, dtype):
    queries, keys, values, options = problem(d, shape, dtype)
    f, log_mass = expected(kernel, d, shape, dtype)
    got, got_log_mass, bound = fastnw.pool(
        queries, keys, values, kernel=kernel, method=method, return_mass=True, return_error=True, **options
    )
    empty = np.isneginf(log_mass)
    np.testing.assert_array_equal(np.isneginf(got_log_mass), empty)
    np.testing.assert_array_equal(np.isnan(got).any(axis=1), empty)
    got, f, bound, got_log_mass, log_mass = (a[~empty] for a in (got, f, bound, got_log_mass, log_mass))
    error = abs(got.astype(np.float64) - f) - np.finfo(dtype).eps * abs(f)
    assert np.all(error <= PROMISE[dtype] * np.ptp(values.astype(np.float64), axis=0))
    assert np.all(error.max(axis=1) <= bound)
    np.testing.assert_allclose(got_log_mass, log_mass, rtol=PROMISE[dtype], atol=PROMISE[dtype])


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov", "constant"])
def test_many_ones_in_float32(kernel, level):
    """2e7 terms of 1: a sum in float32 alone would stop at 2^24."""
    n = 20_000_000
    keys = np.broadcast_to(np.float32(0), (n, 1))
    values = np.zeros(n, np.float32)
    values[::2] = 2
    queries = np.zeros((1, 1), np.float32)
    got, log_mass = fastnw.pool(queries, keys, values, kernel=kernel, method="exact", tol=0, return_mass=True)
    assert got.dtype == np.float32
    assert abs(got[0] - 1) <= 1e-6
    # the mass: its logarithm is rounded to float32 once more, by half of 2^-19
    assert abs(float(log_mass[0]) - np.log(n)) <= 1e-6 + 2.0**-20
    assert abs(fastnw.pool(queries, keys, np.ones(n, np.float32), kernel=kernel)[0] - 1) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov", "laplacian"])
def test_more_pairs_than_32_bits_count(kernel):
    """50,000 x 50,000 pairs: y = 1 gives 1, two classes together give 1, and the last queries are those alone."""
    rng = np.random.default_rng(0)
    n = 50_000
    assert n * n > 2**31
    keys = rng.normal(size=(n, 2))
    some = rng.random(n) < 0.3
    got = fastnw.pool(
        keys, keys, np.stack([np.ones(n), some, ~some], axis=1).astype(float), kernel=kernel, method="exact", tol=0
    )
    assert np.max(abs(got[:, 0] - 1)) <= 1e-12
    assert np.max(abs(got[:, 1] + got[:, 2] - 1)) <= 1e-12
    alone = fastnw.pool(keys[-7:], keys, some.astype(float), kernel=kernel, method="exact", tol=0)
    np.testing.assert_allclose(got[-7:, 1], alone, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_more_keys_than_32_bits_count():
    """The last of 2^31 + 100 keys: zeros that were never written take no memory."""
    n = 2**31 + 100
    keys = np.zeros((n, 1), np.float32)
    values = np.zeros(n, np.float32)
    keys[-3:, 0], values[-3:] = 9, [1, 2, 6]
    queries = np.array([[0.0], [9.0]], np.float32)
    got, log_mass = fastnw.pool(queries, keys, values, kernel="epanechnikov", method="exact", return_mass=True)
    np.testing.assert_allclose(got, [0, 3], atol=1e-4 * 6)
    np.testing.assert_allclose(log_mass, np.log([n - 3, 3.0]), rtol=1e-6)
    indices, weights = fastnw.attention_weights(queries[1:], keys, kernel="epanechnikov", top_k=4)
    assert indices.tolist() == [[n - 3, n - 2, n - 1, -1]]
    np.testing.assert_allclose(weights, [[1 / 3, 1 / 3, 1 / 3, 0]], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("d", [4, 64])
def test_more_coordinates_than_32_bits_count(d):
    """Rows without a stride: 2^31 coordinates and more, of which a few lie in memory. 64 of them are summed as rows."""
    n = 2**31 // d + 1000
    keys = np.broadcast_to(np.linspace(0, 1, d, dtype=np.float32), (n, d))
    values = np.zeros(n, np.float32)
    values[-1000:] = 1
    queries = np.stack([keys[0], keys[0] + 1])
    got, log_mass = fastnw.pool(queries, keys, values, bandwidth=4.0, method="exact", return_mass=True)
    np.testing.assert_allclose(got, 1000 / n, atol=1e-4)
    np.testing.assert_allclose(log_mass, np.log(n) - np.array([0, d / 32]), rtol=1e-6)
