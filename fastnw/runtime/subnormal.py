"""Flushes subnormal numbers to 0 while NumPy or Numba sums a tile; ``src_cython`` does so for compiled tiles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.runtime import _cpu

# Scale factors of coordinates for which a flushed difference or square is below the rounding error of u²; the same
# numbers stand in src_cython.
RANGE = {np.dtype(np.float32): (1e-25, 1e25), np.dtype(np.float64): (1e-280, 1e280)}


@contextmanager
def flushed(*factors: NDArray[Any] | None) -> Iterator[None]:
    """Flushes subnormal numbers in this thread, unless the scale factors of the coordinates are too large or small."""
    given = [each for each in factors if each is not None and each.size]
    within = all(each.min() > RANGE[each.dtype][0] and each.max() < RANGE[each.dtype][1] for each in given)
    mode = _cpu.flush_subnormals() if within else None
    try:
        yield
    finally:
        if mode is not None:
            _cpu.restore_subnormals(mode)
