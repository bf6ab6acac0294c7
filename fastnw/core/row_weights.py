"""Weights of rows, of which a constant factor means nothing."""

from __future__ import annotations

from typing import Any

import numpy as np


def relative_weights(sample_weight: Any) -> tuple[slice | np.ndarray, np.ndarray | None]:
    """Which rows have a weight, and their weights in a unit of no consequence.

    Parameters
    ----------
    sample_weight : (n,) array or None
        Non-negative numbers, of which a constant factor means nothing.

    Returns
    -------
    rows : slice or (k,) int array
        An index of the rows with a positive weight.
    weights : (k,) float64 array or None
        None where all of these are equal. Otherwise multiplied by a power of two, so that the largest lies in [½, 1):
        a power of two as a factor changes no bit. Where the smallest would leave float64's range, as they are.
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
    """(n,) Σ w of all rows but each one, without cancellation where one row has most of it."""
    others = weights.sum() - weights
    largest = int(np.argmax(weights))
    others[largest] = weights[:largest].sum() + weights[largest + 1 :].sum()
    return others
