"""Nadaraya-Watson estimators as scikit-learn users use them; scikit-learn's own checks for all three estimators."""

from __future__ import annotations

import pickle

import numpy as np
import oracle
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastnw
from fastnw import KernelDensity, NadarayaWatsonClassifier, NadarayaWatsonRegressor
from fastnw.bandwidth import rule_bandwidth
from fastnw.estimators import regression

PROMISE = 1e-8  # of the values' range, by SPEC; tests leave a factor 2 for the oracle's and the result's rounding


@parametrize_with_checks([NadarayaWatsonRegressor(), NadarayaWatsonClassifier(), KernelDensity()])
def test_scikit_learn_checks(estimator, check):
    if "sample_weight_equivalence" in check.func.__name__:
        # repeated rows count in the rules' n, weights only by their effective number: means agree at a given bandwidth
        estimator = clone(estimator).set_params(bandwidth=1.0)
    check(estimator)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 2)) * [1.0, 3.0]
    y = np.sin(X[:, 0]) + 0.1 * X[:, 1]
    w = rng.integers(0, 4, size=120).astype(float)
    return X, y, w, rng.normal(size=(30, 2)) * [1.0, 3.0]


@pytest.fixture(scope="module")
def labels(data):
    return np.array(["low", "mid", "high"])[np.digitize(data[1], [-0.3, 0.5])]


@pytest.mark.parametrize("bandwidth", [0.7, [0.4, 1.5], np.array([[0.5, 0.2], [0.2, 2.0]]), "scott", "silverman"])
@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "cauchy"])
def test_regression_matches_the_plain_sum(data, kernel, bandwidth):
    X, y, w, Q = data
    model = NadarayaWatsonRegressor(kernel=kernel, bandwidth=bandwidth).fit(X, y, sample_weight=w)
    h = rule_bandwidth(X, bandwidth, kernel, w) if isinstance(bandwidth, str) else bandwidth
    np.testing.assert_allclose(model.bandwidth_, h, rtol=1e-15)
    expected, _ = oracle.naive_pool(Q, X, y, kernel, h, sample_weight=w)
    np.testing.assert_allclose(model.predict(Q), expected.astype(float), rtol=0, atol=2 * PROMISE * np.ptp(y))


def test_regression_of_several_outputs(data):
    X, y, _, Q = data
    both = np.column_stack([y, 100 * X[:, 1]])
    model = NadarayaWatsonRegressor().fit(X, both)
    assert model.predict(Q).shape == (30, 2)
    for j in range(2):
        one = NadarayaWatsonRegressor().fit(X, both[:, j]).predict(Q)
        np.testing.assert_allclose(model.predict(Q)[:, j], one, rtol=0, atol=2 * PROMISE * np.ptp(both[:, j]))
    assert NadarayaWatsonRegressor().fit(X, y[:, None]).predict(Q).shape == (30, 1)


@pytest.mark.parametrize("bandwidth", [0.8, [0.5, 2.0]])
def test_weights_are_repetitions_at_a_given_bandwidth(data, labels, bandwidth):
    X, y, w, Q = data
    times = w.astype(int)
    X_repeated = np.repeat(X, times, axis=0)
    a = NadarayaWatsonRegressor(bandwidth=bandwidth).fit(X, y, w).predict(Q)
    b = NadarayaWatsonRegressor(bandwidth=bandwidth).fit(X_repeated, np.repeat(y, times)).predict(Q)
    np.testing.assert_allclose(a, b, rtol=0, atol=2 * PROMISE * np.ptp(y))
    p = NadarayaWatsonClassifier(bandwidth=bandwidth).fit(X, labels, w).predict_proba(Q)
    q = NadarayaWatsonClassifier(bandwidth=bandwidth).fit(X_repeated, np.repeat(labels, times)).predict_proba(Q)
    np.testing.assert_allclose(p, q, rtol=0, atol=4 * PROMISE)  # normalised by a sum off by as much


def test_score_weighs_samples(data, labels):
    X, y, w, _ = data
    model = NadarayaWatsonRegressor().fit(X, y)
    assert model.score(X, y, sample_weight=w) == r2_score(y, model.predict(X), sample_weight=w)
    classifier = NadarayaWatsonClassifier(bandwidth=1.5).fit(X, labels)
    hits = classifier.predict(X) == labels
    assert classifier.score(X, labels, sample_weight=w) == pytest.approx(np.average(hits, weights=w), rel=1e-14)
    assert np.average(hits, weights=w) != hits.mean()  # or the line above shows nothing


def test_probabilities_match_the_plain_sum(data, labels):
    X, _, w, Q = data
    model = NadarayaWatsonClassifier(kernel="matern32", bandwidth=0.8).fit(X, labels, w)
    assert model.classes_.tolist() == ["high", "low", "mid"]
    weights, _ = oracle.naive_weights(Q, X, "matern32", 0.8, w)
    expected = np.column_stack([weights[:, labels == c].sum(axis=1) for c in model.classes_]).astype(float)
    p = model.predict_proba(Q)
    np.testing.assert_allclose(p, expected, rtol=0, atol=4 * PROMISE)
    np.testing.assert_allclose(p.sum(axis=1), 1.0, rtol=0, atol=3e-16 * 3)
    np.testing.assert_array_equal(model.predict(Q), model.classes_[expected.argmax(axis=1)])


def test_classification_of_several_outputs(data, labels):
    X, y, _, Q = data
    numbers = (y > 0).astype(int) * 7
    both = np.column_stack([labels, np.where(y > 0, "positive", "negative")])
    model = NadarayaWatsonClassifier().fit(X, both)
    first = NadarayaWatsonClassifier().fit(X, labels)
    second = NadarayaWatsonClassifier().fit(X, numbers)
    assert [c.tolist() for c in model.classes_] == [["high", "low", "mid"], ["negative", "positive"]]
    np.testing.assert_array_equal(model.predict(Q)[:, 0], first.predict(Q))
    np.testing.assert_array_equal(model.predict(Q)[:, 1] == "positive", second.predict(Q) == 7)
    p = model.predict_proba(Q)
    np.testing.assert_allclose(p[0], first.predict_proba(Q), rtol=0, atol=4 * PROMISE)
    np.testing.assert_allclose(p[1], second.predict_proba(Q), rtol=0, atol=4 * PROMISE)


@pytest.mark.parametrize("dtype", [int, bool, float, "int8", object])
def test_labels_keep_their_type(dtype):
    y = np.array([0, 1, 1]).astype(dtype)
    if dtype is object:
        y = np.array(["a", "b", "b"], dtype=object)
    prediction = NadarayaWatsonClassifier(bandwidth=0.1).fit([[0.0], [1.0], [2.0]], y).predict([[0.1], [2.2]])
    assert prediction.dtype == y.dtype
    assert prediction.tolist() == [y[0], y[2]]


def test_ties_go_to_the_first_class():
    model = NadarayaWatsonClassifier(kernel="boxcar", bandwidth=2.0).fit([[0.0], [1.0]], ["b", "a"])
    np.testing.assert_array_equal(model.predict_proba([[0.5]]), [[0.5, 0.5]])
    assert model.predict([[0.5]]) == ["a"]


def test_a_column_vector_of_labels_is_flattened_with_a_warning():
    with pytest.warns(DataConversionWarning, match="column-vector"):
        model = NadarayaWatsonClassifier(bandwidth=1.0).fit([[0.0], [1.0]], [["b"], ["a"]])
    assert model.predict([[0.0]]).shape == (1,)


def test_empty_windows_in_regression():
    X, y = [[0.0], [1.0]], [1.0, 3.0]

    def predict(empty):
        model = NadarayaWatsonRegressor(kernel="triangular", bandwidth=0.5, empty=empty).fit(X, y)
        return model.predict([[0.1], [9.0]])

    with pytest.warns(fastnw.EmptyWindowWarning):
        prediction = predict("nan")
    np.testing.assert_array_equal(prediction, [1.0, np.nan])
    np.testing.assert_array_equal(predict("mean"), [1.0, 2.0])
    np.testing.assert_array_equal(predict("nearest"), [1.0, 3.0])
    np.testing.assert_array_equal(predict(-7), [1.0, -7.0])
    with pytest.raises(ValueError, match="1"):
        predict("raise")


def test_empty_windows_in_classification():
    X, y, w = [[0.0], [1.0], [2.0]], ["a", "b", "b"], [3.0, 0.5, 0.5]
    Q = [[0.1], [9.0], [-9.0]]

    def model(empty):
        return NadarayaWatsonClassifier(kernel="triangular", bandwidth=0.5, empty=empty).fit(X, y, w)

    with pytest.warns(fastnw.EmptyWindowWarning, match=r"2 of 3 queries.*rows 1, 2.*priors") as caught:
        p = model("nan").predict_proba(Q)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    np.testing.assert_allclose(p, [[1, 0], [0.75, 0.25], [0.75, 0.25]], rtol=1e-15)
    with pytest.warns(fastnw.EmptyWindowWarning):
        assert model("nan").predict(Q).tolist() == ["a", "a", "a"]
    np.testing.assert_allclose(model("mean").predict_proba(Q), p, rtol=1e-15)
    np.testing.assert_array_equal(model("nearest").predict_proba(Q), [[1, 0], [0, 1], [1, 0]])
    with pytest.raises(ValueError, match="2"):
        model("raise").predict_proba(Q)
    with pytest.raises(InvalidParameterError, match="'empty'"):
        model(0.5)


def test_float32_is_kept_if_fit_and_query_are_float32(data, labels):
    X, y, _, Q = data
    X32, Q32 = X.astype(np.float32), Q.astype(np.float32)
    model = NadarayaWatsonRegressor().fit(X32, y)  # y follows X, as in scikit-learn
    assert model.predict(Q32).dtype == np.float32
    assert model.predict(Q).dtype == np.float64
    assert NadarayaWatsonRegressor().fit(X, y).predict(Q32).dtype == np.float64
    assert NadarayaWatsonClassifier().fit(X32, labels).predict_proba(Q32).dtype == np.float32
    double = NadarayaWatsonRegressor().fit(X, y).predict(Q)
    # 1e-4 of the range is promised; keys rounded to float32 add a few 1e-7
    np.testing.assert_allclose(model.predict(Q32), double, rtol=0, atol=1.1e-4 * np.ptp(y))
    with pytest.raises(ValueError, match="too large"):
        NadarayaWatsonRegressor().fit(X32, y * 1e300)


@pytest.mark.parametrize("frame", ["pandas", "polars"])
def test_data_frames(data, labels, frame):
    X, y, w, Q = data
    library = pytest.importorskip(frame)
    table, queries = library.DataFrame({"a": X[:, 0], "b": X[:, 1]}), library.DataFrame({"a": Q[:, 0], "b": Q[:, 1]})
    model = NadarayaWatsonRegressor().fit(table, library.Series(y), sample_weight=library.Series(w))
    assert model.feature_names_in_.tolist() == ["a", "b"]
    np.testing.assert_array_equal(model.predict(queries), NadarayaWatsonRegressor().fit(X, y, w).predict(Q))
    with pytest.raises(ValueError, match="feature names"):
        model.predict(queries[["b", "a"]])
    classifier = NadarayaWatsonClassifier().fit(table, library.Series(labels.tolist()))
    np.testing.assert_array_equal(classifier.predict(queries), NadarayaWatsonClassifier().fit(X, labels).predict(Q))


def test_categorical_and_indicator_labels(data, labels):
    X, _, _, Q = data
    plain = NadarayaWatsonClassifier().fit(X, labels).predict(Q)
    np.testing.assert_array_equal(NadarayaWatsonClassifier().fit(X, pd.Categorical(labels)).predict(Q), plain)
    indicators = (np.asarray(labels)[:, None] == np.array(["low", "mid", "high"])).astype(int)
    p = NadarayaWatsonClassifier().fit(X, indicators).predict_proba(Q)
    assert [part.shape for part in p] == [(30, 2)] * 3


def test_choices_reach_the_sums_and_rows_add_up_whatever_comes_back(data, labels, monkeypatch):
    X, _, _, Q = data
    asked = []

    predict = regression.predict

    def approximate(model, problem, progress, means, **options):
        plan = model.plan
        asked.append({"method": plan.method, "backend": plan.backend, "tol": problem.tol, "n_jobs": plan.n_threads})
        predict(model, problem, progress, means, **options)
        means *= 1 + 1e-6

    monkeypatch.setattr(regression, "predict", approximate)
    choices = {"method": "exact", "backend": "reference", "tol": 1e-3, "n_jobs": 1}
    p = NadarayaWatsonClassifier(**choices).fit(X, labels).predict_proba(Q)
    assert asked == [choices]
    np.testing.assert_allclose(p.sum(axis=1), 1.0, rtol=0, atol=1e-15)


def test_a_constant_column_is_named(data):
    X, y, _, _ = data
    table = pd.DataFrame({"a": X[:, 0], "flat": 5.0})
    with pytest.raises(ValueError, match="'flat'"):
        NadarayaWatsonRegressor().fit(table, y)
    with pytest.raises(ValueError, match="column 1"):
        NadarayaWatsonRegressor().fit(table.to_numpy(), y)
    NadarayaWatsonRegressor(bandwidth=1.0).fit(table, y)


def test_predicting_leaves_the_estimator_alone_and_pickles_hold_data_only(data, labels):
    X, y, w, Q = data
    for model, target in ((NadarayaWatsonRegressor(), y), (NadarayaWatsonClassifier(), labels)):
        model.fit(X, target, w)
        before, size = set(vars(model)), len(pickle.dumps(model))
        prediction = model.predict(Q)
        assert set(vars(model)) == before
        assert len(pickle.dumps(model)) == size
        assert size < X.nbytes + 2 * w.nbytes + 4096  # samples, weights, targets or codes, a little text
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(Q), prediction)


def test_searches_pipelines_and_clones(data, labels):
    X, y, _, Q = data
    pipeline = make_pipeline(StandardScaler(), NadarayaWatsonRegressor())
    grid = {"nadarayawatsonregressor__bandwidth": [0.05, 0.4, 50.0, "scott"]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(X, y)
    assert search.best_params_["nadarayawatsonregressor__bandwidth"] in (0.4, "scott")
    assert search.predict(Q).shape == (30,)
    scores = cross_validate(NadarayaWatsonClassifier(), X, labels, cv=3)["test_score"]
    assert scores.min() > 0.5  # guessing the commonest class gives 0.4
    kernel = fastnw.Kernel("student", lambda u2: 1 / (1 + u2) ** 2)
    model = NadarayaWatsonRegressor(kernel=kernel, bandwidth=0.5).fit(X, y)
    np.testing.assert_array_equal(clone(model).fit(X, y).predict(Q), model.predict(Q))


def test_metadata_routing_of_weights(data):
    X, y, w, _ = data
    with sklearn.config_context(enable_metadata_routing=True):
        model = NadarayaWatsonRegressor().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        routed = cross_validate(model, X, y, params={"sample_weight": w}, cv=3)["test_score"]
        plain = cross_validate(model, X, y, params={}, cv=3)["test_score"]
    assert not np.allclose(routed, plain)


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("kernel", "epanechikov", "triangular"),
        ("kernel", "gauss", "'gaussian'"),
        ("kernel", 3, "'kernel' parameter"),
        ("bandwidth", -1.0, "bandwidth"),
        ("bandwidth", "scot", "'scott'"),
        ("bandwidth", [1.0, -2.0], "coordinate 1"),
        ("bandwidth", [1.0, 2.0, 3.0], "shape"),
        ("tol", -1e-3, "'tol' parameter"),
        ("empty", "zero", "'empty' parameter"),
        ("method", "fastest", "'exact'"),
        ("backend", "gpu", "'compiled'"),
        ("n_jobs", 1.5, "'n_jobs' parameter"),
    ],
)
def test_wrong_parameters_say_what_is_right(data, parameter, value, message):
    X, y, _, Q = data
    with pytest.raises(ValueError, match=message):
        NadarayaWatsonRegressor(**{parameter: value}).fit(X, y).predict(Q)


def test_rules_and_the_inner_product(data):
    X, y, _, Q = data
    with pytest.raises(ValueError, match="'dot'"):
        NadarayaWatsonRegressor(kernel="dot").fit(X, y)
    expected, _ = oracle.naive_pool(Q, X, y, "dot", 2.0)
    prediction = NadarayaWatsonRegressor(kernel="dot", bandwidth=2.0).fit(X, y).predict(Q)
    np.testing.assert_allclose(prediction, expected.astype(float), rtol=0, atol=2 * PROMISE * np.ptp(y))


def test_weights_are_checked(data):
    X, y, w, _ = data
    with pytest.raises(ValueError, match="at least one non-zero"):
        NadarayaWatsonRegressor().fit(X, y, np.zeros(len(y)))
    with pytest.raises(ValueError, match="Negative values"):
        NadarayaWatsonRegressor().fit(X, y, w - 1)
    with pytest.raises(ValueError, match="NaN"):
        NadarayaWatsonRegressor().fit(X, y, np.where(w > 2, np.nan, w))
    with pytest.raises(ValueError, match="1 sample"):
        NadarayaWatsonRegressor().fit(X[:1], y[:1])


def test_queries_none_and_unfitted(data):
    X, y, _, Q = data
    assert NadarayaWatsonRegressor().fit(X, y).predict(Q[:0]).shape == (0,)
    assert NadarayaWatsonClassifier().fit(X, y > 0).predict_proba(Q[:0]).shape == (0, 2)
    with pytest.raises(NotFittedError):
        NadarayaWatsonRegressor().predict(Q)
