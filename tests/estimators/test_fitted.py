"""Few queries on a fitted model: nothing that a fit could have prepared is made again, and nothing depends on what was
asked before."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import fastnw
from fastnw.core import score_errors
from fastnw.estimators import base
from fastnw.methods import exact, prefix_sums
from fastnw.methods.fourier import method as fourier
from fastnw.methods.tails import method as tails
from fastnw.methods.tree import method as tree
from fastnw.methods.tree import selectivity

N = 150_000


@pytest.fixture
def made(monkeypatch):
    """A list that fills with what passes over all keys make."""
    calls = []

    def count(module, name):
        original = getattr(module, name)

        def counted(*arguments, **options):
            calls.append(name)
            return original(*arguments, **options)

        monkeypatch.setattr(module, name, counted)

    for module, name in (
        (exact, "pack_keys"), (score_errors, "coordinates"), (tails, "pack_keys"), (tree, "build"), (tree, "moments"),
        (selectivity, "predict"), (prefix_sums, "SortedKeys"), (fourier, "_coefficients"),
    ):  # fmt: skip
        count(module, name)
    return calls


@pytest.fixture
def planned(monkeypatch):
    """A list that fills with the methods of predictions' plans."""
    methods = []
    make_plan = base.make_plan

    def watched(*arguments):
        plan = make_plan(*arguments)
        methods.append(plan.method)
        return plan

    monkeypatch.setattr(base, "make_plan", watched)
    return methods


def data(n, d, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)).astype(dtype)
    return X, np.sin(X[:, 0])


MODELS = {
    "epanechnikov in three coordinates": (N, 3, "float32", {"kernel": "epanechnikov", "bandwidth": 0.1}, {"tree"}),
    "gaussian in three coordinates": (N, 3, "float32", {"kernel": "gaussian", "bandwidth": 0.05}, {"tree"}),
    "gaussian in one": (N, 1, "float64", {"kernel": "gaussian", "bandwidth": 0.05}, {"tree"}),
    "laplacian in one": (N, 1, "float64", {"kernel": "laplacian", "bandwidth": 0.05}, {"tree", "moments"}),
    "cauchy": (30_000, 8, "float32", {"kernel": "cauchy", "bandwidth": 1.0}, {"exact"}),
    "wide": (30_000, 2, "float64", {"kernel": "gaussian", "bandwidth": 5.0}, {"exact", "tree"}),
    "a matrix": (20_000, 2, "float64", {"kernel": "cauchy", "bandwidth": [[0.5, 0.1], [0.1, 0.4]]}, {"exact"}),
    "forced": (20_000, 2, "float64", {"kernel": "biweight", "bandwidth": 0.1, "method": "exact"}, {"exact"}),
}


@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_made_again(name, made, planned):
    n, d, dtype, options, methods = MODELS[name]
    X, y = data(n, d, dtype)
    queries = 0.5 * X[:200]
    model = fastnw.NadarayaWatsonRegressor(**options).fit(X, y)
    model.predict(queries[:1])  # sums in float64 of what float32 does not certify may be prepared here
    made.clear(), planned.clear()
    for rows in (1, 2, 10):
        model.predict(queries[:rows])
    assert not made
    assert set(planned) <= methods


def test_nothing_is_made_again_for_classes_and_densities(made):
    X, y = data(N, 2)
    classifier = fastnw.NadarayaWatsonClassifier(kernel="epanechnikov", bandwidth=0.05).fit(X, y > 0)
    density = fastnw.KernelDensity(kernel="gaussian", bandwidth=0.02).fit(X)
    classifier.predict(X[:1]), density.score_samples(X[:1])
    made.clear()
    classifier.predict_proba(X[:3]), density.score_samples(X[:3])
    assert not made


@pytest.mark.parametrize("name", ["gaussian in three coordinates", "laplacian in one", "cauchy", "wide"])
def test_results_do_not_depend_on_what_was_asked_before(name, tmp_path):
    n, d, dtype, options, _ = MODELS[name]
    X, y = data(n, d, dtype)
    queries = 0.5 * X[:3000]

    def fitted(n_jobs=2):
        return fastnw.NadarayaWatsonRegressor(n_jobs=n_jobs, **options).fit(X, y)

    model = fitted()
    many, few = model.predict(queries), model.predict(queries[:5])
    other = fitted(n_jobs=1)
    np.testing.assert_array_equal(other.predict(queries[:5]), few)
    np.testing.assert_array_equal(other.predict(queries), many)
    fastnw.save(model, tmp_path / "model.npz")
    for read in (pickle.loads(pickle.dumps(model)), fastnw.load(tmp_path / "model.npz")):
        np.testing.assert_array_equal(read.predict(queries[:5]), few)
        np.testing.assert_array_equal(read.predict(queries), many)
    right = fastnw.pool(queries[:5], X, y, tol=0, **options)
    promise = 1e-8 if dtype == "float64" else 1e-4
    assert np.abs(few - right).max() <= 2 * promise * np.ptp(y)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_blocks_are_kept_within_the_promised_memory(dtype, made, monkeypatch):
    """More are packed anew each time, with the same result."""
    X, y = data(20_000, 3, dtype)
    options = {"kernel": "cauchy", "bandwidth": 0.3, "method": "exact"}
    kept = fastnw.NadarayaWatsonRegressor(**options).fit(X, y)
    first = kept.predict(X[:7])
    monkeypatch.setattr(exact, "MAX_CACHED_BYTES", 1 << 16)
    model = fastnw.NadarayaWatsonRegressor(**options).fit(X, y)
    made.clear()
    np.testing.assert_array_equal(model.predict(X[:7]), first)
    assert "pack_keys" in made


def test_spans_of_kept_blocks(monkeypatch):
    """Keys of several spans are summed in the same order, kept or not."""
    X, y = data(60_000, 2)
    options = {"kernel": "cauchy", "bandwidth": 0.3, "method": "exact"}
    monkeypatch.setattr(exact, "BLOCK_BYTES", 1 << 16)
    monkeypatch.setattr(exact, "SPAN_BYTES", 1 << 18)
    model = fastnw.NadarayaWatsonRegressor(**options).fit(X, y)
    np.testing.assert_array_equal(model.predict(X[:20]), fastnw.pool(X[:20], X, y, **options))


def test_a_model_of_another_bandwidth_is_not_prepared():
    X, y = data(1000, 1)
    model = fastnw.NadarayaWatsonRegressor(bandwidth=0.5).fit(X, y)
    assert model._problem.prepared
    assert not model._problem.with_metric(model._problem.metric).prepared


def test_a_kernel_set_later_is_planned_for():
    """Parameters are read when predicting: what was kept for another kernel is right or made anew."""
    X, y = data(5000, 1)
    model = fastnw.NadarayaWatsonRegressor(kernel="laplacian", bandwidth=0.5).fit(X, y)
    for kernel in ("gaussian", "matern52", "boxcar", "cauchy"):
        model.set_params(kernel=kernel)
        right = fastnw.pool(X[:9], X, y, kernel=kernel, bandwidth=0.5, tol=0)
        assert np.abs(model.predict(X[:9]) - right).max() <= 2e-8 * np.ptp(y)
