"""Several profiles and bandwidths in one pass: each state is that of a pass of its own, and one pass is faster."""

from __future__ import annotations

import time

import numpy as np
import pytest
from cases import KERNELS
from oracle import naive_pool

from fastnw import backends, kernels
from fastnw.core.pack import pack_inverse, pack_keys, pack_queries
from fastnw.core.state import Sums
from fastnw.core.validate import build

# 18 profiles: more than one pass takes; a bandwidth in one is divided by the factor
FACTORS = (1.0, 0.5, 2.0)


def tile(m, n, d, columns, dtype, kernel="gaussian", seed=0, **options):
    rng = np.random.default_rng(seed)
    queries, keys = rng.normal(size=(m, d)).astype(dtype), rng.normal(size=(n, d)).astype(dtype)
    values = rng.normal(size=(n, columns)).astype(dtype)
    problem = build(queries, keys, values, kernel=kernel, bandwidth=1.5, **options)
    block = pack_keys(problem, 0, n, dtype)
    arrays = pack_queries(problem, slice(None), dtype), block, pack_inverse(problem, dtype)
    return problem, arrays, np.full(m, 12 * float(np.finfo(dtype).eps))


def empty_states(profiles, m, c):
    states = [Sums.empty(m, c) for _ in profiles]
    for (kernel, _), state in zip(profiles, states, strict=True):
        if not kernel.works_on_logs:
            state.shift[:] = 0.0
    return states


@pytest.mark.parametrize("columns", [0, 1, 3])
@pytest.mark.parametrize("without_self", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_every_profile_is_that_of_its_own_pass(backend, dtype, columns, without_self, scaled):
    m, n, d = 11, 900, 3
    rng = np.random.default_rng(1)
    options = {"sample_weight": rng.gamma(1.0, size=n)}
    if scaled:
        options["key_scale"] = rng.uniform(0.5, 2.0, size=n)
    problem, (queries, keys, inverse), error = tile(m, n, d, columns, dtype, **options)
    tiles = backends.choose(backend, problem.kernel, 1e6)
    profiles = [(kernels.get(name), factor) for name in KERNELS if name != "dot" for factor in FACTORS]
    own = np.arange(100, 100 + m) if without_self else None
    together, alone = empty_states(profiles, m, columns), empty_states(profiles, m, columns)
    tiles.sum_several(profiles, queries, keys, inverse, own, together, error)
    for (kernel, factor), state in zip(profiles, alone, strict=True):
        tiles.sum_tile(kernel, queries, keys, inverse * inverse.dtype.type(factor), own, state, error)
    close = {"rtol": 40 * float(np.finfo(dtype).eps), "atol": 0}
    for (kernel, factor), got, expected in zip(profiles, together, alone, strict=True):
        message = f"{kernel} at {factor}"
        # near its edge a kernel is the rounding of 1 - u²: absolute, in units of the keys' weights
        size = np.exp(expected.shift) * expected.mass + 1.0
        assert np.all(abs(got.log_mass() - expected.log_mass())[expected.mass > 1] <= 100 * close["rtol"]), message
        mass, total = np.exp(got.shift) * got.mass, np.exp(got.shift)[:, None] * got.total
        assert np.all(abs(mass - np.exp(expected.shift) * expected.mass) <= close["rtol"] * size), message
        difference = abs(total - np.exp(expected.shift)[:, None] * expected.total)
        assert np.all(difference <= close["rtol"] * size[:, None]), message


def test_against_the_oracle(backend, dtype):
    m, n, d = 9, 700, 2
    problem, (queries, keys, inverse), error = tile(m, n, d, 1, dtype)
    profiles = [(kernels.get("gaussian"), 1.5 / h) for h in (0.4, 1.0, 3.0)]
    states = empty_states(profiles, m, 1)
    backends.choose(backend, problem.kernel, 1e6).sum_several(profiles, queries, keys, inverse, None, states, error)
    centre, half = problem.values_centre
    for (_, factor), state in zip(profiles, states, strict=True):
        f, log_mass = naive_pool(problem.queries, problem.keys, problem.values, "gaussian", 1.5 / factor)
        tolerance = 300 * float(np.finfo(dtype).eps)
        np.testing.assert_allclose(centre + half * state.finalise()[0], f, rtol=0, atol=tolerance * half.max())
        np.testing.assert_allclose(state.log_mass(), log_mass, rtol=0, atol=tolerance)


def test_nothing_to_sum_is_nothing(backend):
    problem, (queries, keys, inverse), error = tile(5, 40, 2, 1, "float64")
    backends.choose(backend, problem.kernel, 1e6).sum_several([], queries, keys, inverse, None, [], error)


@pytest.mark.slow
def test_one_pass_is_faster_than_several():
    problem, (queries, keys, inverse), error = tile(64, 8_000, 16, 1, "float32")
    tiles = backends.choose("compiled", problem.kernel, 1e6)
    profiles = [(problem.kernel, factor) for factor in np.linspace(0.5, 2.0, 16)]
    together, alone = empty_states(profiles, 64, 1), empty_states(profiles, 64, 1)

    def one_pass():
        tiles.sum_several(profiles, queries, keys, inverse, None, together, error)

    def passes():
        for (kernel, factor), state in zip(profiles, alone, strict=True):
            tiles.sum_tile(kernel, queries, keys, inverse * np.float32(factor), None, state, error)

    ratios = []
    for _ in range(5):
        start = time.perf_counter()
        one_pass()
        middle = time.perf_counter()
        passes()
        ratios.append((time.perf_counter() - middle) / (middle - start))
    assert sorted(ratios)[2] > 1.3
