"""Small, unsigned and boolean numbers are numbers: nothing wraps before it becomes floating point."""

from __future__ import annotations

import frameworks
import numpy as np
import pytest

import fastnw
from fastnw import KernelDensity, NadarayaWatsonClassifier, NadarayaWatsonRegressor, d2l
from fastnw.bandwidth import rule_bandwidth
from fastnw.plotting import RegressionDisplay

TYPES = ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"]
NARROW = [*TYPES, "f2"]


def integers(kind, shape, seed):
    """Numbers over the type's whole range, its ends among them; up to 2**53, beyond which float64 rounds."""
    rng = np.random.default_rng(seed)
    if kind == "?":
        return rng.integers(0, 2, shape).astype(bool)
    low, high = (-30_000, 30_000) if kind == "f2" else (np.iinfo(kind).min, np.iinfo(kind).max)
    low, high = max(int(low), -(2**53)), min(int(high), 2**53)
    numbers = rng.integers(low, high, shape, endpoint=True)
    numbers.flat[:2] = low, high
    return numbers.astype(kind)


def spread(array):
    return max(float(np.ptp(array.astype(np.float64))), 1.0)


CALLS = {
    "pool": lambda q, k, v, w, h: fastnw.pool(q, k, v, bandwidth=h, sample_weight=w, return_mass=True),
    "pool, dot": lambda q, k, v, w, h: fastnw.pool(q, k, v, kernel="dot", bandwidth=h * h, sample_weight=w),
    "pool, matrix": lambda q, k, v, w, h: fastnw.pool(q, k, v, bandwidth=h * h * (np.eye(2) + 0.5)),
    "pool, key_scale": lambda q, k, v, w, h: fastnw.pool(q, k, v, bandwidth=h, key_scale=np.where(w > 0, w, 1)),
    "pool, tails": lambda q, k, v, w, h: fastnw.pool(q, k, v, bandwidth=1e-6 * h, sample_weight=w),
    "pool, nearest": lambda q, k, v, w, h: fastnw.pool(q, k, v, kernel="boxcar", bandwidth=1e-9 * h, empty="nearest"),
    "pool, mean": lambda q, k, v, w, h: fastnw.pool(q, k, v, kernel="boxcar", bandwidth=1e-9, empty="mean"),
    "density": lambda q, k, v, w, h: fastnw.density(q, k, bandwidth=h, sample_weight=w, log=True),
    "attention_weights": lambda q, k, v, w, h: fastnw.attention_weights(q, k, bandwidth=h, sample_weight=w),
    "top_k": lambda q, k, v, w, h: fastnw.attention_weights(q, k, bandwidth=h, sample_weight=w, top_k=3),
    "plan": lambda q, k, v, w, h: fastnw.plan(q, k, v, bandwidth=h, sample_weight=w).pairs,
    "select_bandwidth": lambda q, k, v, w, h: (
        fastnw.select_bandwidth(
            k,
            v.view("u1") if v.dtype == bool else v,
            candidates=[h, h / 2],  # booleans are labels
        ).score
    ),
    "likelihood": lambda q, k, v, w, h: fastnw.select_bandwidth(k, sample_weight=w, candidates=[h, h / 2]).score,
    "rule_bandwidth": lambda q, k, v, w, h: rule_bandwidth(k, "scott", sample_weight=w),
    "Abramson": lambda q, k, v, w, h: fastnw.Abramson(bandwidth=h).key_scale(k, sample_weight=w),
    "NearestNeighbours": lambda q, k, v, w, h: fastnw.NearestNeighbours(3, h).key_scale(k, sample_weight=w),
    "relative_representation": lambda q, k, v, w, h: fastnw.relative_representation(q, k, top_k=4).toarray(),
    "regressor": lambda q, k, v, w, h: NadarayaWatsonRegressor(bandwidth=h).fit(k, v, w).predict(q),
    "classifier": lambda q, k, v, w, h: NadarayaWatsonClassifier(bandwidth=h).fit(k, v > 0, w).predict_proba(q),
    "KernelDensity": lambda q, k, v, w, h: KernelDensity(bandwidth=h).fit(k, sample_weight=w).score_samples(q),
}
KERNELS = {"moments": "epanechnikov"}
for method in ("exact", "tree", "moments", "fourier"):
    CALLS[f"pool, {method}"] = lambda q, k, v, w, h, method=method: fastnw.pool(
        q[:, :1], k[:, :1], v, kernel=KERNELS.get(method, "gaussian"), bandwidth=h, sample_weight=w, method=method
    )


@pytest.mark.filterwarnings("ignore::fastnw.BandwidthWarning")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", TYPES)
def test_integers_are_their_float64(call, kind):
    q, k, v = integers(kind, (9, 2), 1), integers(kind, (60, 2), 2), integers(kind, 60, 3)
    w = np.random.default_rng(4).integers(0, 2 if kind == "?" else 100, 60).astype(kind)
    h = 0.3 * spread(k)
    got, expected = CALLS[call](q, k, v, w, h), CALLS[call](*(x.astype(np.float64) for x in (q, k, v, w)), h)
    for a, b in zip(*((x if isinstance(x, tuple) else (x,)) for x in (got, expected)), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", TYPES)
def test_a_bandwidth_of_integers(kind):
    h = np.array([1, 100 if kind != "?" else 1]).astype(kind)
    q, k, v = np.ones((2, 2)), np.array([[0.0, 3.0], [1.5, 1.0]]), [0.0, 1.0]
    np.testing.assert_array_equal(fastnw.pool(q, k, v, bandwidth=h), fastnw.pool(q, k, v, bandwidth=h.astype(float)))


OF_DISTANCES = {  # even and odd in the signed distance
    "laplacian": lambda xp, d, width: xp.exp(-abs(d) / width),
    "one-sided": lambda xp, d, width: (d >= 0) * xp.exp(-abs(d) / width),
}


def chapter(x, y, at, kappa):
    """The chapter's sums as loops."""
    x, y, at = (array.astype(np.float64) for array in (x, y, at))
    weights = np.array([[kappa(key - query) for query in at] for key in x])
    return y @ weights / weights.sum(axis=0), weights / weights.sum(axis=0)


@pytest.mark.parametrize("shape", OF_DISTANCES)
@pytest.mark.parametrize("kind", NARROW)
@pytest.mark.parametrize("of_queries", ["same", "f8"])
def test_a_users_function_gets_the_distances_of_the_numbers(shape, kind, of_queries):
    x, y, at = integers(kind, 700, 1), integers(kind, 700, 2), integers(kind, 5, 3)
    width = 0.2 * spread(x)
    at = at if of_queries == "same" else at.astype(np.float64)
    function = lambda d: OF_DISTANCES[shape](np, d, width)  # noqa: E731
    expected, weights = chapter(x, y, at, function)
    y_hat, attention_w = d2l.nadaraya_watson(x, y, at, function)
    narrow = kind == "f2" and of_queries == "same"
    assert y_hat.dtype == attention_w.dtype == (np.float32 if narrow else np.float64)
    tolerance = 1e-5 if narrow else 1e-12
    np.testing.assert_allclose(y_hat, expected, rtol=0, atol=tolerance * spread(y))
    np.testing.assert_allclose(attention_w, weights, rtol=0, atol=tolerance)
    if of_queries == "same":
        by_name, _ = d2l.nadaraya_watson(x, y, at, d2l.gaussian_with_width(width))
        expected, _ = chapter(x, y, at, lambda d: np.exp(-((d / width) ** 2) / 2))
        np.testing.assert_allclose(by_name, expected, rtol=0, atol=tolerance * spread(y))


@pytest.mark.parametrize("kind", ["bool", "uint8", "int8", "int16", "int32", "int64", "float16"])
@pytest.mark.parametrize("name", ["torch", "jax"])
def test_a_users_function_in_another_framework(name, kind):
    framework = frameworks.load(name)
    kind_here = "?" if kind == "bool" else np.dtype(kind).str[1:]
    x, y, at = integers(kind_here, 80, 1), integers(kind_here, 80, 2), integers(kind_here, 5, 3)
    width = 0.2 * spread(x)
    given = [framework.array(array) for array in (x, y, at)]
    seen = []

    def function(distances):
        seen.append(type(distances))
        return OF_DISTANCES["laplacian"](framework.xp, distances, width)

    y_hat, _ = d2l.nadaraya_watson(*given, function)
    assert set(seen) == {type(y_hat)} == {type(given[0])}
    expected, _ = chapter(x, y, at, lambda d: np.exp(-abs(d) / width))
    np.testing.assert_allclose(framework.numpy(y_hat).astype(np.float64), expected, rtol=0, atol=1e-5 * spread(y))


@pytest.mark.parametrize("kind", TYPES)
def test_the_chapters_kernels_of_integers(kind):
    x = integers(kind, 50, 1)
    for kernel in (d2l.gaussian, d2l.boxcar, d2l.constant, d2l.epanechikov, d2l.gaussian_with_width(spread(x))):
        got = kernel(x)
        np.testing.assert_array_equal(got, kernel(x.astype(np.float64)))


@pytest.mark.parametrize("kind", ["?", "u1", "i1", "i8"])
def test_limits_of_a_picture_of_integers(kind):
    from matplotlib.figure import Figure

    x = integers(kind, 20, 1)
    low, high = RegressionDisplay(x=x, y=x).plot(Figure().subplots()).ax_.get_xlim()
    margin = 0.04 * spread(x)
    assert (low, high) == pytest.approx((x.min() - margin, float(x.max()) + margin))


def test_narrow_weights_only_say_which_rows_count():
    """60 weights of 2,000 are more than float16 holds; a row counts once, whatever its weight."""
    k, w = integers("i2", (60, 2), 1), np.full(60, 2000, "f2")
    w[::3] = 0
    scale = fastnw.NearestNeighbours(30).key_scale(k, sample_weight=w)
    np.testing.assert_array_equal(scale, fastnw.NearestNeighbours(30).key_scale(k, sample_weight=w.astype("f8")))
    with pytest.raises(ValueError, match="needs 41 samples"):
        fastnw.NearestNeighbours(40).key_scale(k, sample_weight=w)
