"""Relative representations: what a sample is like, told by which anchors it resembles (Norelli et al., 2022)."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnw.attention import attention_weights
from fastnw.core.problem import Array, Floats, result_dtype, row_blocks
from fastnw.interop import dataframes, frameworks

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_FLOATS = [np.float64, np.float32]
_BLOCK_ELEMENTS = 2**20  # coordinates of anchors gathered at a time: 8 MiB


def relative_representation(
    x: Any, anchors: Any, *, top_k: int | None = None, exponent: float = 1.0, n_jobs: int | None = None
) -> csr_array:
    """Each sample's cosine similarities to the anchors, the largest few, to a power, as a unit vector [1]_.

    Where every anchor is known in two views, such as an image and its caption, samples of either view become
    comparable: both are told by the same anchors. Nothing is trained.

    Parameters
    ----------
    x : array or data frame of shape (m, d)
    anchors : array or data frame of shape (n_anchors, d)
        In the view of `x`.
    top_k : int, optional
        How many similarities each sample keeps, the largest, of equal ones those of the first anchors. None: all.
    exponent : float, default=1.0
        What they are raised to: the higher, the more the nearest anchors count. [1]_ takes 800 of 1.6 million and 8.
    n_jobs : int, optional
        Threads, as in :func:`fastnw.pool`.

    Returns
    -------
    r : scipy.sparse.csr_array of shape (m, n_anchors)
        At most `top_k` entries a row, in the order of the anchors; float32 if `x` and `anchors` both are, otherwise
        float64. The product of two such rows is their cosine.

    Raises
    ------
    ValueError
        Input that is no finite matrix, of different numbers of features, a `top_k` not between 1 and n_anchors, or an
        `exponent` that is not positive and finite.
    TypeError
        A `top_k` or `exponent` of another type.

    Notes
    -----
    Similarities that are not positive count as none, so that a row may have fewer than `top_k` entries, or none, as
    that of a sample of length 0 has: an even power would take the opposite of an anchor for the anchor, and other
    powers have no value there. Among the top 800 of 1.6 million none are negative; with `top_k` close to n_anchors some
    are, and centring both views beforehand makes them many.

    `top_k` anchors are chosen as the largest attention weights of the kernel ``dot``, block by block: no
    (m, n_anchors) array is made.

    References
    ----------
    .. [1] Norelli, Fumero, Maiorca, Moschella, Rodolà & Locatello (2022), ASIF: Coupled data turns unimodal models to
       multimodal without training, arXiv 2210.01738.

    Examples
    --------
    >>> import fastnw
    >>> fastnw.relative_representation([[4.0, 3.0]], [[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]], exponent=2.0).toarray()
    array([[0.87157554, 0.49026124, 0.        ]])
    """
    from scipy.sparse import csr_array
    from sklearn.utils import check_array, check_scalar

    x = dataframes.matched(x, anchors, ("x", "anchors"))
    x = check_array(frameworks.to_numpy(x), dtype=_FLOATS, ensure_min_samples=0, input_name="x")
    anchors = check_array(frameworks.to_numpy(anchors), dtype=_FLOATS, input_name="anchors")
    if x.shape[1] != anchors.shape[1]:
        raise ValueError(f"x has {x.shape[1]} features, but anchors has {anchors.shape[1]} features.")
    (m, d), n, dtype = x.shape, len(anchors), result_dtype(x, anchors, anchors)
    k = n if top_k is None else int(check_scalar(top_k, "top_k", Integral, min_val=1, max_val=n))
    exponent = float(check_scalar(exponent, "exponent", Real, min_val=0, include_boundaries="neither"))
    if not exponent < np.inf:
        raise ValueError(f"exponent must be finite, got {exponent}.")
    units, anchor_units = _directions(x, dtype), _directions(anchors, dtype)
    chosen, _ = attention_weights(units, anchor_units, kernel="dot", top_k=k, n_jobs=n_jobs)
    chosen.sort(axis=1)
    values = np.empty((m, k), dtype)
    step = max(1, _BLOCK_ELEMENTS // (k * d))
    for start in range(0, m, step):
        rows = slice(start, start + step)
        values[rows] = _powers(units[rows], anchor_units[chosen[rows]], exponent)
    present = values > 0
    ends = np.concatenate([[0], np.cumsum(present.sum(axis=1))])
    return csr_array((values[present], chosen[present], ends), shape=(m, n))


def _directions(points: Array, dtype: Any) -> Array:
    """(n, d) rows of unit length, 0 where they are 0. Their largest coordinate comes first out of them: squares of the
    rest neither overflow nor vanish."""
    out = np.empty(points.shape, dtype)
    for rows in row_blocks(points):
        block = points[rows].astype(np.float64)
        block /= _or_1(np.abs(block).max(axis=1, keepdims=True))
        out[rows] = block / _or_1(np.sqrt(np.einsum("ij,ij->i", block, block)))[:, None]
    return out


def _powers(units: Array, anchors: Array, exponent: float) -> Floats:
    """(rows, k) positive cosines with anchors (rows, k, d) to the power, as unit vectors; einsum, as BLAS may add in an
    order that depends on its threads."""
    cosines = np.einsum("id,ikd->ik", units.astype(np.float64), anchors.astype(np.float64))
    cosines = np.maximum(cosines, 0.0)
    cosines /= _or_1(cosines.max(axis=1, keepdims=True))  # the largest is 1: high powers keep it
    powers = cosines**exponent
    return powers / _or_1(np.sqrt(np.einsum("ij,ij->i", powers, powers)))[:, None]


def _or_1(lengths: Floats) -> Floats:
    return np.where(lengths > 0, lengths, 1.0)
