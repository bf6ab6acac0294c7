from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastnw
from fastnw import kernels
from fastnw.estimators import NadarayaWatsonRegressor
from fastnw.plotting import AttentionDisplay, KernelDisplay, RegressionDisplay

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

# Written out again: these must not come from the registry that is drawn.
FORMULAS = {
    "gaussian": lambda u: np.exp(-u * u / 2),
    "boxcar": lambda u: np.where(u <= 1, 1.0, 0.0),
    "triangular": lambda u: np.clip(1 - u, 0, None),
    "epanechnikov": lambda u: np.clip(1 - u * u, 0, None),
    "tricube": lambda u: np.clip(1 - u**3, 0, None) ** 3,
    "cauchy": lambda u: 1 / (1 + u * u),
}


@pytest.fixture(autouse=True)
def _leaves_matplotlib_alone():
    before = dict(matplotlib.rcParams)
    yield
    plt.close("all")
    assert dict(matplotlib.rcParams) == before


@pytest.fixture
def line():
    """Forty unsorted points of one feature and a fit of them."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.0, 4.0, (40, 1))
    y = np.sin(x[:, 0]) + 0.1 * rng.standard_normal(40)
    return x, y, NadarayaWatsonRegressor(bandwidth=0.4).fit(x, y)


# kernels


@pytest.mark.parametrize("name", FORMULAS)
def test_profile_is_the_formula(name):
    display = KernelDisplay.from_kernels(name, u_max=2.0)
    (drawn,) = display.lines_
    u, profile = drawn.get_data()
    assert u[0] == 0.0
    assert u[-1] == 2.0
    np.testing.assert_allclose(profile, FORMULAS[name](u), rtol=1e-14, atol=1e-15)
    assert display.ax_ is display.figure_.axes[0]


def test_default_draws_every_kernel_of_a_distance_and_compact_ones_end_at_zero():
    display = KernelDisplay.from_kernels()
    assert list(display.profiles) == [name for name in kernels.names() if name != "dot"]
    assert len({(drawn.get_color(), drawn.get_linestyle()) for drawn in display.lines_}) == len(display.lines_)
    for drawn in display.lines_:
        u, profile = drawn.get_data()
        support = kernels.get(drawn.get_label()).support
        if support is not None:
            assert np.all(profile[u > support] == 0.0)
            assert np.any(u > support)
        assert drawn.get_linestyle() == ("--" if support is None else "-")


def test_a_jump_at_the_end_of_support_is_vertical():
    u, profile = KernelDisplay.from_kernels("boxcar").lines_[0].get_data()
    last_inside = np.flatnonzero(profile == 1.0)[-1]
    assert u[last_inside] == 1.0
    assert u[last_inside + 1] == np.nextafter(1.0, 2.0)


def test_bandwidth_stretches_the_axis():
    display = KernelDisplay.from_kernels(["triangular", "gaussian"], u_max=2.0, bandwidth=3.0)
    distance, profile = display.lines_[0].get_data()
    assert display.ax_.get_xlim() == (0.0, 6.0)
    np.testing.assert_allclose(profile, np.clip(1 - distance / 3.0, 0, None), atol=1e-15)


def test_own_kernel_and_line_keywords():
    own = fastnw.Kernel("bump", lambda u2: (4.0 - u2) ** 2 / 16.0, support=2.0)
    display = KernelDisplay.from_kernels([own], linewidth=3.5, linestyle=":")
    assert display.lines_[0].get_linewidth() == 3.5
    assert display.lines_[0].get_linestyle() == ":"
    assert display.supports == {"bump": 2.0}
    assert display.u[-1] > 2.0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"kernels": "dot"}, "inner product"),
        ({"kernels": []}, "empty"),
        ({"kernels": "gauss"}, "Unknown kernel"),
        ({"u_max": 0.0}, "u_max must be a positive"),
        ({"bandwidth": float("nan")}, "bandwidth must be a positive"),
    ],
)
def test_kernel_errors(arguments, says):
    with pytest.raises(ValueError, match=says):
        KernelDisplay.from_kernels(**arguments)
    assert not plt.get_fignums()


# regression


def test_curve_is_what_pool_gives_on_a_sorted_grid(line):
    x, y, fit = line
    display = RegressionDisplay.from_estimator(fit, x, y, grid_resolution=50, truth=np.sin)
    grid, curve = display.line_.get_data()
    np.testing.assert_allclose(grid, np.linspace(x.min(), x.max(), 50))
    np.testing.assert_allclose(curve, fastnw.pool(grid[:, None], x, y, bandwidth=0.4), rtol=0, atol=1e-12)
    np.testing.assert_allclose(display.truth_.get_ydata(), np.sin(grid))
    np.testing.assert_array_equal(display.scatter_.get_offsets(), np.column_stack([x[:, 0], y]))
    assert display.figure_ is display.ax_.figure


def test_legend_covers_no_point(line):
    display = RegressionDisplay.from_estimator(line[2], line[0], line[1], truth=np.sin)
    display.figure_.canvas.draw()
    box = display.ax_.get_legend().get_window_extent()
    points = display.ax_.transData.transform(display.scatter_.get_offsets())
    curve = display.ax_.transData.transform(np.column_stack(display.line_.get_data()))
    assert box.count_contains(points) == 0
    assert box.count_contains(curve) == 0
    assert display.ax_.get_window_extent().contains(box.x0, box.y0)


def test_draws_on_given_axes_without_pyplot(line):
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    style = {"scatter_kwargs": {"s": 7.0}, "line_kwargs": {"color": "k"}}
    display = RegressionDisplay.from_estimator(line[2], line[0], line[1], ax=ax, legend=False, **style)
    assert display.ax_ is ax
    assert display.truth_ is None
    assert ax.get_legend() is None
    assert display.scatter_.get_sizes() == [7.0]
    assert display.line_.get_color() == "k"
    assert not plt.get_fignums()


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_data_frame_keeps_its_column_name(line, library):
    frames = pytest.importorskip(library)
    x, y, _ = line
    frame = frames.DataFrame({"dose": x[:, 0]})
    fit = NadarayaWatsonRegressor(bandwidth=0.4).fit(frame, y)  # predicting without the name would warn
    display = RegressionDisplay.from_estimator(fit, frame, y)
    assert display.ax_.get_xlabel() == "dose"
    grid, curve = display.line_.get_data()
    np.testing.assert_allclose(curve, fastnw.pool(grid[:, None], x, y, bandwidth=0.4), rtol=0, atol=1e-12)


def test_several_features_show_predicted_against_observed():
    rng = np.random.default_rng(1)
    X = rng.standard_normal((60, 3))
    y = X[:, 0] + 0.1 * rng.standard_normal(60)
    display = RegressionDisplay.from_estimator(NadarayaWatsonRegressor(bandwidth=0.5).fit(X, y), X, y)
    predicted = fastnw.pool(X, X, y, bandwidth=0.5)
    np.testing.assert_allclose(display.scatter_.get_offsets(), np.column_stack([y, predicted]), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(*display.line_.get_data())
    assert display.ax_.get_xlim() == display.ax_.get_ylim()
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("observed", "predicted")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x, y: (x[:, 0], y, {}), "Expected 2D array"),
        (lambda x, y: (x, y[:-1], {}), "one output for each"),
        (lambda x, y: (x, np.column_stack([y, y]), {}), "one output for each"),
        (lambda x, y: (x, y, {"grid_resolution": 1}), "grid_resolution"),
        (lambda x, y: (np.hstack([x, x]), y, {"truth": np.sin}), "truth"),
    ],
)
def test_regression_errors(line, change, says):
    x, y, options = change(*line[:2])
    with pytest.raises(ValueError, match=says):
        RegressionDisplay.from_estimator(line[2], x, y, **options)


# attention


def test_heat_map_is_attention_weights():
    rng = np.random.default_rng(2)
    queries, keys = np.linspace(0.0, 4.0, 5)[:, None], np.sort(rng.uniform(0.0, 4.0, (9, 1)), axis=0)
    display = AttentionDisplay.from_arrays(queries, keys, kernel="laplacian", bandwidth=0.7)
    weights = fastnw.attention_weights(queries, keys, kernel="laplacian", bandwidth=0.7)
    np.testing.assert_array_equal(display.image_.get_array(), weights)
    np.testing.assert_array_equal(display.weights, weights)
    assert display.query_labels == ["0.0", "1.0", "2.0", "3.0", "4.0"]
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("key", "query")
    assert display.colorbar_.ax in display.figure_.axes
    display.figure_.canvas.draw()
    shown = [tick.get_text() for tick in display.ax_.get_yticklabels()]
    assert set(shown) - {""} <= set(display.query_labels)


def test_ticks_show_positions_for_several_coordinates():
    rng = np.random.default_rng(3)
    display = AttentionDisplay.from_arrays(rng.standard_normal((4, 2)), rng.standard_normal((6, 2)), colorbar=False)
    assert display.query_labels is None
    assert display.key_labels is None
    assert display.colorbar_ is None
    np.testing.assert_allclose(display.weights.sum(axis=1), 1.0)


def test_weights_with_labels():
    display = AttentionDisplay.from_weights(
        [[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]], query_labels=["the", "cat"], image_kwargs={"vmax": 1.0}
    )
    assert display.image_.get_clim() == (0.0, 1.0)
    display.figure_.canvas.draw()
    assert {"the", "cat"} <= {tick.get_text() for tick in display.ax_.get_yticklabels()}


@pytest.mark.parametrize(
    ("weights", "options", "says"),
    [
        ([0.5, 0.5], {}, "shape"),
        (np.empty((0, 3)), {}, "non-empty"),
        ([[1.0, 0.0]], {"key_labels": ["a"]}, "key_labels has 1"),
        ([[1.0, 0.0]], {"query_labels": ["a", "b"]}, "query_labels has 2"),
    ],
)
def test_attention_errors(weights, options, says):
    with pytest.raises(ValueError, match=says):
        AttentionDisplay.from_weights(weights, **options)


def test_top_k_is_refused():
    with pytest.raises(ValueError, match="top_k"):
        AttentionDisplay.from_arrays([[0.0]], [[0.0], [1.0]], top_k=1)


# without matplotlib


@pytest.mark.parametrize(
    "draw",
    [
        lambda: KernelDisplay.from_kernels("gaussian"),
        lambda: AttentionDisplay.from_weights([[1.0]]),
        lambda: RegressionDisplay(x=np.zeros(2), y=np.zeros(2)).plot(),
    ],
)
def test_missing_matplotlib_names_the_install_line(monkeypatch, draw):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.delattr(matplotlib, "pyplot", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'fastnw\[plot\]'"):
        draw()


def test_importing_the_module_imports_no_matplotlib():
    code = "import sys, fastnw.plotting; sys.exit('matplotlib' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(Path(fastnw.__file__).resolve().parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=env, timeout=60).returncode == 0
