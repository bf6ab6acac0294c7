"""Adaptive widths against plain sums and sorted distances; in the estimators, against sums with those widths."""

from __future__ import annotations

import math
import pickle

import numpy as np
import oracle
import pytest
from cases import KERNELS
from scipy import integrate, stats
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastnw
from fastnw import Abramson, KernelDensity, NadarayaWatsonClassifier, NadarayaWatsonRegressor, NearestNeighbours
from fastnw.bandwidth import rule_bandwidth
from fastnw.estimators import density

PROMISE = 1e-8  # of float64; the pilot's relative error, of which α reaches λ
MATRIX = np.array([[0.5, 0.2], [0.2, 0.4]])


def naive_abramson(keys, h, kernel="gaussian", alpha=0.5, weights=None):
    """(p̂(k_i)/ḡ)^(−α) from the oracle's density; ḡ over the rows repeated `weights` times."""
    times = np.ones(len(keys), int) if weights is None else np.asarray(weights).astype(int)
    log_density = oracle.naive_log_density(keys, np.repeat(keys, times, axis=0), kernel, h).astype(float)
    scale = np.ones(len(keys))
    scale[times > 0] = np.exp(-alpha * (log_density - np.repeat(log_density, times).mean())[times > 0])
    return scale


def naive_neighbours(keys, k, h=1.0, weights=None):
    """The k-th smallest distance to another key that has a weight, or the smallest that is not 0."""
    present = np.ones(len(keys), bool) if weights is None else np.asarray(weights) > 0
    distances = oracle.naive_scaled(keys, keys[present], bandwidth=h).astype(float)
    scales = []
    for i, row in enumerate(distances):
        kth = np.sort(row)[k if present[i] else k - 1]  # a row of its own comes first
        scales.append(kth if kth > 0 else row[row > 0].min())
    return np.array(scales)


def cloud(d=2, n=60):
    """Keys with a long tail, and how often each counts."""
    rng = np.random.default_rng(d)
    return rng.standard_t(2, size=(n, d)), rng.integers(0, 4, size=n)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("kernel", "d", "h"),
    [("gaussian", 1, 0.4), ("gaussian", 2, MATRIX), ("epanechnikov", 3, [0.8, 1.0, 1.5]), ("cauchy", 1, 0.3)],
)
def test_local_density(kernel, d, h, weighted):
    keys, times = cloud(d)
    weights = times if weighted else None
    for alpha in (0, 0.5, 1.0):
        scale = Abramson(h, alpha).key_scale(keys, kernel=kernel, sample_weight=weights)
        expected = naive_abramson(keys, h, kernel, alpha, weights)
        np.testing.assert_allclose(scale, expected, rtol=2 * PROMISE)
        assert np.average(np.log(scale), weights=weights) == pytest.approx(0, abs=1e-12)
    assert scale.max() / scale.min() > 3  # or one width for all would pass


def test_local_density_of_kernels_without_an_integral():
    keys, _ = cloud(2)
    u = oracle.naive_scaled(keys, keys, "cauchy", 0.7)
    logs = np.log((1 / (1 + u**2)).sum(axis=1)).astype(float)
    np.testing.assert_allclose(
        Abramson(0.7).key_scale(keys, kernel="cauchy"), np.exp(-0.5 * (logs - logs.mean())), rtol=2 * PROMISE
    )
    np.testing.assert_allclose(Abramson(0.7).key_scale(keys, kernel="constant"), 1, rtol=2 * PROMISE)


@pytest.mark.parametrize("rule", ["scott", "silverman"])
def test_rules_settle_the_pilot(rule):
    keys, times = cloud()
    h = rule_bandwidth(keys, rule, "triweight", times)
    for of_rule, of_number in ((Abramson(rule), Abramson(h)), (NearestNeighbours(3, rule), NearestNeighbours(3, h))):
        np.testing.assert_array_equal(
            of_rule.key_scale(keys, kernel="triweight", sample_weight=times),
            of_number.key_scale(keys, kernel="triweight", sample_weight=times),
        )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("d", "h"), [(1, 1.0), (2, MATRIX), (2, [0.3, 2.0]), (3, 0.5)])
@pytest.mark.parametrize("k", [1, 4, 35])
def test_nearest_neighbours(k, d, h, weighted):
    keys, times = cloud(d)
    keys[7] = keys[8] = keys[9]
    times[7:10] = 2
    weights = times if weighted else None
    scale = NearestNeighbours(k, h).key_scale(keys, sample_weight=weights)
    expected = naive_neighbours(keys, k, h, weights)
    if weighted:
        expected[times == 0] = 1
    np.testing.assert_allclose(scale, expected, rtol=1e-12)  # differences of numbers up to 30 times as large


def test_nearest_neighbours_far_from_0():
    keys, _ = cloud(3)
    near, far = (NearestNeighbours(5).key_scale(keys + shift) for shift in (0.0, 1e6))
    np.testing.assert_allclose(near, far, rtol=1e-7)  # 1e6 has 1e-10 to spare, distances are 1e-2 and more


def test_equal_keys_take_the_nearest_place_elsewhere():
    keys = [[0.0], [0.0], [0.0], [2.0], [5.0]]
    np.testing.assert_array_equal(NearestNeighbours(2).key_scale(keys), [2, 2, 2, 2, 5])
    np.testing.assert_array_equal(NearestNeighbours(3).key_scale(keys), [2, 2, 2, 2, 5])
    np.testing.assert_array_equal(NearestNeighbours(4).key_scale(keys), [5, 5, 5, 3, 5])
    with pytest.raises(ValueError, match="All keys are equal"):
        NearestNeighbours(1).key_scale([[1.0, 2.0]] * 4)
    with pytest.raises(ValueError, match="0 in float64"):
        NearestNeighbours(1).key_scale([[0.0], [1e-200], [1.0]])


WIDTHS = [Abramson(0.6), Abramson("scott", alpha=0.8), NearestNeighbours(5), NearestNeighbours(k=3, bandwidth="scott")]


def plain_widths(widths, X, kernel, weights):
    """h and λ by the plain formulas."""
    h = widths.bandwidth
    h = rule_bandwidth(X, h, kernel, weights) if isinstance(h, str) else h
    if isinstance(widths, Abramson):
        return h, naive_abramson(X, h, kernel, widths.alpha, weights)
    return h, naive_neighbours(X, widths.k, h, weights)


@pytest.mark.parametrize("widths", WIDTHS, ids=repr)
@pytest.mark.parametrize("kernel", ["gaussian", "biweight"])
def test_estimators_match_the_plain_sums(widths, kernel):
    X, times = cloud()
    Q, y = np.random.default_rng(5).normal(size=(25, 2)), np.sin(X[:, 0])
    h, scale = plain_widths(widths, X, kernel, times)
    options = {"kernel": kernel, "bandwidth": widths}
    model = NadarayaWatsonRegressor(**options, empty=-7.0).fit(X, y, times)
    np.testing.assert_allclose(model.bandwidth_, h, rtol=1e-15)
    np.testing.assert_allclose(model.key_scale_[times > 0], scale[times > 0], rtol=2 * PROMISE)
    # the sums' own error and that of λ, by which weights change a few times as much
    tolerance = {"rtol": 0, "atol": 20 * PROMISE}
    given = {"sample_weight": times, "key_scale": scale}
    expected, _ = oracle.naive_pool(Q, X, y, kernel, h, **given)
    np.testing.assert_allclose(model.predict(Q), np.nan_to_num(expected.astype(float), nan=-7.0), **tolerance)

    labels = np.where(y > 0.2, "b", "a")
    p = NadarayaWatsonClassifier(**options, empty="mean").fit(X, labels, times).predict_proba(Q)
    expected, _ = oracle.naive_pool(Q, X, labels == "b", kernel, h, **given)
    seen = np.isfinite(expected)
    np.testing.assert_allclose(p[seen, 1], expected[seen].astype(float), **tolerance)

    log_density = KernelDensity(**options).fit(X, sample_weight=times).score_samples(Q)
    expected = oracle.naive_log_density(Q, X, kernel, h, **given).astype(float)
    np.testing.assert_allclose(log_density, expected, **tolerance)
    assert np.isfinite(log_density).sum() > 15


@pytest.mark.filterwarnings("ignore::fastnw.AccuracyWarning")  # within rounding of where a kernel ends
@pytest.mark.parametrize("widths", [Abramson(0.5), NearestNeighbours(4)], ids=repr)
@pytest.mark.parametrize("kernel", [k for k in KERNELS if k not in ("constant", "dot", "cauchy")])
def test_densities_integrate_to_1(kernel, widths):
    X, times = cloud(1, n=20)
    model = KernelDensity(kernel=kernel, bandwidth=widths).fit(X, sample_weight=times)
    reach = 45 * model.bandwidth_ * model.key_scale_.max()
    grid = np.linspace(X.min() - reach, X.max() + reach, 100_001)
    density = np.exp(model.score_samples(grid[:, None]))
    # the trapezoidal rule: half a step at each of the boxcar's 40 jumps, of which the highest are 4
    assert integrate.trapezoid(density, grid) == pytest.approx(1.0, abs=2e-2 if kernel == "boxcar" else 1e-4)


def test_densities_in_the_plane_integrate_to_1():
    X, _ = cloud(2, n=12)
    model = KernelDensity(kernel="triweight", bandwidth=NearestNeighbours(3, MATRIX)).fit(X)
    side = np.linspace(-25, 25, 1001)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    assert np.exp(model.score_samples(grid)).sum() * 0.05**2 == pytest.approx(1.0, abs=1e-4)  # smooth, steps of h/10


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov", "laplacian"])
def test_samples_follow_the_density(kernel):
    X, times = cloud(1, n=15)
    model = KernelDensity(kernel=kernel, bandwidth=NearestNeighbours(2)).fit(X, sample_weight=times)
    drawn = model.sample(4000, random_state=0)[:, 0]
    grid = np.linspace(X.min() - 300, X.max() + 300, 60_001)
    density = np.exp(oracle.naive_log_density(grid[:, None], X, kernel, 1.0, times, model.key_scale_).astype(float))
    cdf = integrate.cumulative_trapezoid(density, grid, initial=0)
    assert stats.kstest(drawn, lambda x: np.interp(x, grid, cdf)).pvalue > 1e-3  # fixed seed
    # with one width for all the same test fails
    model.key_scale_ = np.full(len(X), np.average(model.key_scale_, weights=times))
    drawn = model.sample(4000, random_state=0)[:, 0]
    assert stats.kstest(drawn, lambda x: np.interp(x, grid, cdf)).pvalue < 1e-6


def test_samples_of_a_matrix_are_as_wide_as_their_key():
    pairs = [(0.0, 1.0), (1000.0, 8.0)]  # where, and how far apart
    X = np.array([(x, y) for x, gap in pairs for y in (0.0, gap)])
    drawn = KernelDensity(bandwidth=NearestNeighbours(1, MATRIX)).fit(X).sample(20_000, random_state=1)
    for x, gap in pairs:
        mine = drawn[np.abs(drawn[:, 0] - x) < 500]
        spread = MATRIX * gap**2 * np.linalg.inv(MATRIX)[1, 1] + np.diag([0.0, gap**2 / 4])
        # four standard errors of a covariance of 10,000 draws
        assert np.abs(np.cov(mine.T) - spread).max() < 4 * spread.max() * math.sqrt(2 / 9_000)


def test_an_absolute_tolerance_counts_the_narrowest_width(monkeypatch):
    asked = []
    real = density.densities
    monkeypatch.setattr(density, "densities", lambda *a, **k: asked.append(a[1].tol) or real(*a, **k))
    X = np.array([[0.0, 0.0], [0.5, 0.0], [9.0, 0.0]])
    KernelDensity(bandwidth=NearestNeighbours(1), atol=1e-6).fit(X).score_samples(X)
    # a key of width ½ in the plane has a density of 4/2π
    assert asked == [pytest.approx(1e-6 * 2 * math.pi / 4, rel=1e-12)]


@parametrize_with_checks(
    [
        NadarayaWatsonRegressor(bandwidth=Abramson()),
        NadarayaWatsonClassifier(bandwidth=NearestNeighbours(k=3)),
        KernelDensity(bandwidth=Abramson(alpha=0.3)),
    ]
)
def test_scikit_learn_checks(estimator, check):
    if "sample_weight_equivalence" in check.func.__name__:
        # repeated rows count in the rules' n, weights only by their effective number: means agree at a given bandwidth
        estimator = clone(estimator).set_params(bandwidth=Abramson(1.0))
    check(estimator)


def test_clones_pickles_searches_and_refits():
    X, _ = cloud()
    y, Q = np.sin(X[:, 0]), X[:10] + 0.1
    model = NadarayaWatsonRegressor(bandwidth=Abramson(0.5, alpha=0.7))
    assert model.get_params()["bandwidth"] == Abramson(0.5, alpha=0.7)
    assert "Abramson(bandwidth=0.5, alpha=0.7)" in repr(model)
    prediction = model.fit(X, y).predict(Q)
    for other in (clone(model).fit(X, y), pickle.loads(pickle.dumps(model))):
        assert other.bandwidth == model.bandwidth
        np.testing.assert_array_equal(other.predict(Q), prediction)
        np.testing.assert_array_equal(other.key_scale_, model.key_scale_)
    grid = {"bandwidth": [Abramson(50.0), NearestNeighbours(4), NearestNeighbours(4, "scott")]}
    search = GridSearchCV(NadarayaWatsonRegressor(), grid, cv=3).fit(X, y)
    assert isinstance(search.best_params_["bandwidth"], NearestNeighbours)  # 50 averages all there is
    plain = model.set_params(bandwidth=0.5).fit(X, y)
    assert plain.key_scale_ is None
    np.testing.assert_array_equal(plain.predict(Q), NadarayaWatsonRegressor(bandwidth=0.5).fit(X, y).predict(Q))


def test_weights_are_repetitions_in_the_estimators():
    X, times = cloud(2)
    repeated = np.repeat(X, times, axis=0)
    for widths in (Abramson(0.6), Abramson([0.3, 2.0], alpha=0.8)):
        a = KernelDensity(bandwidth=widths).fit(X, sample_weight=times).score_samples(X[:20])
        b = KernelDensity(bandwidth=widths).fit(repeated).score_samples(X[:20])
        np.testing.assert_allclose(a, b, rtol=0, atol=20 * PROMISE)


def test_long_tails_are_smoother():
    """What adaptive widths are for: less error at a mode and in the tail at once."""
    x = np.random.default_rng(0).lognormal(size=(2000, 1))
    grid = np.linspace(0.02, 12, 2000)
    truth = stats.lognorm(1).pdf(grid)

    def error(bandwidth):
        density = np.exp(KernelDensity(bandwidth=bandwidth).fit(x).score_samples(grid[:, None]))
        return integrate.trapezoid((density - truth) ** 2, grid)

    assert error(Abramson("scott")) < 0.75 * error("scott")


def test_float32_is_kept():
    X, _ = cloud()
    narrow = X.astype(np.float32)
    assert Abramson(0.5).key_scale(narrow).dtype == np.float64
    density = KernelDensity(bandwidth=Abramson(0.5)).fit(narrow).score_samples(narrow)
    assert density.dtype == np.float32
    expected = KernelDensity(bandwidth=Abramson(0.5)).fit(X).score_samples(X)
    np.testing.assert_allclose(density, expected, rtol=0, atol=4e-4)  # 1e-4 of the sums, and of the pilot's


def test_tensors():
    torch = pytest.importorskip("torch")
    X, times = cloud()
    for widths in (Abramson(0.5), NearestNeighbours(3)):
        scale = widths.key_scale(torch.from_numpy(X), sample_weight=torch.from_numpy(times))
        assert isinstance(scale, torch.Tensor)
        np.testing.assert_array_equal(scale.numpy(), widths.key_scale(X, sample_weight=times))


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        (Abramson(alpha=-0.1), "alpha must be a number between 0 and 1, got -0.1"),
        (Abramson(alpha="half"), "alpha"),
        (Abramson(alpha=math.nan), "alpha"),
        (Abramson(-1.0), "bandwidth must be positive"),
        (Abramson("scot"), "'scott'"),
        (NearestNeighbours(0), "k == 0, must be >= 1"),
        (NearestNeighbours(60), "k=60 needs 61 samples, got n_samples = 60"),
        (NearestNeighbours(3, [1.0, -2.0]), "coordinate 1"),
    ],
    ids=repr,
)
def test_wrong_parameters(widths, message):
    X, _ = cloud()
    with pytest.raises(ValueError, match=message):
        widths.key_scale(X)
    with pytest.raises(ValueError, match=message):
        KernelDensity(bandwidth=widths).fit(X)


def test_other_errors():
    X, times = cloud()
    for k in (2.5, True, "3"):
        with pytest.raises(TypeError, match="k must be an integer"):
            NearestNeighbours(k).key_scale(X)
    with pytest.raises(ValueError, match=r"n_samples = 2, counting only keys with a positive weight"):
        NearestNeighbours(2).key_scale(X[:3], sample_weight=[0.5, 0.0, 0.5])
    for widths in (Abramson(1.0), NearestNeighbours(3)):
        with pytest.raises(ValueError, match="'dot'"):
            NadarayaWatsonRegressor(kernel="dot", bandwidth=widths).fit(X, X[:, 0])
        with pytest.raises(ValueError, match="at least one non-zero"):
            widths.key_scale(X, sample_weight=np.zeros(len(X)))
        with pytest.raises(ValueError, match="NaN"):
            widths.key_scale(np.where(X > 1, np.nan, X))
        with pytest.raises(ValueError, match="expected"):
            widths.key_scale(X, sample_weight=times[:5])
        with pytest.raises(ValueError, match=r"adaptive.*key_scale="):
            fastnw.pool(X, X, X, bandwidth=widths)
