"""empty="nearest" against a look at every key in exact arithmetic: rationals, or 100 digits for a matrix."""

from __future__ import annotations

from fractions import Fraction

import mpmath
import numpy as np
import pytest

import fastnw
from fastnw.methods.nearest import search

BACKENDS = ["compiled", "numba", "reference"]


def exact_nearest(query, keys, bandwidth=1.0, weights=None, key_scale=None, own=None):
    """The first key of least u²."""
    squares = {}
    if np.ndim(bandwidth) == 2:
        with mpmath.workdps(100):
            inverse = mpmath.matrix([[mpmath.mpf(float(x)) for x in row] for row in bandwidth]) ** -1
    h = np.broadcast_to(np.asarray(bandwidth, float).ravel()[: len(query)], len(query))
    for i, key in enumerate(keys):
        if i == own or (weights is not None and weights[i] == 0):
            continue
        if np.ndim(bandwidth) == 2:
            with mpmath.workdps(100):
                z = mpmath.matrix(
                    [mpmath.mpf(float(a)) - mpmath.mpf(float(b)) for a, b in zip(query, key, strict=True)]
                )
                square = (z.T * inverse * z)[0]
        else:
            parts = zip(query, key, h, strict=True)
            square = sum(((Fraction(float(a)) - Fraction(float(b))) / Fraction(float(c))) ** 2 for a, b, c in parts)
        squares[i] = square if key_scale is None else square / Fraction(float(key_scale[i])) ** 2
    return min(squares, key=lambda i: (squares[i], i)) if squares else -1


def found(queries, keys, backend="compiled", kernel="epanechnikov", **options):
    """What stands in empty windows, as positions; −1 for NaN."""
    got = fastnw.pool(queries, keys, np.arange(len(keys)), kernel=kernel, empty="nearest", backend=backend, **options)
    return np.where(np.isnan(got), -1, got).astype(int)


def check(queries, keys, backend="compiled", **options):
    names = {"sample_weight": "weights", "key_scale": "key_scale", "bandwidth": "bandwidth"}
    known = {names[name]: option for name, option in options.items() if name in names}
    own = options.get("exclude_self", False)
    right = [exact_nearest(q, keys, own=i if own else None, **known) for i, q in enumerate(queries)]
    np.testing.assert_array_equal(found(queries, keys, backend, **options), right)


@pytest.fixture(params=["tree", "tiles"])
def way(request, monkeypatch):
    """Both ways to look for candidates, whatever the size; what NumPy warns of would be an error."""
    monkeypatch.setattr(search, "MIN_TREE_PAIRS", 0 if request.param == "tree" else 1 << 62)
    return request.param


CLOUDS = ["random", "lattice", "repeated", "line", "offset", "outlier", "clusters"]


def cloud(kind, n, d, rng):
    if kind == "lattice":
        return rng.integers(-3, 4, (n, d)).astype(float)
    if kind == "repeated":
        return rng.normal(size=(n, d))[rng.integers(0, n // 4, n)]
    if kind == "line":
        return np.linspace(-1, 1, n)[:, None] * np.ones(d)
    if kind == "offset":
        return 1e8 + rng.normal(size=(n, d))
    if kind == "outlier":
        return np.vstack([rng.normal(size=(n - 1, d)), np.full((1, d), -1e17)])
    if kind == "clusters":
        return rng.choice([-5.0, 0.0, 7.0], (n, d)) + 1e-14 * rng.integers(0, 9, (n, d))
    return rng.normal(size=(n, d))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", CLOUDS)
def test_clouds(kind, backend, way):
    for d in (1, 2, 4):
        rng = np.random.default_rng(d)
        keys = cloud(kind, 60, d, rng)
        near = keys[rng.integers(0, 60, 8)] + rng.choice([0.5, -0.5, 0.25], (8, d))
        far = keys[:1] + 10.0 ** rng.uniform(1, 20, (6, 1)) * rng.choice([-1.0, 0.3, 1.0, 0.6], (6, d))
        queries = np.concatenate([near, far])
        # so narrow that each window is empty or holds equal keys alone
        for h in (1e-15, np.linspace(1, 1.3, d) * 1e-15):
            check(queries, keys, backend, bandwidth=h)


@pytest.mark.parametrize("power", [-300, -290, -160, -150, -100, 100, 150, 160, 290, 300])
@pytest.mark.parametrize("d", [1, 3])
def test_any_unit(power, d, way):
    """Neither squares of distances nor reciprocals of bandwidths need to be numbers."""
    rng = np.random.default_rng(0)
    unit = 10.0**power
    keys, queries = unit * rng.normal(size=(50, d)), unit * rng.normal(size=(12, d))
    for h in (1e-9 * unit if power > -290 else unit * 1e-6, 1e-300, 1e-310, np.geomspace(1e-3, 1, d) * 1e-6 * unit):
        if np.max(h) < unit:
            check(queries, keys, bandwidth=h)
    check(queries * 1e3, keys, bandwidth=unit / 1e3)


@pytest.mark.parametrize("far", [1e7, 3e8, 1e9, 1e15, 1e17, 1e60, 1e155, 1e300])
@pytest.mark.parametrize("h", [1.0, 1e-160, 1e-300])
def test_far_queries(far, h, way):
    """What tells keys apart is beyond the digits of u², but not of the data."""
    check([[far, 0.6], [far, 0.4], [-far, 0.5], [0.3, far]], np.array([[0.0, 0.0], [0.0, 1.0]]), bandwidth=h)
    check([[far]], np.array([[0.0], [1.0], [1.0]]), bandwidth=h)
    rng = np.random.default_rng(1)
    check(far * rng.normal(size=(5, 2)), rng.normal(size=(40, 2)), bandwidth=h)


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_and_own_keys_do_not_count(backend, way):
    rng = np.random.default_rng(2)
    keys = rng.normal(size=(50, 2))
    keys[25:] = keys[:25] + 1e-3
    weights = np.where(rng.random(50) < 0.5, 0.0, 10.0 ** rng.uniform(-300, 300, 50))
    check(keys + 0.01, keys, backend, bandwidth=1e-5, sample_weight=weights)
    check(keys, keys, backend, bandwidth=1e-5, sample_weight=weights, exclude_self=True)
    check(keys, keys, backend, bandwidth=1e-5, exclude_self=True)
    assert found([[1.0], [2.0]], np.array([[0.0], [0.0]]), bandwidth=0.1, sample_weight=[0.0, 0.0]).tolist() == [-1, -1]
    assert found([[1.0]], np.array([[1.0]]), exclude_self=True).tolist() == [-1]


@pytest.mark.parametrize("power", [0, -150, 150, 158])
def test_key_scales(power, way):
    """Nearest is what is nearest in its own bandwidths."""
    rng = np.random.default_rng(3)
    keys, queries = rng.normal(size=(50, 2)), 3 * rng.normal(size=(20, 2))
    scale = rng.choice([0.5, 1.0, 1.5, 2.0, 3.0], 50)
    check(queries, keys, bandwidth=1e-3, key_scale=scale)
    check(queries * 10.0**power, keys * 10.0**power, bandwidth=1e-3, key_scale=scale * 10.0**power)
    check(
        np.array([[3.0], [0.0]]), np.array([[1.0], [5.0], [-2.0], [7.0]]), bandwidth=0.1, key_scale=[1.0, 1.0, 2.5, 2.0]
    )
    wide = 10.0 ** rng.uniform(-200, 90, 50)
    check(queries, keys, bandwidth=1e-100, key_scale=wide)


@pytest.mark.parametrize("condition", [1.0, 1e4, 1e10])
@pytest.mark.parametrize("d", [2, 4])
def test_matrices(condition, d, way):
    rng = np.random.default_rng(4)
    axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
    matrix = axes * np.geomspace(1, condition, d) @ axes.T * 1e-20
    matrix = (matrix + matrix.T) / 2
    check(rng.normal(size=(10, d)), rng.normal(size=(40, d)), bandwidth=matrix)


@pytest.mark.parametrize("d", [1, 3])
def test_many_keys_by_the_tree(d):
    """As it is used: by default, in several threads, with repeated keys, and with the same result for any number."""
    rng = np.random.default_rng(5)
    keys = np.round(rng.normal(size=(30_000, d)), 2 if d == 1 else 1).astype(np.float32)
    queries = (1.5 * rng.normal(size=(3000, d))).astype(np.float32)
    values = np.arange(30_000)
    options = {"kernel": "boxcar", "bandwidth": 1e-6, "empty": "nearest"}
    got = fastnw.pool(queries, keys, values, n_jobs=4, **options).astype(int)
    np.testing.assert_array_equal(got, fastnw.pool(queries, keys, values, n_jobs=1, **options))
    for i in range(0, 3000, 100):
        squares = ((keys.astype(np.longdouble) - queries[i]) ** 2).sum(axis=1)  # exact to 19 digits
        assert got[i] == np.argmin(squares)


def test_a_fitted_model_keeps_its_tree(monkeypatch):
    made = []
    of = search._Scaling.of
    monkeypatch.setattr(search._Scaling, "of", lambda problem: (made.append(1), of(problem))[1])
    rng = np.random.default_rng(6)
    X = rng.normal(size=(20_000, 2))
    model = fastnw.NadarayaWatsonRegressor(kernel="epanechnikov", bandwidth=1e-6, empty="nearest").fit(X, X[:, 0])
    first, second = model.predict(X[:1000] + 1e-3), model.predict(X[1000:2000] + 1e-3)
    assert len(made) == 1
    assert np.abs(np.concatenate([first, second]) - X[:2000, 0]).max() < 0.2


def test_the_bar_ends_with_the_search(monkeypatch):
    """Some of it is left while the keys of empty windows are looked for."""
    seen = []
    rng = np.random.default_rng(7)
    X = rng.normal(size=(20_000, 2))
    settled = search.settled
    from fastnw.runtime import threads

    meters = []
    begin = threads.Meter.__init__
    monkeypatch.setattr(threads.Meter, "__init__", lambda self, *a: (begin(self, *a), meters.append(self))[0])

    def watched(*arguments):
        bar = next(meter._bar for meter in meters if meter._bar is not None)
        seen.append((bar.n, bar.total))
        return settled(*arguments)

    monkeypatch.setattr(search, "settled", watched)
    fastnw.pool(X[:2000] + 1e-3, X, X[:, 0], kernel="boxcar", bandwidth=1e-6, empty="nearest", progress=True, n_jobs=1)
    done = [n / total for n, total in seen]
    assert seen
    assert done == sorted(done)
    assert done[0] < 0.8
    assert done[-1] < 1.0
