"""The choice of the largest entries, against a full stable sort."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastnw.core._top_k import merge_top_k


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 5),
    st.integers(1, 40),
    st.integers(1, 12),
    st.sampled_from([3, 1000]),
)
def test_blocks_one_after_another(seed, rows, columns, k, levels):
    rng = np.random.default_rng(seed)
    entries = rng.integers(0, levels, (rows, columns)).astype(float)  # few levels: many ties
    entries[rng.random(entries.shape) < 0.2] = -np.inf
    best, at = np.full((rows, k), -np.inf), np.full((rows, k), -1, np.int64)
    step = int(rng.integers(1, columns + 1))
    for start in range(0, columns, step):
        merge_top_k(np.ascontiguousarray(entries[:, start : start + step]), start, best, at)
    for row in range(rows):
        order = [i for i in np.argsort(-entries[row], kind="stable") if entries[row, i] > -np.inf][:k]
        assert at[row].tolist() == order + [-1] * (k - len(order))
        assert best[row].tolist() == [entries[row, i] for i in order] + [-np.inf] * (k - len(order))


def test_nan_never_enters():
    best, at = np.full((1, 2), -np.inf), np.full((1, 2), -1, np.int64)
    merge_top_k(np.array([[np.nan, 1.0, np.nan]]), 5, best, at)
    assert at.tolist() == [[6, -1]]


def test_shapes_must_fit():
    with pytest.raises(ValueError, match="shapes"):
        merge_top_k(np.zeros((2, 3)), 0, np.zeros((1, 2)), np.zeros((1, 2), np.int64))
