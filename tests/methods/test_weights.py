"""attention_weights, dense and top_k, against the oracle and each other."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from cases import CASES, CENTRED, COMPACT_KERNELS, KERNELS, LOG_KERNELS
from oracle import mp_weights, naive_scaled, naive_weights
from robustness.draw import Problem
from robustness.truth import Oracle

import fastnw

pytestmark = pytest.mark.filterwarnings("ignore::fastnw.EmptyWindowWarning")

PROMISE = {"float32": 1e-4, "float64": 1e-8}
SMALL = [
    case
    for case in (*CASES, *CENTRED)
    if case.m < 100 and case.n <= 300 and (case.weights or case.exclude_self or case.n != 150)
]


@cache
def expected_weights(kernel, case, dtype):
    """The weights, u, and which rows count: those of full windows without a boxcar key within rounding of u = 1."""
    queries, keys, _, options = case.problem(dtype)
    weights, _ = naive_weights(queries, keys, kernel, **options)
    u = naive_scaled(queries, keys, kernel, options["bandwidth"], options.get("key_scale"))
    rim = (abs(u - 1) <= 16 * case.d * np.finfo(dtype).eps).any(axis=1) & (kernel == "boxcar")
    return weights, u, rim


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_dense(kernel, case, dtype, backend):
    queries, keys, _, options = case.problem(dtype)
    expected, u, rim = expected_weights(kernel, case, dtype)
    got = fastnw.attention_weights(queries, keys, kernel=kernel, backend=backend, **options)
    assert got.dtype == dtype
    assert got.shape == expected.shape
    np.testing.assert_array_equal(np.isnan(got[~rim]), np.isnan(expected[~rim]))
    rows = ~rim & ~np.isnan(expected[:, 0])
    own = np.eye(*got.shape, dtype=bool)[rows]
    got, expected, u, eps = got[rows], expected[rows], u[rows], np.finfo(dtype).eps
    # a weight is the pooled value of one key's indicator: its range is 1
    assert np.all(abs(got - expected) <= PROMISE[dtype])
    assert np.all((got >= 0) & (got <= 1))
    # each of n weights is rounded once, and up to -log κ roundings of the logarithms are common to all
    assert np.all(abs(got.sum(axis=1, dtype=np.float64) - 1) <= (case.n + 16) * eps)
    if kernel in COMPACT_KERNELS:  # exactly 0 beyond the support, up to rounding of u
        assert np.all(got[u > 1 + 16 * case.d * eps] == 0)
    if case.weights:
        assert np.all(got[:, options["sample_weight"] == 0] == 0)
    if case.exclude_self:
        assert np.all(got[own] == 0)


def test_weights_pool_the_values(backend, dtype):
    queries, keys, values, options = CASES[4].problem(dtype)
    weights = fastnw.attention_weights(queries, keys, backend=backend, **options)
    f = fastnw.pool(queries, keys, values, backend=backend, **options)
    # both keep to the promise
    assert np.all(abs(weights @ values - f) <= 2 * PROMISE[dtype] * np.ptp(values, axis=0))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_top_k(kernel, case, dtype, backend):
    queries, keys, _, options = case.problem(dtype)
    dense = fastnw.attention_weights(queries, keys, kernel=kernel, backend=backend, **options)
    full = np.isfinite(dense[:, 0])
    for top_k in {1, min(7, case.n), case.n}:
        indices, weights = fastnw.attention_weights(
            queries, keys, kernel=kernel, backend=backend, top_k=top_k, **options
        )
        assert indices.shape == weights.shape == (len(queries), top_k)
        assert indices.dtype.kind == "i"
        assert weights.dtype == dtype
        assert np.all(indices[~full] == -1)
        assert np.all(weights[~full] == 0)
        check_top_k(dense[full], indices[full], weights[full], 16 * np.finfo(dtype).eps)


def check_top_k(dense, indices, weights, tolerance):
    """`tolerance`: dense and top_k are two ways to the same numbers, but the same arithmetic up to rounding."""
    beyond = indices == -1
    assert np.all(np.diff(weights, axis=1) <= 0)
    assert np.all(weights[beyond] == 0)
    assert np.all(np.diff(beyond.astype(int), axis=1) >= 0)  # real keys first
    for row, where, weight, none in zip(dense, indices, weights, beyond, strict=True):
        chosen = where[~none]
        assert len(set(chosen)) == len(chosen)
        assert np.all(abs(row[chosen] - weight[~none]) <= tolerance)
        rest = np.delete(row, chosen)
        # what is left out is no larger than what is taken, and next to nothing where a place stayed free
        assert np.all(rest <= (0 if none.any() else weight[-1] + tolerance))


@pytest.mark.parametrize("kernel", KERNELS)
def test_ties_go_to_the_smaller_index(kernel, dtype, backend):
    keys = np.array([[3, 0], [1, 0], [0, 1], [1, 0], [-1, 0], [0, 0.5], [1, 0]], dtype)
    indices, weights = fastnw.attention_weights(
        np.zeros((1, 2), dtype), keys, kernel=kernel, bandwidth=2.0, top_k=5, backend=backend
    )
    if kernel in ("boxcar", "constant", "dot"):
        expected = [0, 1, 2, 3, 4] if kernel != "boxcar" else [1, 2, 3, 4, 5]
    else:
        expected = [5, 1, 2, 3, 4]
    np.testing.assert_array_equal(indices, [expected])
    assert np.all(weights[0, 1:] == weights[0, 1])


def test_ties_across_many_keys(backend, dtype):
    """5,000 keys of three distances, in an order that no block of keys respects."""
    keys = (np.arange(5000) % 3 + 1.0).astype(dtype)[::-1, None].copy()
    indices, weights = fastnw.attention_weights(np.zeros((2, 1), dtype), keys, top_k=20, backend=backend)
    np.testing.assert_array_equal(indices, np.tile(np.flatnonzero(keys[:, 0] == 1)[:20], (2, 1)))
    assert np.all(weights == weights[0, 0])


def test_top_k_is_normalised_over_all_keys(backend, dtype):
    keys = np.zeros((10, 1), dtype)
    _, weights = fastnw.attention_weights(keys[:1], keys, top_k=4, backend=backend)
    np.testing.assert_allclose(weights, 0.1, rtol=2 * np.finfo(dtype).eps)


def test_top_k_beyond_the_support(backend, dtype):
    keys = np.array([[5], [0.1], [-5], [0.4], [7]], dtype)
    indices, weights = fastnw.attention_weights(
        np.zeros((1, 1), dtype), keys, kernel="triangular", top_k=4, backend=backend
    )
    np.testing.assert_array_equal(indices, [[1, 3, -1, -1]])
    np.testing.assert_allclose(weights, [[0.6, 0.4, 0, 0]], rtol=1e-6)


def test_top_k_leaves_out_self_and_weightless_keys(backend, dtype):
    keys = np.arange(4, dtype=dtype)[:, None]
    indices, weights = fastnw.attention_weights(
        keys, keys, top_k=3, exclude_self=True, sample_weight=[1, 0, 1, 1], backend=backend
    )
    np.testing.assert_array_equal(indices, [[2, 3, -1], [0, 2, 3], [3, 0, -1], [2, 0, -1]])
    assert np.all(weights[indices == -1] == 0)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("top_k", [0, -1, 4, 2.5])
def test_top_k_of_nonsense(top_k, backend):
    with pytest.raises((ValueError, TypeError), match="top_k"):
        fastnw.attention_weights(np.zeros((1, 1)), np.zeros((3, 1)), top_k=top_k, backend=backend)


EMPTY = {"queries": np.array([[0.0], [9.0]]), "keys": np.array([[0.25], [-0.5], [20.0]]), "kernel": "triangular"}


def test_empty_nan(backend):
    with pytest.warns(fastnw.EmptyWindowWarning, match="1") as caught:
        got = fastnw.attention_weights(**EMPTY, backend=backend)
    assert len(caught) == 1
    np.testing.assert_allclose(got[0], [0.6, 0.4, 0], rtol=1e-15)
    assert np.isnan(got[1]).all()


def test_empty_other_policies(backend):
    nearest = fastnw.attention_weights(**EMPTY, backend=backend, empty="nearest")
    np.testing.assert_array_equal(nearest[1], [1, 0, 0])
    mean = fastnw.attention_weights(**EMPTY, backend=backend, empty="mean", sample_weight=[1, 2, 1])
    np.testing.assert_allclose(mean[1], [0.25, 0.5, 0.25], rtol=1e-15)
    with pytest.raises(ValueError, match="1"):
        fastnw.attention_weights(**EMPTY, backend=backend, empty="raise")


@pytest.mark.parametrize("kernel", LOG_KERNELS)
@pytest.mark.parametrize("bandwidth", ["number", "vector", "matrix"])
def test_far_tails(kernel, bandwidth, backend):
    rng = np.random.default_rng(3)
    keys = np.concatenate([rng.normal(size=(9, 2)), [[0.0, 1.0], [0.0, -1.0]], 1e-7 * rng.normal(size=(4, 2))])
    far = 10.0 ** np.array([1, 2, 4, 6, 7, 9])
    queries = np.concatenate([far[:, None] * [1.0, 0.0], far[:, None] * [0.6, -0.8]])
    h = {"number": 0.7, "vector": np.array([0.3, 0.9]), "matrix": np.array([[0.5, 0.2], [0.2, 0.4]])}[bandwidth]
    expected, _ = mp_weights(queries, keys, kernel, h)
    expected = np.array([[float(x) for x in row] for row in expected])
    got = fastnw.attention_weights(queries, keys, kernel=kernel, bandwidth=h, backend=backend)
    assert np.all(abs(got - expected) <= 1e-12)  # the promise for tails, of an indicator's range 1
    indices, weights = fastnw.attention_weights(queries, keys, kernel=kernel, bandwidth=h, backend=backend, top_k=3)
    positive = weights > 0
    taken = np.take_along_axis(expected, np.maximum(indices, 0), axis=1)
    assert np.all(abs(taken - weights)[positive] <= 1e-12)
    assert np.all(abs(weights - -np.sort(-expected, axis=1)[:, :3]) <= 1e-12)


@pytest.mark.parametrize("kernel", COMPACT_KERNELS)
@pytest.mark.parametrize("seed", range(12))
def test_keys_on_the_rim_of_a_window(kernel, seed):
    """Where all of κ is in the last digits of 1 − u², weights are those of exact sums, dense and top-k."""
    rng = np.random.default_rng(seed)
    d, h = int(rng.integers(1, 4)), 10.0 ** rng.uniform(-3, 3)
    directions = rng.normal(size=(7, d))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    query = rng.normal(size=(1, d)) * 10.0 ** rng.uniform(-1, 6)
    keys = query + h * (1 - 10.0 ** -rng.uniform(6, 16, (7, 1))) * directions
    options = {"kernel": kernel, "bandwidth": h, "sample_weight": rng.uniform(0, 1, 7)}
    answer = Oracle(Problem("", "weights", query, keys, None, options)).at(0)
    if kernel == "boxcar" or answer.may_be_empty:  # keys within rounding of u = 1 may fall either side
        return
    (way,) = answer.ways
    expected = np.array([float(way.shares.get(i, 0)) for i in range(7)])
    dense = fastnw.attention_weights(query, keys, **options)[0]
    np.testing.assert_allclose(dense, expected, rtol=0, atol=PROMISE["float64"])
    indices, top = (found[0] for found in fastnw.attention_weights(query, keys, top_k=7, **options))
    reached = indices >= 0
    assert sorted(indices[reached]) == np.flatnonzero(dense).tolist()
    np.testing.assert_array_equal(top[reached], dense[indices[reached]])
    assert not top[~reached].any()


def test_weights_that_nothing_certifies_warn():
    """A user's kernel so steep that rounding of u decides: no method has its digits."""
    steep = fastnw.Kernel("steep", lambda u2: np.exp(-1e12 * u2), log_profile=lambda u2: -1e12 * u2)
    keys = np.array([[1.0], [-1.0 - 1e-13]])
    with pytest.warns(fastnw.AccuracyWarning, match="1 of 1 results are not certified"):
        fastnw.attention_weights([[1e-14]], keys, kernel=steep)
