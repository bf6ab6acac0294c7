"""Every example of the gallery runs as a script, draws what it says, and its numbers are right.

Each check recomputes a number of the example by a formula or a library that shares nothing with fastnw.
"""

from __future__ import annotations

import re
import runpy
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.neighbors import KernelDensity

import fastnw

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SCRIPTS = sorted(EXAMPLES.glob("plot_*.py"))
CPU_SECONDS = 30.0  # an example takes less than 15 s where the machine has nothing else to do


def gaussian_means(queries, keys, values, h, leave_out=False):
    """(m,) or (m, c) kernel means, by an array of all pairs; `h` a number, or one for each coordinate."""
    scaled = (queries[:, None] - keys) / h
    weights = np.exp(-(scaled**2).sum(axis=2) / 2)
    if leave_out:
        np.fill_diagonal(weights, 0)
    return (weights @ values) / weights.sum(axis=1).reshape((-1,) + (1,) * (values.ndim - 1))


def chapter(names):
    distances = np.abs(names["queries"] - names["keys"].T)
    formulas = {
        "gaussian": np.exp(-(distances**2) / 2),
        "boxcar": (distances <= 1) * 1.0,
        "constant": np.ones(distances.shape),
        "triangular": np.maximum(0, 1 - distances),
    }
    assert set(names["rmse"]) == set(formulas)
    for kernel, weights in formulas.items():
        means = weights @ names["values"] / weights.sum(axis=1)
        error = np.sqrt(np.mean((means - names["truth"](names["queries"][:, 0])) ** 2))
        assert names["rmse"][kernel] == pytest.approx(error, rel=1e-7)
    assert max(names["rmse"], key=names["rmse"].get) == "constant"


def choosing_a_bandwidth(names):
    keys, values, best = names["keys"], names["values"], names["best"]

    def loss(h):
        return np.mean((gaussian_means(keys, keys, values, h, leave_out=True) - values) ** 2)

    assert names["found"].score == pytest.approx(loss(best), rel=1e-6)
    assert loss(best) <= min(loss(h) for h in np.geomspace(best / 20, best * 20, 41)) * (1 + 1e-9)
    assert np.isclose(names["grid"][np.argmin(names["true_error"])], best, rtol=0.3)  # "its minimum is close by"


def digits(names):
    one_hot = np.eye(10)[names["y_train"]]
    shares = gaussian_means(names["X_test"], names["X_train"], one_hot, names["found"].bandwidth)
    np.testing.assert_allclose(names["probabilities"], shares, rtol=0, atol=1e-7)
    assert names["accuracy"] == np.mean(shares.argmax(axis=1) == names["y_test"]) > 0.98
    assert names["accuracy"] >= max(names["curve"]) - 1 / len(names["y_test"])  # "on the plateau of the best"


def diabetes(names):
    X, y = names["X"], names["y"]
    test = next(iter(names["KFold"](5, shuffle=True, random_state=0).split(X)))[1]
    train = np.setdiff1d(np.arange(len(y)), test)
    bandwidth = names["one_bandwidth"](X[train], y[train]).bandwidth_
    expected = gaussian_means(X[test], X[train], y[train], bandwidth)
    np.testing.assert_allclose(names["predicted"]["one bandwidth"][test], expected, rtol=0, atol=1e-6)
    for name, values in names["predicted"].items():
        assert names["scores"][name] == pytest.approx(1 - np.sum((values - y) ** 2) / np.sum((y - y.mean()) ** 2))
    scores = names["scores"]
    assert 0.4 < scores["one bandwidth"] < scores["one for each"] < scores["linear regression"]
    assert set(np.argsort(names["each"])[:2]) == {names["data"].feature_names.index(name) for name in ("bmi", "s5")}


def density(names):
    model = names["fastnw"].KernelDensity(bandwidth="loo").fit(names["keys"])
    h = model.bandwidth_
    scaled = KernelDensity(bandwidth=1.0).fit(names["keys"] / h).score_samples(names["grid"][::97] / h)
    expected = np.exp(scaled) / np.prod(h)
    np.testing.assert_allclose(names["estimates"]["loo"][::97], expected, rtol=1e-5, atol=1e-9)
    for estimate in names["estimates"].values():
        assert np.sum(estimate) * names["cell"] == pytest.approx(1, abs=2e-3)  # some lies beyond the grid
    assert names["squared_errors"]["loo"] < names["squared_errors"]["scott"] / 4


def empty_windows(names):
    distances = np.abs(names["queries"] - names["keys"].T)
    empty = distances.min(axis=1) >= 0.5
    np.testing.assert_array_equal(names["empty"], empty)
    assert f"{empty.sum()} of {len(empty)} " in str(names["caught"][0].message)
    values, predictions = names["values"], names["predictions"]
    np.testing.assert_array_equal(predictions["nearest"][empty], values[distances.argmin(axis=1)][empty])
    np.testing.assert_allclose(predictions["mean"][empty], values.mean())
    np.testing.assert_array_equal(predictions["1.5"][empty], 1.5)
    assert names["gaussian"][0] == pytest.approx(values[names["keys"].argmax()])


def adaptive_widths(names):
    keys, points, h = names["keys"], names["new_points"][:500], names["h"]
    pilot = stats.norm.pdf(keys - keys.T, scale=h).mean(axis=1)
    widths = h * np.sqrt(stats.gmean(pilot) / pilot)
    for name, scales in (("one width", np.full(len(keys), h)), ("adaptive widths", widths)):
        expected = stats.norm.pdf(points - keys.T, scale=scales).mean(axis=1)
        found = np.exp(names["models"][name].score_samples(points))
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-300)
    assert names["far_off"]["adaptive widths"] < names["far_off"]["one width"] / 2


def own_kernel(names):
    assert names["difference"] < 1e-12  # of the means that the script computes in NumPy
    squares = ((names["queries"] - names["keys"].T) / 0.3) ** 2
    weights = (1 + squares / 3) ** -2
    means = (weights * names["values"]).sum(axis=1) / weights.sum(axis=1)
    np.testing.assert_allclose(names["predicted"], means, rtol=0, atol=1e-12)


def learning_a_metric(names):
    keys, values = names["keys"], names["values"]
    root = np.linalg.cholesky(np.linalg.inv(names["metric"].bandwidth))
    for learned, coordinates in ((names["metric"], keys @ root), (names["widths"], keys / names["widths"].bandwidth)):
        loss = np.mean((gaussian_means(coordinates, coordinates, values, 1.0, leave_out=True) - values) ** 2)
        assert learned.score == pytest.approx(loss, rel=1e-5)
    assert 0.01 < names["metric"].score < names["widths"].score / 2
    longest = np.linalg.eigh(names["metric"].bandwidth)[1][:, -1]
    assert abs(longest @ [1, -1]) / np.sqrt(2) > 0.99  # the values do not change along (1, −1)


def asif(names):
    pixels, magnitudes, anchors = (names[name] for name in ("pixels", "magnitudes", "anchors"))

    def described(x, by):
        cosines = (x @ by.T) / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(by, axis=1)
        kept = np.where(cosines >= np.sort(cosines, axis=1)[:, [-50]], cosines, 0) ** 8
        return kept / np.linalg.norm(kept, axis=1)[:, None]

    images = described(pixels[names["queries"]], pixels[anchors])
    chosen = (images @ described(names["captions"], magnitudes[anchors]).T).argmax(axis=1)
    assert names["paired"] == pytest.approx(np.mean(chosen == names["labels"][names["queries"]]), abs=0.004)  # ties
    assert names["paired"] > 0.85
    assert names["shuffled"] < 0.25
    assert max(names["by_size"]) == names["by_size"][names["sizes"].index(50)]


def certificates(names):
    keys, queries = names["keys"].astype(np.longdouble), names["queries"][:50].astype(np.longdouble)
    expected = gaussian_means(queries, keys, names["values"].astype(np.longdouble), np.longdouble(0.2))
    assert np.all(np.abs(names["truth"][:50] - expected) <= names["truth_bound"][:50] + 1e-15)
    assert list(names["held"].values()) == [True, True, True]
    limits = {"tree, tol=1e-3": 1e-3, "fourier, tol=1e-5": 1e-5, "exact, float32": 1e-4}
    for name, limit in limits.items():
        assert names["runs"][name][1].max() <= limit * np.ptp(names["values"]) * 1.01


def plans(names):
    methods = [plan.method for plan in names["plans"].values()]
    assert len(methods) == 5
    assert len(set(methods)) == 4
    for name, plan in names["plans"].items():
        everything = len(names["problems"][name]["queries"]) * len(names["problems"][name]["keys"])
        assert (plan.pairs == everything) == (plan.method == "exact")
        assert 0 < plan.seconds < 10
        assert 0 < names["seconds"][name] < 30


def large_n(names):
    assert names["difference"] < 1e-8
    keys, values, n = names["keys"], names["values"], 1_000
    expected = gaussian_means(keys[:n], keys[:n], values[:n], n ** (-1 / 6))
    for method in names["SIZES"]:
        np.testing.assert_allclose(names["pooled"](n, method), expected, rtol=0, atol=1e-8 * np.ptp(values[:n]))
    # times of a busy machine: a tenth of what slope 2 would make of them
    seconds = names["seconds"]
    assert seconds["fourier", 1_000_000] < 10 * seconds["fourier", 100_000] * 3
    assert seconds["fourier", 1_000_000] < names["seconds"]["exact", 20_000] * 50**2 / 10


CHECKS = {
    check.__name__: check
    for check in (
        chapter,
        choosing_a_bandwidth,
        digits,
        diabetes,
        density,
        empty_windows,
        adaptive_widths,
        own_kernel,
        learning_a_metric,
        asif,
        certificates,
        plans,
        large_n,
    )
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")  # the oldest, of names that pyparsing has changed
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem.removeprefix("plot_"))
def test_it_draws_and_its_numbers_are_right(script, monkeypatch, capsys):
    plt = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setenv("FASTNW_NUM_THREADS", "1")
    plt.switch_backend("Agg")
    plt.close("all")  # of other tests
    start = time.process_time()
    try:
        names = runpy.run_path(str(script), run_name="__main__")
        assert time.process_time() - start < CPU_SECONDS
        figures = [plt.figure(number) for number in plt.get_fignums()]
        assert 1 <= len(figures) <= 2
        for figure in figures:
            figure.canvas.draw()
            for ax in figure.axes:
                assert ax.has_data()
        assert capsys.readouterr().out.strip()
    finally:
        plt.close("all")
    CHECKS[script.stem.removeprefix("plot_")](names)


def test_every_example_has_a_check_and_a_place_in_the_gallery():
    assert {script.stem.removeprefix("plot_") for script in SCRIPTS} == set(CHECKS)
    configuration = (EXAMPLES.parent / "conf.py").read_text(encoding="utf-8")
    for name in CHECKS:
        assert f'"{name}"' in configuration


@pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")  # the oldest, of names that pyparsing has changed
@pytest.mark.parametrize("script", sorted((EXAMPLES.parent / "drawings").glob("*.py")), ids=lambda script: script.stem)
def test_drawings_are_drawn(script, tmp_path):
    pytest.importorskip("matplotlib.pyplot")
    committed = script.with_suffix(".svg").stat().st_size
    runpy.run_path(str(script))["draw"](tmp_path / "drawing.svg")
    assert (tmp_path / "drawing.svg").stat().st_size == pytest.approx(committed, rel=0.3)


def test_a_call_goes_the_way_that_how_it_works_shows():
    page = (EXAMPLES.parent / "how_it_works.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d \| `(?:\w+\.)?(\w+)` \(`([\w/.]+)`\)", page, flags=re.MULTILINE)
    assert len(rows) == 5
    called = []

    def note(frame, event, _):
        if event == "call":
            called.append((frame.f_code.co_name, frame.f_code.co_filename))

    queries, keys = np.zeros((5, 2)), np.ones((50, 2))
    sys.setprofile(note)
    try:
        fastnw.pool(queries, keys, keys[:, 0], method="exact", backend="reference", n_jobs=1)
    finally:
        sys.setprofile(None)
    steps = iter(called)
    for name, place in rows:  # in this order
        assert any(name == step and f"fastnw/{place}" in Path(file).as_posix() for step, file in steps), name
