"""Flushes subnormal numbers while a backend other than the compiled one sums a tile; see src_cython/_flush.h."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.runtime import _cpu
from fastnw.runtime._constants import FLUSHABLE_FACTORS

RANGE = {np.dtype(name): limits for name, limits in FLUSHABLE_FACTORS.items()}


@contextmanager
def flushed(*factors: NDArray[Any] | None) -> Iterator[None]:
    """Flush subnormal numbers in this thread, if distances with those factors keep their digits."""
    given = [each for each in factors if each is not None and each.size]
    within = all(each.min() > RANGE[each.dtype][0] and each.max() < RANGE[each.dtype][1] for each in given)
    before = _cpu.flush_subnormals() if within else None
    try:
        yield
    finally:
        if before is not None:
            _cpu.restore_subnormals(before)
