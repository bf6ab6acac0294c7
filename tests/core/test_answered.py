"""Queries go down the ladder until a bound keeps the promise: how many each method answers."""

import pickle

import numpy as np
import pytest
from answered import answered, methods_of, model_and_problem

import fastnw


def problem(m, n, far):
    """Standard normal queries and keys, and `far` queries more where float64 sums have lost their digits."""
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(n, 1))
    return np.concatenate([rng.normal(size=(m, 1)), np.full((far, 1), 40.0)]), keys, np.sin(3 * keys[:, 0])


def test_fourier_leaves_few():
    few = answered(*problem(500, 2000, 0), bandwidth=0.5, method="fourier")
    assert few["fourier"] > 450
    more = answered(*problem(500, 2000, 7), bandwidth=0.5, method="fourier")
    assert more["fourier"] == few["fourier"]
    assert sum(more.values()) == sum(few.values()) + 7


def test_moments_leave_what_lies_on_the_rim_and_what_overflows():
    queries, keys, values = [[0.2], [1.5], [2 - 1e-9]], [[-1.0], [0.0], [0.5], [1.0]], [0.0, 1.0, 2.0, 5.0]
    found = methods_of(queries, keys, values, kernel="epanechnikov", method="moments")
    assert found[0] == found[1] == "moments"
    assert found[2] in ("exact", "tails")  # its only key is at the rim of its window
    counts = answered(queries, [*keys, [1e200]], [*values, 9.0], kernel="laplacian", method="moments")
    assert "moments" not in counts  # squares overflow


@pytest.mark.parametrize("method", ["exact", "tree"])
@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "epanechnikov"])
def test_ordinary_queries_are_answered_by_the_method_itself(method, kernel):
    counts = answered(*problem(300, 2000, 0), kernel=kernel, bandwidth=0.5, method=method)
    assert counts == {method: 300}


@pytest.mark.parametrize("method", ["exact", "tree", "moments", "fourier"])
def test_plans_are_data(method):
    """They compare, are pickled, and name no module; the ladder ends in the tails, in ever higher ranks but for float32
    after a method of float64."""
    kernel = "gaussian" if method == "fourier" else "laplacian"
    arrays = problem(30, 500, 0)
    plan = fastnw.plan(*arrays, kernel=kernel, method=method)
    assert pickle.loads(pickle.dumps(plan)) == plan == fastnw.plan(*arrays, kernel=kernel, method=method)
    assert plan.ladder[0].method == method
    assert plan.ladder[-1].method == "tails"
    assert all(isinstance(value, (str, int, float, tuple, np.dtype)) for value in vars(plan).values())


def test_a_model_answers_again_with_the_same_bits():
    """What is kept between calls changes nothing."""
    from fastnw.core.driver import predict

    arrays = problem(200, 3000, 5)
    for method in ("exact", "tree", "moments", "fourier"):
        kernel = "gaussian" if method == "fourier" else "laplacian"
        model, asked = model_and_problem(*arrays, kernel=kernel, bandwidth=0.2, method=method)
        first, second = np.empty((asked.m, 1)), np.empty((asked.m, 1))
        predict(model, asked, False, first)
        predict(model, asked, False, second)
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first[:, 0], fastnw.pool(*arrays, kernel=kernel, bandwidth=0.2, method=method))
