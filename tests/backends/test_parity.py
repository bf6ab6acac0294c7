"""Every kernel on every backend, type and bandwidth shape against the naive loops of oracle.py."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from cases import CASES, CENTRED, CENTRED_FAR, COMPACT_KERNELS, KERNELS
from oracle import KAPPA, LOG_KAPPA, LONGER, naive_pool
from parity import PROMISE, check, expected_and_plain, worst

import fastnw
from fastnw.backends.compiled import backend as compiled

pytestmark = pytest.mark.filterwarnings("ignore::fastnw.EmptyWindowWarning")

SUMS = [*CASES, *CENTRED]


def test_the_oracle_has_every_kernel():
    assert set(KAPPA) | set(LOG_KAPPA) == set(KERNELS)


def test_the_extension_is_built():
    assert compiled.levels()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", SUMS, ids=lambda case: case.name)
def test_exact(kernel, case, dtype, backend):
    check(kernel, case, dtype, backend, "exact")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", CENTRED_FAR, ids=lambda case: case.name)
def test_exact_far_from_the_origin(kernel, case, backend):
    check(kernel, case, "float64", backend, "exact")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", [case for case in SUMS if case.n > 1000 or case.columns], ids=lambda case: case.name)
def test_tol_0(kernel, case, dtype, backend):
    queries, keys, values, options = case.problem(dtype)
    (f, _), _, rim = expected_and_plain(kernel, case, dtype)
    got = fastnw.pool(queries, keys, values, kernel=kernel, backend=backend, tol=0, **options)
    # every pair summed: no more than the promise that holds without tol
    close = abs(got - f) <= PROMISE[dtype] * np.ptp(values, axis=0) + np.finfo(dtype).eps * abs(f)
    assert np.all((close | (np.isnan(f) & np.isnan(got)))[~rim])


@pytest.mark.parametrize("kernel", sorted(set(COMPACT_KERNELS) - {"boxcar"}))
@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-5])
@pytest.mark.parametrize("d", [1, 3])
def test_windows_with_keys_at_their_rim_only(kernel, gap, d, dtype, backend):
    """Where 1 - u is small, a rounding of u is a large relative error of κ: certified all the same, or said so."""
    if dtype == "float64" and not LONGER:
        pytest.skip("long double has no more digits than double here")
    rng = np.random.default_rng(7)
    h = 0.3
    directions = rng.normal(size=(6, d))
    directions *= h / np.linalg.norm(directions, axis=1, keepdims=True)
    keys = (directions * (1 - gap * rng.uniform(0.2, 1, size=(6, 1)))).astype(dtype)
    values, query = rng.normal(size=6).astype(dtype), np.zeros((1, d), dtype)
    f, _ = naive_pool(query, keys, values, kernel, h)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got, bound = fastnw.pool(
            query, keys, values, kernel=kernel, bandwidth=h, method="exact", backend=backend, return_error=True
        )
    error = float(abs(got[0] - f[0]) - np.finfo(dtype).eps * abs(f[0]))
    assert error <= bound[0]
    uncertified = [w for w in caught if issubclass(w.category, fastnw.AccuracyWarning)]
    assert len(uncertified) <= 1
    if not uncertified:
        assert error <= PROMISE[dtype] * np.ptp(values)


@pytest.mark.parametrize("kernel", sorted(set(COMPACT_KERNELS) - {"boxcar"}))
@pytest.mark.parametrize("h", [1.0, 3.0])
def test_keys_exactly_on_the_rim_do_not_count(kernel, h, dtype, backend):
    lattice = np.arange(-4.0, 5.0, dtype=dtype) * np.dtype(dtype).type(h)
    keys = np.stack([lattice, np.zeros_like(lattice)], axis=1)[::2]
    queries = keys + np.array([h, 0], dtype)
    with pytest.warns(fastnw.EmptyWindowWarning):
        f, log_mass = fastnw.pool(
            queries, keys, np.arange(len(keys)), kernel=kernel, bandwidth=h, backend=backend, return_mass=True
        )
    assert np.isnan(f).all()
    assert np.isneginf(log_mass).all()


@pytest.mark.parametrize("kernel", sorted(set(COMPACT_KERNELS) - {"boxcar"}))
@pytest.mark.parametrize("offset", [(1, 2, 2), (2, 3, 6), (0, 3, 4), (8, 9, 12), (1, 4, 8), (5, 0, 12)])
def test_keys_exactly_on_the_rim_in_three_dimensions(kernel, offset, dtype, backend):
    """Offsets and bandwidths are whole numbers, so u is exactly 1, but 1/h and the squares of its multiples round."""
    keys = np.array([offset], dtype)
    h = math.isqrt(sum(x * x for x in offset))
    with pytest.warns(fastnw.EmptyWindowWarning):
        f = fastnw.pool(np.zeros((1, 3), dtype), keys, [1.0], kernel=kernel, bandwidth=h, backend=backend)
    assert np.isnan(f).all()


@pytest.mark.parametrize("kernel", COMPACT_KERNELS)
def test_a_lone_key_inside_the_rim_counts(kernel, dtype, backend):
    eps = np.finfo(dtype).eps
    key = np.full((1, 2), 0.3, dtype)
    query = key + np.array([[0.7, 0]], dtype)
    h = float(query[0, 0] - key[0, 0]) / (1 - 64 * eps)  # u = 1 - 64 eps, twice what boxcar may miss
    got = fastnw.pool(query, key, [5.0], kernel=kernel, bandwidth=h, backend=backend)
    assert got[0] == 5


def test_types_and_shapes(backend):
    q, k, v = np.zeros((3, 2)), np.eye(2), np.array([1.0, 2.0])
    for dtypes, out in [
        (("f4", "f4", "f4"), "f4"),
        (("f2", "f4", "f2"), "f4"),
        (("f2", "f2", "f2"), "f4"),
        (("f4", "f4", "f8"), "f8"),
        (("f8", "f4", "f4"), "f8"),
        (("f4", "f8", "f4"), "f8"),
        (("f4", "f4", "i8"), "f4"),  # "floating values": integer ones do not widen
        (("f4", "i4", "f4"), "f8"),
        (("i8", "i8", "i8"), "f8"),
        (("?", "?", "?"), "f8"),
    ]:
        arrays = [a.astype(t) for a, t in zip((q, k, v), dtypes, strict=True)]
        got = fastnw.pool(*arrays, backend=backend)
        assert got.dtype == np.dtype(out), dtypes
        assert got.shape == (3,)
    assert fastnw.pool(q, k, v[:, None], backend=backend).shape == (3, 1)
    assert fastnw.pool(q, k, np.ones((2, 5)), backend=backend).shape == (3, 5)
    assert fastnw.pool(q[:0], k, v, backend=backend).shape == (0,)
    assert fastnw.pool(q[:0], k, np.ones((2, 5)), backend=backend).shape == (0, 5)
    with pytest.raises(ValueError, match="0"):
        fastnw.pool(q, k[:0], v[:0], backend=backend)


def test_out(backend, dtype):
    queries, keys, values, options = CASES[3].problem(dtype)
    expected = fastnw.pool(queries, keys, values, backend=backend, **options)
    out = np.full((len(queries), values.shape[1]), np.nan, dtype)
    got = fastnw.pool(queries, keys, values, backend=backend, out=out, **options)
    assert got is out
    np.testing.assert_array_equal(out, expected)
    strided = np.full((2 * len(queries), values.shape[1]), -7, dtype)
    fastnw.pool(queries, keys, values, backend=backend, out=strided[::2], **options)
    np.testing.assert_array_equal(strided[::2], expected)
    assert np.all(strided[1::2] == -7)
    with pytest.raises(ValueError, match="out"):
        fastnw.pool(queries, keys, values, backend=backend, out=out[:-1], **options)
    read_only = out.copy()
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="out"):
        fastnw.pool(queries, keys, values, backend=backend, out=read_only, **options)


def test_read_only_and_strided_input(backend, dtype):
    queries, keys, values, options = CASES[0].problem(dtype)
    expected = fastnw.pool(queries, keys, values, backend=backend, **options)
    padded = [np.repeat(np.repeat(a, 2, axis=0), 3, axis=-1)[::2, ::3] for a in (queries, keys)]
    values = np.repeat(values, 2)[::2]
    for a in (*padded, values):
        a.flags.writeable = False
    np.testing.assert_array_equal(fastnw.pool(*padded, values, backend=backend, **options), expected)
    fortran = fastnw.pool(np.asfortranarray(queries), np.asfortranarray(keys), values, backend=backend, **options)
    np.testing.assert_array_equal(fortran, expected)


EMPTY_QUERIES = np.array([[0.1], [9.0], [0.2], [-9.0], [30.0]])
EMPTY_KEYS, EMPTY_VALUES = np.array([[0.0], [1.0], [-1.5]]), np.array([[1.0, 10.0], [2.0, 20.0], [6.0, 60.0]])


def empty_pool(backend, empty, **options):
    options |= {"kernel": "triangular", "bandwidth": 0.5, "backend": backend, "empty": empty}
    return fastnw.pool(EMPTY_QUERIES, EMPTY_KEYS, EMPTY_VALUES, **options)


def test_empty_nan(backend):
    with pytest.warns(fastnw.EmptyWindowWarning) as caught:
        got = empty_pool(backend, "nan")
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "3" in message  # how many
    assert "1, 3, 4" in message  # which
    np.testing.assert_array_equal(np.isnan(got).all(axis=1), [False, True, False, True, True])


@pytest.mark.parametrize(
    ("empty", "filling"),
    [
        ("nearest", [[2, 20], [6, 60], [2, 20]]),
        ("mean", [[3, 30]] * 3),
        (-1.5, [[-1.5, -1.5]] * 3),
        (0, [[0, 0]] * 3),
    ],
)
def test_empty_filled(backend, empty, filling):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got, log_mass, bound = empty_pool(backend, empty, return_mass=True, return_error=True)
    np.testing.assert_allclose(got[[1, 3, 4]], filling, rtol=1e-15)
    np.testing.assert_array_equal(got[[0, 2]], [[1, 10], [1, 10]])
    np.testing.assert_array_equal(np.isneginf(log_mass), [False, True, False, True, True])
    np.testing.assert_array_equal(np.isnan(bound), np.isneginf(log_mass))


def test_empty_respects_weights_and_self(backend):
    # a key without weight is no key: neither the nearest nor part of the mean
    got = empty_pool(backend, "nearest", sample_weight=[1.0, 0.0, 1.0])
    np.testing.assert_array_equal(got, [[1, 10], [1, 10], [1, 10], [6, 60], [1, 10]])
    got = empty_pool(backend, "mean", sample_weight=[1.0, 3.0, 0.0])
    np.testing.assert_allclose(got[1], [1.75, 17.5], rtol=1e-15)
    options = {"kernel": "boxcar", "bandwidth": 0.5, "backend": backend, "empty": "nearest", "exclude_self": True}
    got = fastnw.pool(EMPTY_KEYS, EMPTY_KEYS, EMPTY_VALUES, **options)
    np.testing.assert_array_equal(got, [[2, 20], [1, 10], [1, 10]])


def test_empty_raises(backend):
    with pytest.raises(ValueError, match="1, 3, 4"):
        empty_pool(backend, "raise")
    with pytest.raises(ValueError, match="empty"):
        empty_pool(backend, "whatever")


@pytest.mark.parametrize("kernel", ["gaussian", "cauchy", "constant", "dot"])
def test_empty_without_any_weight(kernel, backend):
    with pytest.warns(fastnw.EmptyWindowWarning):
        got = fastnw.pool([[0.0]], [[0.0], [1.0]], [1.0, 2.0], sample_weight=[0, 0], kernel=kernel, backend=backend)
    assert np.isnan(got).all()
    with pytest.warns(fastnw.EmptyWindowWarning):
        got = fastnw.pool([[0.0]], [[0.0]], [1.0], exclude_self=True, kernel=kernel, backend=backend)
    assert np.isnan(got).all()


@pytest.mark.parametrize("kernel", sorted(set(KERNELS) - {"constant", "cauchy", "dot"}))
@pytest.mark.parametrize("weight", [1e-20, 1e-60, 1e-300])
def test_a_weight_may_be_tiny_but_is_positive(kernel, weight, dtype, backend):
    """Far from the heavy key the light ones decide, even where their weights are no float32."""
    keys, values = np.array([[0.0], [2000.0], [2000.5]], dtype), np.array([1.0, 2.0, 3.0], dtype)
    options = {"sample_weight": np.array([1.0, weight, 2 * weight])}
    f, log_mass = naive_pool([[2000.25]], keys, values, kernel, **options)
    got, got_log_mass = fastnw.pool(
        np.array([[2000.25]], dtype), keys, values, kernel=kernel, backend=backend, return_mass=True, **options
    )
    assert abs(got - f) <= 2 * PROMISE[dtype]
    assert abs(got_log_mass - log_mass) <= PROMISE[dtype] * abs(log_mass)


USERS = {  # name: (profile, keyword arguments), each a built-in written by a user
    "gaussian": (lambda u2: math.exp(-u2 / 2), {"log_profile": lambda u2: -u2 / 2}),
    "laplacian": (lambda u2: np.exp(-np.sqrt(u2)), {"log_profile": lambda u2: -np.sqrt(u2)}),
    "epanechnikov": (lambda u2: 1 - u2, {"support": 1.0}),
    "triangular": (lambda u2: 1 - u2**0.5, {"support": 1.0, "monotone": True}),
    "cauchy": (lambda u2: 1 / (1 + u2), {}),
    "constant": (lambda u2: 1.0, {}),
}


@pytest.mark.parametrize("kernel", USERS)
@pytest.mark.parametrize("case", [CASES[1], CASES[4], CASES[6], CASES[13]], ids=lambda case: case.name)
def test_a_users_kernel_is_the_built_in_of_its_formula(kernel, case, dtype):
    profile, facts = USERS[kernel]
    queries, keys, values, options = case.problem(dtype)
    (f, log_mass), (plain_f, _), _ = expected_and_plain(kernel, case, dtype)
    got, got_log_mass = fastnw.pool(
        queries, keys, values, kernel=fastnw.Kernel("mine", profile, **facts), return_mass=True, **options
    )
    eps = np.finfo(dtype).eps
    assert got.dtype == dtype
    np.testing.assert_array_equal(np.isnan(got), np.isnan(f))
    assert worst(abs(got - f)) <= 2 * worst(abs(plain_f - f)) + 12 * eps * (1 + np.ptp(values))
    np.testing.assert_array_equal(np.isneginf(got_log_mass), np.isneginf(log_mass))


def test_support_of_a_users_kernel_is_in_bandwidths(backend):
    wide = fastnw.Kernel("wide", lambda u2: 1.0, support=3.0)
    if backend == "compiled":
        with pytest.raises(ValueError, match="wide"):
            fastnw.pool([[0.0]], [[0.0]], [1.0], kernel=wide, backend=backend)
        return
    got = fastnw.pool([[0.0]], [[5.9], [6.1]], [1.0, 3.0], kernel=wide, bandwidth=2.0, backend=backend)
    assert got[0] == 1
