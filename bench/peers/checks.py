"""Promises other than speed: memory, use of all threads, and errors no worse than those of plain arithmetic."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np

import fastnw
from bench.lib import truth
from bench.lib.cases import Case
from bench.lib.internals import METHODS
from fastnw.runtime.hardware import n_threads

MEMORY_LIMIT = 64.0  # MiB beyond inputs and outputs
SCALING = 0.925  # times the number of threads is the least speedup, 1.85 on two
ERROR_FACTOR = 2.0  # times the error of a plain computation in the same type is allowed
CHECKED_QUERIES = 64
QUERIES_OF_CALL = 512  # the checked queries are part of a longer call, because few queries may be summed in another way

# Runs in a fresh process, where no memory freed earlier can hide an allocation. Small calls load the modules first.
MEMORY_PROGRAM = """
import numpy as np
import fastnw

def status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(key + ":")) / 1024

def problem(m, n):
    rng = np.random.default_rng(0)
    values = (n, {case.c}) if {case.c} > 1 else n
    return (*(rng.standard_normal((rows, {case.d}), dtype=np.float32).astype("{case.dtype}") for rows in (m, n)),
            rng.standard_normal(values, dtype=np.float32).astype("{case.dtype}"))

options = dict(bandwidth={case.bandwidth}, kernel="{case.kernel}", tol={tol}, empty=0.0, progress=False)
for method in {methods}:
    for m, n in ((3, 5), (4000, 300), (2, 2000)):
        try:
            fastnw.pool(*problem(m, n), method=method, **options)
        except ValueError:
            pass  # the method refuses this problem, and will refuse it below
arrays = problem({case.m}, {case.n})
out = np.zeros(({case.m}, {case.c}) if {case.c} > 1 else {case.m}, arrays[0].dtype)
with open("/proc/self/clear_refs", "w") as reset:
    reset.write("5")
before = status("VmRSS")
assert status("VmHWM") - before < 4, "the peak was not reset"
fastnw.pool(*arrays, out=out, method="{method}", **options)
assert np.isfinite(out).all()
print(status("VmHWM") - before)
"""


@dataclass
class Check:
    """A measured number and the largest allowed one."""

    name: str
    found: float | None
    allowed: float
    unit: str
    reason: str = ""

    @property
    def reached(self) -> bool | None:
        return None if self.found is None else self.found <= self.allowed

    @classmethod
    def from_json(cls, content: dict) -> Check:
        return cls(**{key: value for key, value in content.items() if key != "reached"})

    def as_json(self) -> dict:
        return asdict(self) | {"reached": self.reached}


def memory(
    case: Case, method: str = "exact", limit: float = MEMORY_LIMIT, tol: float | None = None, title: str = ""
) -> Check:
    """MiB beyond inputs and outputs at the peak of a call."""
    title = title or f"{case.name}: m={case.m:,}, n={case.n:,}"
    check = Check(f"memory, {title}", None, limit, "MiB")
    if not Path("/proc/self/clear_refs").exists():
        check.reason = "peak memory is read and reset through Linux's /proc"
        return check
    loaded = (method,) if method != "auto" else METHODS
    program = MEMORY_PROGRAM.format(case=case, method=method, methods=loaded, tol=tol)
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False)
    if done.returncode:
        check.reason = (done.stderr.splitlines() or ["the process failed"])[-1]
    else:
        check.found = float(done.stdout)
    return check


def threads(case: Case) -> Check:
    """Time on all threads as a share of the time on one; both take turns."""
    count = n_threads()
    check = Check(f"threads, {case.name}: time on {count} over time on 1", None, 1 / (SCALING * count), "×")
    if count == 1:
        check.reason = "there is one thread"
        return check
    arrays = case.problem()
    seconds: dict[int, list[float]] = {1: [], count: []}
    for _ in range(5):
        for jobs, taken in seconds.items():
            time.sleep(0.1)
            start = time.perf_counter()
            fastnw.pool(*arrays, bandwidth=case.bandwidth, method="exact", n_jobs=jobs, progress=False)
            taken.append(time.perf_counter() - start)
    check.found = median(seconds[count]) / median(seconds[1])
    check.reason = f"{1 / check.found:.3g} times as fast"
    return check


def accuracy(case: Case) -> Check:
    """Largest error of fastnw as a multiple of that of a plain computation in the same type.

    Both are compared with the next longer type on the same queries.
    """
    small = case.with_queries(min(case.m, QUERIES_OF_CALL))
    queries, keys, values = small.problem()
    rows = truth.spread_rows(small.m, CHECKED_QUERIES)
    longer = np.float64 if case.dtype == "float32" else np.longdouble
    right = truth.plain(case, queries[rows], keys, values, longer)
    plain = truth.plain(case, queries[rows], keys, values, np.dtype(case.dtype).type)
    answer = fastnw.pool(queries, keys, values, bandwidth=case.bandwidth, method="exact", progress=False)
    errors = [
        float(np.abs(found - right).max() / np.ptp(values, axis=0).max())
        for found in (answer.reshape(small.m, -1)[rows], plain)
    ]
    check = Check(f"accuracy, {case.name}", errors[0] / errors[1], ERROR_FACTOR, "× plain error")
    check.reason = f"{errors[0]:.1e} against {errors[1]:.1e} of the values' range"
    return check
