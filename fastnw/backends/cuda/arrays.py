"""Device functions that scan, gather and pack arrays which already lie on the device.

Only one number per column or row returns to the host. Sums of norms are compensated, so that their rounding errors do
not grow with the number of coordinates.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda
from numpy.typing import NDArray

from fastnw.backends.cuda.functions import SIMULATED
from fastnw.backends.cuda.kernels import Shape
from fastnw.core.pack import device_keys

Array = NDArray[Any]
Floats = NDArray[np.float64]

THREADS = 4 if SIMULATED else 256
# Number of threads per column in the first and in the second step of a reduction.
FIRST_PARTS, LAST_PARTS = (8, 2) if SIMULATED else (8192, 32)
MAX_PARTIAL_RESULTS = 1 << 21  # of three float64 each, over all columns: 48 MiB
MAX_GRID_COLUMNS = 4 if SIMULATED else 32768  # each block of the grid takes further columns in a loop
MIN_BLOCKS = 1 if SIMULATED else 128  # Numba warns about smaller grids; superfluous blocks return at once


def on_host(array: Any) -> Array:
    """A copy in host memory. The array may be strided."""
    strided = len(array.shape) in (1, 2) and not array.is_c_contiguous()
    return np.asarray((_dense(array) if strided else array).copy_to_host())


def as_column(array: Any) -> Any:
    """The (n,) array as (n, 1). It shares the memory of a contiguous array and copies a strided one."""
    return (array if array.is_c_contiguous() else _dense(array)).reshape((array.shape[0], 1))


def _dense(array: Any) -> Any:
    if len(array.shape) == 2:
        return taken(array, np.arange(array.shape[0]), array.dtype)
    out = cuda.device_array(array.shape, array.dtype)
    if array.shape[0]:
        _copied[_over(array.shape[0])](array, out)
    return out


def reduced(rows: Any, mask: Any = None) -> tuple[Floats, Floats, Floats]:
    """The minimum, maximum and sum (d,) of each column, over the rows whose `mask` (n, 1) is positive."""
    n, columns = rows.shape
    if n == 0 or columns == 0:
        return np.full(columns, np.inf), np.full(columns, -np.inf), np.zeros(columns)
    last = min(LAST_PARTS, n)
    parts = max(min(FIRST_PARTS, n, MAX_PARTIAL_RESULTS // columns), last)
    first = cuda.device_array((parts, columns, 3), np.float64)
    across = min(columns, MAX_GRID_COLUMNS)
    _reduce[(_over(parts)[0], across), THREADS](rows, rows if mask is None else mask, mask is not None, first)
    second = cuda.device_array((last, columns, 3), np.float64)
    _combine[(_over(last)[0], across), THREADS](first, second)
    parts_on_host = np.asarray(second.copy_to_host())
    low, high, total = (parts_on_host[:, :, i] for i in range(3))
    return low.min(axis=0), high.max(axis=0), total.sum(axis=0)


def taken(rows: Any, positions: NDArray[np.intp], dtype: np.dtype[Any]) -> Any:
    """A contiguous copy of the rows at `positions` in the type `dtype`."""
    out = cuda.device_array((len(positions), rows.shape[1]), dtype)
    if out.size:
        _take[_over(out.size)](rows, cuda.to_device(positions.astype(np.int64)), out)
    return out


def sizes(rows: Any, factors: Floats, squared: bool) -> Floats:
    """(n,) Σ_j (x_j f_j)², or Σ_j |x_j f_j|."""
    out = cuda.device_array((max(rows.shape[0], 1),), np.float64)
    if rows.shape[0]:
        _sizes[_over(rows.shape[0])](rows, cuda.to_device(np.ascontiguousarray(factors)), squared, out)
    return np.asarray(out.copy_to_host())[: rows.shape[0]]


def whitened(rows: Any, cholesky: Floats, origin: Any) -> Any:
    """(n, d) float64 L⁻¹(x − the first row of `origin`)."""
    out = cuda.device_array(rows.shape, np.float64)
    if rows.shape[0]:
        lower = cuda.to_device(np.ascontiguousarray(cholesky))
        _whiten[_over(rows.shape[0])](rows, lower, rows if origin is None else origin, origin is not None, out)
    return out


def quotients(weights: Any, largest: float) -> Any:
    """(n, 1) w/largest in float64."""
    out = cuda.device_array((weights.shape[0], 1), np.float64)
    _divide[_over(out.size)](weights, largest, out)
    return out


def log_weights(weights: Any, scale: Any, power: int) -> Any:
    """(n, 1) log w − power log λ in float64; −inf without weight."""
    out = cuda.device_array((scale.shape[0], 1), np.float64)
    _logarithms[_over(out.size)](scale if weights is None else weights, weights is not None, scale, power, out)
    return out


def exponentials(logs: Any, largest: float) -> Any:
    """(n, 1) exp(log − largest)."""
    out = cuda.device_array((logs.shape[0], 1), np.float64)
    _exponentials[_over(out.size)](logs, largest, out)
    return out


def uninitialised(m: int, c: int, dtype: np.dtype[Any]) -> Any:
    """An uninitialised (m, c) array on the device."""
    return cuda.device_array((m, c), dtype)


def put(out: Any, positions: NDArray[np.intp], rows: Any) -> None:
    """Replaces the rows of `out` at `positions` by `rows`, which may be a host array."""
    if len(positions) and out.shape[1]:
        rows = cuda.to_device(np.ascontiguousarray(rows)) if isinstance(rows, np.ndarray) else rows
        _put[_over(len(positions) * out.shape[1])](rows, cuda.to_device(positions.astype(np.int64)), out)


def largest(rows: Any) -> Floats:
    """(m,) Largest absolute value of each row; 0 without columns."""
    out = cuda.device_array((max(rows.shape[0], 1),), np.float64)
    _largest[_over(out.size)](rows, out)
    return np.asarray(out.copy_to_host())[: rows.shape[0]]


def put_means(out: Any, totals: Any, mass: Floats, facts: Floats) -> None:
    """Writes means in the units of the values. `facts` (4, c) are their minimum, maximum, centre and half range."""
    if out.size:
        _put_means[_over(out.size)](totals, cuda.to_device(mass), cuda.to_device(facts), out)


def split(states: Any, leading: int, c: int, stream: Any) -> tuple[Floats, Any]:
    """Splits the first state of (states, m, columns): `leading` columns on the host, the next `c` on the device."""
    m = states.shape[1]
    first, totals = cuda.device_array((m, leading), np.float64), cuda.device_array((m, c), np.float64)
    grid = (*_over(m * (leading + c)), stream)
    _split[grid](states, first, totals)
    head = first.copy_to_host(stream=stream)
    stream.synchronize()
    return np.asarray(head), totals


def synchronise() -> None:
    cuda.synchronize()


def table(shape: Shape, problem: Any, inverse: Array, start: int, count: int, out: Any, stream: Any) -> None:
    """Writes `count` keys of a problem on the device to a table, in the layout of `stream.table_of`."""

    def on_device(numbers: Array) -> Any:
        return cuda.to_device(np.ascontiguousarray(numbers, np.float64), stream=stream)

    grid, norms, row = (*_over(out.shape[1]), stream), shape.form == "norms", shape.padded
    _place_keys[grid](device_keys(problem).rows, start, count, on_device(inverse), shape.padded, norms, out)
    row += norms
    if shape.scaled:
        largest = float(np.finfo(shape.dtype).max)
        _place_scales[grid](problem.key_scale.rows, start, count, problem.kernel.inner_product, largest, row, out)
        row += 1
    values, facts = problem.keys.rows, np.zeros((4, 1))  # placeholders that are not read
    if shape.c:
        centre, half = problem.values_centre
        values, facts = problem.values.rows, np.array([*problem.values_range, centre, np.where(half > 0, half, 1.0)])
    weights = problem.weights_on_device.rows if shape.weighted else problem.keys.rows
    _place_values[grid](values, start, count, weights, shape.weighted, on_device(facts), shape.c, row, out)


def columns_of(rows: Any, factors: Floats, norms: Floats | None, padded: int, width: int) -> Any:
    """(padded, width) x_j f_j, one row of the input in each column, filled up with zeros. Norms make a last row."""
    out = cuda.device_array((padded + (norms is not None), width), rows.dtype)
    last = cuda.to_device(np.zeros(1) if norms is None else norms)
    _turn[_over(width)](rows, cuda.to_device(np.ascontiguousarray(factors)), last, norms is not None, padded, out)
    return out


def _over(size: int) -> tuple[int, int]:
    """Numbers of blocks and of threads per block for `size` elements."""
    return max(-(-size // THREADS), MIN_BLOCKS), THREADS


@cuda.jit
def _copied(array, out):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    if i < out.shape[0]:
        out[i] = array[i]


@cuda.jit
def _reduce(rows, mask, masked, out):  # type: ignore[no-untyped-def]
    """out[part, column] = minimum, maximum and sum over a part of the rows. NaN propagates."""
    part = cuda.grid(1)
    if part < out.shape[0]:
        for column in range(cuda.blockIdx.y, out.shape[1], cuda.gridDim.y):
            low, high, total = np.inf, -np.inf, 0.0
            for i in range(part, rows.shape[0], out.shape[0]):
                if not masked or mask[i, 0] > 0:
                    value = np.float64(rows[i, column])
                    low = value if value < low or value != value else low
                    high = value if value > high or value != value else high
                    total += value
            out[part, column, 0] = low
            out[part, column, 1] = high
            out[part, column, 2] = total


@cuda.jit
def _combine(parts, out):  # type: ignore[no-untyped-def]
    """Combines the results of several parts in the same way."""
    part = cuda.grid(1)
    if part < out.shape[0]:
        for column in range(cuda.blockIdx.y, out.shape[1], cuda.gridDim.y):
            low, high, total = np.inf, -np.inf, 0.0
            for i in range(part, parts.shape[0], out.shape[0]):
                value = parts[i, column, 0]
                low = value if value < low or value != value else low
                value = parts[i, column, 1]
                high = value if value > high or value != value else high
                total += parts[i, column, 2]
            out[part, column, 0] = low
            out[part, column, 1] = high
            out[part, column, 2] = total


@cuda.jit
def _take(rows, positions, out):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    if i < out.size:
        row, column = i // out.shape[1], i % out.shape[1]
        out[row, column] = rows[positions[row], column]


@cuda.jit
def _put(rows, positions, out):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    if i < positions.shape[0] * out.shape[1]:
        row, column = i // out.shape[1], i % out.shape[1]
        out[positions[row], column] = rows[row, column]


@cuda.jit
def _largest(rows, out):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    if i < rows.shape[0]:
        largest_size = 0.0
        for j in range(rows.shape[1]):
            value = abs(rows[i, j])
            largest_size = value if value > largest_size or value != value else largest_size
        out[i] = largest_size


@cuda.jit
def _put_means(totals, mass, facts, out):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    if i < out.size:
        row, v = i // out.shape[1], i % out.shape[1]
        if mass[row] > 0.0:
            x = facts[2, v] + facts[3, v] * (totals[row, v] / mass[row])
            out[row, v] = min(max(x, facts[0, v]), facts[1, v])
        else:
            out[row, v] = np.nan


@cuda.jit
def _split(states, first, totals):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    leading, columns = first.shape[1], first.shape[1] + totals.shape[1]
    if i < first.shape[0] * columns:
        row, column = i // columns, i % columns
        if column < leading:
            first[row, column] = states[0, row, column]
        else:
            totals[row, column - leading] = states[0, row, column]


@cuda.jit
def _sizes(rows, factors, squared, out):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    if i < rows.shape[0]:
        total, lost = 0.0, 0.0
        for j in range(rows.shape[1]):
            x = np.float64(rows[i, j]) * factors[j]
            term = (x * x if squared else abs(x)) - lost
            new = total + term
            lost = (new - total) - term if new - new == 0.0 else 0.0  # an infinite sum has no rounding error
            total = new
        out[i] = total


@cuda.jit
def _whiten(rows, lower, origin, centred, out):  # type: ignore[no-untyped-def]
    """Each thread solves for one row by forward substitution."""
    i = cuda.grid(1)
    if i < out.shape[0]:
        for j in range(out.shape[1]):
            x = np.float64(rows[i, j])
            if centred:
                x -= np.float64(origin[0, j])
            for k in range(j):
                x -= lower[j, k] * out[i, k]
            out[i, j] = x / lower[j, j]


@cuda.jit
def _divide(weights, largest, out):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    if i < out.shape[0]:
        out[i, 0] = np.float64(weights[i, 0]) / largest


@cuda.jit
def _logarithms(weights, weighted, scale, power, out):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    if i < out.shape[0]:
        weight = np.float64(weights[i, 0]) if weighted else 1.0
        log = math.log(weight) if weight > 0.0 else -math.inf
        out[i, 0] = log - power * math.log(np.float64(scale[i, 0]))


@cuda.jit
def _exponentials(logs, largest, out):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    if i < out.shape[0]:
        out[i, 0] = math.exp(logs[i, 0] - largest)


# Each thread writes one column of a table, which is one key. As on the host, numbers are computed in float64 and
# rounded once.


@cuda.jit
def _place_keys(keys, start, count, inverse, padded, norms, out):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    if i < out.shape[1]:
        total, lost = 0.0, 0.0
        for j in range(padded):
            out[j, i] = 0
            if i < count and j < keys.shape[1]:
                out[j, i] = np.float64(keys[start + i, j])
                x = np.float64(out[j, i]) * inverse[j]
                term = x * x - lost
                new = total + term
                lost = (new - total) - term if new - new == 0.0 else 0.0
                total = new
        if norms:
            out[padded, i] = total


@cuda.jit
def _place_scales(scale, start, count, inner, largest, row, out):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    if i < out.shape[1]:
        out[row, i] = 0
        if i < count:
            x = 1.0 / np.float64(scale[start + i, 0])
            out[row, i] = min(x if inner else x * x, largest)


@cuda.jit
def _place_values(values, start, count, weights, weighted, facts, c, row, out):  # type: ignore[no-untyped-def]
    """Writes the weights, if there are any, to `row`, the values to the rows below, and zeros to the remaining rows."""
    i = cuda.grid(1)
    if i < out.shape[1]:
        for r in range(row, out.shape[0]):
            out[r, i] = 0
        if i < count:
            weight = 1.0
            if weighted:
                weight = np.float64(weights[start + i, 0])
                out[row, i] = weight
                row += 1
            for v in range(c):
                x = min(max(np.float64(values[start + i, v]), facts[0, v]), facts[1, v])
                x = (x - facts[2, v]) / facts[3, v]
                out[row + v, i] = min(max(x, -1.0), 1.0) * weight


@cuda.jit
def _turn(rows, factors, norms, with_norms, padded, out):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    if i < out.shape[1]:
        m, d = rows.shape
        for j in range(padded):
            out[j, i] = np.float64(rows[i, j]) * factors[j] if i < m and j < d else 0.0
        if with_norms:
            out[padded, i] = norms[i] if i < m else 0.0
