"""The limit that memory sets where queries are few: one read of keys and values on all threads."""

from __future__ import annotations

import time

import numpy as np

from bench.lib.cases import Case
from fastnw.runtime.hardware import n_threads
from fastnw.runtime.threads import Meter, run

PART = 1 << 20  # numbers in a task


def read_seconds(case: Case) -> float:
    """Seconds for one read by `numpy.max`, as fast as a C loop of vector loads (34 GB/s on two cores, 34.5)."""
    _, keys, values = case.problem()
    parts = [a.reshape(-1)[first : first + PART] for a in (keys, values) for first in range(0, a.size, PART)]

    def read(i: int) -> float:
        np.max(parts[i])
        return 0.0

    start = time.perf_counter()
    run(read, len(parts), n_threads(), Meter(False, 0, ""))
    return time.perf_counter() - start
