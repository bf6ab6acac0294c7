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

from fastnw.core.array import DeviceArray
from fastnw.core.problem import Problem
from fastnw.core.state import Rows
from fastnw.runtime._constants import MAX_VECTOR_ELEMENTS as VECTOR

Array = NDArray[Any]

SPREAD_OVER_TINY = (
    2.0**26
)  # of weighted values, over the smallest normal number, from which they are summed as they are
RAW_VALUES = 3.0  # |centre|/half up to which values are summed as they are
PART = 1 << 15  # values normalised at a time


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
    weights : (B,) compute type
    weighted : bool
        False if all weights are 1.
    values : (c, B) compute type
        w·t for each value t ∈ [−1, 1]; the transpose of rows a whole number of cache lines apart where c > 1.
    relative : bool
        The error of u² is relative however small u² is: coordinates are the user's own, not whitened ones.
    codes : (B, outputs) int32 or None
        In place of values: the columns of totals to which w κ is added.
    """

    start: int
    coords: Array
    scale: Array | None
    weights: Array
    weighted: bool
    values: Array
    relative: bool = False
    codes: Array | None = None

    @property
    def size(self) -> int:
        return self.coords.shape[1]

    def part(self, first: int, last: int) -> KeyBlock:
        """The keys from `first` up to `last` of the block, as views."""
        scale = None if self.scale is None else self.scale[first:last]
        return KeyBlock(
            self.start + first,
            self.coords[:, first:last],
            scale,
            self.weights[first:last],
            self.weighted,
            self.values[:, first:last],
            self.relative,
            None if self.codes is None else self.codes[first:last],
        )


@dataclass(frozen=True)
class RowBlock:
    """A block of B keys as rows, for matrix products: views of the user's arrays wherever these allow it.

    Attributes
    ----------
    start : int
        Position of the first among all keys.
    keys : (B, d) compute type
    values : (B, c) compute type
        As the user gave them, or normalised.
    weights : (B,) compute type or None
    centre, spread : (c,) float64
        What makes them normalised: (values − centre)/spread.
    """

    start: int
    keys: Array
    values: Array
    weights: Array | None
    centre: Array
    spread: Array

    @property
    def size(self) -> int:
        return len(self.keys)


def pack_inverse(problem: Problem, dtype: Any) -> Array:
    """(d,) Factors of the coordinates' differences."""
    return _within_range(problem.metric.inverse, dtype)


def pack_queries(problem: Problem, rows: Rows, dtype: Any) -> Array:
    """(m, d) Coordinates of those queries, on the host."""
    return readable(coordinates(problem, problem.queries[rows]), dtype)


def readable(array: Array, dtype: Any) -> Array:
    """The array if compiled code can read it, else a copy: `ascontiguousarray` lets unaligned ones pass; C does not."""
    if array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned:
        return array
    return np.require(array, dtype, ["C_CONTIGUOUS", "ALIGNED"])


def pack_keys(
    problem: Problem, start: int, stop: int, dtype: Any, room: Array | None = None, codes: bool = True
) -> KeyBlock:
    """The keys from `start` up to `stop`; their coordinates in `room` (d, stop − start or more), if that is given.
    Classes stay `codes`, or become values."""
    rows = slice(start, stop)
    points = coordinates(problem, problem.keys[rows])
    coords = aligned_rows(problem.d, len(points), dtype) if room is None else room[:, : len(points)]
    coords[...] = points.T
    of_rows = problem.classes.codes[rows] if codes and problem.classes is not None else None
    weights, values = _weights_and_values(problem, rows, dtype, problem.c if of_rows is None else 0)
    scale, relative = pack_scale(problem, rows, dtype), problem.metric.cholesky is None
    return KeyBlock(start, coords, scale, weights, problem.weighted, values, relative, of_rows)


def aligned_rows(count: int, length: int, dtype: Any) -> Array:
    """An array of contiguous rows whose starts differ by an odd number of cache lines: multiples of 4 KiB would share
    the same few places of L1 (2.5 to 3.5 times slower from d = 16 on)."""
    lane = 64 // np.dtype(dtype).itemsize
    lines = -(-length // lane)
    return np.empty((count, (lines + 1 - lines % 2) * lane), dtype)[:, :length]


def pack_rows(problem: Problem, start: int, stop: int, dtype: Any) -> RowBlock:
    """The keys from `start` up to `stop`, as rows."""
    rows = slice(start, stop)
    weights = problem.weights_at(rows)
    if weights is not None:
        weights = weights.astype(dtype)
    keys = problem.keys[rows] if are_rows(problem.keys, dtype) else readable(problem.keys[rows], dtype)
    if keeps_values(problem, dtype):
        centre, half = problem.values_centre
        return RowBlock(start, keys, problem.values[rows], weights, centre, np.where(half > 0, half, 1.0))
    values = np.ascontiguousarray(normalised_values(problem, rows).T, dtype)
    return RowBlock(start, keys, values, weights, np.zeros(problem.c), np.ones(problem.c))


def are_rows(array: Array, dtype: Any) -> bool:
    """Whether BLAS can read the rows where they lie."""
    size = np.dtype(dtype).itemsize
    step, inner = array.strides
    aligned = array.dtype == dtype and array.flags.aligned and step % size == 0
    apart = size * array.shape[1] <= step < size << 31  # BLAS counts in 32 bits
    return bool(aligned and (inner == size or array.shape[1] == 1) and apart)


def keeps_values(problem: Problem, dtype: Any) -> bool:
    """Whether values can be summed as they are: so near 0 that centring afterwards costs two digits at most, and not so
    small that dividing by their spread overflows, or that they vanish when a weight multiplies them."""
    if problem.classes is not None:
        return False
    centre, half = problem.values_centre
    fit = (np.abs(centre) <= RAW_VALUES * half) & (
        (half == 0) | (half * problem.least_weight > SPREAD_OVER_TINY * float(np.finfo(dtype).tiny))
    )
    return are_rows(problem.values, dtype) and bool(np.all(fit))


def coordinates(problem: Problem, points: Array) -> Array:
    """The points' coordinates before they are multiplied by `inverse`: raw, or whitened by a full matrix."""
    factor = problem.factor
    if factor is None:
        return points
    origin = np.zeros(problem.d) if problem.kernel.inner_product else problem.keys[0].astype(np.float64)
    return factor.whitened(points.astype(np.float64), origin)


def queries_there(problem: Problem, rows: Rows, dtype: Any) -> DeviceArray:
    """(m, d) What `pack_queries` gives, on the device where the queries lie."""
    assert isinstance(problem.queries, DeviceArray)
    positions = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
    if problem.metric.cholesky is None:
        return problem.queries.taken(positions, dtype)
    return _whitened_there(problem, problem.queries.taken(positions, np.float64)).astype(dtype)


def keys_there(problem: Problem) -> DeviceArray:
    """(n, d) All keys' `coordinates` on the device: where they lie, or whitened once for all."""
    assert isinstance(problem.keys, DeviceArray)
    if problem.metric.cholesky is None:
        return problem.keys
    if problem.of_metric.whitened is None:
        problem.of_metric.whitened = _whitened_there(problem, problem.keys)
    return problem.of_metric.whitened


def _whitened_there(problem: Problem, points: DeviceArray) -> DeviceArray:
    assert isinstance(problem.keys, DeviceArray)
    assert problem.metric.cholesky is not None
    return points.whitened(problem.metric.cholesky, None if problem.kernel.inner_product else problem.keys)


def pack_scale(problem: Problem, rows: Rows, dtype: Any) -> Array | None:
    """(rows,) What multiplies those keys' squared distances, or inner products."""
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
    centre, half = problem.values_centre
    low, high = problem.values_range
    values = problem.values[rows].astype(np.float64, order="C")
    # keys without weight lie outside the range: clipped, they cannot overflow
    np.clip(values, low, high, out=values)
    values -= centre
    values /= np.where(half > 0, half, 1.0)
    return np.clip(values, -1.0, 1.0, out=values).T


def empty_values(count: int, length: int, dtype: Any) -> Array:
    """(count, length) One value as a row; several as columns of rows filled up with zeros to whole vectors."""
    if count < 2:
        return np.empty((count, length), dtype)
    return np.zeros((length, -(-count // VECTOR) * VECTOR), dtype).T[:count]


def weighted_totals(problem: Problem, rows: Rows, weights: Array) -> Array:
    """(c,) Σ w t over those rows."""
    if problem.classes is not None:  # t = 2 [class] − 1
        return 2 * problem.classes.sums(rows, weights) - weights.sum()
    return np.asarray((normalised_values(problem, rows) * weights).sum(axis=1))


def _weights_and_values(problem: Problem, rows: slice, dtype: Any, count: int) -> tuple[Array, Array]:
    """w and w·t of `count` values in float64, rounded once."""
    length = rows.stop - rows.start
    weights = problem.weights_at(rows)
    packed = empty_values(count, length, dtype)
    step = max(PART // max(count, 1), 1)  # no float64 copy of a whole block
    for first in range(0, length if count else 0, step):
        part = slice(first, min(first + step, length))
        values = normalised_values(problem, slice(rows.start + part.start, rows.start + part.stop))
        packed[:, part] = values if weights is None else values * weights[part]
    return (np.ones(length, dtype) if weights is None else weights.astype(dtype)), packed
