"""The Numba backend: it compiles tiles at first use, for built-in kernels and for users' own kernels.

Tiles run without the GIL on fastnw's threads. A `prange` over the queries of all tiles was as fast on 10⁹ pairs. It was
twice as fast only for tiles of less than 0.1 ms, which `exact` does not make. It cannot be interrupted either, and its
workqueue layer ends the process when two Python threads enter it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastnw.backends import reference
from fastnw.backends.backend import Backend, PairTimes
from fastnw.core.pack import VECTOR, KeyBlock
from fastnw.core.state import Sums
from fastnw.kernels.kernel import Kernel
from fastnw.runtime.hardware import vendor
from fastnw.runtime.subnormal import flushed

if TYPE_CHECKING:
    from types import ModuleType

MAX_FUSED_D = 3  # largest number of coordinates for the loop that keeps all operands in registers
NO_CODES, NO_OWN = np.empty((0, 0), np.int32), np.empty(0, np.int64)
# For reciprocal bandwidths between these, squares of raw differences times their square stay within range.
MIN_FACTOR, MAX_FACTOR = 1e-10, 1e10
# Nanoseconds measured on one core of a Zen 4 (AMD), and of a Xeon (Sapphire Rapids, Intel).
_TIMES = {"float32": PairTimes(0.15, 0.20, 0.050, 0.060, 3.0), "float64": PairTimes(0.30, 0.60, 0.100, 0.120, 3.0)}
_TIMES_INTEL = {
    "float32": PairTimes(0.35, 0.35, 0.080, 0.400, 3.0),
    "float64": PairTimes(0.50, 0.50, 0.160, 0.500, 4.5),
}


def missing() -> str | None:
    """Why Numba is unavailable, or None if it can run."""
    if find_spec("numba") is None:
        return "numba is not installed"
    return "NUMBA_DISABLE_JIT is set" if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0") else None


def refusal(kernel: Kernel) -> str | None:
    """Why the backend cannot run the kernel, or None if it can."""
    reason = missing()
    if reason is None and not kernel.facts.built_in:
        from fastnw.backends.numba import build

        reason = build.refusal(kernel)
    return reason


def isa() -> str:
    """The name that stands for the instruction set: Numba compiles for the processor that it finds."""
    return "numba"


def pair_times(dtype: np.dtype[Any]) -> PairTimes:
    """The times measured on a processor of this vendor."""
    return (_TIMES_INTEL if vendor() == "intel" else _TIMES)[dtype.name]


def bounds(kernel: Kernel) -> bool:
    """Whether `sum_tile` bounds the effect of errors of u² in `mass_error`."""
    return kernel.needs_pair_bounds or kernel.window_sensitivity > 0


def prepare(kernel: Kernel, inverse: NDArray[Any], c: int, scaled: bool) -> None:
    """Compile the tile that `sum_tile` will need, in the caller's thread, where Ctrl-C can interrupt it."""
    _module(kernel, inverse.dtype, _fused_d(kernel, inverse, c, scaled))


def _fused_d(kernel: Kernel, inverse: NDArray[Any], c: int, scaled: bool) -> int:
    """The number of coordinates for the loop that keeps all operands in registers, or 0 for the general loop."""
    one_bandwidth = bool(np.all(inverse == inverse[0])) and MIN_FACTOR < inverse[0] < MAX_FACTOR
    return (
        len(inverse)
        if one_bandwidth and len(inverse) <= MAX_FUSED_D and c < 2 and not (scaled or kernel.inner_product)
        else 0
    )


def sum_tile(
    kernel: Kernel,
    queries: NDArray[Any],
    keys: KeyBlock,
    inverse: NDArray[Any],
    own: NDArray[np.int64] | None,
    state: Sums,
    error: NDArray[np.float64],
) -> None:
    """Add the block's sums to the state, in place."""
    if not len(queries) or not keys.size:
        return
    c = state.total.shape[1]
    fused = _fused_d(kernel, inverse, c, keys.scale is not None)
    if c < 2 or keys.codes is not None:
        values, row = (keys.values[0] if len(keys.values) else keys.weights), 1
    else:
        values, row = _flat(keys.values.T, VECTOR)
    coords, stride = _flat(keys.coords)
    tile = _module(kernel, coords.dtype, fused).tile  # compiled before the mode for subnormal numbers changes
    with flushed(inverse, keys.scale):
        tile(
            queries,
            inverse,
            fused > 0,
            (
                coords,
                stride,
                keys.weights[:0] if keys.scale is None else keys.scale,
                keys.weights,
                values,
                row,
                NO_CODES if keys.codes is None else keys.codes,
            ),
            keys.size,
            NO_OWN if own is None else own,
            (state.shift, state.mass, state.total, state.mass_error),
            error,
            (0.0 if keys.relative else 1.0) if kernel.needs_pair_bounds else kernel.window_sensitivity,
        )


def sum_several(
    profiles: Sequence[tuple[Kernel, float]],
    queries: NDArray[Any],
    keys: KeyBlock,
    inverse: NDArray[Any],
    own: NDArray[np.int64] | None,
    states: Sequence[Sums],
    error: NDArray[np.float64],
) -> None:
    """Add the block's sums for several profiles to their states, in place."""
    for (kernel, factor), state in zip(profiles, states, strict=True):
        sum_tile(kernel, queries, keys, inverse * inverse.dtype.type(factor), own, state, error)


score_tile = reference.score_tile


def _module(kernel: Kernel, dtype: np.dtype[Any], d: int) -> ModuleType:
    from fastnw.backends.numba import build

    return build.tiles(kernel, dtype, d)


class _Memory:
    """The memory of rows as one read-only array of `size` elements. NumPy's `as_strided` takes three times as long."""

    def __init__(self, rows: NDArray[Any], size: int) -> None:
        self.rows = rows  # keeps the memory
        interface = rows.__array_interface__
        address, _ = interface["data"]
        self.__array_interface__ = {
            "version": 3,
            "typestr": interface["typestr"],
            "shape": (size,),
            "data": (address, True),
        }


def _flat(rows: NDArray[Any], multiple: int = 1) -> tuple[NDArray[Any], int]:
    """The rows as one flat array with their gaps, and the distance between the starts of two rows.

    Numba only knows that the steps of an inner loop are 1 if the whole array is contiguous. The length of a row is
    rounded up to a `multiple`, as blocks are laid out.
    """
    count, length = rows.shape[0], -(-rows.shape[1] // multiple) * multiple
    stride = rows.strides[0] // rows.itemsize
    if stride < length or (rows.shape[1] > 1 and rows.strides[1] != rows.itemsize):
        raise ValueError(
            f"Rows must be contiguous and filled up to {length} elements, got strides {rows.strides} for shape "
            f"{rows.shape}. Use the blocks of fastnw.core.pack."
        )
    size = (count - 1) * stride + length
    return np.asarray(_Memory(rows, size)), stride


BACKEND = Backend(
    name="numba",
    device="host",
    methods=frozenset({"exact", "tree", "fourier"}),
    isa=isa,
    missing=missing,
    refusal=refusal,
    bounds=bounds,
    pair_times=pair_times,
    sum_tile=sum_tile,
    sum_several=sum_several,
    score_tile=score_tile,
    compiles=True,
    prepare=prepare,
)
