"""Classifiers of many classes: integers in place of indicators, against plain sums over indicators."""

from __future__ import annotations

import math
import pickle
import sys
import warnings
from dataclasses import replace

import fresh
import numpy as np
import oracle
import pytest

import fastnw
from fastnw import NadarayaWatsonClassifier, kernels, planner
from fastnw.bandwidth import rows
from fastnw.bandwidth.fits import own_classes
from fastnw.core.classes import MIN_CODED_CLASSES, MostProbable, OneHot
from fastnw.core.driver import predict
from fastnw.core.pack import pack_keys
from fastnw.core.validate import trusted
from fastnw.estimators import regression
from fastnw.methods import exact
from fastnw.methods.tails import method as tails
from fastnw.methods.tree import method as tree
from fastnw.planner import make_model, make_plan

CLASSES = MIN_CODED_CLASSES + 7
TOL = {"float64": 2e-8, "float32": 2e-4}  # twice the promise of probabilities, for the result's rounding


@pytest.fixture(autouse=True)
def more_classes_than_usual():
    """scikit-learn takes labels of few rows each for numbers; that is what these are not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        yield


def cloud(n=500, d=2, dtype="float64", seed=0, classes=CLASSES, outputs=1):
    """Queries near and far, keys, labels and weights, some of them 0."""
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(n, d))
    queries = np.concatenate([rng.normal(size=(20, d)), keys[:5], 30 * rng.normal(size=(6, d))])
    labels = rng.integers(0, classes, (n, outputs))
    labels[:classes] = np.arange(classes)[:, None]
    weights = rng.uniform(0, 2, n) * (rng.random(n) > 0.1)
    return queries.astype(dtype), keys.astype(dtype), labels if outputs > 1 else labels[:, 0], weights


def plain_shares(queries, keys, labels, weights, kernel, bandwidth):
    """(m, c) in long double; the priors where the window is empty."""
    indicators = np.equal.outer(labels, np.unique(labels)).astype(float)
    found, _ = oracle.naive_pool(queries, keys, indicators, kernel, bandwidth, sample_weight=weights)
    empty = np.isnan(found[:, 0])
    found[empty] = (weights @ indicators) / weights.sum()
    return found


def check(model, queries, expected, tol):
    shares = model.predict_proba(queries)
    np.testing.assert_allclose(shares, expected.astype(float), rtol=0, atol=tol)
    np.testing.assert_array_equal(model.predict(queries), model.classes_[np.argmax(shares, axis=1)])


@pytest.mark.parametrize("kernel", kernels.names())
def test_probabilities_are_those_of_plain_sums(kernel, dtype, backend):
    queries, keys, labels, weights = cloud(dtype=dtype)
    h = 2.0 if kernel == "dot" else 0.4
    model = NadarayaWatsonClassifier(kernel=kernel, bandwidth=h, method="exact", backend=backend, empty="mean")
    expected = plain_shares(queries, keys, labels, weights, kernel, h)
    check(model.fit(keys, labels, weights), queries, expected, TOL[dtype])


@pytest.mark.parametrize("kernel", ["gaussian", "matern32", "logistic", "boxcar", "epanechnikov", "tricube"])
def test_trees_give_them_too(kernel, dtype, backend):
    queries, keys, labels, weights = cloud(n=3000, dtype=dtype)
    model = NadarayaWatsonClassifier(kernel=kernel, bandwidth=0.1, method="tree", backend=backend, empty="mean")
    expected = plain_shares(queries, keys, labels, weights, kernel, 0.1)
    check(model.fit(keys, labels, weights), queries, expected, TOL[dtype])


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov", "dot"])
@pytest.mark.parametrize("d", [2, 5])
def test_numba_gives_them_too(kernel, d, dtype):
    queries, keys, labels, weights = cloud(n=1500, d=d, dtype=dtype)
    model = NadarayaWatsonClassifier(kernel=kernel, bandwidth=1.5, method="exact", backend="numba", empty="mean")
    expected = plain_shares(queries, keys, labels, weights, kernel, 1.5)
    check(model.fit(keys, labels, weights), queries, expected, TOL[dtype])


def test_a_kernel_of_the_users_own():
    """Numba compiles it with a bound from its own slope; the reference takes any."""
    dtype = "float64"
    kernel = fastnw.Kernel("hump", lambda u2: max(1 - u2, 0.0) ** 2 if u2 < 1 else 0.0, support=1.0, monotone=True)
    queries, keys, labels, weights = cloud(dtype=dtype)
    expected = plain_shares(queries, keys, labels, weights, "biweight", 0.5)
    for backend in ("numba", "reference"):
        model = NadarayaWatsonClassifier(kernel=kernel, bandwidth=0.5, method="exact", backend=backend, empty="mean")
        check(model.fit(keys, labels, weights), queries, expected, TOL[dtype])


@pytest.mark.parametrize("method", ["exact", "tree"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_integers_and_indicators_agree(method, outputs, dtype, monkeypatch):
    queries, keys, labels, weights = cloud(n=4000, dtype=dtype, outputs=outputs)
    found = []
    for least in (2, 10**9):
        monkeypatch.setattr(regression, "MIN_CODED_CLASSES", least)
        model = NadarayaWatsonClassifier(kernel="triweight", bandwidth=0.5, method=method, empty="nearest")
        model.fit(keys, labels, weights)
        assert (model._problem.classes is None) == (least > 2)
        found.append((np.asarray(model.predict_proba(queries)), model.predict(queries)))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=0, atol=TOL[dtype] / 10)
    assert found[0][1].shape == ((len(queries), outputs) if outputs > 1 else (len(queries),))
    assert np.mean(found[0][1] == found[1][1]) > 0.95  # but for ties


@pytest.mark.parametrize(("method", "kernel", "d"), [("moments", "biweight", 1), ("fourier", "gaussian", 2)])
def test_methods_that_need_indicators_make_them_or_refuse(method, kernel, d, monkeypatch):
    queries, keys, labels, _ = cloud(n=2000, d=d)
    model = NadarayaWatsonClassifier(kernel=kernel, bandwidth=0.5, method="exact", empty="mean").fit(keys, labels)
    expected = model.predict_proba(queries)
    model.set_params(method=method)
    np.testing.assert_allclose(model.predict_proba(queries), expected, rtol=0, atol=2e-8)
    monkeypatch.setattr(planner._METHODS[method], "MAX_INDICATOR_BYTES", 1 << 10)
    model.set_params(tol=2e-8)  # planned anew
    with pytest.raises(ValueError, match=f"method='{method}' .*{CLASSES} classes"):
        model.predict_proba(queries)
    model.set_params(method="auto").predict_proba(queries)


def test_many_coordinates_take_matrix_products_of_indicators():
    _, keys, labels, weights = cloud(n=2000, d=200, classes=MIN_CODED_CLASSES)
    queries = keys[:400] + 0.01
    model = NadarayaWatsonClassifier(bandwidth=12.0, method="exact").fit(keys, labels, weights)
    problem = model._problem_at(queries)
    assert make_plan(problem, "exact", "compiled", 2).ladder[0].form == "products"
    norms = [np.square(points).sum(axis=1) for points in (queries, keys)]
    u2 = (norms[0][:, None] + norms[1] - 2 * queries @ keys.T) / 12.0**2
    kappa = np.exp(-(u2 - u2.min()) / 2) * weights
    expected = kappa @ np.equal.outer(labels, np.arange(MIN_CODED_CLASSES)) / kappa.sum(axis=1, keepdims=True)
    check(model, queries, expected, 2e-8)


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "epanechnikov", "cauchy"])
@pytest.mark.parametrize("method", ["exact", "tree"])
@pytest.mark.parametrize(("scale", "spread"), [(1.0, 20), (1e3, 20), (1e6, 20), (3.0, 150)])
def test_certificates_hold(kernel, method, scale, spread, dtype):
    """Also in far tails, with weights over 60 or 400 orders of magnitude, and where one class has nearly all rows."""
    if kernel == "cauchy" and method == "tree":
        return
    rng = np.random.default_rng(int(scale))
    n = 2500
    keys = rng.normal(size=(n, 2)).astype(dtype)
    labels = np.where(rng.random(n) < 0.9, 0, rng.integers(0, CLASSES, n))
    labels[:CLASSES] = np.arange(CLASSES)
    weights = np.exp(rng.normal(size=n) * spread)
    queries = (scale * rng.normal(size=(12, 2))).astype(dtype)
    classes = OneHot.of(labels[:, None], [CLASSES], dtype)
    problem = trusted(keys, classes, kernels.get(kernel), 0.7, weights, None)
    problem = problem.asked(queries, kernel=problem.kernel, tol=None)
    means, error = np.empty((len(queries), CLASSES), problem.dtype), np.empty(len(queries))
    predict(make_model(problem, method, "auto", 2), problem, False, means, error=error)
    indicators = np.equal.outer(labels, np.arange(CLASSES)).astype(float)
    expected, log_mass = oracle.naive_pool(queries, keys, indicators, kernel, 0.7, sample_weight=weights)
    there = np.isfinite(log_mass)
    rounding = np.finfo(problem.dtype).eps + 64 * np.finfo(oracle.LONG).eps * np.maximum(-log_mass, 1)
    missed = np.abs(means - expected).max(axis=1) - rounding
    assert np.all(missed[there] <= error[there])
    assert np.all(error[there] <= TOL[dtype])


def test_the_bound_counts_additions_one_after_another():
    """n equal terms of one class lose up to n roundings: the bound says so."""
    state = exact.Sums(np.zeros(1), np.ones(1), np.array([[0.75, 0.25]]), np.zeros(1), np.zeros(1))
    for n in (1000, 100_000):
        classes = OneHot(np.zeros((n, 1), np.int32), 2, np.dtype("float64"))
        problem = trusted(np.zeros((n, 1)), classes, kernels.get("constant"), 1.0, None, None)
        found = exact.normalised(problem, replace(state, total=state.total.copy()))
        np.testing.assert_array_equal(found.total, [[0.5, -0.5]])
        assert 2 * n * 2.0**-53 <= found.total_error[0] <= 3 * n * 2.0**-53


def test_far_tails_go_through_the_same_arithmetic(monkeypatch):
    called = []
    inner = tails.accumulate
    monkeypatch.setattr(tails, "accumulate", lambda *args: called.append(1) or inner(*args))
    queries, keys, labels, weights = cloud()
    far = queries * 1e6
    model = NadarayaWatsonClassifier(bandwidth=0.5, method="exact").fit(keys, labels, weights)
    check(model, far, plain_shares(far, keys, labels, weights, "gaussian", 0.5), 1e-9)
    assert called


def test_empty_windows_are_counted_once_for_all_panels(monkeypatch):
    monkeypatch.setattr(exact, "PANEL_BYTES", 1 << 10)
    queries, keys, labels, weights = cloud()
    rng = np.random.default_rng(1)
    queries = np.concatenate([queries, rng.normal(size=(40, 2)), [[50.0, 0.0]], [[0.0, 99.0]] * 4])
    model = NadarayaWatsonClassifier(kernel="boxcar", bandwidth=0.5, method="exact").fit(keys, labels, weights)
    assert exact.panel(model._problem_at(queries)) <= 16
    expected = plain_shares(queries, keys, labels, weights, "boxcar", 0.5)
    distances = np.linalg.norm(queries[:, None] - keys[weights > 0][None], axis=2)
    empty = np.flatnonzero((distances > 0.5).all(axis=1))
    assert 5 < len(empty) < len(queries)
    first = ", ".join(map(str, empty[:5]))
    with pytest.warns(fastnw.EmptyWindowWarning, match=rf"^{len(empty)} of {len(queries)} .*\(rows {first}") as caught:
        found = model.predict(queries)
    assert len(caught) == 1
    np.testing.assert_array_equal(found, model.classes_[np.argmax(expected, axis=1)])
    model.set_params(empty="nearest")
    nearest = labels[weights > 0][distances.argmin(axis=1)]
    np.testing.assert_array_equal(model.predict(queries)[empty], nearest[empty])
    with pytest.raises(ValueError, match=f"{len(empty)} of {len(queries)} queries have no key"):
        model.set_params(empty="raise").predict(queries)


@pytest.mark.parametrize(("method", "kernel"), [("exact", "gaussian"), ("tree", "epanechnikov"), ("tree", "laplacian")])
def test_bits_do_not_depend_on_threads(method, kernel, dtype):
    _, keys, labels, weights = cloud(n=20_000, dtype=dtype)
    model = NadarayaWatsonClassifier(kernel=kernel, bandwidth=0.2, method=method, n_jobs=1).fit(keys, labels, weights)
    expected = model.predict_proba(keys[:3000])
    model.set_params(n_jobs=2)
    np.testing.assert_array_equal(model.predict_proba(keys[:3000]), expected)
    np.testing.assert_array_equal(model.predict(keys[:3000]), model.classes_[expected.argmax(axis=1)])


@pytest.mark.parametrize("m", [1, 5, 100])
def test_panels_of_few_queries_are_shared_among_threads(m):
    classes = 20_000
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(classes, 2))
    model = NadarayaWatsonClassifier(kernel="biweight", bandwidth=0.3, n_jobs=2).fit(keys, np.arange(classes))
    for method in ("exact", "tree"):
        model.set_params(method=method)
        np.testing.assert_array_equal(model.predict(keys[:m]), np.arange(m))  # each row is most like itself
    assert exact.panel(model._problem_at(keys)) >= 16
    assert tree.panel(model._problem_at(keys)) * classes * 8 <= 32 << 20


def test_ties_go_to_the_first_class():
    keys = np.repeat(np.arange(3.0), CLASSES)[:, None]
    labels = np.tile(np.arange(CLASSES), 3)
    model = NadarayaWatsonClassifier(bandwidth=1.0).fit(keys, labels)
    np.testing.assert_allclose(model.predict_proba([[0.3], [9.0]]), 1 / CLASSES, rtol=1e-12)
    most = MostProbable(3, [2, 3], np.dtype("float64"))
    most[0:2][...] = [[0.5, 0.5, 0.2, 0.4, 0.4], [0.1, 0.9, 0.4, 0.3, 0.3]]
    most[np.array([1])] = [[0.0, 1.0, 0.0, 0.0, 1.0]]
    most[2:3][...] = [[0.6, 0.4, 1.0, 0.0, 0.0]]
    np.testing.assert_array_equal(most.codes(), [[0, 1], [1, 2], [0, 0]])


def test_a_class_without_weight_and_one_that_all_keys_have():
    queries, keys, labels, weights = cloud()
    weights[labels == 3] = 0
    both = np.column_stack([labels, np.full(len(labels), "all")])
    shares, ones = NadarayaWatsonClassifier(bandwidth=0.5).fit(keys, both, weights).predict_proba(queries)
    assert np.all(shares[:, sorted(map(str, range(CLASSES))).index("3")] == 0)
    np.testing.assert_array_equal(ones, 1.0)


def test_labels_pickles_and_files(tmp_path):
    queries, keys, labels, weights = cloud()
    names = np.array([f"class {k}" for k in range(CLASSES)])[labels]
    model = NadarayaWatsonClassifier(bandwidth=0.5).fit(keys, names, weights)
    found = model.predict_proba(queries)
    assert set(model.predict(queries)) <= set(names)
    assert model.score(keys, names) == np.mean(model.predict(keys) == names)
    fastnw.save(model, tmp_path / "model.npz")
    for other in (pickle.loads(pickle.dumps(model)), fastnw.load(tmp_path / "model.npz")):
        np.testing.assert_array_equal(other.predict_proba(queries), found)
        assert set(vars(other)) == set(vars(model))
    # what is stored is what version 0.1.0 stored: codes from 0 on, one column an output
    assert "_problem" not in model.__getstate__()
    np.testing.assert_array_equal(np.unique(names)[model._codes[:, 0]], names)


def leave_one_out_loss(keys, labels, weights, kernel, h):
    """Mean −log of the own class's share without the row itself, in plain NumPy."""
    u = np.linalg.norm((keys[:, None] - keys[None]) / h, axis=2)
    kappa = {"gaussian": np.exp(-(u**2) / 2), "biweight": np.maximum(1 - u**2, 0) ** 2}[kernel] * weights
    np.fill_diagonal(kappa, 0)
    own = (kappa * (labels[:, None] == labels[None])).sum(axis=1) / kappa.sum(axis=1)
    return float(weights @ -np.log(np.maximum(own, 1e-15)) / weights.sum())


@pytest.mark.parametrize("kernel", ["gaussian", "biweight"])
@pytest.mark.parametrize("way", ["indicators", "own classes", "all classes"])
def test_bandwidths_are_selected_by_leave_one_out_losses(kernel, way, monkeypatch):
    """By the pairs of the same class alone, or by sums of all classes of which only the own one's is kept."""
    monkeypatch.setattr(rows, "MAX_INDICATOR_BYTES", 1 << 30 if way == "indicators" else 0)
    monkeypatch.setattr(own_classes, "PAIR_NS", 1e9 if way == "all classes" else 1e-9)
    monkeypatch.setattr(own_classes, "PAIRS_PER_TASK", 500)
    _, keys, labels, weights = cloud(n=300)
    keys = 0.35 * keys + np.column_stack([labels % 8, labels // 8])
    candidates = np.array([0.1, 0.4, 1.0, 3.0]) * (1 if kernel == "gaussian" else 20)
    present = weights > 0
    expected = [leave_one_out_loss(keys[present], labels[present], weights[present], kernel, h) for h in candidates]
    options = {"kernel": kernel, "criterion": "log_loss", "sample_weight": weights}
    found = fastnw.select_bandwidth(keys, labels, candidates=candidates, **options)
    np.testing.assert_allclose(found.path.score, expected, rtol=1e-6)
    assert found.score == pytest.approx(min(expected), rel=1e-6)
    # the search, whose gradients are analytic or differences
    model = NadarayaWatsonClassifier(kernel=kernel, bandwidth="loo", n_jobs=1).fit(keys, labels, weights)
    at = leave_one_out_loss(keys[present], labels[present], weights[present], kernel, model.bandwidth_)
    assert model.selection_.score == pytest.approx(at, rel=1e-6)
    assert at < min(expected)
    for factor in (0.9, 1.1):
        assert at <= leave_one_out_loss(
            keys[present], labels[present], weights[present], kernel, factor * model.bandwidth_
        )
    other = NadarayaWatsonClassifier(kernel=kernel, bandwidth="loo", n_jobs=2).fit(keys, labels, weights)
    np.testing.assert_array_equal(other.bandwidth_, model.bandwidth_)


def test_own_classes_of_several_outputs():
    _, keys, labels, weights = cloud(n=200, outputs=3)
    labels[:, 1] //= 4
    own = own_classes.OwnClasses.of(labels.astype(np.int32))
    problem = trusted(keys, None, kernels.get("matern32"), [0.4, 0.7], weights, None)
    u = np.linalg.norm((keys[:, None] - keys[None]) / [0.4, 0.7], axis=2)
    kappa = (1 + math.sqrt(3) * u) * np.exp(-math.sqrt(3) * u) * weights
    np.fill_diagonal(kappa, 0)
    found = own.shares(problem, np.log(kappa.sum(axis=1)), 2)
    for k, column in enumerate(labels.T):
        expected = (kappa * (column[:, None] == column[None])).sum(axis=1) / kappa.sum(axis=1)
        np.testing.assert_allclose(found[:, k], expected, rtol=1e-12, atol=1e-300)


def test_aicc_of_many_classes_says_what_to_do(monkeypatch):
    monkeypatch.setattr(rows, "MAX_INDICATOR_BYTES", 0)
    _, keys, labels, _ = cloud()
    message = rf"'aicc' supports .* class indicators, got .*\(500 rows, {CLASSES} classes\)\. Use criterion='loo'"
    with pytest.raises(ValueError, match=message):
        NadarayaWatsonClassifier(bandwidth="aicc").fit(keys, labels)


def test_a_block_of_keys_holds_integers_or_the_values_that_they_stand_for(dtype):
    _, keys, labels, weights = cloud(dtype=dtype)
    indicators = np.equal.outer(labels, np.arange(CLASSES)).astype(dtype)
    coded, dense = (
        trusted(keys, values, kernels.get("gaussian"), 0.5, weights, None)
        for values in (OneHot.of(labels[:, None], [CLASSES], dtype), indicators)
    )
    block = pack_keys(coded, 100, 200, dtype)
    assert block.values.shape == (0, 100)
    np.testing.assert_array_equal(block.part(3, 9).codes[:, 0], labels[103:109])
    block, expected = pack_keys(coded, 100, 200, dtype, codes=False), pack_keys(dense, 100, 200, dtype)
    assert block.codes is None
    np.testing.assert_array_equal(block.values, expected.values)


def test_rows_of_indicators():
    classes = OneHot.of(np.array([[0, 1], [2, 0]]), [3, 2], "float32")
    assert (classes.shape, len(classes), classes.ndim, classes.dtype) == ((2, 5), 2, 2, np.float32)
    np.testing.assert_array_equal(classes[:], [[1, 0, 0, 0, 1], [0, 0, 1, 1, 0]])
    np.testing.assert_array_equal(classes.sums(slice(0, 2), np.array([2.0, 3.0])), [2, 0, 3, 3, 2])
    assert classes[:, :0].shape == (2, 0)
    assert classes.most_rows == 1
    assert classes.nbytes == classes[:].nbytes
    with pytest.raises(IndexError, match="supports the column slice :0"):
        classes[:, :1]


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a process's memory is Linux's")
@pytest.mark.parametrize(
    "method", ["auto", *(pytest.param(name, marks=pytest.mark.slow) for name in ("exact", "tree"))]
)
def test_a_hundred_thousand_classes_on_as_many_rows(method):
    """Indicators would be 80 GB; predictions of all rows in one array, too."""
    program = f"""
        import resource, warnings
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
        import numpy as np
        import fastnw
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        n = 100_000
        X = np.random.default_rng(0).normal(size=(n, 2))
        model = fastnw.NadarayaWatsonClassifier(
            kernel="epanechnikov", bandwidth=0.05, method="{method}", n_jobs=2
        ).fit(X, np.arange(n))
        assert (model.predict(X[:200]) == np.arange(200)).all()  # each row is most like itself
        p = model.predict_proba(X[:3])
        assert p.shape == (3, n)
        u2 = ((X[:3, None] - X[None]) ** 2).sum(axis=2) / 0.05**2
        kappa = np.maximum(1 - u2, 0)
        assert np.abs(p - kappa / kappa.sum(axis=1, keepdims=True)).max() < 1e-8
        print(model.score(X[:50], np.arange(50)))
    """
    assert fresh.run(program) == "1.0"
