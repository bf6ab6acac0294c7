"""The instruction sets, the vendor and the cores of the machine, each read once."""

from __future__ import annotations

import os
from functools import lru_cache

from fastnw.runtime._cpu import x86_level, x86_vendor

LEVELS = ("v2", "v3", "v4")
MAX_THREADS = 4096  # more than any machine has cores; limits the harm of a mistyped number


@lru_cache(maxsize=1)
def cpu_levels() -> tuple[str, ...]:
    """The x86-64 levels that the processor supports, lowest first, up to ``FASTNW_CPU``; empty on other processors.

    Raises
    ------
    ValueError
        ``FASTNW_CPU`` is not one of v2, v3, v4.
    """
    levels = LEVELS[: max(x86_level() - 1, 0)]
    cap = os.environ.get("FASTNW_CPU", "").strip().lower()
    if not cap:
        return levels
    if cap not in LEVELS:
        raise ValueError(f"FASTNW_CPU must be one of {', '.join(LEVELS)}, got {cap!r}.")
    return tuple(level for level in levels if level <= cap)


@lru_cache(maxsize=1)
def vendor() -> str:
    """The vendor of the processor: "amd", "intel" or "other". The planner has timings for each."""
    return x86_vendor()


def n_threads(n_jobs: int | None = None) -> int:
    """The number of threads to use.

    `n_jobs` counts as in joblib (a negative number means all cores but |n_jobs| − 1). Without it,
    ``FASTNW_NUM_THREADS`` decides, then ``OMP_NUM_THREADS``, then the number of cores that affinity and cgroup allow.

    Raises
    ------
    ValueError
        `n_jobs` is 0, or an environment variable is not a positive integer.
    TypeError
        `n_jobs` is not an integer.
    """
    if n_jobs is None:
        for name in ("FASTNW_NUM_THREADS", "OMP_NUM_THREADS"):
            text = os.environ.get(name, "").split(",")[0].strip()
            if text:
                if not (text.isascii() and text.isdigit() and int(text)):
                    raise ValueError(f"{name} must be a positive integer, got {text!r}.")
                return min(int(text), MAX_THREADS)
        return _cores()
    if isinstance(n_jobs, bool) or not hasattr(n_jobs, "__index__"):
        raise TypeError(f"n_jobs must be an integer or None, got {n_jobs!r}.")
    n_jobs = n_jobs.__index__()
    if n_jobs == 0:
        raise ValueError("n_jobs == 0 has no meaning; use None for every core.")
    return min(n_jobs, MAX_THREADS) if n_jobs > 0 else max(_cores() + 1 + n_jobs, 1)


@lru_cache(maxsize=1)
def _cores() -> int:
    from joblib import cpu_count  # respects affinity and cgroup quotas; imported here since the import takes 50 ms

    return int(cpu_count())
