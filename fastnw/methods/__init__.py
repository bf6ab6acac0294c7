"""Which pairs are summed. Each method is a module with

``cost(problem, backend, n_threads, dtype) -> Cost | Refusal``
    What it would do and take, or why it cannot.
``summarise(problem, plan) -> summary``
    What it keeps of the keys; its ``prepare(meter)`` makes it at once.
``panel(problem) -> int``
    How many queries to accumulate at a time.
``accumulate(summary, positions, meter) -> PoolState``
    The sums of those queries, with bounds. Queries that a method cannot certify it hands on to the next.
"""

from __future__ import annotations

from dataclasses import dataclass

NAMES = ("auto", "exact", "tree", "moments", "fourier")


@dataclass(frozen=True)
class Cost:
    """Pairs summed, seconds and bytes of memory beyond inputs and outputs; all predicted."""

    pairs: float
    seconds: float
    bytes: float


@dataclass(frozen=True)
class Refusal:
    """Why a method cannot do a problem."""

    reason: str
