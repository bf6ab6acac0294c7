"""Relative representations: samples described by their similarities to anchors (Norelli et al., 2022)."""

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
_BLOCK_ELEMENTS = 2**20  # Coordinates of anchors that are gathered at one time: 8 MiB.


def relative_representation(
    x: Any, anchors: Any, *, top_k: int | None = None, exponent: float = 1.0, n_jobs: int | None = None
) -> csr_array:
    """Describe each sample by a unit vector of powers of its top-k cosine similarities to anchors.

    If every anchor is known in two views, such as an image and its caption, then samples of both views become
    comparable, because the same anchors describe both. Nothing is trained. The method is that of [1]_.

    Parameters
    ----------
    x : array or data frame of shape (m, d)
    anchors : array or data frame of shape (n_anchors, d)
        The anchors in the same view as `x`.
    top_k : int, optional
        The number of largest similarities that each sample keeps; among equal ones, the first anchors come first.
        None: all.
    exponent : float, default=1.0
        The power to which similarities are raised. The higher it is, the more the nearest anchors count. [1]_ uses
        ``top_k=800`` of 1.6 million anchors and ``exponent=8``.
    n_jobs : int, optional
        The number of threads, as in :func:`fastnw.pool`.

    Returns
    -------
    r : scipy.sparse.csr_array of shape (m, n_anchors)
        At most `top_k` entries in each row, in the order of the anchors; float32 if `x` and `anchors` are both float32,
        otherwise float64. The inner product of two rows is their cosine similarity.

    Raises
    ------
    ValueError
        If `x` or `anchors` is not a finite matrix, their numbers of features differ, `top_k` is not between 1 and
        n_anchors, or `exponent` is not positive and finite.
    TypeError
        If `top_k` is not an integer or `exponent` is not a number.

    Notes
    -----
    Similarities that are not positive are left out, so that a row may have fewer than `top_k` entries; the row of a
    sample of length 0 has none. An even power could not tell the opposite of an anchor from the anchor, and a power
    that is not an integer is not defined for negative numbers. Among the top 800 of 1.6 million similarities, none are
    negative; with `top_k` close to n_anchors some are, and centring both views beforehand makes many negative.

    The top-k anchors are those with the largest attention weights of the kernel ``dot``. They are found block by block,
    without an (m, n_anchors) array.

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
        raise ValueError(f"exponent must be finite, got {exponent}. Use a positive number, such as 8.")
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
    """Scale the rows to unit length; rows of 0 stay 0.

    Rows are first divided by their largest coordinate, so that their squares neither overflow nor underflow.
    """
    out = np.empty(points.shape, dtype)
    for rows in row_blocks(points):
        block = points[rows].astype(np.float64)
        block /= _or_1(np.abs(block).max(axis=1, keepdims=True))
        out[rows] = block / _or_1(np.sqrt(np.einsum("ij,ij->i", block, block)))[:, None]
    return out


def _powers(units: Array, anchors: Array, exponent: float) -> Floats:
    """Return powers of the positive cosines with anchors (rows, k, d), as unit vectors (rows, k).

    The sums are einsum's, because the order of BLAS's sums may depend on its threads.
    """
    cosines = np.einsum("id,ikd->ik", units.astype(np.float64), anchors.astype(np.float64))
    cosines = np.maximum(cosines, 0.0)
    cosines /= _or_1(cosines.max(axis=1, keepdims=True))  # the largest becomes 1, so that high powers do not underflow
    powers = cosines**exponent
    return powers / _or_1(np.sqrt(np.einsum("ij,ij->i", powers, powers)))[:, None]


def _or_1(lengths: Floats) -> Floats:
    return np.where(lengths > 0, lengths, 1.0)
