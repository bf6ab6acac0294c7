"""How a call is timed, and how calls take turns."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

SHORTEST_SECONDS = 0.02  # a shorter call is repeated within one round
PAUSE_SECONDS = 0.3  # OpenMP threads spin for 0.2 s after their work, on the next system's cores
LONG_SECONDS = 20.0  # a call that takes longer is made only once

Answer = TypeVar("Answer")


def once(call: Callable[[], Answer]) -> tuple[float, Answer]:
    """Seconds of one call, and its answer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # empty windows are judged elsewhere, not printed
        start = time.perf_counter()
        answer = call()
        return time.perf_counter() - start, answer


def timed(call: Callable[[], Answer], pause: float = PAUSE_SECONDS) -> tuple[float, Answer]:
    """Mean seconds of as many calls as the clock can resolve, and the last answer."""
    time.sleep(pause)
    total, count = 0.0, 0
    while total < SHORTEST_SECONDS:
        taken, answer = once(call)
        total, count = total + taken, count + 1
    return total / count, answer


def rotated(names: list[str], turn: int) -> list[str]:
    """The names in another order each turn, so that no system always runs after the same one."""
    turn %= max(len(names), 1)
    return names[turn:] + names[:turn]


def in_turns(
    calls: dict[str, Callable[[], Any]], rounds: int, first: dict[str, tuple[float, Any]] | None = None
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each call in each round, and its last answer.

    A first round warms up and does not count, except for calls longer than `LONG_SECONDS`, which are not repeated.
    `first` holds the results of calls whose first round has been made before.
    """
    seconds: dict[str, list[float]] = {}
    answers: dict[str, Any] = {}
    for name, call in calls.items():
        taken, answers[name] = (first or {}).get(name) or timed(call)
        seconds[name] = [taken] if taken > LONG_SECONDS else []
    repeated = [name for name in calls if not seconds[name]]
    for turn in range(rounds):
        for name in rotated(repeated, turn):
            taken, answers[name] = timed(calls[name])
            seconds[name].append(taken)
    return seconds, answers
