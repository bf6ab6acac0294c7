"""Kernels made and kept: from a problem's shape to a function that can be launched."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numba import cuda, types

from fastnw.backends.cuda.functions import LOG2E, SIMULATED, formula, functions
from fastnw.backends.cuda.source import LANES, PART, TILE, Spec, near
from fastnw.backends.cuda.wide import Tile, wide
from fastnw.kernels.kernel import Kernel

REGISTERS_D = 32  # coordinates up to which a thread keeps its queries' in registers
HUGE = {"float32": 1e37, "float64": 1e300}  # u² from which polynomials times exponentials are no numbers

# In the simulator every thread is one of Python's.
THREADS = 4 if SIMULATED else 128
PRODUCTS, DIFFERENCES = Tile(16, 16, 8, 8), Tile(16, 16, 4, 8)  # float32; differences have two sums a pair
DOUBLES, VALUES, DOUBLE_VALUES = Tile(16, 16, 4, 4), Tile(16, 16, 4, 4), Tile(8, 8, 4, 4)  # κ has to fit 48 KiB
# Blocks to aim for: many rounds of them on the 132 multiprocessors of a large device, seven at a time on each (`wide`:
# one), so that the last round, which fills only a part of them, costs little. Not read from the device, so that sums
# are split in the same way everywhere. Splits are merged one after another: not too many.
BLOCKS, WIDE_BLOCKS, MOST_SPLITS = (64, 64, 64) if SIMULATED else (16384, 2048, 512)


@dataclass(frozen=True)
class Shape:
    """What of a problem decides its kernels."""

    dtype: str
    d: int
    c: int
    form: str  # of `Spec`
    scaled: bool
    weighted: bool
    own: bool

    @property
    def is_wide(self) -> bool:
        return self.d > REGISTERS_D

    @property
    def padded(self) -> int:
        """Rows of the table that hold coordinates."""
        return -(-self.d // PART) * PART if self.is_wide else self.d

    @property
    def tile(self) -> Tile:
        """How a block of `wide` is laid out."""
        if self.dtype == "float64":
            chosen = DOUBLE_VALUES if self.c > 1 else DOUBLES
        else:
            chosen = VALUES if self.c > 1 else PRODUCTS if self.form in ("dot", "norms") else DIFFERENCES
        return Tile(2, 2, chosen.keys, chosen.queries) if SIMULATED else chosen

    @property
    def values(self) -> int:
        """Values summed at a time."""
        if self.is_wide and self.c > 1:
            return self.tile.values
        most = 8 if self.d <= 16 else 4  # what registers are left beside the queries
        return self.c if self.c < 2 else (4 if self.c <= 4 else most)

    @property
    def chunks(self) -> int:
        return max(-(-self.c // self.values), 1) if self.c else 1

    @property
    def rows(self) -> int:
        """Of the table: coordinates, norm, scale, weight, values."""
        return self.padded + (self.form == "norms") + self.scaled + self.weighted + self.values * self.chunks

    def queries(self, m: int, nudged: bool) -> int:
        """Queries a thread: the more, the fewer reads of keys, as far as registers and the number of queries go. A
        user's κ is computed three times a pair (`nudged`)."""
        if self.is_wide:
            return self.tile.queries
        room = 4 if self.d <= 4 and self.c <= 1 else (2 if self.d <= 8 and self.c <= 4 else 1)
        if self.dtype == "float64" or nudged:
            room = min(room, 2)
        while room > 1 and m <= THREADS * room // 2:
            room //= 2
        return room

    def grid(self, m: int, n: int, queries: int) -> tuple[tuple[int, int, int], int, int]:
        """Blocks to launch, threads of each, and keys a split; with so many queries a thread."""
        a_block = self.tile.block_queries if self.is_wide else THREADS * queries
        across, tiles = -(-m // a_block), max(-(-n // TILE), 1)
        wanted = (WIDE_BLOCKS if self.is_wide else BLOCKS) // (across * self.chunks)
        splits = min(max(wanted, 1), tiles, MOST_SPLITS)
        per_split = -(-tiles // splits) * TILE
        splits = max(-(-n // per_split), 1)
        return (across, splits, self.chunks), self.tile.threads if self.is_wide else THREADS, per_split

    def states(self, splits: int) -> int:
        """States that a launch writes, one below the other."""
        return splits * (self.tile.across if self.is_wide else 1)


def spec_of(kernel: Kernel, shape: Shape, m: int, task: str) -> Spec:
    """What to write for a task of `Spec`."""
    built_in = kernel.facts.built_in
    errors = "" if task == "max" else "nudged" if not built_in else "window" if kernel.window_sensitivity else ""
    support = None if kernel.support is None else float(kernel.support) ** 2
    return Spec(
        dtype=shape.dtype,
        d=0 if shape.is_wide else shape.d,
        values=0 if task == "max" else shape.values,
        queries=shape.queries(m, not built_in),
        form=shape.form,
        scaled=shape.scaled,
        weighted=shape.weighted,
        own=shape.own,
        task=task,
        support=support,
        guarded=not kernel.inner_product,
        errors=errors,
        threads=THREADS,
    )


def text_of(kernel: Kernel, shape: Shape, spec: Spec) -> tuple[str, dict[str, Any], float]:
    """A kernel's text, what it finds in its module, and the factor of u² that it expects."""
    plain = spec.support is None and kernel.facts.built_in and spec.task == "sum"
    written = formula(kernel, spec.task != "sum", plain)
    real = getattr(np, spec.dtype)
    scope = written.scope(spec.dtype, kernel.facts.built_in) | functions(spec.dtype, kernel.facts.built_in)
    scope |= {"cuda": cuda, "dtype": getattr(types, spec.dtype), "ZERO": real(0), "ONE": real(1), "TWO": real(2)}
    scope |= {"HUGE": real(HUGE[spec.dtype]), "LOG2E": real(LOG2E), "LOWEST": real(-np.inf)}
    scope |= {f"I{i}": np.int32(i) for i in range(2 * LANES)}  # places within an iteration: comparisons in 32 bits
    scope["SUPPORT"] = real(np.inf if spec.support is None else spec.support)
    text = wide(spec, shape.tile, written) if shape.is_wide else near(spec, written)
    return text, scope, written.leading


@lru_cache(maxsize=512)
def _made(kernel: Kernel, shape: Shape, spec: Spec) -> tuple[Any, float]:
    text, scope, leading = text_of(kernel, shape, spec)
    exec(text, scope)
    return cuda.jit(scope["kernel"]), leading


def made(kernel: Kernel, shape: Shape, m: int, task: str) -> tuple[Any, float, Spec]:
    """A kernel to launch, compiled when it first is; the factor of u² that it expects; what it was written for."""
    spec = spec_of(kernel, shape, m, task)
    return *_made(kernel, shape, spec), spec


def plain_function(function: Any) -> Any:
    """The Python function of a made kernel, to be compiled without a device."""
    return getattr(function, "py_func", None) or function.fn


def signature(dtype: str) -> Any:
    """Of every kernel: `fastnw.backends.cuda.source.ARGUMENTS`."""
    real, whole = getattr(types, dtype), types.int64
    return types.void(
        *(real[:, ::1], real[:, ::1], whole, whole, real[::1], real, real[::1], real[::1], real[::1]),
        *(whole[::1], whole, types.float64[:, :, ::1]),
    )


@cuda.jit
def fill(out, value):  # type: ignore[no-untyped-def]
    """Every number of `out` (states, m, columns)."""
    i = cuda.grid(1)
    columns, m = out.shape[2], out.shape[1]
    if i < out.size:
        out[i // (columns * m), i // columns % m, i % columns] = value


@cuda.jit
def merge(out, largest):  # type: ignore[no-untyped-def]
    """The sum, or the largest, of all states into the first, in their order."""
    i = cuda.grid(1)
    columns = out.shape[2]
    if i < out.shape[1] * columns:
        row, column = i // columns, i % columns
        value = out[0, row, column]
        for s in range(1, out.shape[0]):
            value = max(value, out[s, row, column]) if largest else value + out[s, row, column]
        out[0, row, column] = value


@cuda.jit
def scores(queries, table, inverse, inner, scaled, out):  # type: ignore[no-untyped-def]
    """out[i, k]: u² of a query and a key, or their scaled product; for methods that look at single pairs."""
    k, i = cuda.grid(2)
    if i < out.shape[0] and k < out.shape[1]:
        d = queries.shape[1]
        total = inverse[0] - inverse[0]
        for start in range(0, d, PART):
            part = inverse[0] - inverse[0]
            for j in range(start, min(start + PART, d)):
                if inner:
                    part += queries[i, j] * inverse[j] * table[j, k]
                else:
                    x = (queries[i, j] - table[j, k]) * inverse[j]
                    part += x * x
            total += part
        out[i, k] = total * table[d, k] if scaled else total
