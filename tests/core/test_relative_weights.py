"""Weights and units are relative: what a constant factor, a row without weight or a unit must not change, and weighted
criteria against plain sums in long double."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from oracle import KAPPA, LOG_KAPPA
from scipy import stats

import fastnw
from fastnw import (
    Abramson,
    BandwidthWarning,
    KernelDensity,
    NadarayaWatsonClassifier,
    NadarayaWatsonRegressor,
    NearestNeighbours,
)
from fastnw.bandwidth import rule_bandwidth

pytestmark = pytest.mark.filterwarnings("ignore::fastnw.BandwidthWarning")

RULES = ("scott", "silverman")
SEARCHES = {"loo": "numbers", "aicc": "numbers", "log_loss": "labels", "likelihood": "density"}
FAMILIES = ("gaussian", "laplacian", "epanechnikov", "boxcar", "cauchy")
every_search = pytest.mark.parametrize("search", SEARCHES)
every_rule = pytest.mark.parametrize("rule", RULES)
LONG = np.longdouble


def sample(n=70, d=2, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(n, d)) * np.array([1.0, 30.0, 0.01])[:d]
    return x, np.sin(5 * x[:, 0]) + 0.3 * rng.normal(size=n)


def spread_weights(n, kind, seed=1):
    """(n,) Weights below and above 1, of little or of enormous spread."""
    rng = np.random.default_rng(seed)
    return {
        "counts": rng.integers(1, 5, n).astype(float),
        "shares": rng.uniform(0.2, 1.0, n) / n,
        "skewed": rng.gamma(0.3, size=n),
        "enormous": 10.0 ** rng.choice([-100.0, 0.0, 100.0], n) * rng.uniform(0.5, 2, n),
    }[kind]


every_spread = pytest.mark.parametrize("kind", ["counts", "shares", "skewed", "enormous"])


def values_of(search, y):
    return {"numbers": y, "labels": np.where(y > 0.3, "up", "down"), "density": None}[SEARCHES[search]]


def chosen(search, x, y, weights=None, **options):
    criterion = "loo" if search == "likelihood" else search
    return fastnw.select_bandwidth(x, y, criterion=criterion, sample_weight=weights, **options)


def assert_same_search(one, other, factor=1.0):
    """The same path, to the last bit."""
    np.testing.assert_array_equal(one.path.bandwidth * factor, other.path.bandwidth)
    np.testing.assert_array_equal(np.asarray(one.bandwidth) * factor, other.bandwidth)


# ---- criteria against plain sums


def naive(search, x, y, weights, kernel, h):
    """The criterion at h by sums over all pairs in long double; weights in units that keep them all."""
    u = np.sqrt((((x[:, None] - x[None]).astype(LONG) / h) ** 2).sum(axis=2))
    with np.errstate(divide="ignore"):
        logs = LOG_KAPPA[kernel](u) if kernel in LOG_KAPPA else np.log(KAPPA[kernel](u))
    w = weights.astype(LONG)
    n, logs = len(x), logs + np.log(w)
    own = np.diagonal(logs).copy()
    if search != "aicc":
        np.fill_diagonal(logs, -np.inf)
    top = logs.max(axis=1)
    shares = np.exp(logs - top[:, None])
    log_mass = top + np.log(shares.sum(axis=1))
    shares /= shares.sum(axis=1)[:, None]
    if search == "likelihood":
        others = np.array([np.delete(w, i).sum() for i in range(n)])
        constant = {"gaussian": 2 * np.pi, "laplacian": 2 * np.pi, "epanechnikov": np.pi / 2}[kernel]
        density = log_mass - np.log(others) - np.log(LONG(constant)) - np.log(h.astype(LONG)).sum()
        return float(-(w * density).sum() / w.sum())
    if search == "log_loss":
        p = (shares * (y[:, None] == y)).sum(axis=1)
        return float(-(w * np.log(np.maximum(p, 1e-15))).sum() / w.sum())
    squares = (w * (y - shares @ y.astype(LONG)) ** 2).sum() / w.sum()
    if search == "loo":
        return float(squares)
    trace = np.exp(own - log_mass).sum()
    return float(np.log(squares) + (1 + trace / n) / (1 - (trace + 2) / n)) if trace + 2 < n else np.inf


@every_search
@every_spread
@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "epanechnikov"])
def test_weighted_criteria_are_plain_sums(search, kind, kernel):
    x, y = sample()
    weights, y = spread_weights(len(x), kind), values_of(search, y)
    h = np.array([0.5, 12.0]) if kernel == "epanechnikov" else np.array([0.1, 6.0])
    expected = naive(search, x, y, weights, kernel, h)
    assert np.isfinite(expected)
    # sums keep 1e-8 of the values' range
    found = chosen(search, x, y, weights, kernel=kernel, candidates=h[None])
    np.testing.assert_allclose(found.score, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("search", ["loo", "log_loss", "likelihood"])  # AICc's σ̂² is below the sums' promise there
def test_one_row_with_nearly_all_the_weight(search):
    """What is left when that row is left out is not the rounding of a difference."""
    x, y = sample(20)
    weights, y = np.full(20, 1e-30), values_of(search, y)
    weights[3] = 1.0
    h = np.array([0.2, 6.0])
    found = chosen(search, x, y, weights, candidates=h[None]).score
    np.testing.assert_allclose(found, naive(search, x, y, weights, "gaussian", h), rtol=1e-6)


@pytest.mark.parametrize("n", [60, 2000])
@every_spread
def test_transforms_leave_out_rows_too(n, kind):
    """One coordinate and the Gaussian: a search by Fourier transforms, gradients included, finds what a grid does."""
    x, y = sample(n, d=1)
    weights = spread_weights(n, kind)
    found = fastnw.select_bandwidth(x, y, sample_weight=weights)
    some = np.random.default_rng(0).permutation(len(found.path))[:6]
    for i in some if n < 100 else some[:1]:
        expected = naive("loo", x, y, weights, "gaussian", found.path.bandwidth[i])
        np.testing.assert_allclose(found.path.score[i], expected, rtol=2e-3)
    grid = found.bandwidth * np.geomspace(0.3, 3, 7)
    if n < 100:
        assert found.score <= min(naive("loo", x, y, weights, "gaussian", h[None]) for h in grid) * (1 + 1e-6)


def test_aicc_of_a_kernel_that_is_not_1_at_0():
    x, y = sample(40, 1)
    tall = fastnw.Kernel("tall", lambda u2: 3.0 * np.exp(-u2 / 2))
    a, b = (
        fastnw.select_bandwidth(x, y, kernel=k, criterion="aicc", candidates=[0.05, 0.2]) for k in (tall, "gaussian")
    )
    np.testing.assert_allclose(a.path.score, b.path.score, rtol=1e-9)


# ---- a constant factor, absent rows, another order


@every_search
@pytest.mark.parametrize("kernel", FAMILIES)
@pytest.mark.parametrize("factor", [1.5, 1e-300, 1e308])
def test_a_constant_weight_changes_no_search(search, kernel, factor):
    if search == "likelihood" and kernel == "cauchy":
        kernel = "matern52"
    x, y = sample(40, 1)
    y = values_of(search, y)
    plain = chosen(search, x, y, kernel=kernel)
    weighted = chosen(search, x, y, np.full(len(x), factor), kernel=kernel)
    assert_same_search(plain, weighted)
    assert weighted.score == plain.score


@every_search
@pytest.mark.parametrize("kernel", ["gaussian", "triweight"])
def test_a_factor_of_weights_changes_no_search(search, kernel):
    x, y = sample(50, 1)
    weights, y = spread_weights(len(x), "skewed"), values_of(search, y)
    plain = chosen(search, x, y, weights, kernel=kernel)
    for factor in (2.0**-600, 2.0**900):
        assert_same_search(plain, chosen(search, x, y, weights * factor, kernel=kernel))
    for factor in (3.0, 1e-250, 1e300):
        other = chosen(search, x, y, weights * factor, kernel=kernel)
        np.testing.assert_allclose(other.bandwidth, plain.bandwidth, rtol=1e-4)
        np.testing.assert_allclose(other.score, plain.score, rtol=1e-8)


@every_search
def test_rows_without_weight_are_as_if_absent(search):
    x, y = sample(60)
    weights = np.random.default_rng(3).integers(0, 3, len(x)).astype(float)
    present, y = weights > 0, values_of(search, y)
    x[~present] = 1e9
    if search in ("loo", "aicc"):
        y[~present] = 1e300
    one = chosen(search, x, y, weights)
    other = chosen(search, x[present], None if y is None else y[present], weights[present])
    assert_same_search(one, other)
    assert one.score == other.score


@every_search
def test_the_order_of_rows_changes_nothing_but_rounding(search):
    x, y = sample(60)
    weights, y = spread_weights(60, "skewed"), values_of(search, y)
    order = np.random.default_rng(0).permutation(60)
    one = chosen(search, x, y, weights)
    other = chosen(search, x[order], None if y is None else y[order], weights[order])
    np.testing.assert_allclose(other.score, one.score, rtol=1e-7)
    np.testing.assert_allclose(other.bandwidth, one.bandwidth, rtol=1e-3)


# ---- units of values and of coordinates


@pytest.mark.parametrize("search", ["loo", "aicc"])
@pytest.mark.parametrize("kernel", FAMILIES)
@pytest.mark.parametrize("columns", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_unit_of_the_values_changes_no_search(search, kernel, columns):
    x, y = sample(25, 1)
    y = np.column_stack([y, 1e3 * x[:, 0] ** 2])[:, :columns]
    plain = chosen(search, x, y, kernel=kernel)
    for exponent in (-700, -30, 300, 700):
        other = chosen(search, x, np.ldexp(y, exponent), kernel=kernel)
        assert_same_search(plain, other)
        if search == "loo":
            with np.errstate(over="ignore"):
                assert other.score == np.ldexp(plain.score, 2 * exponent)
        else:
            assert other.score == pytest.approx(plain.score + columns * 2 * exponent * np.log(2), rel=1e-12)
    for unit in (1e-150, 1e80, 1e300):
        np.testing.assert_allclose(chosen(search, x, y * unit, kernel=kernel).bandwidth, plain.bandwidth, rtol=1e-4)


@pytest.mark.parametrize("search", ["loo", "aicc"])
@pytest.mark.parametrize("offset", [-(2.0**20), 2.0**40])
def test_an_offset_of_the_values_changes_no_search(search, offset):
    x, y = sample(60, 2)
    y = np.round(y * 2**10) / 2**10  # the sums with the offset are exact
    assert np.all((y + offset) - offset == y)
    plain, other = chosen(search, x, y), chosen(search, x, y + offset)
    assert_same_search(plain, other)
    assert other.score == plain.score


@every_search
@pytest.mark.parametrize("kernel", FAMILIES)
@pytest.mark.parametrize("per_coordinate", [True, False])
def test_a_unit_of_the_coordinates_is_one_of_the_bandwidth(search, kernel, per_coordinate):
    if search == "likelihood" and kernel == "cauchy":
        kernel = "matern52"
    d = 1 if kernel in ("epanechnikov", "boxcar") else 2
    x, y = sample(30, d)
    y = values_of(search, y)
    plain = chosen(search, x, y, kernel=kernel, per_coordinate=per_coordinate)
    for exponent in (-300, 30):
        factor = 2.0**exponent
        other = chosen(search, x * factor, y, kernel=kernel, per_coordinate=per_coordinate)
        assert_same_search(plain, other, factor)
        shift = d * exponent * np.log(2) if search == "likelihood" else 0.0
        assert other.score == pytest.approx(plain.score + shift, rel=1e-12)


# ---- rules


@every_rule
@pytest.mark.parametrize("d", [1, 3])
@every_spread
def test_rules_are_scipys(rule, d, kind):
    x, _ = sample(80, d)
    weights = spread_weights(80, kind)
    if kind == "enormous":
        weights = weights ** (1 / 50)  # SciPy's own sums lose the least
    peer = stats.gaussian_kde(x.T, bw_method=rule, weights=weights)
    assert peer.neff < 79.9
    np.testing.assert_allclose(rule_bandwidth(x, rule, "gaussian", weights), np.sqrt(np.diag(peer.covariance)), 1e-12)


@every_rule
@every_spread
def test_rules_in_long_double(rule, kind):
    x, _ = sample(80)
    w = spread_weights(80, kind).astype(LONG)
    mean = (w[:, None] * x).sum(axis=0) / w.sum()
    # n/(n − 1) of the effective n, without cancellation: (Σw)²/Σ w (Σw − w)
    others = sum(w[i] * np.delete(w, i).sum() for i in range(80))
    spread = np.sqrt((w[:, None] * (x - mean) ** 2).sum(axis=0) * w.sum() / others).astype(float)
    n = float(w.sum() ** 2 / (w**2).sum())
    factor = n ** (-1 / 6)  # of both rules in two coordinates
    np.testing.assert_allclose(rule_bandwidth(x, rule, "gaussian", w.astype(float)), spread * factor, rtol=1e-12)


@every_rule
def test_a_factor_or_absent_rows_change_no_rule(rule):
    x, _ = sample(60)
    plain = rule_bandwidth(x, rule)
    for factor in (1.5, 1 / 3, 5e-324, 1e-300, 1e300, 1.7e308):
        np.testing.assert_array_equal(rule_bandwidth(x, rule, "gaussian", np.full(60, factor)), plain)
    weights = spread_weights(60, "skewed")
    plain = rule_bandwidth(x, rule, "gaussian", weights)
    for factor in (2.0**-900, 2.0**900):
        np.testing.assert_array_equal(rule_bandwidth(x, rule, "gaussian", weights * factor), plain)
    np.testing.assert_allclose(rule_bandwidth(x, rule, "gaussian", weights * 1e300), plain, rtol=1e-13)
    with_others = np.vstack([x[:30], np.full((7, 2), 1e300), x[30:]])
    padded = np.concatenate([weights[:30], np.zeros(7), weights[30:]])
    np.testing.assert_array_equal(rule_bandwidth(with_others, rule, "gaussian", padded), plain)
    np.testing.assert_array_equal(
        rule_bandwidth(with_others, rule, "gaussian", np.where(padded > 0, 7.0, 0.0)), rule_bandwidth(x, rule)
    )


@every_rule
def test_a_unit_of_the_coordinates_is_one_of_the_rule(rule):
    x, _ = sample(60)
    for weights in (None, spread_weights(60, "skewed")):
        plain = rule_bandwidth(x, rule, "gaussian", weights)
        for exponent in (-900, -40, 40, 900):
            found = rule_bandwidth(np.ldexp(x, exponent), rule, "gaussian", weights)
            np.testing.assert_array_equal(found, np.ldexp(plain, exponent))


# ---- everything that chooses a bandwidth


@pytest.mark.parametrize("bandwidth", ["scott", "silverman", "loo", "aicc", Abramson("loo"), NearestNeighbours(3)])
@pytest.mark.parametrize("make", [NadarayaWatsonRegressor, NadarayaWatsonClassifier, KernelDensity])
def test_estimators(make, bandwidth):
    if bandwidth == "aicc" and make is not NadarayaWatsonRegressor:
        return
    x, y = sample(50)
    y = y > 0.3 if make is NadarayaWatsonClassifier else y
    weights = spread_weights(50, "skewed")
    weights[::7] = 0.0
    present = weights > 0
    plain = make(bandwidth=bandwidth).fit(x, y)
    for factor in (1.5, 1e-300, 1e300):
        model = make(bandwidth=bandwidth).fit(x, y, sample_weight=np.full(50, factor))
        np.testing.assert_array_equal(model.bandwidth_, plain.bandwidth_)
        if plain.key_scale_ is not None:
            np.testing.assert_array_equal(model.key_scale_, plain.key_scale_)
    one = make(bandwidth=bandwidth).fit(x, y, sample_weight=weights)
    other = make(bandwidth=bandwidth).fit(x[present], y[present], sample_weight=2.0**700 * weights[present])
    np.testing.assert_array_equal(one.bandwidth_, other.bandwidth_)
    if one.key_scale_ is not None:
        np.testing.assert_array_equal(one.key_scale_[present], other.key_scale_)
        np.testing.assert_array_equal(one.key_scale_[~present], 1.0)


@pytest.mark.parametrize("bandwidth", [0.3, "scott", "loo"])
def test_samples_of_a_density_of_any_constant_weight(bandwidth):
    x, _ = sample(50)
    weights = spread_weights(50, "skewed")
    draws = [
        KernelDensity(bandwidth=bandwidth).fit(x, sample_weight=factor * weights).sample(30, random_state=0)
        for factor in (1.0, 2.0**1000 / weights.max())
    ]
    np.testing.assert_allclose(draws[1], draws[0], rtol=1e-6)


def test_neighbours_are_keys_however_heavy():
    x = np.array([[0.0], [1.0], [3.0], [7.0], [15.0]])
    for weights in ([1, 1, 1, 1, 1], [3, 1, 5, 2, 1], [0.1, 0.2, 0.1, 0.7, 0.3], [1e-200, 1, 1e200, 5, 1e-300]):
        np.testing.assert_array_equal(NearestNeighbours(2).key_scale(x, sample_weight=weights), [3, 2, 3, 6, 12])
    np.testing.assert_array_equal(NearestNeighbours(1).key_scale(x, sample_weight=[2, 0, 2, 0, 9]), [3, 1, 3, 1, 12])


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "lbfgs"])
def test_learning(optimizer):
    x, y = sample(60)
    options = {"optimizer": optimizer, "epochs": 4, "batch_size": 16}
    plain = fastnw.learn_bandwidth(x, y, **options)
    for factor in (1.5, 1e300):
        other = fastnw.learn_bandwidth(x, y, sample_weight=np.full(60, factor), **options)
        np.testing.assert_array_equal(other.history.bandwidth, plain.history.bandwidth)
    for exponent in (-900, 700):
        other = fastnw.learn_bandwidth(x, np.ldexp(y, exponent), **options)
        np.testing.assert_array_equal(other.history.bandwidth, plain.history.bandwidth)
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(other.history.loss, np.ldexp(plain.history.loss, 2 * exponent))
            assert other.score == np.ldexp(plain.score, 2 * exponent)
    for kind in ("counts", "skewed", "enormous"):
        weights = spread_weights(60, kind)
        found = fastnw.learn_bandwidth(x, y, sample_weight=weights, **options)
        expected = naive("loo", x, y, weights, "gaussian", found.bandwidth)
        assert found.score == pytest.approx(expected, rel=1e-6)


# ---- what adaptive widths refuse


@pytest.mark.parametrize("refused", ["aicc", "log_loss", "gcv", Abramson("scott"), NearestNeighbours(2)])
def test_adaptive_widths_refuse_what_the_estimator_refuses(refused):
    x, y = sample(30)
    for widths in (Abramson(refused), NearestNeighbours(2, refused)):
        with pytest.raises(ValueError, match="'bandwidth' parameter of KernelDensity must be"):
            KernelDensity(bandwidth=widths).fit(x)
        if refused != "aicc":
            with pytest.raises(ValueError, match="'bandwidth' parameter of NadarayaWatsonRegressor must be"):
                NadarayaWatsonRegressor(bandwidth=widths).fit(x, y)


def test_a_single_row_with_weight_has_no_rule():
    x, _ = sample(20)
    alone = np.zeros(20)
    alone[4] = 2.0
    with pytest.raises(ValueError, match="n_samples = 1, counting only rows with a positive sample weight"):
        rule_bandwidth(x, "scott", "gaussian", alone)
    with pytest.raises(ValueError, match="One row has all of the sample weight"):
        rule_bandwidth(x[:2], "scott", "gaussian", [1e300, 1e-300])
    with warnings.catch_warnings():
        warnings.simplefilter("error", BandwidthWarning)
        assert np.all(rule_bandwidth(x, "scott", "gaussian", np.full(20, 0.05)) == rule_bandwidth(x, "scott"))
