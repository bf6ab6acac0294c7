"""Relative representations against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

import fastnw


def naive_representation(x, anchors, top_k=None, exponent=1.0):
    """Dense, one sample and one anchor at a time, in long double."""
    x, anchors = np.asarray(x, np.longdouble), np.asarray(anchors, np.longdouble)
    out = np.zeros((len(x), len(anchors)), np.longdouble)
    for i, sample in enumerate(x):
        cosines = [(sample @ a) / np.sqrt((sample @ sample) * (a @ a)) for a in anchors]
        order = sorted(range(len(anchors)), key=lambda j: (-cosines[j], j))
        for j in order[:top_k]:
            out[i, j] = max(cosines[j], 0) ** exponent
        out[i] /= np.sqrt((out[i] ** 2).sum()) or 1
    return out.astype(float)


def cloud(m=30, n=200, d=6, shift=0.3):
    rng = np.random.default_rng(3)
    return shift + rng.normal(size=(m, d)), shift + rng.normal(size=(n, d))


@pytest.mark.parametrize("exponent", [0.5, 1.0, 3, 8.0])
@pytest.mark.parametrize("top_k", [None, 1, 7, 150, 200])
def test_matches_the_plain_loops(top_k, exponent):
    x, anchors = cloud()
    got = fastnw.relative_representation(x, anchors, top_k=top_k, exponent=exponent)
    assert isinstance(got, sparse.csr_array)
    assert got.shape == (30, 200)
    assert got.has_sorted_indices
    assert (np.diff(got.indptr) <= (top_k or 200)).all()
    expected = naive_representation(x, anchors, top_k, exponent)
    # a cosine near 0 keeps 1e-16 absolute; its root, 1e-8
    np.testing.assert_allclose(got.toarray(), expected, rtol=0, atol=1e-7 if exponent == 0.5 else 1e-14)
    np.testing.assert_allclose((got.multiply(got)).sum(axis=1), 1, rtol=1e-14)


def test_lengths_do_not_count():
    x, anchors = cloud()
    lengths = 10.0 ** np.linspace(-150, 150, len(anchors))
    plain = fastnw.relative_representation(x, anchors, top_k=20, exponent=4)
    scaled = fastnw.relative_representation(x * 1e200, anchors * lengths[:, None], top_k=20, exponent=4)
    np.testing.assert_array_equal(plain.indices, scaled.indices)
    np.testing.assert_allclose(plain.data, scaled.data, rtol=1e-12)


def test_what_points_away_counts_as_nothing():
    anchors = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]
    got = fastnw.relative_representation([[1.0, 0.0], [0.0, -1.0], [0.0, 0.0]], anchors, top_k=3, exponent=2)
    np.testing.assert_allclose(got.toarray()[0], np.array([1, 0, 0, 0.36]) / np.hypot(1, 0.36), rtol=1e-15)
    assert np.diff(got.indptr).tolist() == [2, 0, 0]  # with an even power the second would be the third anchor's


def test_ties_go_to_the_first_anchors():
    got = fastnw.relative_representation([[1.0, 0.0]], [[0.0, 1.0], [2.0, 0.0], [1.0, 0.0], [3.0, 0.0]], top_k=2)
    assert got.indices.tolist() == [1, 2]


def test_high_powers_keep_the_nearest_anchor():
    x, anchors = cloud()
    got = fastnw.relative_representation(x, anchors, exponent=1e6)
    nearest = naive_representation(x, anchors, 1).argmax(axis=1)
    np.testing.assert_array_equal(got.toarray().argmax(axis=1), nearest)
    np.testing.assert_allclose(got.toarray().max(axis=1), 1, rtol=1e-6)


def test_types_and_threads():
    x, anchors = cloud()
    narrow = fastnw.relative_representation(x.astype(np.float32), anchors.astype(np.float32), top_k=10)
    assert narrow.dtype == np.float32
    wide = fastnw.relative_representation(x, anchors, top_k=10)
    # of float32 numbers, six coordinates; the seeds leave no tie at the tenth anchor
    np.testing.assert_allclose(narrow.toarray(), wide.toarray(), rtol=0, atol=1e-6)
    assert fastnw.relative_representation(x.astype(np.float32), anchors).dtype == np.float64
    assert fastnw.relative_representation((10 * x).astype(int), anchors).dtype == np.float64
    one, two = (fastnw.relative_representation(x, anchors, top_k=10, n_jobs=jobs) for jobs in (1, 2))
    np.testing.assert_array_equal(one.data, two.data)
    np.testing.assert_array_equal(one.indices, two.indices)
    assert fastnw.relative_representation(x[:0], anchors).shape == (0, 200)


def test_tensors():
    torch = pytest.importorskip("torch")
    x, anchors = cloud()
    got = fastnw.relative_representation(torch.from_numpy(x), torch.from_numpy(anchors), top_k=5)
    np.testing.assert_array_equal(got.toarray(), fastnw.relative_representation(x, anchors, top_k=5).toarray())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"top_k": 0}, ValueError, "top_k == 0, must be >= 1"),
        ({"top_k": 201}, ValueError, "top_k == 201, must be <= 200"),
        ({"top_k": 2.0}, TypeError, "top_k must be an instance of"),
        ({"exponent": 0.0}, ValueError, "exponent == 0.0, must be > 0"),
        ({"exponent": np.inf}, ValueError, "exponent must be finite"),
        ({"exponent": np.nan}, ValueError, "exponent"),
        ({"exponent": "8"}, TypeError, "exponent must be an instance of"),
    ],
)
def test_wrong_parameters(options, error, message):
    with pytest.raises(error, match=message):
        fastnw.relative_representation(*cloud(), **options)


def test_wrong_arrays():
    x, anchors = cloud()
    with pytest.raises(ValueError, match="x has 5 features, but anchors has 6 features"):
        fastnw.relative_representation(x[:, :5], anchors)
    with pytest.raises(ValueError, match="Input anchors contains NaN"):
        fastnw.relative_representation(x, np.where(anchors > 2, np.nan, anchors))
    with pytest.raises(ValueError, match="Expected 2D array, got 1D array"):
        fastnw.relative_representation(x[0], anchors)
    with pytest.raises(ValueError, match="minimum of 1 is required"):
        fastnw.relative_representation(x, anchors[:0])
