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
    weighted : bool
        False if all weights are 1.
    """

    start: int
    coords: Array
    scale: Array | None
    rhs: Array
    weighted: bool

    @property
    def size(self) -> int:
        return self.coords.shape[1]

    def part(self, first: int, last: int) -> KeyBlock:
        """The keys from `first` up to `last` of the block, as views."""
        scale = None if self.scale is None else self.scale[first:last]
        return KeyBlock(self.start + first, self.coords[:, first:last], scale, self.rhs[:, first:last], self.weighted)


def pack_inverse(problem: Problem, dtype: Any) -> Array:
    """(d,) Factors of the coordinates' differences."""
    return _within_range(problem.metric.inverse, dtype)


def pack_queries(problem: Problem, rows: Rows, dtype: Any) -> Array:
    """(m, d) Coordinates of those queries."""
    return np.ascontiguousarray(coordinates(problem, problem.queries[rows]), dtype=dtype)


def pack_keys(problem: Problem, start: int, stop: int, dtype: Any) -> KeyBlock:
    """The keys from `start` up to `stop`."""
    rows = slice(start, stop)
    points = coordinates(problem, problem.keys[rows])
    coords = _rows(problem.d, len(points), dtype)
    coords[...] = points.T
    return KeyBlock(start, coords, _scale(problem, rows, dtype), _rhs(problem, rows, dtype), problem.weighted)


def _rows(count: int, length: int, dtype: Any) -> Array:
    """An array of contiguous rows whose starts differ by an odd number of cache lines: multiples of 4 KiB would share
    the same few places of L1 (2.5 to 3.5 times slower from d = 16 on)."""
    lane = 64 // np.dtype(dtype).itemsize
    lines = -(-length // lane)
    return np.empty((count, (lines + 1 - lines % 2) * lane), dtype)[:, :length]


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


def normalised_values(problem: Problem, rows: slice) -> Array:
    """(c, B) float64 values t ∈ [−1, 1]; a column without spread is all zeros."""
    centre, half = problem.values_centre
    block = problem.values[rows]
    values = np.empty((problem.c, len(block)))
    for j in range(problem.c):  # by column: no temporaries of the whole block
        values[j] = block[:, j]
        values[j] -= centre[j]
        values[j] /= half[j] if half[j] > 0 else 1.0
    # keys without weight lie outside the range: clipped, they cannot overflow
    return np.clip(values, -1.0, 1.0, out=values)


def _rhs(problem: Problem, rows: slice, dtype: Any) -> Array:
    """w and w·t in float64, rounded once."""
    values = normalised_values(problem, rows)
    rhs = _rows(1 + problem.c, values.shape[1], dtype)
    weights = problem.weights_at(rows)
    if weights is None:
        rhs[0], rhs[1:] = 1.0, values
    else:
        weights /= problem.largest_weight
        rhs[0], rhs[1:] = weights, values * weights
    return rhs
