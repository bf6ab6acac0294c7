"""What is promised besides speed: memory of ``method="exact"``, and errors no worse than plain arithmetic's."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np

import fastnw
from bench import truth
from bench.cases import Case
from fastnw.methods import NAMES
from fastnw.runtime.hardware import n_threads

MEMORY_LIMIT = 64.0  # MiB beyond inputs and outputs
SCALING = 0.925  # of the number of threads: 1.85 times as fast on two
ERROR_FACTOR = 2.0  # times the error of a plain computation in the same type
ACCURACY_QUERIES = 64
ACCURACY_CALL = 512  # queries of the call whose errors are looked at: few queries might be summed in another way

# Runs in a fresh process, so that no memory freed earlier hides what is taken; a small call first loads modules.
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
            pass  # it cannot do this: nor will it below
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
    """A measured number and the largest that is allowed."""

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
    """MiB that `method` takes at its peak beyond inputs and outputs."""
    title = title or f"{case.name}: m={case.m:,}, n={case.n:,}"
    check = Check(f"memory, {title}", None, limit, "MiB")
    if not Path("/proc/self/clear_refs").exists():
        check.reason = "peak memory is read and reset through Linux's /proc"
        return check
    loaded = (method,) if method != "auto" else tuple(name for name in NAMES if name != "auto")
    program = MEMORY_PROGRAM.format(case=case, method=method, methods=loaded, tol=tol)
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False)
    if done.returncode:
        check.reason = (done.stderr.splitlines() or ["it failed"])[-1]
    else:
        check.found = float(done.stdout)
    return check


def threads(case: Case) -> Check:
    """Time on all threads as a share of one thread's; the two take turns."""
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
    """fastnw's largest error as a multiple of a plain computation's in the same type.

    Both are compared with the next longer type on the same queries.
    """
    small = case.with_queries(min(case.m, ACCURACY_CALL))
    queries, keys, values = small.problem()
    rows = truth.spread_rows(small.m, ACCURACY_QUERIES)
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
