"""`learn_bandwidth`: gradients against differences, descents against `select_bandwidth`, the collapse, the metric."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import fastnw
from fastnw import BandwidthWarning, kernels
from fastnw.bandwidth import learn
from fastnw.bandwidth.descent import Matrix, Steps, Widths
from fastnw.bandwidth.rows import read_rows


def sample(n=400, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(n, 2))
    return x, np.sin(6 * x[:, 0]) + x[:, 1] ** 2 + 0.1 * rng.normal(size=n)


def naive_loss(x, y, bandwidth):
    """Leave-one-out mean squared error of the Gaussian, for widths or a matrix."""
    h = np.asarray(bandwidth, float)
    inverse = np.linalg.inv(h) if h.ndim == 2 else np.diag(np.broadcast_to(h, x.shape[1]) ** -2.0)
    difference = x[:, None] - x[None]
    k = np.exp(-np.einsum("ijk,kl,ijl->ij", difference, inverse, difference) / 2)
    np.fill_diagonal(k, 0)
    return float(np.mean((y - k @ y / k.sum(axis=1)) ** 2))


@pytest.mark.parametrize("kernel", ["gaussian", "matern52", "triweight"])
@pytest.mark.parametrize("shape", ["one", "each", "matrix"])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_are_those_of_the_loss(kernel, shape, weighted):
    x, y = sample(80)
    weights = np.random.default_rng(1).integers(1, 4, len(x)) if weighted else None
    start = 0.3 if kernels.get(kernel).support is None else 1.2
    learner = learn._learner(read_rows(x, y, "loo", kernel, weights), start, True, 1)
    if shape == "matrix":
        form = Matrix(start**2 * np.array([[1.0, 0.3], [0.3, 2.0]]), 2)
    else:
        form = Widths(np.array([start, 1.5 * start]), shape == "each")
    steps = Steps(learner, form, lambda value: None, False)
    theta, batch = form.theta + 0.05 * np.arange(len(form.theta)), np.arange(0, 80, 3)
    _, gradient = steps(theta, batch)
    for i in range(len(theta)):
        moved = np.eye(len(theta))[i] * 1e-5
        slope = (steps(theta + moved, batch)[0] - steps(theta - moved, batch)[0]) / 2e-5
        assert gradient[i] == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "lbfgs"])
def test_descents_come_close_to_the_best(optimizer):
    x, y = sample()
    found = fastnw.learn_bandwidth(x, y, optimizer=optimizer, epochs=60, batch_size=64)
    assert found.score == pytest.approx(naive_loss(x, y, found.bandwidth), rel=1e-7)
    best = fastnw.select_bandwidth(x, y).score
    assert best * (1 - 1e-7) <= found.score <= 1.02 * best
    assert found.history.bandwidth.shape == (len(found.history), 2)


def test_one_width_for_all():
    x, y = sample()
    found = fastnw.learn_bandwidth(x, y, optimizer="lbfgs", per_coordinate=False)
    assert isinstance(found.bandwidth, float)
    assert found.score <= 1.0001 * fastnw.select_bandwidth(x, y, per_coordinate=False).score


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "lbfgs"])
def test_without_leaving_out_it_collapses_and_says_so(optimizer):
    x, y = sample(200)
    with pytest.warns(BandwidthWarning, match="least at bandwidth zero"):
        found = fastnw.learn_bandwidth(x, y, leave_one_out=False, optimizer=optimizer, epochs=150, learning_rate=10.0)
    start, best = fastnw.select_bandwidth(x, y, criterion="scott").bandwidth, fastnw.select_bandwidth(x, y)
    assert found.score < 0.6 * best.score
    assert np.all(found.bandwidth < start)
    honest = fastnw.pool(x, x, y, bandwidth=found.bandwidth, exclude_self=True)  # plain sums of such widths underflow
    assert np.mean((y - honest) ** 2) > 1.1 * best.score  # it only remembers


def test_a_metric_finds_a_direction():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(500, 2))
    y = np.sin(2 * (z[:, 0] + z[:, 1])) + 0.1 * rng.normal(size=500)
    found = fastnw.learn_bandwidth(z, y, optimizer="lbfgs", matrix=True, epochs=60)
    assert found.score == pytest.approx(naive_loss(z, y, found.bandwidth), rel=1e-6)
    assert found.score < 0.7 * fastnw.select_bandwidth(z, y).score
    widths, axes = np.linalg.eigh(found.bandwidth)
    assert widths[1] > 100 * widths[0]
    np.testing.assert_allclose(np.abs(axes[:, 0]), np.sqrt(0.5), atol=0.02)  # narrow along (1, 1)
    q = rng.normal(size=(5, 2))
    assert np.all(np.isfinite(fastnw.pool(q, z, y, bandwidth=found.bandwidth)))


@pytest.mark.parametrize("start", [0.3, [0.3, 0.3], np.diag([0.09, 0.09]), "silverman"])
def test_a_metric_starts_from_any_bandwidth(start):
    x, y = sample(150)
    found = fastnw.learn_bandwidth(x, y, bandwidth=start, optimizer="lbfgs", matrix=True, epochs=40)
    assert found.bandwidth.shape == (2, 2)
    assert found.score == pytest.approx(naive_loss(x, y, found.bandwidth), rel=1e-6)
    assert found.score <= 1.02 * fastnw.learn_bandwidth(x, y, optimizer="lbfgs", epochs=40).score


def test_keys_of_no_weight_are_left_out():
    x, y = sample(120)
    weights = np.random.default_rng(0).integers(0, 3, len(x))
    options = {"optimizer": "adam", "epochs": 3, "batch_size": 8}
    found = fastnw.learn_bandwidth(x, y, sample_weight=weights, **options)
    counted = weights > 0
    expected = fastnw.learn_bandwidth(x[counted], y[counted], sample_weight=weights[counted], **options)
    np.testing.assert_array_equal(found.bandwidth, expected.bandwidth)


def test_classes_are_learnt_by_the_log_loss():
    x, y = sample(300)
    found = fastnw.learn_bandwidth(x, np.where(y > 0.5, "up", "down"), optimizer="lbfgs")
    best = fastnw.select_bandwidth(x, y > 0.5)
    assert best.score * (1 - 1e-7) <= found.score <= 1.01 * best.score


def test_the_same_seed_gives_the_same_widths_on_any_number_of_threads():
    x, y = sample(150)
    options = {"optimizer": "adam", "epochs": 3, "random_state": 3}
    first = fastnw.learn_bandwidth(x, y, n_jobs=1, **options)
    np.testing.assert_array_equal(first.bandwidth, fastnw.learn_bandwidth(x, y, n_jobs=3, **options).bandwidth)
    assert fastnw.learn_bandwidth(x, y, history=False, **options).history is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "newton"}, "Unknown optimizer 'newton'. Choose one of 'sgd'"),
        ({"batch_size": 0}, "batch_size must be a positive integer"),
        ({"epochs": 1.5}, "epochs must be a positive integer"),
        ({"learning_rate": -1.0}, "learning_rate must be a positive number"),
        ({"bandwidth": np.eye(2)}, "Use matrix=True"),
        ({"kernel": "boxcar", "bandwidth": 1e-6}, "Start from a wider bandwidth"),
        ({"values": None}, "needs values"),
    ],
)
def test_errors(options, message):
    x, y = sample(50)
    options = {"values": y, **options}
    with pytest.raises(ValueError, match=message):
        fastnw.learn_bandwidth(x, options.pop("values"), **options)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")  # the oldest, of names that pyparsing has changed
def test_its_picture():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    x, y = sample(100)
    for options in ({}, {"matrix": True}, {"per_coordinate": False}):
        figure = fastnw.learn_bandwidth(x, y, optimizer="adam", epochs=30, batch_size=20, **options).plot()
        assert len(figure.axes) == 2
        pyplot.close(figure)
    with warnings.catch_warnings(), pytest.raises(ValueError, match="history=True"):
        fastnw.learn_bandwidth(x, y, epochs=1, history=False).plot()
