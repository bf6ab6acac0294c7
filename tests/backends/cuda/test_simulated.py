"""What parity on small problems leaves out: far queries, users' kernels, streams of blocks, split keys, arrays."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from cases import KERNELS, Case
from oracle import mp_pool, naive_log_density, naive_pool, naive_weights

import fastnw
from fastnw import backends, kernels
from fastnw.core.pack import pack_inverse, pack_keys, pack_queries
from fastnw.core.state import Sums
from fastnw.core.validate import build

PROMISE = {"float32": 1e-4, "float64": 1e-8}
RNG = np.random.default_rng(11)
QUERIES, KEYS, VALUES = RNG.normal(size=(12, 2)), RNG.normal(size=(90, 2)), RNG.normal(size=(90, 2))


def cuda_pool(*arrays, **options):
    return fastnw.pool(*arrays, backend="cuda", **options)


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "matern32", "matern52", "logistic", "cauchy"])
@pytest.mark.parametrize("away", [12.0, 60.0, 1e4, 1e9])
def test_far_queries_do_not_underflow(kernel, away, dtype):
    queries = np.array([[0.3, 0.1], [away, -away], [-away, 0.5 * away]], dtype)
    keys, values = KEYS[:40].astype(dtype), VALUES[:40, 0].astype(dtype)
    f, log_mass = mp_pool(queries, keys, values, kernel)
    got, got_log_mass = cuda_pool(queries, keys, values, kernel=kernel, return_mass=True)
    assert np.all(abs(got - f) <= PROMISE[dtype] * np.ptp(values))
    assert np.all(abs(got_log_mass - log_mass) <= PROMISE[dtype] * np.maximum(1, abs(log_mass)))


@pytest.mark.parametrize("size", [1.0, 30.0, 1000.0])
def test_large_inner_products_do_not_overflow(size, dtype):
    queries, keys, values = (a.astype(dtype) for a in (size * QUERIES, size * KEYS[:50], VALUES[:50, 0]))
    f, log_mass = naive_pool(queries, keys, values, "dot")
    got, got_log_mass = cuda_pool(queries, keys, values, kernel="dot", return_mass=True)
    assert np.all(abs(got - f) <= PROMISE[dtype] * np.ptp(values))
    assert np.all(abs(got_log_mass - log_mass) <= PROMISE[dtype] * np.maximum(1, abs(log_mass)))


def branching(u2):
    if u2 < 0.5:
        return 1.0
    return 0.25 / u2 + 0.1 * math.floor(u2)


USERS = {
    "student": (fastnw.Kernel("student", lambda u2: 1 / (1 + u2) ** 2), lambda u: (1 + u**2) ** -2),
    "with a logarithm": (
        fastnw.Kernel("mine", lambda u2: math.exp(3 - u2), log_profile=lambda u2: 3 - u2),
        lambda u: np.exp(3 - u**2),
    ),
    "with a support": (
        fastnw.Kernel("root", lambda u2: math.sqrt(4 - u2), support=2.0),
        lambda u: np.sqrt(np.maximum(4 - u**2, 0)),
    ),
    "that branches": (
        fastnw.Kernel("steps", branching, support=1.5),
        lambda u: np.vectorize(branching)(np.minimum(u, 1.5) ** 2) * (u <= 1.5),
    ),
}


@pytest.mark.parametrize("name", USERS)
@pytest.mark.parametrize("own", [False, True])
def test_users_kernels(name, own, dtype):
    kernel, kappa = USERS[name]
    keys, values = KEYS.astype(dtype), VALUES[:, 0].astype(dtype)
    queries = keys if own else QUERIES.astype(dtype)
    weights = RNG.gamma(1.0, size=len(keys))
    u = np.sqrt(((queries[:, None].astype(float) - keys[None]) ** 2).sum(axis=2)) / 0.9
    shares = kappa(u) * weights
    if own:
        np.fill_diagonal(shares, 0)
    f = shares @ values / shares.sum(axis=1)
    got, bound = cuda_pool(
        queries,
        keys,
        values,
        kernel=kernel,
        bandwidth=0.9,
        sample_weight=weights,
        exclude_self=own,
        return_error=True,
        empty=0.0,
    )
    empty = shares.sum(axis=1) == 0
    assert np.all((abs(got - f) <= bound + 4 * np.finfo(dtype).eps)[~empty])
    assert np.all((bound <= PROMISE[dtype] * np.ptp(values))[~empty])


def test_a_users_kernel_that_turns_to_nothing_is_an_error():
    student = fastnw.Kernel("pole", lambda u2: 1 / (100.0 - u2) if u2 != 100.0 else math.nan)
    with pytest.raises(ValueError, match="'pole' must be finite"):
        cuda_pool([[0.0]], [[10.0], [0.0]], [1.0, 2.0], kernel=student)


@pytest.mark.parametrize("keep", [False, True])
def test_keys_that_come_in_blocks_give_the_same_bits(keep, dtype, monkeypatch):
    from fastnw.backends.cuda import backend as cuda
    from fastnw.backends.cuda import stream

    monkeypatch.setattr(cuda, "BLOCK_BYTES", 6000)  # a few tiles each
    monkeypatch.setattr(stream, "MAX_CACHED_BYTES", stream.MAX_CACHED_BYTES if keep else 0)
    case = Case("blocks", m=6, n=1100, d=2, weights=True, bandwidth="vector")
    queries, keys, values, options = case.problem(dtype)
    queries[0] = 40.0  # one that is asked a second time
    seen = []
    pack = pack_keys
    monkeypatch.setattr(cuda, "pack_keys", lambda *a, **named: seen.append(a[1:]) or pack(*a, **named))
    got, log_mass = cuda_pool(queries, keys, values, return_mass=True, **options)
    # a sweep, then the largest logarithms and the shifted sums of the far query
    passes = Counter(start for start, _, kind in seen if kind == dtype)
    assert len(passes) >= 3
    assert set(passes.values()) == {1 if keep else 3}
    f, expected_log_mass = naive_pool(queries, keys, values, **options)
    assert np.all(abs(got - f) <= PROMISE[dtype] * np.ptp(values))
    assert np.all(abs(log_mass - expected_log_mass) <= PROMISE[dtype] * np.maximum(1, abs(expected_log_mass)))
    again, again_log_mass = cuda_pool(queries, keys, values, return_mass=True, **options)
    np.testing.assert_array_equal(got, again)
    np.testing.assert_array_equal(log_mass, again_log_mass)


def test_few_queries_are_split_over_keys(dtype):
    from fastnw.backends.cuda.kernels import Shape

    shape = Shape(dtype, 3, 1, "one", False, False, False)
    grid, _, per_split = shape.grid(1, 100_000, 1)
    assert grid[1] > 8
    assert grid[1] * per_split >= 100_000
    case = Case("split", m=2, n=2000, d=3)
    queries, keys, values, options = case.problem(dtype)
    f, _ = naive_pool(queries, keys, values, **options)
    assert np.all(abs(cuda_pool(queries, keys, values, **options) - f) <= PROMISE[dtype] * np.ptp(values))


@pytest.mark.parametrize("kernel", KERNELS)
def test_tiles_add_to_a_state(kernel, dtype):
    """The contract of `fastnw.backends`, against the reference."""
    case = Case("tiles", m=8, n=80, d=2, weights=True, columns=2)
    queries, keys, values, options = case.problem(dtype)
    problem = build(queries, keys, values, kernel=kernel, **options)
    kind, rows = np.dtype(dtype), np.arange(8)
    packed, inverse = pack_queries(problem, rows, kind), pack_inverse(problem, kind)
    own, error = np.arange(8) + 2, np.full(8, 1e-5)
    found = {}
    for name in ("cuda", "reference"):
        tiles, state = backends.choose(name, problem.kernel, 1e6), Sums.empty(8, 2)
        for start in (0, 40):
            block = pack_keys(problem, start, start + 40, kind)
            tiles.sum_tile(problem.kernel, packed, block, inverse, own - start, state, error)
        profiles = [(problem.kernel, 1.0), (kernels.get("boxcar"), 0.5)]
        several = [Sums.empty(8, 2) for _ in profiles]
        tiles.sum_several(profiles, packed, block, inverse, None, several, error)
        scores = tiles.score_tile(problem.kernel, packed, block, inverse)
        found[name] = (state, several, scores)
    (state, several, scores), (expected, expected_several, expected_scores) = found["cuda"], found["reference"]
    tolerance = 100 * np.finfo(dtype).eps
    np.testing.assert_allclose(scores, expected_scores, rtol=tolerance, atol=tolerance)
    for a, b in [(state, expected), *zip(several, expected_several, strict=True)]:
        np.testing.assert_allclose(a.log_mass(), b.log_mass(), rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(a.finalise()[0], b.finalise()[0], rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(a.relative_mass_error(), b.relative_mass_error(), rtol=0.05, atol=1e-9)


def test_weights_and_density(dtype):
    queries, keys = QUERIES.astype(dtype), KEYS.astype(dtype)
    expected, _ = naive_weights(queries, keys, "laplacian", 0.7)
    got = fastnw.attention_weights(queries, keys, kernel="laplacian", bandwidth=0.7, backend="cuda")
    np.testing.assert_allclose(got, expected.astype(float), rtol=1e-5 if dtype == "float32" else 1e-12)
    indices, weights = fastnw.attention_weights(queries, keys, bandwidth=0.7, backend="cuda", top_k=3)
    expected, _ = naive_weights(queries, keys, "gaussian", 0.7)
    order = np.argsort(-expected, axis=1, kind="stable")[:, :3]
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_allclose(weights, np.take_along_axis(expected, order, 1).astype(float), rtol=1e-5)
    logs = fastnw.density(queries, keys, bandwidth=0.7, backend="cuda", log=True)
    assert np.all(abs(logs - naive_log_density(queries, keys, "gaussian", 0.7)) <= 4 * PROMISE[dtype])


def test_empty_windows_and_no_queries():
    options = {"kernel": "triangular", "bandwidth": 0.5, "backend": "cuda"}
    with pytest.warns(fastnw.EmptyWindowWarning, match="1 of 2"):
        got = fastnw.pool([[0.1], [9.0]], [[0.0], [1.0]], [1.0, 2.0], **options)
    np.testing.assert_array_equal(got, [1.0, np.nan])
    assert fastnw.pool([[9.0]], [[0.0], [1.0]], [1.0, 2.0], empty="nearest", **options) == [2.0]
    assert fastnw.pool(np.zeros((0, 1)), [[0.0], [1.0]], [1.0, 2.0], **options).shape == (0,)
    assert np.isnan(fastnw.pool([[0.0]], [[0.0]], [1.0], sample_weight=[0.0], empty=math.nan, backend="cuda"))


def test_arrays_on_the_device_come_back_as_such(dtype):
    from numba import cuda

    host = [a.astype(dtype) for a in (QUERIES, KEYS, VALUES)]
    device = [cuda.to_device(a) for a in host]
    assert fastnw.plan(*device).backend == "cuda"
    assert fastnw.plan(*host).backend == "compiled"
    got = fastnw.pool(*device)
    np.testing.assert_array_equal(got.copy_to_host(), cuda_pool(*host))
    assert fastnw.density(*device[:2]).copy_to_host().shape == (12,)


def test_plan_says_what_will_be_done():
    plan = fastnw.plan(QUERIES, KEYS, VALUES, backend="cuda")
    assert (plan.backend, plan.isa) == ("cuda", "cuda")
    assert "cuda" in str(plan)
    assert backends.available()["cuda"] == "cuda"


def test_progress_counts_every_pair(monkeypatch):
    from fastnw.runtime import threads

    counted = []
    monkeypatch.setattr(threads.Meter, "add", lambda self, pairs: counted.append(pairs))
    cuda_pool(QUERIES, KEYS, VALUES)
    assert sum(counted) == len(QUERIES) * len(KEYS)
