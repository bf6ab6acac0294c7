"""The method that `auto` chooses against every method forced, on problems drawn anew.

The ratio of a problem is the time of the chosen method and of the choice over the time of the fastest method. `exact`
is timed on some of the queries, as its time is proportional to their number. The other methods are timed on all
queries, and stopped when that would take more than twenty times as long as the best.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import numpy as np

import fastnw
from bench.lib import forced
from bench.lib.timing import rotated, timed
from bench.planner.problems import USERS, Problem

STOP_RATIO = 20.0  # a method is stopped when it takes so many times as long as the best
STOP_SECONDS = 0.05  # but not before
EXACT_SECONDS = 0.15  # `exact` is given as many queries as it can answer in this time
CLOSE_RATIO, ROUNDS = 2.5, 3  # methods this close to the best are timed again in so many rounds
LONG_SECONDS = 1.5  # methods that take longer are not timed again
PAUSE_SECONDS = 0.01  # enough, as no other system leaves threads spinning


@dataclass
class Found:
    """Measurements of one problem: seconds of each method for all queries, a lower bound for stopped methods."""

    name: str
    chosen: str
    planning: float = 0.0  # seconds that the choice takes
    seconds: dict[str, float] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    predicted: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        return (self.seconds[self.chosen] + self.planning) / min(self.seconds.values())

    def as_json(self) -> dict:
        return asdict(self) | {"ratio": self.ratio}


def measure(problem: Problem, rng: np.random.Generator, quick: bool) -> Found:
    """Time every method that accepts the problem: `exact` first, then the others in the order of predicted times."""
    arrays = problem.arrays(rng)
    queries, keys, values = arrays
    options = problem.options(keys)
    plans = forced.offers(arrays, options)
    found = Found(problem.name, fastnw.plan(*arrays, **options).method)
    found.refused = {method: plan for method, plan in plans.items() if isinstance(plan, str)}
    found.predicted = {method: plan.seconds for method, plan in plans.items() if not isinstance(plan, str)}
    found.planning = _planning(arrays, options, found.chosen)
    exact_m = forced.queries_for(plans["exact"], EXACT_SECONDS)  # `exact` accepts every problem

    def call(m: int, method: str) -> Callable[[], Any]:
        return lambda: fastnw.pool(queries[:m], keys, values, method=method, empty=0.0, progress=False, **options)

    for method in sorted(found.predicted, key=lambda name: (name != "exact", found.predicted[name])):
        size = exact_m if method == "exact" else problem.m
        if method == "exact" or problem.kernel == USERS:
            call(min(size, exact_m), method)()  # Numba compiles, and libraries are loaded
        _time_first(found, problem, method, lambda m, name=method: call(m, name), size, quick)
    _time_again(
        found, {name: call(exact_m if name == "exact" else problem.m, name) for name in found.seconds}, exact_m, problem
    )
    return found


def _planning(arrays: tuple[np.ndarray, ...], options: dict[str, Any], chosen: str) -> float:
    """Seconds that planning with `auto` takes beyond planning with a forced method."""
    seconds: dict[str, list[float]] = {"auto": [], chosen: []}
    for method in ("auto", chosen) * 3:
        start = time.perf_counter()
        fastnw.plan(*arrays, method=method, **options)
        seconds[method].append(time.perf_counter() - start)
    return max(min(seconds["auto"]) - min(seconds[chosen]), 0.0)


def _time_first(
    found: Found, problem: Problem, method: str, call: Callable[[int], Callable[[], Any]], size: int, quick: bool
) -> None:
    """Time the method once, on fewer queries if all of them take too long."""
    if method == "exact":
        found.seconds[method] = timed(call(size), PAUSE_SECONDS)[0] * problem.m / size
        return
    best = min(found.seconds.values())
    if quick and found.predicted[method] > STOP_RATIO * best and method != found.chosen:
        found.seconds[method] = found.predicted[method]
        found.stopped.append(method)
        return
    estimate = forced.estimate(
        call, size, float("inf") if method == found.chosen else max(STOP_RATIO * best, STOP_SECONDS)
    )
    found.seconds[method] = estimate.seconds
    if estimate.m < size:
        found.stopped.append(method)


def _time_again(found: Found, calls: dict[str, Callable[[], Any]], exact_m: int, problem: Problem) -> None:
    """Replace the times that matter for the ratio by medians of rounds in which the methods take turns."""
    best = min(found.seconds.values())
    close = [
        name
        for name, seconds in found.seconds.items()
        if name not in found.stopped and (seconds <= CLOSE_RATIO * best or name == found.chosen)
    ]
    repeated = [name for name in close if name == "exact" or found.seconds[name] < LONG_SECONDS]
    if len(close) < 2:
        return  # the chosen method is the only one close to the best
    rounds: dict[str, list[float]] = {name: [] for name in repeated}
    for turn in range(ROUNDS):
        for name in rotated(repeated, turn):
            rounds[name].append(timed(calls[name], PAUSE_SECONDS)[0])
    for name, seconds in rounds.items():
        found.seconds[name] = median(seconds) * (problem.m / exact_m if name == "exact" else 1.0)
