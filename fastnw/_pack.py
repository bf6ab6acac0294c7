"""A block of keys or queries in the form that every backend sums: structure of arrays, in the compute type.

Coordinates stay raw and the difference is multiplied by 1/h_j: dividing or centring them first would round them by
ε·|k/h|, which is thousands of ε for data thousands of bandwidths wide. Only a full-matrix bandwidth whitens, in
float64, around the first key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw._state import Rows
from fastnw._validation import Problem

Array = NDArray[Any]


@dataclass(frozen=True)
class KeyBlock:
    """A block of B keys.

    Attributes
    ----------
    start : int
        Position of the first among all keys.
    coords : (d, B) compute type
    scale : (B,) compute type or None
        Factor of the squared distance, 1/λ²; for an inner product 1/λ.
    rhs : (1 + c, B) compute type
        Weights w, and w·t for each value t ∈ [−1, 1].
    """

    start: int
    coords: Array
    scale: Array | None
    rhs: Array

    @property
    def size(self) -> int:
        return self.coords.shape[1]

    def part(self, first: int, last: int) -> KeyBlock:
        """The keys from `first` up to `last` of the block, as views."""
        scale = None if self.scale is None else self.scale[first:last]
        return KeyBlock(self.start + first, self.coords[:, first:last], scale, self.rhs[:, first:last])


def pack_inverse(problem: Problem, dtype: Any) -> Array:
    """(d,) Factors of the coordinates' differences."""
    return _within_range(problem.metric.inverse, dtype)


def pack_queries(problem: Problem, rows: Rows, dtype: Any) -> Array:
    """(m, d) Coordinates of those queries."""
    return np.ascontiguousarray(coordinates(problem, problem.queries[rows]), dtype=dtype)


def pack_keys(problem: Problem, start: int, stop: int, dtype: Any) -> KeyBlock:
    """The keys from `start` up to `stop`."""
    rows = slice(start, stop)
    coords = np.ascontiguousarray(coordinates(problem, problem.keys[rows]).T, dtype=dtype)
    return KeyBlock(start, coords, _scale(problem, rows, dtype), _rhs(problem, rows, dtype))


def coordinates(problem: Problem, points: Array) -> Array:
    """The points' coordinates before they are multiplied by `inverse`: raw, or whitened by a full matrix."""
    cholesky = problem.metric.cholesky
    if cholesky is None:
        return points
    from scipy.linalg import solve_triangular  # 0.2 s to import, and few need it

    points = points.astype(np.float64)
    if not problem.kernel.inner_product:
        points = points - problem.keys[0].astype(np.float64)
    return solve_triangular(cholesky, points.T, lower=True, check_finite=False).T


def _scale(problem: Problem, rows: slice, dtype: Any) -> Array | None:
    if problem.key_scale is None:
        return None
    with np.errstate(over="ignore"):
        inverse = 1.0 / problem.key_scale[rows].astype(np.float64)
        return _within_range(inverse if problem.kernel.inner_product else inverse * inverse, dtype)


def _within_range(factors: Array, dtype: Any) -> Array:
    """Factors of distances in the compute type, finite: 0 times the largest number is 0, times infinity it is not."""
    largest = float(np.finfo(dtype).max)
    return np.ascontiguousarray(np.clip(factors, -largest, largest), dtype=dtype)


def normalised_values(problem: Problem, rows: Rows) -> Array:
    """(c, B) float64 values t ∈ [−1, 1]; a column without spread is all zeros."""
    block = problem.values[rows]
    values = np.empty((problem.c, len(block)))
    for j in range(problem.c):
        values[j] = _normalised(problem, block, j)
    return values


def _normalised(problem: Problem, block: Array, j: int) -> Array:
    centre, half = problem.values_centre
    column = block[:, j].astype(np.float64)
    # keys without weight lie outside the range: clipped, they cannot overflow
    np.clip(column, problem.values_range[0][j], problem.values_range[1][j], out=column)
    column -= centre[j]
    column /= half[j] if half[j] > 0 else 1.0
    return np.clip(column, -1.0, 1.0, out=column)


def _rhs(problem: Problem, rows: slice, dtype: Any) -> Array:
    """w and w·t in float64, rounded once; by column, without a float64 copy of the whole block."""
    block, weights = problem.values[rows], problem.weights_at(rows)
    rhs = np.empty((1 + problem.c, len(block)), dtype)
    rhs[0] = 1.0 if weights is None else weights
    for j in range(problem.c):
        column = _normalised(problem, block, j)
        rhs[1 + j] = column if weights is None else column * weights
    return rhs
