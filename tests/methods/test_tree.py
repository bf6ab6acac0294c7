"""method="tree": what is skipped is within the certificate and the promise; what it refuses, it explains."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from cases import CASES, CENTRED, CENTRED_FAR, COMPACT_KERNELS, LOG_KERNELS
from oracle import naive_pool

import fastnw
from fastnw import backends
from fastnw.backends.compiled import backend as compiled
from fastnw.methods import exact
from fastnw.methods.tails import method as tails
from fastnw.methods.tree import blockwise, kdtree
from fastnw.methods.tree import method as tree
from fastnw.methods.tree._order import left_size

KERNELS = [name for name in LOG_KERNELS if name != "dot"] + COMPACT_KERNELS
PROMISE = {"float32": 1e-4, "float64": 1e-8}


def cloud(n, d, seed=0, centre=0.0, dtype="float64"):
    return (centre + np.random.default_rng(seed).normal(size=(n, d))).astype(dtype)


def check(queries, keys, values, kernel="gaussian", **options):
    """Against all pairs in long double: within the bound and the promise, but for the result's rounding and, at a
    boxcar's rim, for keys on either side."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got, log_mass, bound = fastnw.pool(
            queries,
            keys,
            values,
            kernel=kernel,
            method="tree",
            empty=0.0,
            return_mass=True,
            return_error=True,
            **options,
        )
    f, right_log_mass = naive_pool(queries, keys, values, kernel, **options)
    empty = np.isnan(np.asarray(f, float)).reshape(len(f), -1).any(axis=1)
    np.testing.assert_array_equal(np.isnan(bound), empty)
    np.testing.assert_array_equal(np.isneginf(log_mass), empty)
    got, f, bound, log_mass, right_log_mass = (a[~empty] for a in (got, f, bound, log_mass, right_log_mass))
    rounding = np.finfo(queries.dtype).eps * np.abs(f)
    promise = PROMISE[str(queries.dtype)]
    assert np.all(np.abs(got - f) <= promise * np.ptp(values.astype(float), axis=0) + rounding)
    assert np.all((np.abs(got - f) - rounding).reshape(len(f), -1).max(axis=1, initial=0) <= bound)
    assert np.all(np.abs(log_mass - right_log_mass) <= promise * np.maximum(1, np.abs(right_log_mass)))


def summed_pairs(monkeypatch):
    """A list that fills with the pairs that calls of the tiles sum."""
    pairs, sum_leaves = [], compiled.BACKEND.sum_leaves

    def counted(*arguments):
        done, summed = sum_leaves(*arguments)
        pairs.append(summed)
        return done, summed

    monkeypatch.setitem(backends._BUILT, "compiled", replace(compiled.BACKEND, sum_leaves=counted))
    return pairs


@pytest.mark.parametrize(
    ("kernel", "dtype"), [*((kernel, "float64") for kernel in KERNELS), ("matern32", "float32"), ("cosine", "float32")]
)
@pytest.mark.parametrize("case", CASES + CENTRED, ids=lambda case: case.name)
def test_every_kernel_and_option(case, kernel, dtype):
    queries, keys, values, options = case.problem(dtype)
    check(queries, keys, values, kernel, **options)


@pytest.mark.parametrize("kernel", ["gaussian", "matern52", "triangular"])
@pytest.mark.parametrize("case", CENTRED_FAR, ids=lambda case: case.name)
def test_far_from_the_origin(case, kernel):
    queries, keys, values, options = case.problem("float64")
    check(queries, keys, values, kernel, **options)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("d", [1, 2, 3, 5])  # each has its own function
def test_every_level_of_instructions(kernel, d, level):
    """Enough keys for three levels of nodes, and for leaves to be skipped."""
    keys, queries = cloud(9000, d, 1), 1.3 * cloud(20, d, 2)
    values = np.sin(3 * keys[:, 0])
    check(queries, keys, values, kernel, bandwidth=0.05 * d**2 * (2 if kernel in COMPACT_KERNELS else 1))
    check(queries, keys, np.column_stack([values, keys[:, 0] ** 2]), kernel, bandwidth=np.full(d, 0.4))


@pytest.mark.parametrize("kernel", ["boxcar", "epanechnikov", "biweight", "triweight"])
@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("columns", [0, 2, 40])
def test_whole_nodes_from_their_moments(kernel, d, columns, level, monkeypatch):
    monkeypatch.setattr(tree, "MIN_KEYS_FOR_MOMENTS", 1)
    monkeypatch.setattr(tree, "MIN_PAIRS_TO_PREDICT", 1)
    made = []
    moments = tree.moments
    monkeypatch.setattr(tree, "moments", lambda *a: (made.append(1), moments(*a))[1])
    keys = cloud(6000, d, 3)
    queries = 0.05 * cloud(64, d, 4)
    values = np.sin(keys[:, :1]) * np.linspace(1, 2, max(columns, 1)) + cloud(6000, max(columns, 1), 5)
    values = values if columns else values[:, 0]
    check(queries, keys, values, kernel, bandwidth=1.5, sample_weight=np.random.default_rng(6).gamma(1.0, size=6000))
    assert made


@pytest.mark.parametrize("kernel", ["boxcar", "epanechnikov", "biweight", "triweight"])
def test_whole_nodes_are_not_visited(kernel, monkeypatch):
    monkeypatch.setattr(tree, "MIN_PAIRS_TO_PREDICT", 1)
    pairs = summed_pairs(monkeypatch)
    keys, queries = cloud(20_000, 2, 3), 0.1 * cloud(100, 2, 4)
    fastnw.pool(queries, keys, keys[:, 0], kernel=kernel, bandwidth=1.5, method="tree")
    inside = float((((queries[:, None] - keys) ** 2).sum(axis=2) <= 1.5**2).sum())
    assert sum(pairs) < 0.5 * inside


def test_whole_nodes_without_self(monkeypatch):
    monkeypatch.setattr(tree, "MIN_KEYS_FOR_MOMENTS", 1)
    monkeypatch.setattr(tree, "MIN_PAIRS_TO_PREDICT", 1)
    keys = cloud(3000, 2, 7)
    check(keys, keys, np.sin(keys[:, 0]), "epanechnikov", bandwidth=1.0, exclude_self=True)


@pytest.mark.parametrize("tol", [1e-2, 1e-5, 1e-10, 1e-12])
@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "matern32", "logistic"])
def test_any_tol(tol, kernel):
    keys, queries = cloud(8000, 3), 2 * cloud(200, 3, 1)
    values = np.sin(3 * keys[:, 0])
    f, _ = naive_pool(queries, keys, values, kernel, bandwidth=0.05)
    got, bound = fastnw.pool(
        queries, keys, values, kernel=kernel, bandwidth=0.05, method="tree", tol=tol, return_error=True
    )
    assert np.all(np.abs(got - f) <= bound + 4e-16)
    assert np.all(bound <= tol * np.ptp(values))


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "matern52", "logistic"])
def test_a_narrow_bandwidth_needs_no_far_tails(kernel, monkeypatch):
    """Nearest keys hundreds of nats away: their own scale, not κ(0)'s, decides what is left out."""
    monkeypatch.setattr(tails, "accumulate", None)
    keys, queries = cloud(5000, 3), cloud(300, 3, 1)
    values = np.sin(3 * keys[:, 0])
    h = {"gaussian": 0.005}.get(kernel, 3e-4)
    f, log_mass = naive_pool(queries, keys, values, kernel, bandwidth=h)
    assert np.median(log_mass) < -100
    got, bound = fastnw.pool(queries, keys, values, kernel=kernel, bandwidth=h, method="tree", return_error=True)
    assert np.all(np.abs(got - f) <= bound + 4e-16)
    assert np.all(bound <= 1e-8 * np.ptp(values))


def test_far_tails_are_handed_on():
    keys = cloud(2000, 2)
    queries = np.array([[1e4, 0.0], [-1e6, 1e6], [0.0, 1e9], [0.1, 0.1]])
    values = keys[:, 0] ** 2
    got = fastnw.pool(queries, keys, values, bandwidth=0.5, method="tree")
    wanted = fastnw.pool(queries, keys, values, bandwidth=0.5, method="exact")
    np.testing.assert_array_equal(got[:3], wanted[:3])
    # the last one is near, and summed in the tree's order
    np.testing.assert_allclose(got[3], wanted[3], rtol=0, atol=1e-13 * np.ptp(values))


def test_weights_that_differ_by_much():
    keys = cloud(4000, 2)
    weights = 10.0 ** np.random.default_rng(1).uniform(-30, 0, size=4000)
    weights[::3] = 0
    for kernel in ("gaussian", "laplacian", "epanechnikov"):
        check(cloud(50, 2, 2), keys, np.cos(keys[:, 1]), kernel, bandwidth=0.1, sample_weight=weights)


@pytest.mark.parametrize(("d", "most"), [(2, 0.05), (3, 0.05), (5, 0.25)])
def test_few_pairs_are_summed(d, most, monkeypatch):
    pairs = summed_pairs(monkeypatch)
    keys, queries = cloud(40_000, d), cloud(4000, d, 1)
    plan = fastnw.plan(queries, keys, keys[:, 0], bandwidth=0.02 * d, method="tree")
    fastnw.pool(queries, keys, keys[:, 0], bandwidth=0.02 * d, method="tree")
    summed = sum(pairs)
    assert summed < most * 4000 * 40_000
    assert 0.5 < plan.pairs / summed < 2


def test_the_same_bits_on_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(kdtree, "SUBTREE_POINTS", 500)
    monkeypatch.setattr(kdtree, "PIECE_KEYS", 512)
    monkeypatch.setattr(tree, "TASK_QUERIES", 96)
    keys, queries = cloud(8000, 3), cloud(3000, 3, 1)
    for kernel in ("gaussian", "epanechnikov"):
        runs = [
            fastnw.pool(
                queries,
                keys,
                keys,
                kernel=kernel,
                bandwidth=0.3,
                method="tree",
                n_jobs=jobs,
                return_error=True,
                empty=0.0,
            )
            for jobs in (1, 2, 4)
        ]
        for f, bound in runs[1:]:
            assert f.tobytes() == runs[0][0].tobytes()
            assert bound.tobytes() == runs[0][1].tobytes()


@pytest.mark.parametrize("shape", ["normal", "equal", "few places", "sorted", "line", "huge", "zeros and one", "heavy"])
@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 1000, 4097])
def test_the_order_is_a_tree(shape, n, monkeypatch):
    """Each key once; at every split no key on the left beyond one on the right, along the longest side."""
    monkeypatch.setattr(kdtree, "SUBTREE_POINTS", 256)
    rng = np.random.default_rng(n)
    points = rng.normal(size=(n, 2))
    points = {
        "normal": points,
        "equal": np.ones((n, 2)),
        "few places": rng.integers(0, 2, size=(n, 2)).astype(float),
        "sorted": np.sort(points, axis=0),
        "line": points[:, :1] * [1.0, 1.0],
        "huge": points * 1e307,
        "zeros and one": np.eye(n, 2),
        "heavy": rng.standard_cauchy(size=(n, 2)),
    }[shape]
    inverse = np.array([1.0, 2.0])
    order = kdtree.sorted_order(points, inverse, 2)
    points = points / 4  # so that no difference below overflows
    np.testing.assert_array_equal(np.sort(order), np.arange(n))

    def check_node(mine):
        if len(mine) <= kdtree.LEAF:
            return
        half = kdtree.LEAF
        while 2 * half < len(mine):
            half *= 2
        left, right = points[mine[:half]], points[mine[half:]]
        sides = (points[mine].max(axis=0) / 2 - points[mine].min(axis=0) / 2) * inverse
        axis = int(sides.argmax())
        assert left[:, axis].max() <= right[:, axis].min()
        check_node(mine[:half])
        check_node(mine[half:])

    check_node(order)


@pytest.mark.parametrize(
    "n", [1, 5, 33, kdtree.SUBTREE_POINTS, kdtree.SUBTREE_POINTS + 1, 3 * kdtree.SUBTREE_POINTS + 77]
)
@pytest.mark.parametrize("rounded", [False, True])
def test_the_order_is_made_by_any_number_of_threads(n, rounded):
    """The halves above the subtrees are made in pieces, which must not show in the order, ties included."""
    points = cloud(n, 3)
    points = points.round(1) if rounded else points
    inverse = np.array([1.0, 0.5, 2.0])
    order = kdtree.sorted_order(points, inverse, 1)
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    for n_threads in (2, 5):
        np.testing.assert_array_equal(kdtree.sorted_order(points, inverse, n_threads), order)
    assert left_size(n, kdtree.LEAF) % kdtree.LEAF == 0 or left_size(n, kdtree.LEAF) == n
    first = points[order[: left_size(n, kdtree.LEAF)]]
    rest = points[order[left_size(n, kdtree.LEAF) :]]
    axis = np.argmax(np.ptp(points, axis=0) * inverse)
    assert not len(rest) or first[:, axis].max() <= rest[:, axis].min()


def test_auto_takes_it_where_it_pays(monkeypatch):
    keys, queries = cloud(60_000, 3), cloud(30_000, 3, 1)
    assert fastnw.plan(queries, keys, keys[:, 0], kernel="epanechnikov", bandwidth=0.2).method == "tree"
    assert fastnw.plan(queries, keys, keys[:, 0], kernel="laplacian", bandwidth=0.01).method == "tree"
    assert fastnw.plan(queries, keys, keys[:, 0], kernel="laplacian", bandwidth=3.0).method == "exact"
    assert fastnw.plan(queries[:3], keys, keys[:, 0], kernel="epanechnikov", bandwidth=0.2).method == "exact"
    plan = fastnw.plan(queries, keys, keys[:, 0], kernel="epanechnikov", bandwidth=0.2)
    assert plan.pairs < 0.05 * 60_000 * 30_000
    assert ", exact " in plan.reason
    monkeypatch.setattr(exact, "sweep", None)
    f = fastnw.pool(queries, keys, keys[:, 0], kernel="epanechnikov", bandwidth=0.2, empty=0.0)
    assert np.all(np.abs(f) <= np.abs(keys[:, 0]).max())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"kernel": "cauchy"}, "supports kernels that .*, got kernel='cauchy'"),
        ({"kernel": "constant"}, "supports kernels that .*, got kernel='constant'"),
        ({"kernel": "dot"}, "supports kernels of a distance, got kernel='dot'"),
        (
            {"kernel": fastnw.Kernel("mine", lambda u2: np.exp(-u2 / 2))},
            "needs a kernel created with monotone=True, got kernel='mine'",
        ),
        ({"tol": 0}, "needs tol > 0 or tol=None, got tol=0"),
    ],
)
def test_what_it_cannot_do_it_says(options, reason):
    keys = cloud(50, 2)
    with pytest.raises(ValueError, match=f"^method='tree' {reason}\\. Use method='auto'\\.$"):
        fastnw.pool(keys, keys, keys[:, 0], method="tree", **options)


MINE = fastnw.Kernel("mine", lambda u2: (1 - u2 / 4) ** 2 * (1 + u2), support=2.0, monotone=True)
STEEP = fastnw.Kernel("steep", lambda u2: np.exp(-u2 * u2), monotone=True)
STEEP_LOGS = fastnw.Kernel("in logs", lambda u2: np.exp(-u2), log_profile=lambda u2: -u2, monotone=True)


@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov", MINE, STEEP, STEEP_LOGS], ids=str)
@pytest.mark.parametrize("option", ["none", "weights", "key_scale", "exclude_self", "columns"])
def test_other_backends_and_users_kernels(kernel, backend, option, monkeypatch):
    """Block by block, against `exact` of the reference backend; a compact kernel's far keys are not visited."""
    pairs = []
    sum_leaves = blockwise.sum_leaves

    def counted(*arguments):
        done, summed = sum_leaves(*arguments)
        pairs.append(summed)
        return done, summed

    monkeypatch.setattr(blockwise, "sum_leaves", counted)
    rng = np.random.default_rng(3)
    keys = cloud(2000, 2)
    queries = keys if option == "exclude_self" else 0.7 * cloud(300, 2, 1)
    values = np.column_stack([np.sin(keys[:, 0]), keys[:, 1]]) if option == "columns" else np.sin(3 * keys[:, 0])
    options = {
        "weights": {"sample_weight": rng.gamma(1.0, size=2000) * (rng.random(2000) > 0.2)},
        "key_scale": {"key_scale": rng.uniform(0.5, 2.0, size=2000)},
        "exclude_self": {"exclude_self": True},
    }.get(option, {})
    # wide enough for no mass to underflow, as it may without logarithms
    options |= {"kernel": kernel, "bandwidth": 0.5 if kernel is STEEP else 0.1, "empty": 0.0, "return_error": True}
    got, bound = fastnw.pool(queries, keys, values, method="tree", backend=backend, **options)
    right, of_right = fastnw.pool(queries, keys, values, method="exact", backend="reference", tol=0, **options)
    np.testing.assert_array_equal(np.isnan(bound), np.isnan(of_right))
    error = np.abs(got - right).reshape(len(got), -1).max(axis=1)
    assert np.all((error <= bound + of_right + 1e-15) | np.isnan(bound))
    assert np.all((bound <= 1e-8 * np.ptp(values)) | np.isnan(bound))
    if kernel in ("epanechnikov", MINE):
        assert sum(pairs) < 0.7 * len(queries) * len(keys)


def test_no_key_with_weight():
    keys = cloud(50, 2)
    f = fastnw.pool(keys, keys, keys[:, 0], method="tree", sample_weight=np.zeros(50), empty=7.0)
    np.testing.assert_array_equal(f, 7.0)


def test_a_second_prediction_only_costs_its_queries(monkeypatch):
    calls = []
    build = tree.build
    monkeypatch.setattr(tree, "build", lambda *a: (calls.append(1), build(*a))[1])
    keys = cloud(3000, 3)
    model = fastnw.NadarayaWatsonRegressor(bandwidth=0.3, kernel="biweight", method="tree", empty=0.0)
    model.fit(keys, keys[:, 0])
    first = model.predict(keys[:100])
    np.testing.assert_array_equal(model.predict(keys[:100]), first)
    model.predict(keys[100:500])
    assert len(calls) == 1
