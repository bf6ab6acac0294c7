"""method="fourier": errors within the certificate and the promise, whatever the data; what it refuses, it explains."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from answered import answered
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import naive_pool

import fastnw
from fastnw.methods.fourier import method as fourier

PROMISE = {"float32": 1e-4, "float64": 1e-8}


def cloud(n, d, seed=0, centre=0.0, dtype="float64"):
    rng = np.random.default_rng(seed)
    return (centre + rng.normal(size=(n, d))).astype(dtype)


def check(queries, keys, values, **options):
    """Against sums of all pairs in long double: within the bound and the promise, but for the result's rounding."""
    dtype = str(queries.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got, log_mass, bound = fastnw.pool(
            queries, keys, values, method="fourier", return_mass=True, return_error=True, **options
        )
    f, right_log_mass = naive_pool(queries, keys, values, "gaussian", **options)
    rounding = np.finfo(dtype).eps * np.abs(f)
    error = np.abs(got - f)
    spread = np.ptp(values.astype(float), axis=0)
    assert np.all(error <= PROMISE[dtype] * spread + rounding)
    by_query = (error - rounding).reshape(len(f), -1).max(axis=1)
    assert np.all(by_query <= bound)
    assert np.all(np.abs(log_mass - right_log_mass) <= PROMISE[dtype] * np.maximum(1, np.abs(right_log_mass)))
    return bound


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("columns", [1, 2, 3])
def test_every_option(d, columns, dtype):
    rng = np.random.default_rng(d)
    keys, queries = cloud(900, d, 1, dtype=dtype), 1.2 * cloud(70, d, 2, dtype=dtype)
    values = rng.normal(size=(900, columns)).astype(dtype)
    weights = rng.gamma(1.0, size=900) * (rng.random(900) > 0.2)
    rotation, _ = np.linalg.qr(rng.normal(size=(d, d)))
    for bandwidth in (0.4, np.linspace(0.3, 0.6, d), 0.2 * (rotation * np.linspace(0.5, 1.0, d)) @ rotation.T):
        check(queries, keys, values, bandwidth=bandwidth, sample_weight=weights)


def test_without_self_and_a_flat_result():
    keys = cloud(500, 2)
    values = np.sin(keys[:, 0])
    check(keys, keys, values, bandwidth=0.3, exclude_self=True, sample_weight=np.linspace(0.5, 2, 500))


@pytest.mark.parametrize("centre", [1e4, 1e8])
def test_far_from_the_origin(centre):
    keys = cloud(800, 2, 3, centre)
    check(cloud(60, 2, 4, centre), keys, np.cos(keys[:, 1] - centre), bandwidth=0.3)


def test_queries_far_outside_are_handed_on():
    keys = cloud(600, 1)
    queries = np.concatenate([cloud(40, 1, 5), [[1e3], [-1e6], [1e9], [30.0]]])
    assert np.isfinite(check(queries, keys, keys[:, 0] ** 2, bandwidth=0.25)).all()


def test_a_heap_of_keys_that_no_probe_sees():
    """Places are rounded in units of the whole box; what that does to a large mass is not seen at small ones."""
    rng, end, heap = np.random.default_rng(1), 1e6, slice(1, 11)
    keys = np.concatenate([end + 0.5 * rng.normal(size=5000), rng.uniform(-end, 0.9 * end, 500)])[:, None]
    queries = np.concatenate([keys[-1:], end + 0.7 * rng.normal(size=(10, 1)), keys[rng.integers(5000, 5500, 1000)]])
    values = np.sin(3 * (keys[:, 0] - end))
    got, bound = fastnw.pool(queries, keys, values, bandwidth=1.0, method="fourier", return_error=True)
    f, _ = naive_pool(queries[heap], keys, values, "gaussian", bandwidth=1.0)
    assert np.all(np.abs(got[heap] - f) <= bound[heap])
    assert np.all(bound <= PROMISE["float64"] * np.ptp(values))


@pytest.mark.parametrize("tol", [1e-2, 1e-5, 9e-9, 8e-9, 4e-9, 1e-10, 1e-12])
def test_any_tol(tol):
    """finufft warns where it cannot keep what it is asked for: it is not asked."""
    keys, queries = cloud(700, 2), cloud(50, 2, 1)
    values = np.sin(keys[:, 0])
    f, _ = naive_pool(queries, keys, values, "gaussian", bandwidth=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got, bound = fastnw.pool(queries, keys, values, bandwidth=0.5, method="fourier", tol=tol, return_error=True)
    assert np.all(np.abs(got - f) <= bound)
    assert np.all(bound <= tol * np.ptp(values))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    d=st.integers(1, 3),
    shape=st.sampled_from(["normal", "clusters", "duplicates", "lattice", "line", "one place", "uniform", "heavy"]),
    log_bandwidth=st.floats(-1.3, 1.5),
    n=st.integers(1, 400),
)
def test_the_certificate_is_never_violated(seed, d, shape, log_bandwidth, n):
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(n, d))
    if shape == "clusters":
        keys = 0.01 * keys + 2 * rng.integers(-1, 2, size=(n, 1))
    elif shape == "duplicates":
        keys = keys[rng.integers(0, max(n // 10, 1), size=n)]
    elif shape == "lattice":
        keys = rng.integers(-3, 4, size=(n, d)).astype(float)
    elif shape == "line":
        keys = keys[:, :1] * np.ones(d)
    elif shape == "one place":
        keys = np.zeros((n, d)) + keys[0]
    elif shape == "uniform":
        keys = rng.uniform(-2, 2, size=(n, d))
    elif shape == "heavy":
        keys = np.clip(rng.standard_cauchy(size=(n, d)), -12, 12)
    queries = np.concatenate([keys[:20] + 0.1 * rng.normal(size=keys[:20].shape), 3 * rng.normal(size=(20, d))])
    values = rng.normal(size=n) * 10.0 ** rng.integers(-3, 4)
    bandwidth = 10.0**log_bandwidth
    if np.prod(np.ptp(keys, axis=0) / bandwidth + 10) > 1e6:  # it would be refused: test_what_it_cannot_do_it_says
        bandwidth *= 10
    check(queries, keys, values, bandwidth=bandwidth)


@pytest.mark.parametrize(
    ("d", "options", "reason"),
    [
        (4, {}, "supports d <= 3, got d = 4"),
        (1, {"kernel": "laplacian"}, "supports the Gaussian kernel, got kernel='laplacian'"),
        (1, {"kernel": "epanechnikov"}, "supports the Gaussian kernel, got kernel='epanechnikov'"),
        (
            1,
            {"kernel": fastnw.Kernel("mine", lambda u2: np.exp(-u2 / 2))},
            "supports the Gaussian kernel, got kernel='mine'",
        ),
        (1, {"key_scale": np.ones(50)}, "needs one bandwidth for all keys, got key_scale"),
        (1, {"tol": 0}, "needs tol > 0 or tol=None, got tol=0"),
        (1, {"tol": 1e-14}, "certifies errors down to 1e-12 of the range, got tol=1e-14"),
        (1, {"bandwidth": 1e-9}, "supports keys that span fewer than"),
        (
            1,
            {"bandwidth": 1e-5, "tol": 1e-10},
            "supports keys whose coordinates round by less than the tolerance, got keys that span",
        ),
        (1, {"backend": "reference"}, "supports the compiled and Numba backends, got backend='reference'"),
        (1, {"sample_weight": np.zeros(50)}, "needs a key with a positive weight, got none"),
    ],
)
def test_what_it_cannot_do_it_says(d, options, reason):
    keys = cloud(50, d)
    with pytest.raises(ValueError, match=f"^method='fourier' {reason}.*\\. Use method='auto'\\.$"):
        fastnw.pool(keys, keys, keys[:, 0], method="fourier", **({"bandwidth": 0.5} | options))


def test_the_same_bits_on_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(fourier, "BLOCK", {1: 700, 2: 700, 3: 700})
    keys = cloud(5000, 2)
    runs = [
        fastnw.pool(keys, keys, keys[:, 0], bandwidth=0.2, method="fourier", n_jobs=jobs, return_error=True)
        for jobs in (1, 2, 4)
    ]
    for f, bound in runs[1:]:
        assert f.tobytes() == runs[0][0].tobytes()
        assert bound.tobytes() == runs[0][1].tobytes()


def test_auto_takes_it_where_it_pays_and_few_queries_reach_exact():
    keys, queries = cloud(60_000, 1), cloud(50_000, 1, 1)
    values = np.sin(3 * keys[:, 0])
    assert fastnw.plan(queries, keys, values, bandwidth=0.05).method == "fourier"
    assert fastnw.plan(queries[:5], keys, values, bandwidth=0.05).method == "exact"
    f, bound = fastnw.pool(queries, keys, values, bandwidth=0.05, return_error=True)
    some = np.linspace(0, 49_999, 300).astype(int)
    right = fastnw.pool(queries[some], keys, values, bandwidth=0.05, method="exact", tol=0)
    assert np.all(np.abs(f[some] - right) <= bound[some])
    assert np.all(bound <= 1e-8 * np.ptp(values))
    assert answered(queries, keys, values, bandwidth=0.05)["fourier"] >= 0.99 * len(queries)


def test_density_by_default():
    keys = cloud(40_000, 2)
    assert fastnw.plan(keys, keys, bandwidth=0.2).method == "fourier"
    got = fastnw.density(keys, keys, bandwidth=0.2)
    right = fastnw.density(keys[:200], keys, bandwidth=0.2, method="exact")
    np.testing.assert_allclose(got[:200], right, rtol=1e-8)


def test_a_second_prediction_only_costs_its_queries(monkeypatch):
    calls = []
    coefficients = fourier._coefficients
    monkeypatch.setattr(fourier, "_coefficients", lambda *a: (calls.append(1), coefficients(*a))[1])
    keys = cloud(3000, 2)
    model = fastnw.NadarayaWatsonRegressor(bandwidth=0.3, method="fourier").fit(keys, keys[:, 0])
    first = model.predict(keys[:100])
    np.testing.assert_array_equal(model.predict(keys[:100]), first)
    model.predict(keys[100:500])
    assert len(calls) == 1
    model.set_params(tol=1e-6).predict(keys[:10])
    assert len(calls) == 2


def test_a_plan_explains_itself():
    keys = cloud(200_000, 1)
    plan = fastnw.plan(keys, keys, keys[:, 0], bandwidth=0.05)
    assert plan.method == "fourier"
    assert plan.pairs < 0.01 * len(keys) ** 2
    assert ", exact " in plan.reason
    assert "fourier" in str(plan)
