"""Sums on a device. Keys are copied to it block by block, each block while the previous one is summed.

Queries and their states stay on the device until all keys are summed. Keys stay as well if they fit, for further panels
of queries and for queries that are summed again. Keys that already lie on the device are packed there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import cuda
from numpy.typing import NDArray

from fastnw.backends.cuda import arrays
from fastnw.backends.cuda.device_array import CudaArray, CudaRows
from fastnw.backends.cuda.functions import SIMULATED
from fastnw.backends.cuda.kernels import Shape, compiled, fill, merge
from fastnw.backends.cuda.source import TILE
from fastnw.core.array import DeviceArray
from fastnw.core.pack import KeyBlock
from fastnw.core.problem import Problem
from fastnw.core.state import Sums
from fastnw.kernels.kernel import Kernel
from fastnw.runtime._constants import MIN_UNSHIFTED_MASS
from fastnw.runtime.threads import check_stop

Array = NDArray[Any]
Floats = NDArray[np.float64]

MAX_CACHED_BYTES = 8 << 30  # of keys that stay on the device, and at most half of its free memory
MAX_PENDING_BLOCKS = 2  # blocks that are copied and not summed yet
STATE_THREADS = 256  # threads per block of the functions that fill and merge states


@dataclass(frozen=True)
class Block:
    """Keys on the device: a table of `Shape.rows` rows whose first `count` columns are the keys from `first` on."""

    table: Any
    count: int
    first: int


def table_of(shape: Shape, keys: KeyBlock, inverse: Array, out: Array) -> None:
    """Writes a block of keys in the layout that device functions read."""
    n, row = keys.size, shape.padded
    out[:, n:] = 0
    out[: shape.d, :n] = keys.coords
    out[shape.d : row] = 0
    if shape.form == "norms":
        scaled = keys.coords.T.astype(np.float64) * inverse.astype(np.float64)
        out[row, :n] = np.square(scaled).sum(axis=1)
        row += 1
    if shape.scaled:
        out[row, :n] = keys.scale
        row += 1
    if shape.weighted:
        out[row, :n] = keys.weights
        row += 1
    out[row : row + shape.c, :n] = keys.values
    out[row + shape.c :] = 0


def columns(keys: int) -> int:
    """Number of columns of a table: whole tiles, so that loads of 16 bytes stay within it."""
    return -(-keys // TILE) * TILE


class Stream:
    """Blocks of keys that are copied to the device. It can be iterated over repeatedly."""

    def __init__(self, shape: Shape, inverse: Array, blocks: Callable[[], Iterator[KeyBlock]], largest: int, n: int):
        self.shape, self.inverse, self.blocks, self.width = shape, inverse, blocks, columns(largest)
        self.copying, self.summing = cuda.stream(), cuda.stream()
        self.kept: list[Block] | None = None
        self.keeps = fits(shape, n)

    def __iter__(self) -> Iterator[Block]:
        """Yields each block as soon as work on it may be queued on the stream `summing`."""
        if self.kept is not None:
            yield from self.kept
            return
        shape, kept = self.shape, []
        hosts = [cuda.pinned_array((shape.rows, self.width), shape.dtype) for _ in range(MAX_PENDING_BLOCKS)]
        tables = [] if self.keeps else [self._device(self.width) for _ in range(MAX_PENDING_BLOCKS)]
        summed = [cuda.event() for _ in range(MAX_PENDING_BLOCKS)]
        copied = cuda.event()
        for number, keys in enumerate(self.blocks()):
            slot = number % MAX_PENDING_BLOCKS
            summed[slot].synchronize()  # the previous block of this slot: its buffers are free again
            host = hosts[slot]
            table_of(shape, keys, self.inverse, host)
            table = self._device(self.width) if self.keeps else tables[slot]
            table.copy_to_device(host, stream=self.copying)
            copied.record(self.copying)
            copied.wait(self.summing)
            block = Block(table, keys.size, keys.start)
            if self.keeps:
                kept.append(block)
            yield block
            summed[slot].record(self.summing)
        if self.keeps:
            self.kept = kept

    def _device(self, width: int) -> Any:
        return cuda.device_array((self.shape.rows, width), self.shape.dtype)


class Resident:
    """Keys of a problem on the device, packed there in the same blocks that `Stream` would copy."""

    def __init__(self, shape: Shape, inverse: Array, problem: Problem, largest: int):
        self.shape, self.inverse, self.problem, self.largest = shape, inverse, problem, largest
        self.width, self.summing = columns(largest), cuda.stream()
        self.kept: list[Block] | None = None
        self.keeps = fits(shape, problem.n)

    def __iter__(self) -> Iterator[Block]:
        """Yields each block. Packing is queued on `summing` too, after the work on the previous block."""
        if self.kept is not None:
            yield from self.kept
            return
        n, kept = self.problem.n, []
        table = None
        for start in range(0, n, self.largest):
            count = min(self.largest, n - start)
            if table is None or self.keeps:
                table = cuda.device_array((self.shape.rows, self.width), self.shape.dtype)
            arrays.table(self.shape, self.problem, self.inverse, start, count, table, self.summing)
            block = Block(table, count, start)
            if self.keeps:
                kept.append(block)
            yield block
        if self.keeps:
            self.kept = kept


Keys = Stream | Resident


def fits(shape: Shape, n: int) -> bool:
    """Whether a table of n keys may stay on the device."""
    size = np.dtype(shape.dtype).itemsize * shape.rows * columns(n)
    return size <= min(MAX_CACHED_BYTES, _free_bytes() // 2)


def _free_bytes() -> int:
    if SIMULATED:
        return MAX_CACHED_BYTES
    return int(cuda.current_context().get_memory_info()[0])


@dataclass(frozen=True)
class Queries:
    """Queries on the host or the device. ``own`` is the position of the key that each query leaves out, or None."""

    points: Any  # (m, d) array or DeviceArray
    inverse: Array  # (d,)
    error: Floats  # (m,) relative, of u²
    own: NDArray[np.int64] | None

    def rows(self, rows: NDArray[np.intp]) -> Queries:
        own = None if self.own is None else self.own[rows]
        on_device = isinstance(self.points, DeviceArray)
        points = self.points.taken(rows, self.points.dtype) if on_device else self.points[rows]
        return Queries(points, self.inverse, self.error[rows], own)

    def norm(self) -> Floats:
        """(m,) |q/h|²."""
        if isinstance(self.points, DeviceArray):
            return self.points.norms(self.inverse.astype(np.float64))
        return np.square(self.points * self.inverse.astype(np.float64)).sum(axis=1)


def sums(kernel: Kernel, shape: Shape, queries: Queries, stream: Keys, done: Callable[[float], None]) -> Sums:
    """The state over all keys, without bounds on the rounding of sums. `done` receives numbers of pairs."""
    m = len(queries.points)
    if m == 0:
        return Sums.empty(0, shape.c)
    with np.errstate(all="ignore"):
        if kernel.works_on_logs and (kernel.inner_product or not kernel.facts.built_in):
            return _shifted(kernel, shape, queries, stream, done)  # κ may exceed the range of the type
        state = _pass(kernel, shape, queries, stream, done, "sum", np.zeros(m))
        if kernel.works_on_logs:
            lost = np.flatnonzero(~(state.mass >= MIN_UNSHIFTED_MASS))
            if len(lost):
                state.put(lost, _shifted(kernel, shape, queries.rows(lost), stream, done))
    return state


def _shifted(kernel: Kernel, shape: Shape, queries: Queries, stream: Keys, done: Callable[[float], None]) -> Sums:
    bare = replace(shape, c=0)
    logs = _launched(kernel, bare, queries, stream, done, "max", np.zeros(len(queries.points)))
    largest = _fetched(logs, stream)[:, 0]
    known = np.isfinite(largest)
    state = _pass(kernel, shape, queries, stream, done, "shifted", np.where(known, largest, 0.0))
    state.put(~known, Sums.empty(int((~known).sum()), shape.c))
    return state


def _pass(
    kernel: Kernel,
    shape: Shape,
    queries: Queries,
    stream: Keys,
    done: Callable[[float], None],
    task: str,
    shift: Floats,
) -> Sums:
    states = _launched(kernel, shape, queries, stream, done, task, shift)
    error = np.zeros(len(shift))
    bounded = not kernel.facts.built_in or kernel.window_sensitivity > 0
    leading = 1 + bounded
    total: Any
    if isinstance(stream, Resident) and shape.c:  # then the results stay there too
        head, totals = arrays.split(states, leading, shape.c, stream.summing)
        total = CudaRows(totals)
    else:
        head = _fetched(states, stream)
        total = np.ascontiguousarray(head[:, leading : leading + shape.c])
    if bounded:
        error = head[:, 1] * (queries.error * kernel.window_sensitivity if kernel.facts.built_in else 1.0)
    real = np.dtype(shape.dtype).type
    return Sums(shift.astype(real).astype(np.float64), head[:, 0].copy(), total, error, np.zeros(len(shift)))


def _fetched(states: Any, stream: Keys) -> Floats:
    """(m, columns) The first state, on the host."""
    copied = states[0].copy_to_host(stream=stream.summing)
    stream.summing.synchronize()
    return np.asarray(copied)


def _launched(
    kernel: Kernel,
    shape: Shape,
    queries: Queries,
    stream: Keys,
    done: Callable[[float], None],
    task: str,
    shift: Floats,
) -> Any:
    """Launches one pass over all keys: sums or largest logarithms, in the first state of (states, m, columns)."""
    m, real, on = len(queries.points), np.dtype(shape.dtype).type, stream.summing
    function, leading, spec = compiled(kernel, shape, m, task)
    largest = task == "max"
    grid, threads, _ = shape.grid(m, stream.width, spec.queries)
    states = shape.states(grid[1])
    width = 1 if largest else 1 + bool(spec.errors) + shape.values * shape.chunks
    out = cuda.device_array((states, m, width), np.float64)
    _over(out.size, on, fill)(out, -np.inf if largest else 0.0)
    factor = leading * (float(queries.inverse[0]) ** 2 if shape.form == "one" else 1.0)
    points, inverse = _points(shape, queries)
    own = np.zeros(1, np.int64) if queries.own is None else queries.own
    edge = 1 + 2 * queries.error
    arrays = [
        _on_device(a, on) for a in (points, inverse, *(a.astype(real) for a in (shift, edge, queries.error)), own)
    ]
    points, inverse, shift_, edge_, error_, own_ = arrays
    for block in stream:
        check_stop()
        grid, threads, per_split = shape.grid(m, block.count, spec.queries)
        arguments = (points, block.table, block.count, block.first, inverse, real(factor), shift_, edge_, error_, own_)
        function[grid, threads, on](*arguments, per_split, out)
        done(float(m) * block.count)
    _over(m * width, on, merge)(out, largest)
    return out


def _over(size: int, stream: Any, kernel: Any) -> Any:
    threads = 4 if SIMULATED else STATE_THREADS
    return kernel[-(-size // threads), threads, stream]


def _on_device(array: Any, stream: Any) -> Any:
    if isinstance(array, DeviceArray):
        return array.rows
    return cuda.to_device(np.ascontiguousarray(array), stream=stream)


def _points(shape: Shape, queries: Queries) -> tuple[Any, Array]:
    """Queries and reciprocal bandwidths in the layout of device functions: rows, or columns in whole tiles."""
    points, inverse = queries.points, queries.inverse
    if not shape.is_wide:
        return points, inverse
    exact, (m, d) = inverse.astype(np.float64), points.shape
    norms = shape.form == "norms"
    width = -(-m // shape.tile.block_queries) * shape.tile.block_queries
    padded = np.pad(inverse, (0, shape.padded - d))
    if isinstance(points, DeviceArray):
        factors = np.square(exact) if norms else exact if shape.form == "dot" else np.ones(d)
        norm = queries.norm() if norms else None
        return CudaArray(arrays.columns_of(points.rows, factors, norm, shape.padded, width)), padded
    wide = np.zeros((shape.padded + norms, width), points.dtype)
    if norms:
        wide[:d, :m] = (points * np.square(exact)).T
        wide[shape.padded, :m] = queries.norm()
    else:
        wide[:d, :m] = (points * inverse if shape.form == "dot" else points).T
    return wide, padded
