"""The ends of float64's range: distances whose squares overflow, weights whose sums or ratios do."""

from __future__ import annotations

import numpy as np
import pytest
from cases import COMPACT_KERNELS
from oracle import mp_pool, mp_weights, naive_log_density, naive_pool, normalising_constant

import fastnw

NEVER_EMPTY = ["gaussian", "laplacian", "matern32", "matern52", "logistic", "cauchy"]
FAR = [1e100, 1e140, 1e146, 1e152, 1e154, 1e160, 1e200, 1e300]  # bandwidths
MATRIX = np.array([[0.5, 0.2], [0.2, 0.4]])
DIGITS = 700  # 1e300 squared, less another such
LOWEST = np.finfo(np.float64).min


def check(queries, keys, values, kernel, backend, **options):
    """Within 1e-12 of the range and within the bound; the logarithm to a few roundings, or at float64's end."""
    f, log_mass = mp_pool(queries, keys, values, kernel, digits=DIGITS, **options)
    got, got_log_mass, bound = fastnw.pool(
        queries, keys, values, kernel=kernel, backend=backend, return_mass=True, return_error=True, **options
    )
    error = abs(got - f) - np.finfo(np.float64).eps * abs(f)
    assert np.all(error <= 1e-12 * np.ptp(values)), (got, f)
    assert np.all(error <= bound)
    assert np.all(np.isfinite(got_log_mass))
    np.testing.assert_allclose(got_log_mass, np.maximum(log_mass, LOWEST), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kernel", NEVER_EMPTY)
@pytest.mark.parametrize("far", FAR)
@pytest.mark.parametrize("bandwidth", [1.0, np.array([0.3, 1.1]), MATRIX], ids=["number", "vector", "matrix"])
def test_far_queries(kernel, far, bandwidth, backend):
    rng = np.random.default_rng(1)
    keys, values = 2 * rng.normal(size=(10, 2)), rng.normal(size=10)
    queries = far * np.array([[1.0, 0.0], [0.6, -0.8]])
    check(queries, keys, values, kernel, backend, bandwidth=bandwidth)
    weights, scale = rng.gamma(1.0, size=10), rng.uniform(0.5, 2.0, size=10)
    weights[3] = 0.0
    check(queries, keys, values, kernel, backend, bandwidth=bandwidth, sample_weight=weights, key_scale=scale)


@pytest.mark.parametrize("kernel", NEVER_EMPTY)
@pytest.mark.parametrize("far", FAR)
def test_ties_of_far_keys(kernel, far, backend):
    """Two keys at the same distance, two a little further, and far ones that only Cauchy still feels."""
    keys = far * np.array([[1.0, 0], [-1.0, 0], [0, 1.0 + 1e-15], [0, 1.5], [7.0, 7.0]])
    check(np.zeros((1, 2)), keys, np.array([1.0, 2.0, 5.0, 9.0, 4.0]), kernel, backend)


@pytest.mark.parametrize("kernel", NEVER_EMPTY)
@pytest.mark.parametrize("h", [1e-145, 1e-160, 1e-200, 1e-300])
@pytest.mark.parametrize("shape", ["number", "vector"])
def test_tiny_bandwidths(kernel, h, shape, backend):
    rng = np.random.default_rng(2)
    keys, values = rng.normal(size=(12, 2)), rng.normal(size=12)
    queries = np.concatenate([rng.normal(size=(3, 2)), keys[:1], h * rng.normal(size=(1, 2))])
    keys[:4] = h * rng.normal(size=(4, 2))  # near the last query, and together far from all others
    keys[4:6] = [[3.0, 0.5], [3.0, -0.5]]
    queries[0] = [2.9, 0.0]
    bandwidth = h if shape == "number" else h * np.array([1.0, 3.0])
    check(queries, keys, values, kernel, backend, bandwidth=bandwidth, sample_weight=rng.gamma(1.0, size=12))


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian"])
def test_tiny_bandwidths_of_a_matrix(kernel, backend):
    rng = np.random.default_rng(3)
    keys, queries = rng.normal(size=(9, 2)) * 1e20, rng.normal(size=(4, 2)) * 1e20
    check(queries, keys, rng.normal(size=9), kernel, backend, bandwidth=MATRIX * 1e-280)


@pytest.mark.parametrize("kernel", NEVER_EMPTY)
@pytest.mark.parametrize("unit", [1e-290, 1e-150, 1e150, 1e290])
def test_units_do_not_matter(kernel, unit, backend):
    """Ordinary distances, far ones among them, in units whose squares are not numbers."""
    rng = np.random.default_rng(4)
    keys, queries = unit * rng.normal(size=(9, 2)), unit * np.array([[0.1, 0.2], [300.0, 0.0], [1e6, 1e6]])
    check(queries, keys, rng.normal(size=9), kernel, backend, bandwidth=unit)


@pytest.mark.parametrize("kernel", COMPACT_KERNELS)
@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_units_of_compact_kernels(kernel, unit, backend):
    rng = np.random.default_rng(5)
    keys, queries, values = rng.normal(size=(9, 2)), rng.normal(size=(6, 2)), rng.normal(size=9)
    keys[0] = queries[0] + [1 - 1e-9, 0]  # the edge of a window, which goes to 32 digits
    got = fastnw.pool(unit * queries, unit * keys, values, kernel=kernel, bandwidth=unit, backend=backend, empty=0.0)
    expected = fastnw.pool(queries, keys, values, kernel=kernel, backend=backend, empty=0.0)
    assert np.all(abs(got - expected) <= 1e-8 * np.ptp(values))


@pytest.mark.parametrize("kernel", NEVER_EMPTY)
@pytest.mark.parametrize("far", [1e160, 1e300])
def test_attention_weights(kernel, far):
    rng = np.random.default_rng(6)
    keys, queries = 2 * rng.normal(size=(10, 2)), np.array([[far, 0.0], [0.3 * far, far], [0.0, 0.0]])
    with_digits, _ = mp_weights(queries, keys, kernel, digits=DIGITS)
    expected = np.array([[float(x) for x in row] for row in with_digits])
    np.testing.assert_allclose(fastnw.attention_weights(queries, keys, kernel=kernel), expected, atol=1e-12)
    indices, weights = fastnw.attention_weights(queries, keys, kernel=kernel, top_k=3)
    np.testing.assert_allclose(weights, -np.sort(-expected, axis=1)[:, :3], atol=1e-12)
    np.testing.assert_allclose(np.take_along_axis(expected, indices, axis=1), weights, atol=1e-12)


@pytest.mark.parametrize("kernel", NEVER_EMPTY)
def test_float32(kernel):
    keys, values = np.array([[0.0], [-1.0]], np.float32), np.array([1.0, 2.0], np.float32)
    queries = np.array([[1e25], [1e38]], np.float32)
    got, log_mass = fastnw.pool(queries, keys, values, kernel=kernel, bandwidth=1e-30, return_mass=True)
    f, _ = mp_pool(queries, keys, values, kernel, bandwidth=1e-30, digits=DIGITS)
    assert got.dtype == log_mass.dtype == np.float32
    np.testing.assert_allclose(got, f, atol=1e-6)
    assert np.all(np.isfinite(log_mass))


@pytest.mark.parametrize("threads", [1, 7])
def test_bits_do_not_depend_on_threads(threads):
    rng = np.random.default_rng(7)
    keys, values = rng.normal(size=(3000, 3)), rng.normal(size=(3000, 2))
    queries = rng.normal(size=(300, 3)) * 10.0 ** rng.uniform(0, 200, size=(300, 1))
    one = fastnw.pool(queries, keys, values, kernel="laplacian", n_jobs=1)
    np.testing.assert_array_equal(fastnw.pool(queries, keys, values, kernel="laplacian", n_jobs=threads), one)


# -- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov"])
def test_density_of_weights_whose_sum_overflows(kernel, backend):
    rng = np.random.default_rng(8)
    keys, queries = rng.normal(size=(5, 2)), rng.normal(size=(4, 2)) / 4
    got = fastnw.density(queries, keys, kernel=kernel, sample_weight=np.full(5, 1e308), bandwidth=2.0, backend=backend)
    expected = fastnw.density(queries, keys, kernel=kernel, bandwidth=2.0, backend=backend)
    np.testing.assert_allclose(got, expected, rtol=1e-8)


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "biweight", "boxcar"])
@pytest.mark.parametrize("exclude_self", [False, True])
def test_density_of_scales_whose_power_overflows(kernel, exclude_self, backend):
    """λ^−10 from 1e-400 to 1e400: half of the keys in a cluster of 1e-40, half in one of 1e40."""
    rng = np.random.default_rng(9)
    scale = np.where(np.arange(8) < 4, 1e-40, 1e40) * rng.uniform(1, 2, size=8)
    keys = rng.normal(size=(8, 10)) * scale[:, None] / 10
    keys[4:, 0] += 1e45
    options = {"kernel": kernel, "bandwidth": 1.5, "key_scale": scale}
    got = fastnw.density(keys, keys, log=True, exclude_self=exclude_self, backend=backend, **options)
    expected = [
        naive_log_density(
            keys[i : i + 1],
            np.delete(keys, i, axis=0) if exclude_self else keys,
            **options | {"key_scale": np.delete(scale, i) if exclude_self else scale},
        )[0]
        for i in range(8)
    ]
    np.testing.assert_allclose(got, np.array(expected, float), rtol=1e-8)


def test_density_at_a_tiny_scale(backend):
    got = fastnw.density(np.zeros((1, 10)), np.zeros((1, 10)), key_scale=[1e-40], log=True, backend=backend)
    assert got[0] == pytest.approx(400 * np.log(10) - np.log(normalising_constant("gaussian", 10)), rel=1e-12)


@pytest.mark.parametrize("kernel", [*COMPACT_KERNELS, "gaussian", "laplacian"])
def test_a_key_of_vanishing_weight_counts_where_only_it_reaches(kernel, backend):
    """1e-320 relative to 1e300 is no number, but near the first keys nothing else is in the window."""
    keys = np.array([[0.0], [0.5], [1e4], [1e4 + 0.3]])
    values, weights = np.array([1.0, 2.0, 5.0, 9.0]), np.array([1e-320, 3e-320, 1e-20, 1e300])
    queries = np.array([[0.2], [0.4], [1e4 + 0.2]])
    # Each cluster for itself, the other's weight in any kernel being less than 1e-3000 of its own; and the first one's
    # weights as numbers of full precision, for where long double is no longer than double.
    up = 2.0**1000
    f, log_mass = naive_pool(queries[:2], keys[:2], values[:2], kernel, sample_weight=up * weights[:2])
    far = naive_pool(queries[2:], keys[2:], values[2:], kernel, sample_weight=weights[2:])
    f, log_mass = np.append(f, far[0]), np.append(log_mass - np.log(up), far[1])
    got, got_log_mass = fastnw.pool(
        queries, keys, values, kernel=kernel, sample_weight=weights, return_mass=True, backend=backend
    )
    np.testing.assert_allclose(got, f.astype(float), rtol=1e-8)
    np.testing.assert_allclose(got_log_mass, log_mass.astype(float), rtol=1e-8)
    shares = fastnw.attention_weights(queries, keys, kernel=kernel, sample_weight=weights)
    np.testing.assert_allclose(shares @ values, f.astype(float), rtol=1e-8)
    nearest = fastnw.pool([[-5.0]], keys, values, kernel="boxcar", sample_weight=weights, empty="nearest")
    assert nearest[0] == 1


def test_leaving_out_the_key_that_holds_all_weight(backend):
    keys, weights = np.array([[0.0], [0.5], [1.0]]), np.array([1e300, 1.0, 2.0])
    got = fastnw.density(keys, keys, sample_weight=weights, exclude_self=True, backend=backend)
    alone = fastnw.density(keys[:1], keys[1:], sample_weight=weights[1:], backend=backend)
    assert got[0] == pytest.approx(alone[0], rel=1e-8)
    assert np.all(np.isfinite(got))


def test_a_huge_value_without_weight(backend):
    """It is out of the values' range; what becomes of it must not overflow on the way (warnings are errors here)."""
    values = np.array([-1e308, 1.0, 1.5e308, 2.0])
    got = fastnw.pool(np.zeros((2, 1)), np.zeros((4, 1)), values, sample_weight=[0.0, 1.0, 0.0, 1.0], backend=backend)
    assert got.tolist() == [1.5, 1.5]


@pytest.mark.filterwarnings("ignore::fastnw.AccuracyWarning")  # nothing knows a user's kernel where u² overflows
@pytest.mark.parametrize("ask", ["pool", "density", "weights"])
def test_what_leaves_the_range_of_float32_or_of_squares_is_silent(ask, backend):
    """Key scales of 1e-60 to 1e-160: logarithms beyond float32, and u² beyond float64, without a warning of NumPy's."""
    stretched = fastnw.Kernel("stretched", lambda u2: np.exp(-np.sqrt(u2)), log_profile=lambda u2: -np.sqrt(u2))
    queries, keys = np.array([[3850.0]], np.float32), np.array([[1.5], [2.5]], np.float32)
    for kernel in ("dot", "gaussian", "laplacian", stretched):
        for scale in (1e-60, 1e-157):
            options = {"kernel": kernel, "key_scale": np.array([scale, 3 * scale])}
            options["backend"] = "reference" if kernel is stretched else backend
            if ask == "pool":
                f, log_mass = fastnw.pool(queries, keys, np.ones(2, np.float32), return_mass=True, empty=1.0, **options)
                assert f == 1.0
                assert np.all(np.isfinite(log_mass)) or kernel is stretched
            elif ask == "weights":
                assert fastnw.attention_weights(queries, keys, **options).sum() == pytest.approx(1.0)
            elif kernel != "dot":
                log_density = fastnw.density(queries, keys, log=True, **options)
                assert np.all(np.isfinite(log_density)) or kernel is stretched
                assert fastnw.density(queries, keys, **options) == 0.0
