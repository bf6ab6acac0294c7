"""How a problem will be summed: the plan, and the costs that the planner compares. Data only."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Methods are compared on a machine with so many threads, whatever `n_jobs` is: another method has other bits, and bits
# may not depend on threads. Eight are what most laptops and small servers have; with one, methods whose work is mostly
# serial would be chosen where they waste all other threads.
NOMINAL_THREADS = 8
# Seconds of work that are worth another thread: starting one takes 50 µs, and its first task finds nothing in cache.
THREAD_SECONDS = 2e-4


@dataclass(frozen=True)
class Work:
    """A part of a call: its seconds on one thread, and how many threads can share it."""

    seconds: float
    most_threads: float = 1.0

    def on(self, n_threads: int) -> float:
        """Its seconds on so many threads."""
        return self.seconds / max(min(n_threads, self.most_threads, self.seconds / THREAD_SECONDS), 1.0)


@dataclass(frozen=True)
class Cost:
    """Pairs summed, parts of the work, and bytes of memory beyond inputs and outputs; all predicted."""

    pairs: float
    work: tuple[Work, ...]
    bytes: float

    @property
    def serial(self) -> float:
        """Seconds that no number of threads shortens."""
        return math.fsum(part.seconds for part in self.work if part.most_threads <= 1)

    @property
    def parallel(self) -> float:
        """Seconds on one thread of the parts that threads share."""
        return math.fsum(part.seconds for part in self.work if part.most_threads > 1)

    def seconds(self, n_threads: int) -> float:
        """Of all parts, one after the other, on so many threads."""
        return math.fsum(part.on(n_threads) for part in self.work)


@dataclass(frozen=True)
class Refusal:
    """Why a method cannot do a problem."""

    reason: str


@dataclass(frozen=True)
class Rung:
    """A method in a precision: one step of the ladder that queries go down until a bound keeps the promise.

    Attributes
    ----------
    method : str
    form : str
        How the method sums, where it can do so in more than one way: for "exact", "differences", "products",
        "reference" or "presence"; for "tree", "if fast" leaves few queries to other rungs.
    precision : str
        "float32", "float64" or "double-double".
    rank : float
        A query that a rung leaves uncertified goes on to the next rung of a higher rank.
    """

    method: str
    form: str = ""
    precision: str = "float64"
    rank: float = 0.0

    def __str__(self) -> str:
        return " ".join(part for part in (self.method, self.form, f"({self.precision})") if part)


@dataclass(frozen=True)
class Plan:
    """What will be done; ``str()`` explains it.

    Attributes
    ----------
    method, backend, isa : str
        Which pairs are summed, by what, with which instruction set.
    n_threads : int
    pairs : float
        Query-key pairs that will be summed.
    seconds, bytes : float
        Predicted time, and memory beyond inputs and outputs.
    reason : str
        Why this and not another.
    """

    method: str
    backend: str
    isa: str
    n_threads: int
    pairs: float
    seconds: float
    bytes: float
    reason: str
    shape: tuple[int, int, int, int]  # m, n, d, c
    kernel: str
    dtype: np.dtype[Any]  # compute type of the first pass
    ladder: tuple[Rung, ...] = field(default=(), repr=False)  # in the order in which rungs are tried

    def __str__(self) -> str:
        m, n, d, c = self.shape
        share = self.pairs / (m * n) if m * n else 1.0
        first = self.dtype.name if self.method == "exact" else "float64"
        return "\n".join(
            (
                f"{m:,} queries on {n:,} keys, d = {d}, {c} value(s) a key, kernel {self.kernel}",
                f"  method    {self.method}: {self.pairs:.3g} pairs ({100 * share:.3g} % of all) in {first}",
                f"  backend   {self.backend} ({self.isa}), {self.n_threads} thread(s)",
                f"  expected  {self.seconds:.2g} s, {self.bytes / 2**20:.1f} MiB beyond inputs and outputs",
                f"  because   {self.reason}",
                f"  accuracy  {_escalation(self.method, self.dtype)}",
            )
        )


def _escalation(method: str, dtype: np.dtype[Any]) -> str:
    steps = "" if method == "exact" else f"{method}, then exact in "
    steps += ("float32, " if dtype == np.float32 else "") + "float64, then 32 digits for far tails"
    return f"certified for each query: {steps}, where needed"
