"""Subnormal numbers off while a tile of another backend than the compiled one is summed; see src_cython/_flush.h."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.runtime import _cpu

# Factors of distances within which a flushed difference or square stays below the rounding of u²; as in _flush.h.
RANGE = {np.dtype(np.float32): (1e-25, 1e25), np.dtype(np.float64): (1e-280, 1e280)}


@contextmanager
def flushed(*factors: NDArray[Any] | None) -> Iterator[None]:
    """In this thread, if those factors of distances leave them their digits."""
    given = [each for each in factors if each is not None and each.size]
    within = all(each.min() > RANGE[each.dtype][0] and each.max() < RANGE[each.dtype][1] for each in given)
    before = _cpu.flush_subnormals() if within else None
    try:
        yield
    finally:
        if before is not None:
            _cpu.restore_subnormals(before)
