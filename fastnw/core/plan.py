"""The plan of a computation, and the costs that the planner compares. Data only."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Methods are compared for this number of threads, whatever `n_jobs` is: another method returns other bits, and bits
# must not depend on the number of threads. Most laptops and small servers have eight. With one thread, the comparison
# would favour methods whose work is mostly serial, which waste all other threads.
NOMINAL_THREADS = 8
# The work in seconds that is worth another thread: a start takes 50 µs, and the first task has cold caches.
MIN_THREAD_SECONDS = 2e-4


@dataclass(frozen=True)
class Work:
    """A part of a call: its seconds on one thread, and the largest number of threads that can share it."""

    seconds: float
    most_threads: float = 1.0

    def on(self, n_threads: int) -> float:
        """Predict the seconds on `n_threads` threads."""
        return self.seconds / max(min(n_threads, self.most_threads, self.seconds / MIN_THREAD_SECONDS), 1.0)


@dataclass(frozen=True)
class Cost:
    """Predicted number of pairs, parts of the work, and bytes of memory beyond inputs and outputs."""

    pairs: float
    work: tuple[Work, ...]
    bytes: float

    @property
    def serial(self) -> float:
        """Seconds of the work that cannot be shared by threads."""
        return math.fsum(part.seconds for part in self.work if part.most_threads <= 1)

    @property
    def parallel(self) -> float:
        """Seconds, on one thread, of the work that threads can share."""
        return math.fsum(part.seconds for part in self.work if part.most_threads > 1)

    def seconds(self, n_threads: int) -> float:
        """Predict the seconds of all parts, one after the other, on `n_threads` threads."""
        return math.fsum(part.on(n_threads) for part in self.work)


@dataclass(frozen=True)
class Refusal:
    """The reason why a method does not support a problem: a predicate such as "supports d <= 3, got d = 5"."""

    reason: str


@dataclass(frozen=True)
class Rung:
    """A method in a precision: one entry of the ladder, which is tried until the error bound is within the tolerance.

    Attributes
    ----------
    method : str
    form : str
        The variant of a method that has several: for "exact", "differences", "products", "reference" or "presence";
        for "tree", "if fast" skips the rung where exact sums are faster.
    precision : str
        "float32", "float64" or "double-double".
    rank : float
        An uncertified query continues at the next rung of a higher rank.
    """

    method: str
    form: str = ""
    precision: str = "float64"
    rank: float = 0.0

    def __str__(self) -> str:
        return " ".join(part for part in (self.method, self.form, f"({self.precision})") if part)


@dataclass(frozen=True)
class Plan:
    """The planned computation; ``str()`` explains it.

    Attributes
    ----------
    method, backend, isa : str
        The method that selects the pairs to sum, the backend that sums them, and its instruction set.
    n_threads : int
        Number of threads.
    pairs : float
        Predicted number of query-key pairs that are summed.
    seconds, bytes : float
        Predicted time, and memory beyond inputs and outputs.
    reason : str
        Why the method was chosen.
    shape : tuple of int
        m, n, d and c.
    kernel : str
        Name of the kernel.
    dtype : dtype
        Compute type of the first rung of "exact".
    ladder : tuple of Rung
        The rungs in the order in which they are tried. A query that a rung does not certify is summed by a later one.
    """

    method: str
    backend: str
    isa: str
    n_threads: int
    pairs: float
    seconds: float
    bytes: float
    reason: str
    shape: tuple[int, int, int, int]
    kernel: str
    dtype: np.dtype[Any]
    ladder: tuple[Rung, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        m, n, d, c = self.shape
        share = self.pairs / (m * n) if m * n else 1.0
        first = self.dtype.name if self.method == "exact" else "float64"
        return "\n".join(
            (
                f"{m:,} queries on {n:,} keys, d = {d}, {c} value(s) per key, kernel {self.kernel}",
                f"  method    {self.method}: {self.pairs:.3g} pairs ({100 * share:.3g} % of all) in {first}",
                f"  backend   {self.backend} ({self.isa}), {self.n_threads} thread(s)",
                f"  expected  {self.seconds:.2g} s, {self.bytes / 2**20:.1f} MiB beyond inputs and outputs",
                f"  because   {self.reason}",
                f"  accuracy  {_accuracy(self.ladder)}",
            )
        )


def _accuracy(ladder: tuple[Rung, ...]) -> str:
    """Describe which rungs certify the results, in the order in which they are tried."""
    first, *later = map(str, ladder)
    return f"certified for each query: {first}" + (f", then {', '.join(later)}, where needed" if later else "")
