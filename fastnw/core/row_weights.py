"""Relative weights of rows: multiplication of all weights by a constant changes no result."""

from __future__ import annotations

from typing import Any

import numpy as np


def relative_weights(sample_weight: Any) -> tuple[slice | np.ndarray, np.ndarray | None]:
    """Select the rows of positive weight, and scale their weights by a power of two.

    Parameters
    ----------
    sample_weight : (n,) array or None
        Non-negative numbers.

    Returns
    -------
    rows : slice or (k,) int array
        Index of the rows with positive weight.
    weights : (k,) float64 array or None
        None if all of them are equal. Otherwise they are multiplied by a power of two, which changes no mantissa, so
        that the largest is in [½, 1); if the smallest would underflow, they are returned unscaled.
    """
    if sample_weight is None:
        return slice(None), None
    weights = np.asarray(sample_weight, dtype=np.float64)
    positive = weights > 0
    rows: slice | np.ndarray = slice(None) if positive.all() else np.flatnonzero(positive)
    weights = weights[rows]
    if not weights.size or weights.min() == weights.max():
        return rows, None
    least, largest = (int(np.frexp(weight)[1]) for weight in (weights.min(), weights.max()))
    return rows, weights if least - largest <= np.finfo(np.float64).minexp else np.ldexp(weights, -largest)


def other_weights(weights: np.ndarray) -> np.ndarray:
    """Compute Σ_{j ≠ i} w_j for each row i, (n,), without cancellation where one row has most of the weight."""
    others = weights.sum() - weights
    largest = int(np.argmax(weights))
    others[largest] = weights[:largest].sum() + weights[largest + 1 :].sum()
    return others
