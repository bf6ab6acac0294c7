"""Which pairs are summed. Each method is a module with

``cost(problem, backend, n_threads, dtype) -> Cost | Refusal``
    What it would do and take, or why it cannot. Only its bytes may depend on `n_threads`.
``summarise(problem, plan) -> summary``
    What it keeps of the keys; its ``prepare(meter)`` makes it at once.
``panel(problem) -> int``
    How many queries to accumulate at a time.
``accumulate(summary, positions, meter) -> PoolState``
    The sums of those queries, with bounds. Queries that a method cannot certify it hands on to the next, and says so
    by `note`.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

NAMES = ("auto", "exact", "tree", "moments", "fourier")


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


_listeners: list[Counter[str]] = []
_lock = threading.Lock()


@contextmanager
def answered() -> Iterator[Counter[str]]:
    """Counts of the queries that another method than the plan's answered, by its name, while the block runs.

    Of all calls in this process: a benchmark makes one at a time.
    """
    counts: Counter[str] = Counter()
    with _lock:
        _listeners.append(counts)
    try:
        yield counts
    finally:
        with _lock:
            _listeners[:] = [other for other in _listeners if other is not counts]  # equal ones stay


def note(name: str, number: int) -> None:
    """Tell who listens that `number` queries are answered by the method `name`, to which they were handed on."""
    if _listeners:
        with _lock:
            for counts in _listeners:
                counts[name] += number
