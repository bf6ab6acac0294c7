"""Every method on one problem, forced in turn: what each would take, or why it cannot do it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import fastnw
from bench.measure import timed
from fastnw.methods import NAMES

METHODS = tuple(name for name in NAMES if name != "auto")
LEAST_QUERIES = 512  # with fewer, `exact` cuts its work in another way
SHARE, STEP = 64, 8  # of the queries at first, and how fast their number grows


@dataclass(frozen=True)
class Estimate:
    """Seconds for `m` of the queries; with fewer than all, the method was stopped: all would take longer."""

    seconds: float
    m: int


def offers(arrays: tuple[np.ndarray, ...], options: dict[str, Any]) -> dict[str, fastnw.planner.Plan | str]:
    """A plan for each method, or why there is none: it refuses, or is not part of this version."""
    found: dict[str, fastnw.planner.Plan | str] = {}
    for method in METHODS:
        try:
            found[method] = fastnw.plan(*arrays, method=method, **options)
        except ValueError as error:
            found[method] = str(error).partition(" cannot do this: ")[2] or str(error).partition(";")[0]
    return found


def queries_for(plan: fastnw.planner.Plan, seconds: float) -> int:
    """How many queries `exact` should take so long for; its time is proportional to them."""
    m = plan.shape[0]
    return int(np.clip(seconds * m / max(plan.seconds, 1e-9), min(LEAST_QUERIES, m), m))


def estimate(call: Callable[[int], Callable[[], Any]], m: int, limit: float) -> Estimate:
    """Time ``call(size)`` of more and more queries, so that what would take far longer than `limit` is stopped soon."""
    size = min(m, max(LEAST_QUERIES, m // SHARE))
    while True:
        taken, _ = timed(call(size), pause=0.0)
        if size == m or taken > limit:
            return Estimate(taken, size)
        size = m if taken * m / size <= limit else min(m, STEP * size)
