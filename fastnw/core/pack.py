"""Blocks of keys and queries in the memory layout of the backends: structures of arrays in the compute type.

Coordinates are not scaled; backends multiply their differences by 1/h_j. Division or centring before the difference
would round coordinates by ε·|k/h|, which is thousands of ε if the data span thousands of bandwidths. Only a full-matrix
bandwidth transforms coordinates: they are whitened in float64, relative to the first key.
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

# Weighted values must exceed the smallest normal number by this factor to be summed without normalisation.
MIN_SPREAD_OVER_TINY = 2.0**26
# Values are summed without normalisation if |centre|/half is at most this: centring the means then costs two digits.
MAX_RAW_OFFSET = 3.0
# The number of values that are normalised at a time, in a float64 buffer.
VALUES_PER_PART = 1 << 14


@dataclass(frozen=True)
class KeyBlock:
    """A block of B keys.

    Attributes
    ----------
    start : int
        Position of the first key of the block among all keys.
    coords : (d, B) compute type
    scale : (B,) compute type or None
        Factor of the squared distance, 1/λ²; of an inner product, 1/λ.
    weights : (B,) compute type
    weighted : bool
        False if all weights are 1.
    values : (c, B) compute type
        w·t for each value t ∈ [−1, 1]. For c > 1, the transpose of an array whose rows are padded to whole vectors.
    relative : bool
        Whether the error of u² is relative for every u², which holds for coordinates that are not whitened.
    codes : (B, outputs) int32 or None
        The columns of the totals to which w κ is added, in place of values.
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
        """Select the keys from `first` up to `last` of the block, as views."""
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
    """A block of B keys as rows, for matrix products: views of the user's arrays where BLAS can read these.

    Attributes
    ----------
    start : int
        Position of the first key of the block among all keys.
    keys : (B, d) compute type
    values : (B, c) compute type
        The user's values, or normalised ones.
    weights : (B,) compute type or None
    centre, spread : (c,) float64
        Normalised values are (values − centre)/spread.
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
    """Return the factors 1/h_j of coordinate differences, (d,)."""
    return _within_range(problem.metric.inverse, dtype)


def pack_queries(problem: Problem, rows: Rows, dtype: Any) -> Array:
    """Return the coordinates of the queries at `rows`, (m, d), on the host."""
    return readable(coordinates(problem, problem.queries[rows]), dtype)


def readable(array: Array, dtype: Any) -> Array:
    """Return the array if compiled code can read it, else a copy.

    `np.ascontiguousarray` does not suffice, because it accepts unaligned arrays.
    """
    if array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned:
        return array
    return np.require(array, dtype, ["C_CONTIGUOUS", "ALIGNED"])


def pack_keys(
    problem: Problem, start: int, stop: int, dtype: Any, buffer: Array | None = None, codes: bool = True
) -> KeyBlock:
    """Pack the keys from `start` up to `stop`.

    Parameters
    ----------
    problem : Problem
    start, stop : int
    dtype : dtype
        The compute type.
    buffer : (d, stop − start or more) array, optional
        Memory for the coordinates; by default it is allocated.
    codes : bool
        Whether class codes stay codes; otherwise they become values.
    """
    rows = slice(start, stop)
    points = coordinates(problem, problem.keys[rows])
    coords = aligned_rows(problem.d, len(points), dtype) if buffer is None else buffer[:, : len(points)]
    coords[...] = points.T
    block_codes = problem.classes.codes[rows] if codes and problem.classes is not None else None
    weights, values = _weights_and_values(problem, rows, dtype, problem.c if block_codes is None else 0)
    scale, relative = pack_scale(problem, rows, dtype), problem.metric.cholesky is None
    return KeyBlock(start, coords, scale, weights, problem.weighted, values, relative, block_codes)


def aligned_rows(count: int, length: int, dtype: Any) -> Array:
    """Allocate an array of contiguous rows whose starts differ by an odd number of cache lines.

    Rows at multiples of 4 KiB would share a few sets of the L1 cache, which is 2.5 to 3.5 times slower from d = 16 on.
    """
    lane = 64 // np.dtype(dtype).itemsize
    lines = -(-length // lane)
    return np.empty((count, (lines + 1 - lines % 2) * lane), dtype)[:, :length]


def pack_rows(problem: Problem, start: int, stop: int, dtype: Any) -> RowBlock:
    """Pack the keys from `start` up to `stop` as rows."""
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
    """Return whether BLAS can read the rows of the array without a copy."""
    size = np.dtype(dtype).itemsize
    step, inner = array.strides
    aligned = array.dtype == dtype and array.flags.aligned and step % size == 0
    disjoint = size * array.shape[1] <= step < size << 31  # BLAS counts in 32 bits
    return bool(aligned and (inner == size or array.shape[1] == 1) and disjoint)


def keeps_values(problem: Problem, dtype: Any) -> bool:
    """Return whether values can be summed without normalisation.

    They must be so near 0 that centring the means costs two digits at most, and so large that neither a division by
    their spread overflows nor a product with a weight underflows.
    """
    if problem.classes is not None:
        return False
    centre, half = problem.values_centre
    fit = (np.abs(centre) <= MAX_RAW_OFFSET * half) & (
        (half == 0) | (half * problem.least_weight > MIN_SPREAD_OVER_TINY * float(np.finfo(dtype).tiny))
    )
    return are_rows(problem.values, dtype) and bool(np.all(fit))


def coordinates(problem: Problem, points: Array) -> Array:
    """Return the points' coordinates before the factors 1/h_j: unchanged, or whitened by a full matrix."""
    factor = problem.factor
    if factor is None:
        return points
    origin = np.zeros(problem.d) if problem.kernel.inner_product else problem.keys[0].astype(np.float64)
    return factor.whitened(points.astype(np.float64), origin)


def device_queries(problem: Problem, rows: Rows, dtype: Any) -> DeviceArray:
    """Return the coordinates of the queries at `rows`, (m, d), on their device, as `pack_queries` does on the host."""
    assert isinstance(problem.queries, DeviceArray)
    positions = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
    if problem.metric.cholesky is None:
        return problem.queries.taken(positions, dtype)
    return _whiten_on_device(problem, problem.queries.taken(positions, np.float64)).astype(dtype)


def device_keys(problem: Problem) -> DeviceArray:
    """Return the `coordinates` of all keys, (n, d), on their device; whitened keys are cached."""
    assert isinstance(problem.keys, DeviceArray)
    if problem.metric.cholesky is None:
        return problem.keys
    if problem.of_metric.whitened is None:
        problem.of_metric.whitened = _whiten_on_device(problem, problem.keys)
    return problem.of_metric.whitened


def _whiten_on_device(problem: Problem, points: DeviceArray) -> DeviceArray:
    assert isinstance(problem.keys, DeviceArray)
    assert problem.metric.cholesky is not None
    return points.whitened(problem.metric.cholesky, None if problem.kernel.inner_product else problem.keys)


def pack_scale(problem: Problem, rows: Rows, dtype: Any) -> Array | None:
    """Return the factors of the keys' squared distances or inner products, (rows,); None without a key scale."""
    if problem.key_scale is None:
        return None
    with np.errstate(over="ignore"):
        inverse = 1.0 / problem.key_scale[rows].astype(np.float64)
        return _within_range(inverse if problem.kernel.inner_product else inverse * inverse, dtype)


def _within_range(factors: Array, dtype: Any) -> Array:
    """Convert factors of distances to the compute type; overflow gives the largest number, because 0 · inf is NaN."""
    largest = float(np.finfo(dtype).max)
    return np.ascontiguousarray(np.clip(factors, -largest, largest), dtype=dtype)


def normalised_values(problem: Problem, rows: Rows) -> Array:
    """Compute the normalised values t ∈ [−1, 1], (c, B) float64; a value without spread becomes 0."""
    centre, half = problem.values_centre
    low, high = problem.values_range
    values = problem.values[rows].astype(np.float64, order="C")
    # The values of keys without weight may lie outside the range; clipping prevents overflow.
    np.clip(values, low, high, out=values)
    values -= centre
    values /= np.where(half > 0, half, 1.0)
    return np.clip(values, -1.0, 1.0, out=values).T


def empty_values(count: int, length: int, dtype: Any) -> Array:
    """Allocate values, (count, length): a row for one value, else columns of rows that zeros pad to whole vectors."""
    if count < 2:
        return np.empty((count, length), dtype)
    return np.zeros((length, -(-count // VECTOR) * VECTOR), dtype).T[:count]


def weighted_totals(problem: Problem, rows: Rows, weights: Array) -> Array:
    """Compute Σ w t over the rows, (c,)."""
    if problem.classes is not None:  # t = 2 [class] − 1
        return 2 * problem.classes.sums(rows, weights) - weights.sum()
    return np.asarray((normalised_values(problem, rows) * weights).sum(axis=1))


def _weights_and_values(problem: Problem, rows: slice, dtype: Any, count: int) -> tuple[Array, Array]:
    """Compute w and w·t of the first `count` values in float64 and round them once to the compute type."""
    length = rows.stop - rows.start
    weights = problem.weights_at(rows)
    packed = empty_values(count, length, dtype)
    step = max(VALUES_PER_PART // max(count, 1), 1)  # avoids a float64 copy of a whole block
    for first in range(0, length if count else 0, step):
        part = slice(first, min(first + step, length))
        values = normalised_values(problem, slice(rows.start + part.start, rows.start + part.stop))
        packed[:, part] = values if weights is None else values * weights[part]
    return (np.ones(length, dtype) if weights is None else weights.astype(dtype)), packed
