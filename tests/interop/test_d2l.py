"""`fastnw.d2l` on NumPy's arrays; tests/interop/test_chapter.py has those of the chapter's frameworks."""

from __future__ import annotations

import pickle
import sys
import tracemalloc

import fresh
import numpy as np
import oracle
import pytest

import fastnw
from fastnw import d2l

RNG = np.random.default_rng(3)
X, Y, AT = np.sort(RNG.uniform(0, 5, 40)), RNG.normal(size=40), np.arange(0, 5, 0.1)

FORMULAS = {
    "gaussian": lambda x: np.exp(-(x**2) / 2),
    "boxcar": lambda x: np.abs(x) < 1.0,
    "constant": lambda x: 1.0 + 0 * x,
    "epanechikov": lambda x: np.maximum(1 - np.abs(x), 0),
}


def chapter(x_train, y_train, x_val, kernel):
    """The chapter's formula in float64."""
    k = np.asarray(kernel(np.subtract.outer(x_train, x_val)), float)
    attention_w = k / k.sum(axis=0)
    return y_train @ attention_w, attention_w


@pytest.mark.parametrize("name", FORMULAS)
def test_kernels_are_the_formulas_and_answers_the_chapters(name):
    kernel, formula = getattr(d2l, name), FORMULAS[name]
    x = np.arange(-2.5, 2.5, 0.1)
    np.testing.assert_allclose(kernel(x), formula(x), rtol=4e-16)
    assert kernel(0.5) == formula(0.5)
    np.testing.assert_array_equal(kernel([-3, 0, 3]), formula(np.array([-3, 0, 3])))
    for arrays in ((X, Y, AT), (list(X), list(Y), list(AT))):
        y_hat, attention_w = d2l.nadaraya_watson(*arrays, kernel)
        expected, expected_w = chapter(X, Y, AT, formula)
        np.testing.assert_allclose(y_hat, expected, rtol=0, atol=1e-8 * np.ptp(Y))  # pool's promise
        np.testing.assert_allclose(attention_w, expected_w, rtol=0, atol=1e-14)
        assert attention_w.flags.c_contiguous


def test_width_is_a_standard_deviation():
    for sigma in (0.1, 1, 7.5):
        kernel = d2l.gaussian_with_width(sigma)
        np.testing.assert_allclose(kernel(AT), np.exp(-(AT**2) / (2 * sigma**2)), rtol=1e-12)  # of up to -1200
        expected, _ = oracle.naive_pool(AT[:, None], X[:, None], Y, bandwidth=sigma)
        got, _ = d2l.nadaraya_watson(X, Y, AT, kernel, attention=False)
        np.testing.assert_allclose(got, expected.astype(float), rtol=0, atol=1e-8 * np.ptp(Y))
    for sigma in (0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="sigma must be positive and finite"):
            d2l.gaussian_with_width(sigma)


@pytest.mark.parametrize("size", [30, 20_000])  # of which `auto` sums every pair, or uses moments
def test_boxcar_is_strict_where_distances_are_exact(dtype, size):
    rng = np.random.default_rng(size)
    keys = (rng.integers(-20, 20, size) / 4).astype(dtype)
    queries, values = rng.choice(keys, size), rng.normal(size=size).astype(dtype)
    y_hat, _ = d2l.nadaraya_watson(keys, values, queries, d2l.boxcar, attention=False)
    places = np.unique(queries)
    means = {place: values[np.abs(keys - place) < 1].astype(float).mean() for place in places}
    assert any((np.abs(keys - place) == 1).any() for place in places)
    expected = np.array([means[place] for place in queries])
    np.testing.assert_allclose(y_hat, expected, rtol=0, atol={"float32": 1e-4, "float64": 1e-8}[dtype] * np.ptp(values))


def test_boxcar_reaches_all_that_is_nearer_than_1(dtype):
    nearer = 1 - 4 * np.finfo(dtype).eps
    x, y, x_val = (np.array([number], dtype) for number in (0.0, 3.0, nearer))
    assert d2l.nadaraya_watson(x, y, x_val, d2l.boxcar)[0].tolist() == [3.0]


def test_a_gaussian_far_away_does_not_underflow():
    x, y = np.array([0.0, 1.0]), np.array([5.0, 7.0])
    y_hat, attention_w = d2l.nadaraya_watson(x, y, np.array([1000.0]), d2l.gaussian)
    np.testing.assert_allclose(y_hat, [7.0], rtol=1e-12)
    np.testing.assert_allclose(attention_w[:, 0], [0.0, 1.0], rtol=0, atol=1e-12)


def own(x):
    """Lopsided, with a reach: what only signed distances tell."""
    return (x > -0.5) & (x < 0.1)


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("kernel", [d2l.boxcar, own])
def test_empty_windows(kernel, attention):
    x_val = np.array([0.6, 2.5, 9.0, -9.0])
    x, y = np.array([0.5, 2.4]), np.array([1.0, 2.0])
    with pytest.warns(fastnw.EmptyWindowWarning, match=r"2 of 4 queries .* \(first: 2, 3\)") as caught:
        y_hat, attention_w = d2l.nadaraya_watson(x, y, x_val, kernel, attention)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    np.testing.assert_allclose(y_hat, [1.0, 2.0, np.nan, np.nan], rtol=1e-14)
    if attention:
        np.testing.assert_allclose(attention_w, [[1, 0, np.nan, np.nan], [0, 1, np.nan, np.nan]], rtol=1e-14)


def test_own_functions_take_no_more_memory_than_tiles():
    rng = np.random.default_rng(0)
    x, y, x_val = rng.uniform(size=5000), rng.normal(size=5000), rng.uniform(size=4000)
    tracemalloc.start()
    try:
        y_hat, nothing = d2l.nadaraya_watson(x, y, x_val, lambda t: t > -0.1, attention=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert nothing is None
    assert peak <= 40 * 2**20  # a matrix of 5000 x 4000 numbers takes 153 MiB, of booleans 19 beside one of distances
    order = np.argsort(x)
    sums = np.cumsum(y[order][::-1])[::-1]
    first = np.searchsorted(x[order], x_val - 0.1)
    np.testing.assert_allclose(y_hat, sums[first] / (5000 - first), rtol=0, atol=1e-10)


def test_no_queries():
    for kernel in (d2l.gaussian, own):
        y_hat, attention_w = d2l.nadaraya_watson(X, Y, AT[:0], kernel)
        assert y_hat.shape == (0,)
        assert attention_w.shape == (40, 0)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ((X, Y, AT[:, None]), r"shapes \(n,\) and \(m,\), or .* got \(40,\), \(50, 1\)"),
        ((X[:, None], Y, np.zeros((5, 2))), r"got \(40, 1\), \(5, 2\)"),
        ((X[0], Y, AT), r"got \(\), \(50,\)"),
        ((X, Y[:-1], AT), r"y_train must have one value for each of the 40 points.*\(39,\)"),
        ((X, Y[:, None], AT), r"y_train must have one value .*\(40, 1\)"),
        ((np.full(40, np.nan), Y, AT), "Input keys contains NaN"),
        ((X[:0], Y[:0], AT), "minimum of 1 is required for keys"),
    ],
)
@pytest.mark.parametrize("kernel", [d2l.gaussian, own])
def test_wrong_arrays(arrays, says, kernel):
    with pytest.raises(ValueError, match=says):
        d2l.nadaraya_watson(*arrays, kernel)


def test_wrong_kernels():
    with pytest.raises(TypeError, match=r"kernel must be a function of distances.* got 'gaussian'"):
        d2l.nadaraya_watson(X, Y, AT, "gaussian")
    with pytest.raises(ValueError, match=r"one number for each distance: got \(50,\) for \(40, 50\)"):
        d2l.nadaraya_watson(X, Y, AT, lambda x: x[0])
    with pytest.raises(ValueError, match="kernel is not finite"):
        d2l.nadaraya_watson(X, Y, AT, lambda x: np.where(x > 0, np.nan, 1.0))
    with pytest.raises(ValueError, match=r"of shapes \(n,\), \(m,\)"):
        d2l.nadaraya_watson(X[:, None], Y, AT[:, None], own)


def test_kernels_can_be_pickled_and_stay_recognised():
    for kernel in (d2l.epanechikov, d2l.gaussian_with_width(0.3)):
        again = pickle.loads(pickle.dumps(kernel))
        assert again == kernel
        np.testing.assert_array_equal(d2l.nadaraya_watson(X, Y, AT, again)[0], d2l.nadaraya_watson(X, Y, AT, kernel)[0])


def test_import_loads_nothing_heavy():
    program = """
    import sys
    import fastnw
    fastnw.d2l.nadaraya_watson([0.0], [1.0], [0.5], fastnw.d2l.gaussian)
    print(sorted({"torch", "jax", "tensorflow", "mxnet", "matplotlib", "sklearn", "numba"} & set(sys.modules)))
    """
    assert fresh.run(program) == "[]"


class TestPlot:
    @pytest.fixture(autouse=True)
    def _pyplot(self):
        pytest.importorskip("matplotlib").use("Agg")
        self.plt = pytest.importorskip("matplotlib.pyplot")
        yield
        self.plt.close("all")

    @pytest.mark.parametrize("count", [1, 3, 5])
    @pytest.mark.parametrize("attention", [False, True])
    def test_any_number_of_panels(self, count, attention):
        kernels = [d2l.gaussian, own, d2l.boxcar, d2l.constant, lambda x: np.exp(-abs(x))][:count]
        names = [f"kernel {i}" for i in range(count)]
        x = np.arange(0, 5, 0.125)  # some key is in reach everywhere
        figure = d2l.plot(x, Y, AT, AT**2, kernels, names, attention=attention)
        assert figure.number in self.plt.get_fignums()
        panels = [ax for ax in figure.axes if ax.get_xlabel()]
        assert [ax.get_xlabel() for ax in panels] == names
        assert figure.get_size_inches().tolist() == [3 * count, 3]
        assert all(panels[0].get_shared_y_axes().joined(panels[0], ax) for ax in panels[1:])
        for ax, kernel in zip(panels, kernels, strict=True):
            y_hat, attention_w = chapter(x, Y, AT, kernel)
            if attention:
                np.testing.assert_allclose(ax.images[0].get_array(), attention_w, rtol=0, atol=1e-13)
                assert ax.images[0].get_cmap().name == "Reds"
                assert ax.images[0].get_clim()[1] == pytest.approx(attention_w.max(), abs=1e-12)
            else:
                estimates, truth, data = ax.lines
                np.testing.assert_allclose(estimates.get_xydata(), np.column_stack([AT, y_hat]), rtol=0, atol=1e-7)
                np.testing.assert_array_equal(truth.get_xydata(), np.column_stack([AT, AT**2]))
                np.testing.assert_array_equal(data.get_xydata(), np.column_stack([x, Y]))
                assert [text.get_text() for text in ax.get_legend().get_texts()] == ["y_hat", "y"]
        assert len(figure.axes) == count * (2 if attention else 1)

    def test_names_and_kernels_of_one_length(self):
        for kernels, names in (([d2l.gaussian], []), ([], [])):
            with pytest.raises(ValueError, match=r"kernels and names must be of one length, at least 1"):
                d2l.plot(X, Y, AT, AT, kernels, names)
        assert not self.plt.get_fignums()

    def test_labels_do_not_overlap(self):
        figure = d2l.plot(X, Y, AT, AT, [d2l.gaussian] * 4, list("abcd"), attention=True)
        figure.canvas.draw()
        ticks = [
            tick.label2.get_window_extent()
            for ax in figure.axes
            if not ax.get_xlabel()  # those of the colours
            for tick in ax.xaxis.get_major_ticks()
            if 0 <= tick.get_loc() <= ax.get_xlim()[1]
        ]
        assert len(ticks) >= 8
        assert not any(a.overlaps(b) for i, a in enumerate(ticks) for b in ticks[:i])


def test_plot_without_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install 'fastnw\[plot\]'"):
        d2l.plot(X, Y, AT, AT, [d2l.gaussian], ["gaussian"])
