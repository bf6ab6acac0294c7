"""KernelDensity against scikit-learn's and against plain sums; its samples against the distributions they come from."""

from __future__ import annotations

import math
import pickle

import numpy as np
import oracle
import pandas as pd
import pytest
from cases import KERNELS
from scipy import integrate, stats
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity as SklearnDensity
from sklearn.utils._param_validation import InvalidParameterError

import fastnw
from fastnw import KernelDensity
from fastnw.bandwidth import rule_bandwidth
from fastnw.estimators import density

SKLEARN_KERNELS = ["gaussian", "tophat", "epanechnikov", "exponential", "linear", "cosine"]
NORMALISABLE = [k for k in KERNELS if k not in ("constant", "dot")]
# The promise is a relative 1e-8 of the density, hence 1e-8 on its logarithm; twice for what the peer is off by.
PROMISE = 2e-8


def cloud(d, n=150, m=60):
    rng = np.random.default_rng(d)
    return rng.normal(size=(n, d)), 1.3 * rng.normal(size=(m, d)), rng.integers(0, 4, size=n).astype(float)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("d", [1, 2, 3, 5])
@pytest.mark.parametrize("kernel", SKLEARN_KERNELS)
def test_agrees_with_scikit_learn(kernel, d, weighted):
    if kernel == "cosine" and d % 2 == 0:
        pytest.skip("scikit-learn's constant is wrong there: 2/π in place of 2/π - (2/π)² for d = 2")
    X, Q, w = cloud(d)
    weights = w + 0.5 if weighted else None  # of weights that are 0, the peer takes logarithms
    options = {"kernel": kernel, "bandwidth": 0.9 * math.sqrt(d)}
    peer = SklearnDensity(**options).fit(X, sample_weight=weights)
    ours = KernelDensity(**options).fit(X, sample_weight=weights)
    expected, log_density = peer.score_samples(Q), ours.score_samples(Q)
    # the peer's trees leave rounding, some 1e-17, where the density is 0
    np.testing.assert_allclose(np.exp(log_density), np.exp(expected), rtol=PROMISE, atol=1e-16)
    seen = Q[expected > -30]
    assert len(seen) > 5
    assert ours.score(seen) == pytest.approx(peer.score(seen), rel=0, abs=PROMISE * len(seen))


@pytest.mark.parametrize("shape", ["number", "vector", "matrix"])
@pytest.mark.parametrize("d", [1, 2, 4])
@pytest.mark.parametrize("kernel", NORMALISABLE)
def test_matches_the_plain_sum(kernel, d, shape):
    if kernel == "cauchy" and d > 1:
        pytest.skip("has no density there")
    X, Q, w = cloud(d)
    h = {"number": 1.1, "vector": np.linspace(0.8, 1.5, d), "matrix": np.full((d, d), 0.3) + np.eye(d)}[shape]
    model = KernelDensity(kernel=kernel, bandwidth=h).fit(X, sample_weight=w)
    expected = oracle.naive_log_density(Q, X, kernel, h, w).astype(float)
    assert np.isfinite(expected).any()
    np.testing.assert_allclose(model.score_samples(Q), expected, rtol=0, atol=PROMISE)


@pytest.mark.filterwarnings("ignore::fastnw.AccuracyWarning")  # within rounding of where a kernel ends
@pytest.mark.parametrize("kernel", [k for k in NORMALISABLE if k != "cauchy"])
def test_densities_integrate_to_one(kernel):
    X, _, _ = cloud(1, n=20)
    grid = np.linspace(-40, 40, 40001)
    density = np.exp(KernelDensity(kernel=kernel, bandwidth=0.7).fit(X).score_samples(grid[:, None]))
    # the trapezoidal rule's error at the boxcar's 40 jumps, half a step of 0.002 each, is the largest
    assert integrate.trapezoid(density, grid) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "matern52", "logistic"])
def test_logarithms_reach_far_tails(kernel):
    X, _, _ = cloud(2)
    far = KernelDensity(kernel=kernel, bandwidth=0.5).fit(X).score_samples([[1e4, -1e4]])
    expected = oracle.naive_log_density([[1e4, -1e4]], X, kernel, 0.5).astype(float)
    assert expected[0] < -1e4
    np.testing.assert_allclose(far, expected, rtol=1e-12)


def test_user_kernels():
    X, Q, _ = cloud(2)
    bumps = fastnw.Kernel("bumps", lambda u2: (1 - u2) ** 2 if u2 < 1 else 0.0, support=1.0)
    ours = KernelDensity(kernel=bumps, bandwidth=1.5).fit(X).score_samples(Q)
    expected = oracle.naive_log_density(Q, X, "biweight", 1.5).astype(float)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=PROMISE)
    with pytest.raises(ValueError, match=r"'flat'.*d = 2"):
        KernelDensity(kernel=fastnw.Kernel("flat", lambda u2: 1.0)).fit(X)


@pytest.mark.parametrize("rule", ["scott", "silverman"])
def test_rules_use_the_spread(rule):
    X, Q, w = cloud(2)
    X = X * [1.0, 50.0]
    Q = Q * [1.0, 50.0]
    model = KernelDensity(bandwidth=rule).fit(X, sample_weight=w)
    np.testing.assert_allclose(model.bandwidth_, rule_bandwidth(X, rule, "gaussian", w), rtol=1e-15)
    repeated = KernelDensity(bandwidth=model.bandwidth_).fit(np.repeat(X, w.astype(int), axis=0))
    np.testing.assert_allclose(model.score_samples(Q), repeated.score_samples(Q), rtol=0, atol=PROMISE)
    # the density of data in other units is that density in other units; scikit-learn's rules miss this
    metres, millimetres = KernelDensity(bandwidth=rule).fit(X), KernelDensity(bandwidth=rule).fit(X * 1000)
    shift = 2 * math.log(1000)
    np.testing.assert_allclose(metres.score_samples(Q), millimetres.score_samples(Q * 1000) + shift, atol=PROMISE)


@pytest.mark.parametrize(("atol", "rtol"), [(1e-3, 0), (0, 1e-2), (1e-5, 1e-4), (0, 0)])
@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov"])
def test_tolerances_are_honoured(kernel, atol, rtol):
    X, Q, _ = cloud(2, n=2000)
    density = np.exp(KernelDensity(kernel=kernel, bandwidth=0.3, atol=atol, rtol=rtol).fit(X).score_samples(Q))
    exact = np.exp(oracle.naive_log_density(Q, X, kernel, 0.3).astype(float))
    assert np.all(np.abs(density - exact) <= atol + (rtol or (0 if atol else 1e-8)) * exact + 1e-15)


@pytest.mark.parametrize("bandwidth", [0.3, np.array([0.3, 2.0]), np.array([[0.5, 0.2], [0.2, 1.0]])])
def test_an_absolute_tolerance_becomes_relative_to_the_highest_density(monkeypatch, bandwidth):
    asked = []
    real = density.densities
    monkeypatch.setattr(density, "densities", lambda *a, **k: asked.append(a[1].tol) or real(*a, **k))
    X, Q, _ = cloud(2)
    for atol, rtol in ((1e-6, 1e-3), (1e9, 0.0), (0, 0.25), (0, 0)):
        KernelDensity(bandwidth=bandwidth, atol=atol, rtol=rtol).fit(X).score_samples(Q)
    volume = {0: 0.09, 1: 0.6, 2: math.sqrt(0.46)}[np.ndim(bandwidth)]
    assert asked[0] == pytest.approx(1e-3 + 1e-6 * 2 * math.pi * volume, rel=1e-12)
    assert asked[1:] == [0.5, 0.25, None]


def test_choices_reach_the_sums(monkeypatch):
    asked = []
    real = density.densities
    monkeypatch.setattr(density, "densities", lambda *a, **k: asked.append(a[0].plan) or real(*a, **k))
    X, Q, _ = cloud(2)
    choices = {"method": "exact", "backend": "reference", "n_jobs": 1}
    KernelDensity(**choices).fit(X).score_samples(Q)
    assert [(plan.method, plan.backend, plan.n_threads) for plan in asked] == [tuple(choices.values())]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kernel", ["gaussian", "tophat"])
def test_samples_are_scikit_learns_for_the_same_seed(kernel, weighted):
    X, _, w = cloud(3)
    options, weights = {"kernel": kernel, "bandwidth": 0.4}, (w + 1 if weighted else None)
    peer = SklearnDensity(**options).fit(X, sample_weight=weights).sample(50, random_state=0)
    ours = KernelDensity(**options).fit(X, sample_weight=weights).sample(50, random_state=0)
    # the radius comes from an inverted table, right to 1e-9 in probability
    np.testing.assert_allclose(ours, peer, rtol=0, atol=1e-7)


@pytest.mark.parametrize("d", [1, 2, 6])
@pytest.mark.parametrize("kernel", NORMALISABLE)
def test_samples_follow_the_density(kernel, d):
    """One key: radii have density u^(d-1) κ(u), and directions no preference."""
    if kernel == "cauchy" and d > 1:
        pytest.skip("has no density there")
    drawn = KernelDensity(kernel=kernel, bandwidth=2.0).fit(np.full((1, d), 5.0)).sample(4000, random_state=1)
    u = np.sqrt((((drawn - 5.0) / 2.0) ** 2).sum(axis=1))
    if kernel in oracle.COMPACT:
        assert u.max() <= 1 + 1e-15
    kappa = oracle.KAPPA.get(kernel) or (lambda u: np.exp(oracle.LOG_KAPPA[kernel](u)))
    grid = np.append(np.linspace(0, 60, 600001)[1:], np.geomspace(60.001, 1e7, 100001))
    mass = kappa(grid) * grid ** (d - 1)
    cdf = np.cumsum(np.append(0.0, np.diff(grid) * (mass[1:] + mass[:-1]) / 2))
    assert stats.kstest(u, lambda x: np.interp(x, grid, cdf / cdf[-1])).pvalue > 1e-3  # fixed seed
    above = (drawn > 5.0).mean(axis=0)
    np.testing.assert_allclose(above, 0.5, atol=4 * 0.5 / math.sqrt(4000))


def test_samples_follow_a_matrix_bandwidth_and_the_weights():
    H = np.array([[1.0, 0.8], [0.8, 2.0]])
    model = KernelDensity(bandwidth=H).fit([[0.0, 0.0], [100.0, 0.0], [200.0, 0.0]], sample_weight=[0, 3, 1])
    drawn = model.sample(20000, random_state=2)
    key = np.round(drawn[:, 0] / 100).astype(int)
    # four standard errors of a share, then of a covariance
    assert np.bincount(key, minlength=3)[0] == 0
    assert (key == 1).mean() == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / 20000))
    offsets = drawn - np.column_stack([100.0 * key, np.zeros(len(key))])
    np.testing.assert_allclose(np.cov(offsets.T), H, atol=4 * 2 * math.sqrt(2 / 20000))


def test_samples_are_reproducible_and_of_the_keys_type():
    X, _, _ = cloud(2)
    model = KernelDensity(kernel="laplacian").fit(X.astype(np.float32))
    assert model.sample().shape == (1, 2)
    assert model.sample(3, random_state=0).dtype == np.float32
    a, b = (model.sample(5, random_state=np.random.RandomState(3)) for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_float32_is_kept():
    X, Q, _ = cloud(2)
    model = KernelDensity().fit(X.astype(np.float32))
    log_density = model.score_samples(Q.astype(np.float32))
    assert log_density.dtype == np.float32
    # 1e-4 relative is promised; the keys' own rounding and the logarithm's add a few 1e-7
    np.testing.assert_allclose(log_density, KernelDensity().fit(X).score_samples(Q), rtol=0, atol=1.1e-4)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"metric": "manhattan"}, r"'metric' parameter of KernelDensity must be a str among \{'euclidean'\}"),
        ({"algorithm": "brute"}, "'algorithm' parameter"),
        ({"bandwidth": -1.0}, "'bandwidth' parameter"),
        ({"bandwidth": "scot"}, "'bandwidth' parameter"),
        ({"atol": -1}, "'atol' parameter"),
        ({"rtol": "x"}, "'rtol' parameter"),
        ({"leaf_size": 0}, "'leaf_size' parameter"),
        ({"breadth_first": "yes"}, "'breadth_first' parameter"),
        ({"metric_params": 3}, "'metric_params' parameter"),
    ],
)
def test_wrong_parameters_get_scikit_learns_wording(parameters, message):
    with pytest.raises(InvalidParameterError, match=message):
        KernelDensity(**parameters).fit(cloud(1)[0])


def test_other_errors():
    X, _, w = cloud(2)
    for kernel in ("dot", "constant", "cauchy"):
        with pytest.raises(ValueError, match=rf"'{kernel}'.*d = 2"):
            KernelDensity(kernel=kernel).fit(X)
    with pytest.raises(ValueError, match="'tophat'"):
        KernelDensity(kernel="hat").fit(X)
    with pytest.raises(ValueError, match="metric_params"):
        KernelDensity(metric_params={"p": 3}).fit(X)
    with pytest.raises(ValueError, match="Negative values"):
        KernelDensity().fit(X, sample_weight=w - 1)
    with pytest.raises(ValueError, match="NaN"):
        KernelDensity().fit(np.where(X > 1, np.nan, X))
    with pytest.raises(ValueError, match="'flat'"):
        KernelDensity(bandwidth="scott").fit(pd.DataFrame({"a": X[:, 0], "flat": 1.0}))


def test_empty_windows_have_density_zero_without_a_warning():
    model = KernelDensity(kernel="tophat", bandwidth=0.5).fit([[0.0], [1.0]])
    np.testing.assert_allclose(model.score_samples([[0.0], [9.0]]), [math.log(0.5), -math.inf], rtol=1e-8)


def test_searches_and_pickles():
    X, Q, _ = cloud(1)
    search = GridSearchCV(KernelDensity(), {"bandwidth": [1e-3, 0.4, 50.0]}, cv=3).fit(X)
    assert search.best_params_ == {"bandwidth": 0.4}
    model = KernelDensity().fit(X)
    before, size = set(vars(model)), len(pickle.dumps(model))
    log_density = model.score_samples(Q)
    assert set(vars(model)) == before
    assert len(pickle.dumps(model)) == size < X.nbytes + 4096
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).score_samples(Q), log_density)
    assert model.score_samples(Q[:0]).shape == (0,)
