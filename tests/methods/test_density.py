"""density against closed forms of the normalising constants."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from cases import CASES, CENTRED, COMPACT_KERNELS, KERNELS, LOG_KERNELS
from oracle import LOG_KAPPA, mp_pool, naive_log_density, naive_scaled, normalising_constant

import fastnw

PROMISE = {"float32": 1e-4, "float64": 1e-8}
PROPER = sorted(set(KERNELS) - {"constant", "dot"})
SUMS = [case for case in (*CASES, *CENTRED) if not case.exclude_self and case.m < 100]


@cache
def expected_and_rim(kernel, case, dtype):
    """The logarithm, and the queries with a boxcar key within rounding of u = 1."""
    queries, keys, _, options = case.problem(dtype)
    rim = np.zeros(len(queries), bool)
    if kernel == "boxcar":
        u = naive_scaled(queries, keys, kernel, options["bandwidth"], options.get("key_scale"))
        rim = (abs(u - 1) <= 16 * case.d * np.finfo(dtype).eps).any(axis=1)
    return naive_log_density(queries, keys, kernel, **options), rim


@pytest.mark.parametrize("kernel", PROPER)
@pytest.mark.parametrize("case", SUMS, ids=lambda case: case.name)
def test_density(kernel, case, dtype, backend):
    queries, keys, _, options = case.problem(dtype)
    call = {"kernel": kernel, "backend": backend, **options}
    if kernel == "cauchy" and case.d > 1:
        with pytest.raises(ValueError, match="cauchy"):
            fastnw.density(queries, keys, **call)
        return
    expected, rim = expected_and_rim(kernel, case, dtype)
    got, got_log = fastnw.density(queries, keys, **call), fastnw.density(queries, keys, log=True, **call)
    assert got.dtype == got_log.dtype == dtype
    assert got.shape == got_log.shape == (len(queries),)
    got, got_log, expected, eps = got[~rim], got_log[~rim], expected[~rim], np.finfo(dtype).eps
    np.testing.assert_array_equal(np.isneginf(got_log), np.isneginf(expected))
    exact = np.exp(expected)
    # relative error within the promise; below the smallest normal number only that number counts
    assert np.all(abs(got - exact) <= (PROMISE[dtype] + eps) * exact + np.finfo(dtype).tiny)
    got_log, expected = got_log[np.isfinite(expected)], expected[np.isfinite(expected)]
    # the logarithm is rounded once more
    assert np.all(abs(got_log - expected) <= PROMISE[dtype] + eps * abs(expected))


@pytest.mark.parametrize("kernel", PROPER)
@pytest.mark.parametrize("weighted", [False, True])
def test_integrates_to_1(kernel, weighted, backend):
    rng = np.random.default_rng(5)
    keys = rng.normal(size=(12, 1))
    options = {"kernel": kernel, "bandwidth": 0.4, "backend": backend}
    if weighted:
        options |= {"sample_weight": rng.random(12), "key_scale": rng.uniform(0.5, 2, size=12)}
    step = 0.005
    middles = np.arange(-4000, 4000) * step + step / 2
    if kernel == "cauchy":  # over t of x = tan(t), which leaves no tail out
        step = np.pi / 8000
        middles = np.arange(-4000, 4000) * step + step / 2
        total = (fastnw.density(np.tan(middles)[:, None], keys, **options) / np.cos(middles) ** 2).sum() * step
    else:
        total = fastnw.density(middles[:, None], keys, **options).sum() * step
    # the midpoint rule at steps of 1/80 of a bandwidth; boxcar jumps
    assert total == pytest.approx(1, abs=5e-3 if kernel == "boxcar" else 2e-5)


@pytest.mark.parametrize("kernel", PROPER)
@pytest.mark.parametrize("d", [1, 2, 3, 4, 8, 17])
def test_one_key(kernel, d):
    """At the only key the density is 1 / (C_d h^d)."""
    if kernel == "cauchy" and d > 1:
        pytest.skip("has no normalising constant")
    got = fastnw.density(np.zeros((1, d)), np.zeros((1, d)), kernel=kernel, bandwidth=0.5)
    assert got[0] == pytest.approx(2**d / normalising_constant(kernel, d), rel=1e-8)  # the promise


@pytest.mark.parametrize("kernel", sorted(set(LOG_KERNELS) - {"dot"}))
@pytest.mark.parametrize("bandwidth", ["number", "vector", "matrix"])
def test_far_tails_of_the_logarithm(kernel, bandwidth, backend):
    rng = np.random.default_rng(6)
    keys, weights = rng.normal(size=(15, 2)), rng.gamma(1.0, size=15)
    queries = 10.0 ** np.array([1, 2, 3, 4, 6, 7, 9])[:, None] * [0.6, 0.8]
    h = {"number": 0.7, "vector": np.array([0.3, 0.9]), "matrix": np.array([[0.5, 0.2], [0.2, 0.4]])}[bandwidth]
    volume = {"number": 0.49, "vector": 0.27, "matrix": 0.4}[bandwidth]  # sqrt(det H)
    _, log_mass = mp_pool(queries, keys, np.ones(15), kernel, h, sample_weight=weights)
    expected = log_mass - np.log(normalising_constant(kernel, 2) * volume * weights.sum())
    got = fastnw.density(queries, keys, kernel=kernel, bandwidth=h, sample_weight=weights, log=True, backend=backend)
    # rounding of a number as large as the logarithm
    assert np.all(abs(got - expected) <= 1e-13 * abs(expected))


@pytest.mark.parametrize("kernel", COMPACT_KERNELS)
def test_empty_windows_have_density_0_without_a_warning(kernel, backend):
    got = fastnw.density([[0.0], [50.0]], [[0.0], [0.5]], kernel=kernel, backend=backend)
    assert got[0] > 0
    assert got[1] == 0
    log = fastnw.density([[0.0], [50.0]], [[0.0], [0.5]], kernel=kernel, backend=backend, log=True)
    assert np.isfinite(log[0])
    assert np.isneginf(log[1])


@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 0.0]])
def test_the_own_key_alone_leaves_a_density_of_0(weights):
    keys = np.arange(1.0 if weights is None else 3.0)[:, None]
    expected = [0.0] if weights is None else [0.0, *np.exp([-0.5, -2.0]) / np.sqrt(2 * np.pi)]
    got = fastnw.density(keys, keys, sample_weight=weights, exclude_self=True)
    np.testing.assert_allclose(got, expected, rtol=1e-14)


@pytest.mark.parametrize(("kernel", "d"), [("constant", 1), ("dot", 1), ("dot", 3), ("cauchy", 2), ("cauchy", 5)])
def test_kernels_without_a_density(kernel, d):
    with pytest.raises(ValueError, match=kernel):
        fastnw.density(np.zeros((2, d)), np.zeros((3, d)), kernel=kernel)


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize(
    ("kernel", "profile", "facts"),
    [
        ("gaussian", lambda u2: np.exp(-u2 / 2), {}),
        ("laplacian", lambda u2: np.exp(-np.sqrt(u2)), {"log_profile": lambda u2: -np.sqrt(u2)}),
        ("tricube", lambda u2: (1 - u2**1.5) ** 3, {"support": 1.0}),
        ("boxcar", lambda u2: 1.0, {"support": 1.0}),
    ],
)
def test_a_users_kernel_is_normalised_by_quadrature(kernel, profile, facts, d):
    rng = np.random.default_rng(8)
    keys, queries = rng.normal(size=(50, d)), rng.normal(size=(9, d))
    got = fastnw.density(queries, keys, kernel=fastnw.Kernel("mine", profile, **facts), bandwidth=1.7)
    np.testing.assert_allclose(got, np.exp(naive_log_density(queries, keys, kernel, 1.7)).astype(float), rtol=1e-8)


def test_a_users_kernel_need_not_be_1_at_0():
    half = fastnw.Kernel("half", lambda u2: 0.5 * np.exp(-u2 / 2))
    expected = np.exp(naive_log_density([[0.3]], [[0.0], [1.0]])).astype(float)
    np.testing.assert_allclose(fastnw.density([[0.3]], [[0.0], [1.0]], kernel=half), expected, rtol=1e-8)


def test_a_users_kernel_without_an_integral():
    flat = fastnw.Kernel("flat", lambda u2: 1 / (1 + u2))
    with pytest.raises(ValueError, match="flat"):
        fastnw.density([[0.0, 0.0]], [[0.0, 0.0]], kernel=flat)


def test_density_counts_weights_as_observations(backend):
    rng = np.random.default_rng(9)
    keys, weights = rng.normal(size=(20, 2)), rng.integers(0, 4, size=20)
    queries = rng.normal(size=(6, 2))
    weighted = fastnw.density(queries, keys, sample_weight=weights, bandwidth=0.6, backend=backend)
    repeated = fastnw.density(queries, np.repeat(keys, weights, axis=0), bandwidth=0.6, backend=backend)
    np.testing.assert_allclose(weighted, repeated, rtol=2 * PROMISE["float64"])  # both keep to the promise


def test_the_oracle_knows_which_kernels_work_on_logs():
    assert set(LOG_KAPPA) == set(LOG_KERNELS)


EVERY_DENSITY = """
import numpy as np
import fastnw

rng = np.random.default_rng(0)
for d in (1, 2, 3, 5, 50):
    x, q = rng.normal(size=(2000, d)), rng.normal(size=(600, d))
    w, scale = rng.uniform(size=2000), rng.uniform(0.5, 2.0, 2000)
    for name in fastnw.kernels.names():
        for bandwidth in (2.0, np.linspace(1.0, 2.0, d)):
            for options in ({}, {"sample_weight": w}, {"key_scale": scale}):
                for dtype in ("float32", "float64"):
                    for method in ("exact", "tree"):
                        if name not in ("dot", "constant", "cauchy"):
                            arrays = q.astype(dtype), x.astype(dtype)
                            fastnw.density(*arrays, kernel=name, bandwidth=bandwidth, method=method, **options)
"""


def test_without_values_nothing_is_read_in_their_place(tmp_path):
    """In a process of its own, where the end of the stack is near: once what lay behind a local variable was read."""
    script = tmp_path / "densities.py"
    script.write_text(EVERY_DENSITY)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
