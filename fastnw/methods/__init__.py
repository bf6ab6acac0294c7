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

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

NAMES = ("auto", "exact", "tree", "moments", "fourier")


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
