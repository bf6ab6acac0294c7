"""The chapter's cells in each of its frameworks: `fastnw.d2l` against the chapter's own formulas, run there."""

from __future__ import annotations

import frameworks
import numpy as np
import pytest

from fastnw import d2l

N = 40
RNG = np.random.default_rng(8)
X_TRAIN = np.sort(RNG.uniform(0, 5, N))
Y_TRAIN = 2 * np.sin(X_TRAIN) + X_TRAIN + RNG.normal(size=N)
X_VAL = np.arange(0, 5, 0.1)
# y_hat keeps fastnw's promise, a factor of the values' range; weights are float64's, rounded: the rest is what the
# framework loses in exp of up to -100 and in sums of 40
PROMISE = {"float32": 1e-4, "float64": 1e-8}
ROUNDING = {"float32": 2e-5, "float64": 1e-13}


@pytest.fixture(params=["torch", "jax", "tensorflow", "mxnet"])
def fw(request):
    return frameworks.load(request.param)


@pytest.fixture
def data(fw, dtype):
    """x_train, y_train, x_val in the framework."""
    return tuple(fw.array(array.astype(dtype)) for array in (X_TRAIN, Y_TRAIN, X_VAL))


def chapter_kernels(fw):
    """The chapter's functions, and its four widths, beside ours."""
    xp = fw.xp

    def gaussian_with_width(sigma):
        return lambda x: xp.exp(-(x**2) / (2 * sigma**2))

    def epanechikov(x):
        return xp.maximum(1 - xp.abs(x), xp.zeros_like(x))

    pairs = {
        "gaussian": (lambda x: xp.exp(-(x**2) / 2), d2l.gaussian),
        "boxcar": (lambda x: xp.abs(x) < 1.0, d2l.boxcar),
        "constant": (lambda x: 1.0 + 0 * x, d2l.constant),
        "epanechikov": (epanechikov, d2l.epanechikov),
    }
    widths = {f"width {s}": (gaussian_with_width(s), d2l.gaussian_with_width(s)) for s in (0.1, 0.2, 0.5, 1)}
    return pairs | widths


KERNELS = ("gaussian", "boxcar", "constant", "epanechikov", "width 0.1", "width 0.2", "width 0.5", "width 1")


def chapter(fw, x_train, y_train, x_val, kernel):
    """The chapter's `nadaraya_watson`; it casts to float32, here to the data's type."""
    dists = fw.xp.reshape(x_train, (-1, 1)) - fw.xp.reshape(x_val, (1, -1))
    k = fw.astype(kernel(dists), x_train)
    attention_w = k / fw.reduce_sum(k)
    return fw.matmul(y_train, attention_w), attention_w


def check(fw, got, expected, data, dtype, tolerance):
    """Kind, type, device and numbers of an array in the framework."""
    assert isinstance(got, fw.kind)
    assert fw.device(got) == fw.device(data[0])
    assert fw.numpy(got).dtype == dtype
    assert np.isfinite(fw.numpy(expected)).all()
    np.testing.assert_allclose(fw.numpy(got), fw.numpy(expected), rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_the_chapters(fw, dtype, name):
    theirs, ours = chapter_kernels(fw)[name]
    x = fw.array(np.arange(-2.5, 2.5, 0.1).astype(dtype))
    got, expected = ours(x), theirs(x)
    assert isinstance(got, fw.kind)
    assert fw.numpy(got).dtype == fw.numpy(expected).dtype == ("bool" if name == "boxcar" else dtype)
    # a width divides before it squares, where the chapter squares both: exp of up to -312
    np.testing.assert_allclose(fw.numpy(got), fw.numpy(expected), rtol=1e3 * np.finfo(dtype).eps, atol=1e-300)


@pytest.mark.parametrize("name", KERNELS)
def test_estimates_and_weights(fw, data, dtype, name):
    theirs, ours = chapter_kernels(fw)[name]
    y_hat, attention_w = d2l.nadaraya_watson(*data, ours)
    expected, expected_w = chapter(fw, *data, theirs)
    assert tuple(attention_w.shape) == (N, len(X_VAL))
    check(fw, y_hat, expected, data, dtype, PROMISE[dtype] * np.ptp(Y_TRAIN))
    check(fw, attention_w, expected_w, data, dtype, ROUNDING[dtype])
    np.testing.assert_allclose(fw.numpy(attention_w).sum(axis=0), 1, rtol=0, atol=40 * np.finfo(dtype).eps)


@pytest.mark.parametrize("name", ["gaussian", "boxcar", "epanechikov"])
def test_streaming_gives_the_same_estimates(fw, data, name):
    _, ours = chapter_kernels(fw)[name]
    y_hat, nothing = d2l.nadaraya_watson(*data, ours, attention=False)
    assert nothing is None
    np.testing.assert_array_equal(fw.numpy(y_hat), fw.numpy(d2l.nadaraya_watson(*data, ours)[0]))


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("which", ["of signed distances", "of booleans"])
def test_own_functions_are_given_tiles_in_the_framework(fw, data, dtype, monkeypatch, attention, which):
    monkeypatch.setattr(d2l, "TILE_LENGTH", 16)
    seen = []

    def kernel(x):
        seen.append((isinstance(x, fw.kind), tuple(x.shape)))
        return x > -0.5 if which == "of booleans" else fw.xp.exp(x - fw.xp.abs(x))  # more weight on keys to the right

    y_hat, attention_w = d2l.nadaraya_watson(*data, kernel, attention=attention)
    assert all(own for own, _ in seen)
    assert sum(rows * columns for _, (rows, columns) in seen) == N * len(X_VAL)
    assert max(max(shape) for _, shape in seen) <= 16
    expected, expected_w = chapter(fw, *data, kernel)
    check(fw, y_hat, expected, data, dtype, PROMISE[dtype] * np.ptp(Y_TRAIN))
    if attention:
        check(fw, attention_w, expected_w, data, dtype, ROUNDING[dtype])
    else:
        assert attention_w is None


@pytest.mark.parametrize("attention", [False, True])
def test_figures(fw, data, attention):
    pytest.importorskip("matplotlib").use("Agg")
    plt = pytest.importorskip("matplotlib.pyplot")
    pairs = chapter_kernels(fw)
    names = KERNELS[:4]
    y_val = fw.array((2 * np.sin(X_VAL) + X_VAL).astype(fw.numpy(data[0]).dtype))
    figure = d2l.plot(*data, y_val, [pairs[name][1] for name in names], names, attention=attention)
    panels = [ax for ax in figure.axes if ax.get_xlabel()]
    assert [ax.get_xlabel() for ax in panels] == list(names)
    for ax, name in zip(panels, names, strict=True):
        y_hat, attention_w = chapter(fw, *data, pairs[name][0])
        if attention:
            assert ax.images[0].get_array().shape == (N, len(X_VAL))
            np.testing.assert_allclose(ax.images[0].get_array(), fw.numpy(attention_w), rtol=0, atol=2e-5)
        else:
            np.testing.assert_allclose(ax.lines[0].get_xdata(), X_VAL, rtol=1e-6)
            np.testing.assert_allclose(ax.lines[0].get_ydata(), fw.numpy(y_hat), rtol=0, atol=1e-4 * np.ptp(Y_TRAIN))
            np.testing.assert_allclose(ax.lines[1].get_ydata(), fw.numpy(y_val))
            np.testing.assert_allclose(ax.lines[2].get_xydata(), np.column_stack([X_TRAIN, Y_TRAIN]), rtol=1e-6)
    plt.close(figure)


def test_points_of_several_coordinates(fw, dtype):
    rng = np.random.default_rng(0)
    keys, queries = rng.normal(size=(30, 3)).astype(dtype), rng.normal(size=(20, 3)).astype(dtype)
    values = rng.normal(size=30).astype(dtype)
    arrays = tuple(map(fw.array, (keys, values, queries)))
    y_hat, attention_w = d2l.nadaraya_watson(*arrays, d2l.gaussian)
    squares = ((keys[:, None].astype(float) - queries[None]) ** 2).sum(axis=2)
    weights = np.exp(-squares / 2) / np.exp(-squares / 2).sum(axis=0)
    check(fw, y_hat, fw.array(values @ weights), arrays, dtype, PROMISE[dtype] * np.ptp(values))
    check(fw, attention_w, fw.array(weights), arrays, dtype, ROUNDING[dtype])


def test_empty_windows_are_the_chapters_nan(fw, dtype):
    x_train, y_train, x_val = (fw.array(np.array(a, dtype)) for a in ([0.0, 1.0], [1.0, 3.0], [0.5, 9.0, 2.0]))
    with pytest.warns(UserWarning, match="2 of 3 queries have no key") as caught:
        y_hat, attention_w = d2l.nadaraya_watson(x_train, y_train, x_val, d2l.boxcar)
    assert len(caught) == 1
    np.testing.assert_array_equal(fw.numpy(y_hat), [2.0, np.nan, np.nan])  # at 2, the key 1 is not nearer than 1
    np.testing.assert_array_equal(fw.numpy(attention_w), [[0.5, np.nan, np.nan]] * 2)
