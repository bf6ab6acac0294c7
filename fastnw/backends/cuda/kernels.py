"""Compiles device functions and caches them: from the shape of a problem to a function that can be launched."""

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

MAX_REGISTER_D = 32  # largest number of coordinates of queries that a thread keeps in registers
MAX_FINITE_U2 = {"float32": 1e37, "float64": 1e300}  # beyond it a polynomial times an exponential may be NaN

# The simulator runs each thread as a Python thread.
THREADS = 4 if SIMULATED else 128
# Float32 tiles. Differences keep two sums per pair.
PRODUCTS, DIFFERENCES = Tile(16, 16, 8, 8), Tile(16, 16, 4, 8)
# With several values, the tile of κ must fit 48 KiB of shared memory.
DOUBLES, VALUES, DOUBLE_VALUES = Tile(16, 16, 4, 4), Tile(16, 16, 4, 4), Tile(8, 8, 4, 4)
# Target numbers of blocks. A large device runs them in many rounds on 132 multiprocessors, seven at a time on each
# (`wide`: one), so that the incomplete last round costs little. They are not read from the device, so that sums are
# split in the same way everywhere. The number of splits is limited because they are merged in sequence.
BLOCKS, WIDE_BLOCKS, MAX_SPLITS = (64, 64, 64) if SIMULATED else (16384, 2048, 512)


@dataclass(frozen=True)
class Shape:
    """The facts of a problem that determine its device functions."""

    dtype: str
    d: int
    c: int
    form: str  # as in `Spec`
    scaled: bool
    weighted: bool
    own: bool

    @property
    def is_wide(self) -> bool:
        return self.d > MAX_REGISTER_D

    @property
    def padded(self) -> int:
        """Number of rows of the table that hold coordinates."""
        return -(-self.d // PART) * PART if self.is_wide else self.d

    @property
    def tile(self) -> Tile:
        """The layout of a block in `wide`."""
        if self.dtype == "float64":
            chosen = DOUBLE_VALUES if self.c > 1 else DOUBLES
        else:
            chosen = VALUES if self.c > 1 else PRODUCTS if self.form in ("dot", "norms") else DIFFERENCES
        return Tile(2, 2, chosen.keys, chosen.queries) if SIMULATED else chosen

    @property
    def values(self) -> int:
        """Number of values that are summed at a time."""
        if self.is_wide and self.c > 1:
            return self.tile.values
        most = 8 if self.d <= 16 else 4  # registers that the queries leave
        return self.c if self.c < 2 else (4 if self.c <= 4 else most)

    @property
    def chunks(self) -> int:
        return max(-(-self.c // self.values), 1) if self.c else 1

    @property
    def rows(self) -> int:
        """Number of rows of the table: coordinates, norm, scale, weight, values."""
        return self.padded + (self.form == "norms") + self.scaled + self.weighted + self.values * self.chunks

    def queries(self, m: int, nudged: bool) -> int:
        """Number of queries per thread.

        More queries mean fewer reads of keys, but the registers and the number of queries limit it. A user's κ is
        computed three times per pair (`nudged`).
        """
        if self.is_wide:
            return self.tile.queries
        count = 4 if self.d <= 4 and self.c <= 1 else (2 if self.d <= 8 and self.c <= 4 else 1)
        if self.dtype == "float64" or nudged:
            count = min(count, 2)
        while count > 1 and m <= THREADS * count // 2:
            count //= 2
        return count

    def grid(self, m: int, n: int, queries: int) -> tuple[tuple[int, int, int], int, int]:
        """Blocks to launch, threads per block and keys per split, for that number of queries per thread."""
        a_block = self.tile.block_queries if self.is_wide else THREADS * queries
        across, tiles = -(-m // a_block), max(-(-n // TILE), 1)
        wanted = (WIDE_BLOCKS if self.is_wide else BLOCKS) // (across * self.chunks)
        splits = min(max(wanted, 1), tiles, MAX_SPLITS)
        per_split = -(-tiles // splits) * TILE
        splits = max(-(-n // per_split), 1)
        return (across, splits, self.chunks), self.tile.threads if self.is_wide else THREADS, per_split

    def states(self, splits: int) -> int:
        """Number of states that a launch writes."""
        return splits * (self.tile.across if self.is_wide else 1)


def spec_of(kernel: Kernel, shape: Shape, m: int, task: str) -> Spec:
    """The specification of the device function for a task of `Spec`."""
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
    """The text of a device function, its globals, and the factor that it expects u² to be multiplied by."""
    plain = spec.support is None and kernel.facts.built_in and spec.task == "sum"
    kernel_formula = formula(kernel, spec.task != "sum", plain)
    real = getattr(np, spec.dtype)
    scope = kernel_formula.scope(spec.dtype, kernel.facts.built_in) | functions(spec.dtype, kernel.facts.built_in)
    scope |= {"cuda": cuda, "dtype": getattr(types, spec.dtype), "ZERO": real(0), "ONE": real(1), "TWO": real(2)}
    scope |= {"HUGE": real(MAX_FINITE_U2[spec.dtype]), "LOG2E": real(LOG2E), "LOWEST": real(-np.inf)}
    # Positions within an iteration, which are compared in 32 bits.
    scope |= {f"I{i}": np.int32(i) for i in range(2 * LANES)}
    scope["SUPPORT"] = real(np.inf if spec.support is None else spec.support)
    text = wide(spec, shape.tile, kernel_formula) if shape.is_wide else near(spec, kernel_formula)
    return text, scope, kernel_formula.leading


@lru_cache(maxsize=512)
def _compiled(kernel: Kernel, shape: Shape, spec: Spec) -> tuple[Any, float]:
    text, scope, leading = text_of(kernel, shape, spec)
    exec(text, scope)
    return cuda.jit(scope["kernel"]), leading


def compiled(kernel: Kernel, shape: Shape, m: int, task: str) -> tuple[Any, float, Spec]:
    """A function that the first launch compiles, the factor of u² that it expects, and its specification."""
    spec = spec_of(kernel, shape, m, task)
    return *_compiled(kernel, shape, spec), spec


def plain_function(function: Any) -> Any:
    """The Python function behind a device function, for compiling it without a device."""
    return getattr(function, "py_func", None) or function.fn


def signature(dtype: str) -> Any:
    """The types of `fastnw.backends.cuda.source.ARGUMENTS`, which every device function takes."""
    real, whole = getattr(types, dtype), types.int64
    return types.void(
        *(real[:, ::1], real[:, ::1], whole, whole, real[::1], real, real[::1], real[::1], real[::1]),
        *(whole[::1], whole, types.float64[:, :, ::1]),
    )


@cuda.jit
def fill(out, value):  # type: ignore[no-untyped-def]
    """Sets each element of `out` (states, m, columns) to `value`."""
    i = cuda.grid(1)
    columns, m = out.shape[2], out.shape[1]
    if i < out.size:
        out[i // (columns * m), i // columns % m, i % columns] = value


@cuda.jit
def merge(out, largest):  # type: ignore[no-untyped-def]
    """Replaces the first state by the sum, or the maximum, of all states in their order."""
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
    """out[i, k] = u² of a query and a key, or their scaled product. Top-k and weights need single pairs."""
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
