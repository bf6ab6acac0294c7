"""The matrix-product form of the exact sum: forced, against the oracle; and that it steps aside where it would lie."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from oracle import naive_pool

import fastnw
from fastnw.backends.compiled import backend as compiled
from fastnw.core.validate import build
from fastnw.methods import exact, products

PROMISE = {"float32": 1e-4, "float64": 1e-8}


@pytest.fixture(autouse=True)
def forced(level, monkeypatch):
    """By products wherever they can, whatever they would cost; the sweeps that were made are counted."""
    if level == "plain":
        pytest.skip("products need vectors")
    made = []
    sweep = products.sweep
    monkeypatch.setattr(exact, "_uses_products", lambda problem, tiles, dtype: products.supports(problem, tiles))
    monkeypatch.setattr(products, "sweep", lambda *arguments: made.append(1) or sweep(*arguments))
    return made


def problem(m, n, d, columns, dtype, seed=0, centre=0.0):
    rng = np.random.default_rng(seed)
    queries, keys = (centre + rng.normal(size=(rows, d)) for rows in (m, n))
    values = rng.normal(size=(n, columns)) if columns else np.sin(keys[:, 0]) + 0.1 * rng.normal(size=n)
    return queries.astype(dtype), keys.astype(dtype), values.astype(dtype)


def check(arrays, kernel, bandwidth, dtype, factor=1.0, **options):
    """Within the promise and within the bound of each query."""
    queries, keys, values = arrays
    got, log_mass, bound = fastnw.pool(
        queries, keys, values, kernel=kernel, bandwidth=bandwidth, return_mass=True, return_error=True, **options
    )
    f, expected_mass = naive_pool(queries, keys, values, kernel, bandwidth, **options)
    scale, eps = np.ptp(values, axis=0), np.finfo(dtype).eps
    error = abs(got - f) - eps * abs(f)
    assert got.dtype == dtype
    assert np.all(error <= factor * PROMISE[dtype] * scale)
    assert np.all(error.reshape(len(f), -1).max(axis=1) <= bound)
    assert np.all(abs(log_mass - expected_mass) <= PROMISE[dtype] * np.maximum(1, abs(expected_mass)))


@pytest.mark.parametrize("kernel", ["gaussian", "dot"])
@pytest.mark.parametrize("columns", [0, 1, 5, 16, 37, 64])
@pytest.mark.parametrize("m", [1, 4, 5, 70])
def test_against_the_oracle(forced, kernel, columns, m, dtype):
    """Few queries and many, values in whole vectors and not, more keys than a strip and than a task."""
    d = 37
    check(problem(m, 700, d, columns, dtype), kernel, 4.0 if kernel == "gaussian" else 9.0, dtype)
    assert forced


@pytest.mark.parametrize("kernel", ["gaussian", "dot"])
def test_weights_widths_and_own_keys(kernel, dtype):
    arrays = problem(40, 300, 43, 3, dtype)
    rng = np.random.default_rng(1)
    weights = rng.gamma(1.0, size=300) * (rng.random(300) > 0.2)
    check(arrays, kernel, 7.0 * np.linspace(0.8, 1.3, 43), dtype, sample_weight=weights)
    _, keys, values = arrays
    check((keys, keys, values), kernel, 7.0, dtype, sample_weight=weights, exclude_self=True)


@pytest.mark.parametrize("kernel", ["gaussian", "dot"])
@pytest.mark.parametrize("ratio", [1e5, 1e9, 1e17])
def test_a_heavy_key_leaves_no_trace_in_its_own_sum(kernel, ratio, dtype):
    """At the start and the end of strips; what would be left after subtracting it again is rounding."""
    _, keys, values = problem(0, 260, 37, 2, dtype)
    weights = np.ones(260)
    for own in (0, 255):
        weights[own] = ratio
        check((keys, keys, values), kernel, 3.5, dtype, sample_weight=weights, exclude_self=True)
        weights[own] = 1.0


@pytest.mark.parametrize("kernel", ["gaussian", "dot"])
@pytest.mark.parametrize("tightness", [1.0, 0.3, 0.1, 0.03])
def test_masked_copies_beside_the_own_key(kernel, tightness, dtype):
    """Every second key is a copy of weight 0, nearer to its twin than any key that counts."""
    rng = np.random.default_rng(3)
    keys = np.repeat(rng.normal(size=(100, 40)), 2, axis=0)
    keys[1::2] += 1e-3 * rng.normal(size=(100, 40))
    if kernel == "dot":
        keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    keys, values = keys.astype(dtype), rng.normal(size=200).astype(dtype)
    bandwidth = tightness * (8.0 if kernel == "gaussian" else 0.3)
    weights = np.tile([1.0, 0.0], 100)
    check((keys, keys, values), kernel, bandwidth, dtype, sample_weight=weights, exclude_self=True)


def test_more_coordinates_than_a_panel(dtype):
    """300 coordinates are added in three products."""
    queries, keys, values = problem(30, 200, 300, 2, dtype)
    got = fastnw.pool(queries, keys, values, bandwidth=17.0)
    f, _ = naive_pool(queries[:3], keys, values, "gaussian", 17.0)
    np.testing.assert_allclose(got[:3], f, rtol=0, atol=PROMISE[dtype] * np.ptp(values, axis=0).max())


def test_very_many_coordinates_are_summed_once(dtype, monkeypatch):
    """Norms are added up in parts: in a row, float32 would lose too many digits for the promise."""
    again = []
    monkeypatch.setattr(exact, "sweep", lambda *arguments: again.append(1))
    d = 20_011
    queries, keys, values = problem(6, 20, d, 2, dtype)
    got, bound = fastnw.pool(queries, keys, values, bandwidth=140.0, return_error=True)
    weights = np.exp(-np.square((queries[:, None].astype(np.longdouble) - keys) / 140).sum(axis=2) / 2)
    error = abs(got - weights @ values / weights.sum(axis=1, keepdims=True)).max(axis=1)
    assert np.all(error <= bound)
    assert bound.max() <= PROMISE[dtype] * np.ptp(values, axis=0).max()
    assert not again


def test_several_tiles_and_groups(dtype):
    """600 queries are three tiles; 5,000 keys fall to several groups of blocks."""
    queries, keys, values = problem(600, 5_000, 40, 2, dtype)
    got = fastnw.pool(queries, keys, values, bandwidth=5.0)
    f, _ = naive_pool(queries[::50], keys, values, "gaussian", 5.0)
    np.testing.assert_allclose(got[::50], f, rtol=0, atol=PROMISE[dtype] * np.ptp(values, axis=0).max())


@pytest.mark.parametrize("n_jobs", [1, 2, 4])
def test_the_same_bits_for_any_number_of_threads(n_jobs, dtype):
    arrays = problem(300, 4_000, 50, 20, dtype)
    one = fastnw.pool(*arrays, bandwidth=6.0, n_jobs=1)
    np.testing.assert_array_equal(fastnw.pool(*arrays, bandwidth=6.0, n_jobs=n_jobs), one)


@pytest.mark.parametrize("how", ["strided", "fortran", "other type", "wide rows"])
def test_arrays_that_blas_cannot_read_in_place(how, dtype):
    queries, keys, values = problem(20, 500, 40, 6, dtype)
    plain = fastnw.pool(queries, keys, values, bandwidth=5.0)
    other = {
        "strided": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        "fortran": np.asfortranarray,
        "other type": lambda a: a.astype("float64").astype(a.dtype.newbyteorder(">")),
        "wide rows": lambda a: np.hstack([a, a])[:, : a.shape[1]],
    }[how]
    got = fastnw.pool(queries, other(keys), other(values), bandwidth=5.0)
    np.testing.assert_allclose(got, plain, rtol=0, atol=4 * np.finfo(dtype).eps * np.ptp(values))


def test_values_far_from_0_are_normalised_first(dtype):
    """Centring afterwards would leave 1e-3 of the range in float32."""
    queries, keys, values = problem(20, 500, 40, 3, dtype)
    check((queries, keys, values + np.asarray(1e4, dtype)), "gaussian", 5.0, dtype)


def test_far_queries_are_handed_on(dtype):
    """At 300 bandwidths exponents from products have no digits left; the bound says so, and differences are taken."""
    queries, keys, values = problem(10, 400, 40, 2, dtype)
    check((queries + np.asarray(300, dtype), keys, values), "gaussian", 5.0, dtype)


@pytest.mark.parametrize("far", [1e15, 1e25, 1e38])
def test_queries_beyond_the_range_of_the_products(far, dtype):
    """Among ordinary ones: theirs are the same bits as without them."""
    queries, keys, values = problem(12, 400, 40, 2, dtype)
    plain = fastnw.pool(queries, keys, values, bandwidth=5.0)
    queries[3] = far
    got = fastnw.pool(queries, keys, values, bandwidth=5.0)
    others = np.arange(12) != 3
    np.testing.assert_array_equal(got[others], plain[others])
    nearest = keys.astype(np.float64).sum(axis=1).argmax()  # far out on the diagonal it has all the weight
    np.testing.assert_allclose(got[3], values[nearest], rtol=0, atol=PROMISE[dtype] * np.ptp(values, axis=0).max())


def test_ordinary_choices_weigh_cost_and_accuracy(monkeypatch):
    """Unforced: products for few queries in many coordinates, not for few coordinates, nor for data far from 0."""
    monkeypatch.undo()
    tiles, narrow = compiled.BACKEND, np.dtype(np.float32)

    def chosen(m, n, d, centre=0.0):
        queries, keys, values = problem(m, n, d, 8, "float32", centre=centre)
        return exact._uses_products(build(queries, keys, values, kernel="gaussian", bandwidth=d**0.5), tiles, narrow)

    assert chosen(1, 20_000, 64)
    assert not chosen(1, 20_000, 3)
    assert not chosen(1, 20_000, 64, centre=1e4)


@pytest.mark.parametrize("forces", [True, False])
def test_extreme_sizes_without_a_warning(forces, dtype, monkeypatch):
    """No queries, a query on a key, keys and queries whose squared norms are no numbers of the type."""
    if not forces:
        monkeypatch.undo()
    queries, keys, values = problem(6, 300, 64, 2, dtype)
    assert fastnw.pool(queries[:0], keys, values, bandwidth=8.0).shape == (0, 2)
    assert fastnw.attention_weights(queries[:0], keys, bandwidth=8.0).shape == (0, 300)
    huge = np.asarray(1e30 if dtype == "float32" else 1e200, dtype)
    keys[0], queries[0], queries[1] = huge, huge, 0
    got, bound = fastnw.pool(queries, keys, values, bandwidth=8.0, return_error=True)
    np.testing.assert_allclose(got[0], values[0], rtol=1e-6)
    assert np.isfinite(bound).all()
    f, _ = naive_pool(queries[1:2], keys[1:], values[1:], "gaussian", 8.0)  # the huge key is out of every other's reach
    np.testing.assert_allclose(got[1], f[0], rtol=0, atol=PROMISE[dtype] * np.ptp(values, axis=0).max())


@pytest.mark.skipif(sys.platform == "win32", reason="the file is 32 GiB of holes, which would be written there")
@pytest.mark.parametrize("which", ["keys", "values"])
def test_rows_further_apart_than_32_bits_say(forced, which, tmp_path):
    """A few columns of a wide memory map. BLAS counts in 32 bits: of this stride it would see 64."""
    n, stride = 3, (1 << 32) + 64
    arrays = dict(zip(("queries", "keys", "values"), problem(6, n, 37, 37, "float32"), strict=True))
    arrays["values"][1] = -arrays["values"][0]  # near 0, so that they are read where they lie
    apart = np.memmap(tmp_path / "wide", np.float32, "w+", shape=((n - 1) * stride + 37,))
    apart = np.lib.stride_tricks.as_strided(apart, (n, 37), (4 * stride, 4))
    apart[...] = arrays[which]
    arrays[which] = apart
    check(arrays.values(), "gaussian", 4.0, "float32")
    assert forced


@pytest.mark.parametrize("d", [64, 200, 400])
@pytest.mark.parametrize("bandwidth", ["number", "matrix"])
def test_inner_products_are_summed_once(d, bandwidth, monkeypatch):
    """Of standard normal points with bandwidth √d: where float32 cannot keep the promise, float64 is the first try."""
    rng = np.random.default_rng(d)
    queries, keys = (rng.normal(size=(rows, d)).astype(np.float32) for rows in (50, 400))
    values = rng.normal(size=400).astype(np.float32)
    swept = []
    sweep, by_products = exact.sweep, products.sweep
    monkeypatch.setattr(exact, "sweep", lambda *arguments: swept.append(1) or sweep(*arguments))
    monkeypatch.setattr(products, "sweep", lambda *arguments: swept.append(1) or by_products(*arguments))
    h = np.sqrt(d) if bandwidth == "number" else np.sqrt(d) * np.eye(d)
    got, bound = fastnw.pool(queries, keys, values, kernel="dot", bandwidth=h, return_error=True)
    assert len(swept) == 1
    scores = queries.astype(np.longdouble) @ keys.T / np.sqrt(d)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    error = abs(got - weights @ values / weights.sum(axis=1))
    assert np.all(error <= bound + np.spacing(abs(got)))
    assert bound.max() <= PROMISE["float32"] * np.ptp(values)
