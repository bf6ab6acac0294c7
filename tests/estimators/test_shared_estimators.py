"""One fitted estimator in many threads, and in pickles: what methods keep changes no bit, and is not pickled."""

from __future__ import annotations

import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from answered import answered
from by_method import WAYS, cloud, options
from sklearn.base import clone

import fastnw
from fastnw import KernelDensity, NadarayaWatsonClassifier, NadarayaWatsonRegressor

pytestmark = pytest.mark.filterwarnings("ignore::fastnw.EmptyWindowWarning")

THREADS = 8
N, M, PARTS = 3000, 200, 5
ESTIMATORS = {
    "regressor": (NadarayaWatsonRegressor, lambda model, Q: model.predict(Q)),
    "classifier": (NadarayaWatsonClassifier, lambda model, Q: model.predict_proba(Q)),
    "density": (KernelDensity, lambda model, Q: model.score_samples(Q)),
}
# the reference's predictions take 50 times as long, and it keeps nothing
SHARED = [way for way in WAYS if way != "reference"]
every_way = pytest.mark.parametrize("way", SHARED)
every_estimator = pytest.mark.parametrize("kind", ESTIMATORS)


@pytest.fixture(autouse=True)
def often_switched():
    """The interpreter goes from thread to thread every 10 µs, where it has a lock to do so."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def problem(kind, way):
    """An estimator that is not fitted, what `fit` gets, parts of queries, and how it is asked."""
    make, ask = ESTIMATORS[kind]
    queries, X, y = cloud(way, N, M * PARTS)
    target = np.digitize(y, [-0.5, 0.5]) if kind == "classifier" else y
    return make(n_jobs=2, **options(way)), (X, target), np.split(queries, PARTS), ask


def assert_shared(kind, way, times):
    """Each thread asks `times` times, at other queries than its neighbours."""
    model, data, parts, ask = problem(kind, way)
    alone = clone(model).set_params(n_jobs=1).fit(*data)
    expected = [ask(alone, part) for part in parts]
    fitted = clone(model).fit(*data)
    # what methods keep is not in a pickle: the threads make it, all at once
    for shared in (fitted, pickle.loads(pickle.dumps(fitted))):
        barrier = threading.Barrier(THREADS)

        def work(i, shared=shared, barrier=barrier):
            barrier.wait(60)
            wrong = 0
            for k in range(i, i + times):
                wrong += not np.array_equal(ask(shared, parts[k % PARTS]), expected[k % PARTS], equal_nan=True)
            return wrong

        with ThreadPoolExecutor(THREADS) as pool:
            assert list(pool.map(work, range(THREADS))) == [0] * THREADS


@every_way
@every_estimator
def test_eight_threads(kind, way):
    assert_shared(kind, way, 10)


@pytest.mark.slow
@every_way
@every_estimator
def test_eight_threads_200_times(kind, way):
    assert_shared(kind, way, 200)


def test_eight_threads_200_times_by_the_defaults():
    queries, X, y = cloud("fourier", N, M)
    model = NadarayaWatsonRegressor().fit(X, y)
    expected, barrier = model.predict(queries), threading.Barrier(THREADS)

    def work(_):
        barrier.wait(60)
        return sum(np.array_equal(model.predict(queries), expected) for _ in range(200))

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(work, range(THREADS))) == [200] * THREADS


@every_way
@every_estimator
def test_pickles_are_without_caches(kind, way):
    model, data, parts, ask = problem(kind, way)
    model.fit(*data)
    fitted = pickle.dumps(model)
    expected = [ask(model, part) for part in parts]
    assert pickle.dumps(model) == fitted
    # samples, targets or codes, and a little text
    assert len(fitted) < data[0].nbytes + (kind != "density") * 8 * N + 4096
    for other in (pickle.loads(fitted), clone(model).fit(*data)):
        for part, right in zip(parts, expected, strict=True):
            np.testing.assert_array_equal(ask(other, part), right)
    assert pickle.dumps(pickle.loads(fitted)) == fitted


@every_way
def test_each_is_summed_as_it_says(way):
    """By its method and backend, and not handed on: else these tests would say nothing of what those keep."""
    queries, keys, values = cloud(way, N, M)
    plan = fastnw.plan(queries, keys, values, **options(way))
    assert (plan.method, plan.backend) == (WAYS[way]["method"], WAYS[way]["backend"])
    assert answered(queries, keys, values, **options(way))[plan.method] >= M - M // 20
