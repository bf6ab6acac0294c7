"""Every method forced in turn on one problem: its plan or its refusal, and its time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import fastnw
from bench.lib.internals import METHODS
from bench.lib.timing import timed

FEWEST_QUERIES = 512  # with fewer, `exact` divides its work in another way
FIRST_SHARE, GROWTH = 64, 8  # one in 64 queries is timed first, then eight times as many each time


@dataclass(frozen=True)
class Estimate:
    """Seconds of `m` queries; fewer than all where the method was stopped because all would take too long."""

    seconds: float
    m: int


def offers(arrays: tuple[np.ndarray, ...], options: dict[str, Any]) -> dict[str, fastnw.Plan | str]:
    """Each method's plan, or the reason why it refuses the problem."""
    found: dict[str, fastnw.Plan | str] = {}
    for method in METHODS:
        try:
            found[method] = fastnw.plan(*arrays, method=method, **options)
        except ValueError as error:
            message, prefix = str(error), f"method={method!r} "
            clause = message.removeprefix(prefix).removesuffix(" Use method='auto'.")
            found[method] = clause if message.startswith(prefix) else message.partition(";")[0]
    return found


def queries_for(plan: fastnw.Plan, seconds: float) -> int:
    """The number of queries for which `exact` takes about so many seconds: its time is proportional to them."""
    m = plan.shape[0]
    return int(np.clip(seconds * m / max(plan.seconds, 1e-9), min(FEWEST_QUERIES, m), m))


def estimate(call: Callable[[int], Callable[[], Any]], m: int, limit: float) -> Estimate:
    """Time ``call(size)`` for more and more queries, and stop when all of them would take longer than `limit`."""
    size = min(m, max(FEWEST_QUERIES, m // FIRST_SHARE))
    while True:
        taken, _ = timed(call(size), pause=0.0)
        if size == m or taken > limit:
            return Estimate(taken, size)
        size = m if taken * m / size <= limit else min(m, GROWTH * size)
