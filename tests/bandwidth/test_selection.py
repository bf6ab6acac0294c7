"""`select_bandwidth`: losses against plain formulas, optima against grids, gradients against differences."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from cases import KERNELS
from oracle import COMPACT, KAPPA, LOG_KAPPA

import fastnw
from fastnw import BandwidthWarning, NadarayaWatsonClassifier, NadarayaWatsonRegressor, kernels
from fastnw.bandwidth import criteria, search
from fastnw.bandwidth.criteria import Sample
from fastnw.bandwidth.fits.planned import PlannedFitter
from fastnw.bandwidth.fits.spectral import SpectralFitter
from fastnw.core.validate import build
from fastnw.runtime.threads import Meter

RADIAL = [name for name in KERNELS if name not in ("dot", "constant")]
NO_DENSITY = ("cauchy",)  # in two coordinates


def sample(n=120, d=2, seed=0, columns=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(n, d))
    y = np.sin(5 * x[:, 0]) + (x[:, 1] ** 2 if d > 1 else 0) + 0.2 * rng.normal(size=n)
    return x, np.column_stack([y * (k + 1) + rng.normal(size=n) for k in range(columns)]) if columns else y


def kappa(kernel, u):
    u = u.astype(np.longdouble)
    return KAPPA[kernel](u) if kernel in KAPPA else np.exp(LOG_KAPPA[kernel](u))


def pairs(x, kernel, h):
    """(n, n) κ of every pair."""
    return kappa(kernel, np.sqrt((((x[:, None] - x[None]).astype(np.longdouble) / h) ** 2).sum(axis=2)))


def others(x, kernel, h):
    """(n, n) κ of every pair, 0 of a row with itself, each row over its largest; that one's logarithm (n,)."""
    u = np.sqrt((((x[:, None] - x[None]).astype(np.longdouble) / h) ** 2).sum(axis=2))
    with np.errstate(divide="ignore"):
        logs = LOG_KAPPA[kernel](u) if kernel in LOG_KAPPA else np.log(KAPPA[kernel](u))
    np.fill_diagonal(logs, -np.inf)
    top = np.maximum(logs.max(axis=1), np.finfo(logs.dtype).min)
    return np.exp(logs - top[:, None]), top


def naive_loo(x, y, kernel, h):
    """Mean squared error of leave-one-out means, outputs summed."""
    k, _ = others(x, kernel, h)
    mass = k.sum(axis=1)
    if np.any(mass == 0):
        return np.inf
    f = k @ y.reshape(len(x), -1) / mass[:, None]
    return float(((y.reshape(len(x), -1) - f) ** 2).sum(axis=1).mean())


def naive_aicc(x, y, kernel, h):
    k, n = pairs(x, kernel, h), len(x)
    smoother = k / k.sum(axis=1)[:, None]
    trace = np.trace(smoother)
    if trace + 2 >= n:
        return np.inf
    y = y.reshape(n, -1)
    squares = ((y - smoother @ y) ** 2).mean(axis=0)
    return float((np.log(squares) + (1 + trace / n) / (1 - (trace + 2) / n)).sum())


def naive_log_loss(x, labels, kernel, h):
    k = pairs(x, kernel, h)
    np.fill_diagonal(k, 0)
    own = (k * (labels[:, None] == labels)).sum(axis=1) / k.sum(axis=1)
    return float(-np.log(np.maximum(own, 1e-15)).mean())


def naive_likelihood(x, kernel, h):
    """Mean −log of leave-one-out densities; the constant by quadrature on a fine grid of the radius."""
    from scipy import integrate

    k, top = others(x, kernel, h)
    d = x.shape[1]
    surface = {1: 2.0, 2: 2 * np.pi}[d]
    constant = integrate.quad(
        lambda r: surface * r ** (d - 1) * float(kappa(kernel, np.array(r))), 0, 1 if kernel in COMPACT else np.inf
    )[0]
    volume = (len(x) - 1) * constant * np.prod(np.broadcast_to(h, d))
    return float(np.log(volume) - (top + np.log(k.sum(axis=1))).mean())


def score_at(h, x, y=None, **options):
    return fastnw.select_bandwidth(x, y, candidates=np.array([np.broadcast_to(h, x.shape[1])]), **options).score


# sums keep 1e-8 of the values' range
CLOSE = {"rtol": 1e-7, "atol": 1e-9}


@pytest.mark.parametrize("kernel", RADIAL)
@pytest.mark.parametrize("columns", [0, 2])
def test_least_squares_and_aicc(kernel, columns):
    x, y = sample(columns=columns)
    h = np.array([0.5, 0.7]) if kernel in COMPACT else np.array([0.1, 0.2])
    np.testing.assert_allclose(score_at(h, x, y, kernel=kernel), naive_loo(x, y, kernel, h), **CLOSE)
    found = score_at(h, x, y, kernel=kernel, criterion="aicc")
    np.testing.assert_allclose(found, naive_aicc(x, y, kernel, h), **CLOSE)


@pytest.mark.parametrize("kernel", RADIAL)
def test_log_loss_and_likelihood(kernel):
    x, y = sample()
    h = np.array([0.5, 0.7]) if kernel in COMPACT else np.array([0.1, 0.2])
    labels = np.array(["low", "middle", "high"])[np.digitize(y, [0.3, 0.8])]
    np.testing.assert_allclose(score_at(h, x, labels, kernel=kernel), naive_log_loss(x, labels, kernel, h), **CLOSE)
    if kernel not in NO_DENSITY:
        np.testing.assert_allclose(score_at(h, x, kernel=kernel), naive_likelihood(x, kernel, h), **CLOSE)


def test_probabilities_are_clipped():
    x = np.array([[0.0], [1e-3], [5.0], [5.1], [5.2]])
    labels = np.array([0, 1, 1, 1, 1])  # the first's only neighbour is of the other class
    found = score_at(0.01, x, labels, criterion="log_loss")
    assert found == pytest.approx(2 * -np.log(1e-15) / 5, rel=1e-6)


@pytest.mark.parametrize("criterion", ["loo", "aicc"])
@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov", "laplacian", "boxcar"])
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))])
def test_no_grid_finds_a_better_one(criterion, kernel, seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(60, 300))
    x = rng.gamma(2.0, size=(n, 1)) if seed % 2 else rng.uniform(size=(n, 1))
    y = np.sin(rng.uniform(1, 9) * x[:, 0]) + rng.uniform(0.05, 0.5) * rng.normal(size=n)
    with warnings.catch_warnings():  # a far key makes compact kernels as wide as all
        warnings.simplefilter("ignore", BandwidthWarning)
        found = fastnw.select_bandwidth(x, y, kernel=kernel, criterion=criterion)
    grid = np.geomspace(found.bandwidth[0] / 50, found.bandwidth[0] * 50, 200)
    naive = naive_loo if criterion == "loo" else naive_aicc
    best = min(naive(x, y, kernel, h) for h in grid)
    assert found.score == pytest.approx(naive(x, y, kernel, found.bandwidth), rel=1e-7)
    assert found.score <= best + 1e-7 * abs(best)


def test_no_grid_finds_a_better_likelihood():
    x = np.random.default_rng(3).normal(size=(150, 1))
    found = fastnw.select_bandwidth(x)
    best = min(naive_likelihood(x, "gaussian", h) for h in np.geomspace(0.01, 3, 200))
    assert found.score <= best + 1e-7


@pytest.mark.parametrize("kernel", ["gaussian", "triweight", "matern52"])
def test_no_grid_finds_a_better_pair(kernel):
    x, y = sample(n=100, seed=5)
    found = fastnw.select_bandwidth(x, y, kernel=kernel)
    grid = found.bandwidth[:, None] * np.geomspace(1 / 20, 20, 15)
    best = min(naive_loo(x, y, kernel, np.array([a, b])) for a in grid[0] for b in grid[1])
    assert found.score <= best * (1 + 1e-7)


@pytest.mark.parametrize("kind", criteria.LOSSES)
@pytest.mark.parametrize("kernel", ["gaussian", "biweight", "tricube", "laplacian", "matern32", "matern52", "logistic"])
@pytest.mark.parametrize("weighted", [None, "counts", "shares"])
def test_gradients(kind, kernel, weighted):
    """By differences of the loss itself, of kernels that are smooth enough at their edge for that."""
    n = 90
    for d in (1, 3):
        rng = np.random.default_rng(d)
        x, _ = sample(n, d, seed=d)
        weights = {None: None, "counts": rng.integers(1, 4, n), "shares": rng.uniform(0.2, 1, n)}[weighted]
        y = np.eye(2)[rng.integers(0, 2, n)] if kind == "log_loss" else rng.normal(size=(n, 2))
        h = np.array([0.21, 0.3, 0.4])[:d] * (1.0 if kernels.get(kernel).support is None else 3.0)
        for objective in objectives(x, None if kind == "likelihood" else y, weights, kernel, kind, h):
            value = objective(h)
            gradient = objective.gradient()
            for j in range(d):
                sides = []
                for sign in (1, -1):
                    moved = h.copy()
                    moved[j] *= np.exp(sign * 1e-4)
                    sides.append(objective(moved))
                assert gradient[j] == pytest.approx((sides[0] - sides[1]) / 2e-4, abs=2e-5 * max(1, abs(value)))


def objectives(x, y, weights, kernel, kind, h):
    """One for each way of summing."""
    problem = build(x, x, y, kernel=kernel, bandwidth=h, sample_weight=weights, exclude_self=kind != "aicc")
    data = Sample.of(problem)
    ways = [PlannedFitter, SpectralFitter] if kernel == "gaussian" else [PlannedFitter]
    for way in ways:
        fitter = way(problem, "auto", 1, Meter(False, 0, ""))
        yield search.Objective(
            lambda _, __, fitter=fitter: fitter, criteria.LOSSES[kind], data, kernels.get(kernel), lambda _: None
        )


def test_an_exact_fit_has_no_finite_aicc():
    x, y = sample(n=30, d=1)
    found = fastnw.select_bandwidth(np.repeat(x, 2, axis=0), np.repeat(y, 2), criterion="aicc", candidates=[1e-9, 0.1])
    assert found.path.score[0] == -np.inf


def test_a_coordinate_without_relation_is_reported():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 2))
    y = np.sin(3 * x[:, 0]) + 0.2 * rng.normal(size=300)
    with pytest.warns(BandwidthWarning, match="No relation to coordinate 1"):
        found = fastnw.select_bandwidth(x, y)
    assert found.notes
    assert np.isfinite(found.bandwidth).all()
    assert found.bandwidth[1] > 100 * np.ptp(x[:, 1]) / 2
    alone = fastnw.select_bandwidth(x[:, :1], y)
    assert found.score == pytest.approx(alone.score, rel=1e-5)


def test_noise_without_any_relation_is_reported():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(200, 1)), rng.normal(size=200)
    with pytest.warns(BandwidthWarning, match="No relation"):
        found = fastnw.select_bandwidth(x, y)
    assert 0 < found.bandwidth[0] < np.inf


def test_equal_rows_make_a_likelihood_collapse_and_are_reported():
    x = np.repeat(np.random.default_rng(0).normal(size=(20, 1)), 5, axis=0)
    with pytest.warns(BandwidthWarning, match="equal rows"):
        found = fastnw.select_bandwidth(x)
    assert found.bandwidth[0] > 0


def test_an_empty_window_is_an_infinite_loss():
    x = np.array([[0.0], [0.1], [0.2], [0.3], [9.0]])
    y = np.arange(5.0)
    found = fastnw.select_bandwidth(x, y, kernel="epanechnikov", candidates=[0.5, 10.0])
    assert found.path.score[0] == np.inf
    assert found.bandwidth[0] == 10.0
    searched = fastnw.select_bandwidth(x, y, kernel="epanechnikov")
    assert searched.bandwidth[0] > 8.7
    with pytest.raises(ValueError, match="infinite at every bandwidth"):
        fastnw.select_bandwidth(x, y, kernel="epanechnikov", candidates=[0.5])


def test_interpolation_is_an_infinite_aicc():
    x, y = sample(n=30, d=1)
    found = fastnw.select_bandwidth(x, y, criterion="aicc", candidates=[1e-6, 0.1])
    assert found.path.score[0] == np.inf


def test_one_number_for_all_coordinates():
    x, y = sample(n=150)
    found = fastnw.select_bandwidth(x, y, per_coordinate=False)
    assert isinstance(found.bandwidth, float)
    best = min(naive_loo(x, y, "gaussian", h) for h in np.geomspace(0.01, 2, 200))
    assert found.score <= best * (1 + 1e-7)


def test_the_same_data_give_the_same_bandwidth_on_any_number_of_threads():
    x, y = sample(n=400)
    first = fastnw.select_bandwidth(x, y, n_jobs=1)
    for jobs in (1, 2, 4):
        again = fastnw.select_bandwidth(x, y, n_jobs=jobs)
        assert np.array_equal(first.bandwidth, again.bandwidth)
        assert np.array_equal(first.path.score, again.path.score)
    other = fastnw.select_bandwidth(x, y, random_state=7)
    np.testing.assert_allclose(other.score, first.score, rtol=1e-6)


@pytest.mark.parametrize("n", [3_000, pytest.param(40_000, marks=pytest.mark.slow)])
def test_the_spectrum_is_the_sum_of_every_pair(n):
    """Also where some keys have no neighbour within many bandwidths."""
    rng = np.random.default_rng(0)
    for d in (1, 2):
        x = rng.standard_t(3, size=(n, d))
        y = np.sin(3 * x[:, 0])
        h = np.full(d, 0.02 if d == 1 else 0.1)
        problem = build(x, x, y, kernel="gaussian", bandwidth=h, exclude_self=True)
        fit = SpectralFitter(problem, "auto", None, Meter(False, 0, "")).at(h).fit
        some = np.concatenate([np.argsort(np.abs(x).max(axis=1))[-40:], rng.integers(0, n, 40)])
        k = -((((x[some][:, None] - x[None]) / h) ** 2).sum(axis=2)) / 2
        k[np.arange(len(some)), some] = -np.inf
        shift = k.max(axis=1)
        weight = np.exp(k - shift[:, None])
        f, log_mass = weight @ y / weight.sum(axis=1), np.log(weight.sum(axis=1)) + shift
        # a mass is known to MIN_MASS_OVER_ERROR = 4e3 times less than itself at worst
        np.testing.assert_allclose(fit.log_mass[some], log_mass, rtol=0, atol=3e-4)
        np.testing.assert_allclose(fit.mean[some, 0], f, rtol=0, atol=6e-4)


def test_rules_and_repr():
    x, y = sample()
    found = fastnw.select_bandwidth(x, y, criterion="scott")
    np.testing.assert_allclose(found.bandwidth, x.std(axis=0, ddof=1) * len(x) ** (-1 / 6))
    assert np.isnan(found.score)
    assert len(found.path) == 0
    with pytest.raises(ValueError, match="rule"):
        found.plot()
    assert "criterion='loo'" in repr(fastnw.select_bandwidth(x, y))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "gcv"}, "Unknown criterion 'gcv'. Choose one of 'loo'"),
        ({"values": None, "criterion": "aicc"}, "needs values"),
        ({"candidates": [[1.0, 2.0, 3.0]]}, r"candidates must have shape \(k,\) or \(k, 2\)"),
        ({"candidates": []}, "candidates must have shape"),
        ({"candidates": [1.0, -1.0]}, "must be positive and finite"),
        ({"kernel": "dot"}, "not defined for kernel 'dot'"),
        ({"kernel": "gauss"}, "Unknown kernel"),
    ],
)
def test_errors(options, message):
    x, y = sample()
    options = {"values": y, **options}
    with pytest.raises(ValueError, match=message):
        fastnw.select_bandwidth(x, options.pop("values"), **options)


def test_a_constant_column_is_named():
    x, y = sample()
    x[:, 1] = 3.0
    with pytest.raises(ValueError, match="bandwidth='loo' gives 0 for column 1"):
        fastnw.select_bandwidth(x, y)


def test_a_users_kernel():
    x, y = sample(n=80, d=1)
    student = fastnw.Kernel("student", lambda u2: 1 / (1 + u2) ** 2)
    found = fastnw.select_bandwidth(x, y, kernel=student)
    losses = []
    for h in np.geomspace(0.005, 2, 200):
        k = 1 / (1 + ((x - x.T) / h) ** 2) ** 2
        np.fill_diagonal(k, 0)
        losses.append(np.mean((y - k @ y / k.sum(axis=1)) ** 2))
    assert found.score <= min(losses) * (1 + 1e-7)


def test_float32_is_searched_in_float64():
    x, y = sample(n=100)
    wide = fastnw.select_bandwidth(x.astype(np.float32).astype(np.float64), y.astype(np.float32).astype(np.float64))
    narrow = fastnw.select_bandwidth(x.astype(np.float32), y.astype(np.float32))
    np.testing.assert_array_equal(narrow.bandwidth, wide.bandwidth)


@pytest.mark.parametrize("rule", ["loo", "aicc"])
def test_in_the_regressor(rule):
    x, y = sample()
    model = NadarayaWatsonRegressor(bandwidth=rule).fit(x, y)
    found = fastnw.select_bandwidth(x, y, criterion=rule)
    np.testing.assert_array_equal(model.bandwidth_, found.bandwidth)
    assert model.selection_.criterion == rule
    np.testing.assert_allclose(model.predict(x[:5]), fastnw.pool(x[:5], x, y, bandwidth=found.bandwidth))


def test_in_the_classifier_and_the_density():
    x, y = sample()
    labels = np.where(y > 0.5, "up", "down")
    model = NadarayaWatsonClassifier(bandwidth="loo").fit(x, labels)
    np.testing.assert_array_equal(model.bandwidth_, fastnw.select_bandwidth(x, labels).bandwidth)
    two = NadarayaWatsonClassifier(bandwidth="loo").fit(x, np.column_stack([labels, labels == "up"]))
    assert two.selection_.score == pytest.approx(2 * score_at(two.bandwidth_, x, labels), rel=1e-6)
    density = fastnw.KernelDensity(bandwidth="loo").fit(x)
    np.testing.assert_array_equal(density.bandwidth_, fastnw.select_bandwidth(x).bandwidth)
    with pytest.raises(ValueError, match="'bandwidth' parameter"):
        fastnw.KernelDensity(bandwidth="aicc").fit(x)


def test_names_of_columns_in_errors():
    pandas = pytest.importorskip("pandas")
    x, y = sample()
    frame = pandas.DataFrame({"size": x[:, 0], "flat": np.ones(len(x))})
    with pytest.raises(ValueError, match="gives 0 for column 'flat'"):
        NadarayaWatsonRegressor(bandwidth="loo").fit(frame, y)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")  # the oldest, of names that pyparsing has changed
def test_its_picture():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    x, y = sample(n=60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BandwidthWarning)
        figure = fastnw.select_bandwidth(x, y).plot()
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert len(axes.get_legend().get_texts()) == 2
    matplotlib.pyplot.close(figure)


def test_progress_is_told(capsys):
    x, y = sample(n=60, d=1)
    fastnw.select_bandwidth(x, y, progress=True)
    assert "least" in capsys.readouterr().err
