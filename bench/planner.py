"""``python bench/planner.py``: what `method="auto"` chooses, against every method forced, on problems drawn anew.

The ratio of a problem is the time of the chosen method, and of choosing, over that of the fastest. `exact` is timed on
some of the queries, as its time is proportional to them; all others on all queries, unless they are stopped because
they take over twenty times as long as the best. The full form takes about ten minutes on two cores, ``--quick`` under
two. The exit status is 1 if a goal was missed.

``--predictions 100`` compares predicted seconds with measured ones instead, on so many problems of any kind.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

if os.environ.get("FASTNW_NUM_THREADS"):
    os.environ["OMP_NUM_THREADS"] = os.environ["FASTNW_NUM_THREADS"]

import numpy as np

import fastnw

sys.path.append(str(Path(__file__).resolve().parents[1]))  # after fastnw: what is installed counts

from bench import forced, machine, planner_cases, predictions, record
from bench.measure import rotated, timed
from bench.planner_cases import USERS, Problem
from bench.table import markdown, short, where

NEAR, SHARE, WORST = 1.5, 0.9, 3.0  # within NEAR of the best in SHARE of the problems, never beyond WORST
CUT = 20.0  # times the best: longer ones are stopped
LEAST_LIMIT = 0.05  # s: nothing is stopped before
EXACT_SECONDS = 0.15
CLOSE, ROUNDS, LONG = 2.5, 3, 1.5  # those so near the best are timed again, unless they take so many seconds
PAUSE = 0.01  # s: nobody else's threads are left spinning


@dataclass
class Found:
    """One problem: seconds by method, of all queries; those of stopped methods are at least so many."""

    name: str
    chosen: str
    planning: float = 0.0  # s that comparing methods takes
    seconds: dict[str, float] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    predicted: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        return (self.seconds[self.chosen] + self.planning) / min(self.seconds.values())

    def as_json(self) -> dict:
        return asdict(self) | {"ratio": self.ratio}


def main(arguments: list[str] | None = None) -> int:
    """Draw the problems, measure and judge."""
    options = _parser().parse_args(arguments)
    seed = secrets.randbits(32) if options.seed is None else options.seed
    facts, clock = machine.describe(), record.Progress()
    clock.say(f"seed {seed}: --seed {seed} draws the same problems again")
    if options.predictions:
        reached, rows = predictions.judged(options.predictions, seed, clock.say)
        print("\n" + where(facts) + "\n\n" + predictions.report(rows))
        return 0 if reached else 1
    found = []
    for i, problem in enumerate(planner_cases.quick_grid() if options.quick else planner_cases.grid()):
        rng = np.random.default_rng([seed, i])
        drawn = problem.drawn(rng)
        if (options.only or "") in drawn.name:
            found.append(measure(drawn, rng, options.quick))
            clock.say(_line(found[-1]))
    if not found:
        print(f"no problem's name contains {options.only!r}")
        return 2
    print("\n" + where(facts) + "\n\n" + table(found) + "\n")
    reached, lines = judge([each.ratio for each in found])
    print("\n".join([*lines, *_remarks(found)]))
    path = record.results_path(facts, "-planner", bool(options.quick or options.only))
    record.save(
        path, {"machine": facts, "seed": seed, "summary": lines, "problems": [each.as_json() for each in found]}
    )
    return 0 if reached else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few small problems, under two minutes")
    parser.add_argument("--seed", type=int, help="of all problems (default: another one each time)")
    parser.add_argument("--predictions", type=int, default=0, metavar="N", help="judge predicted seconds on N problems")
    parser.add_argument("--only", metavar="NAME", default="", help="problems whose name contains NAME")
    return parser


def measure(problem: Problem, rng: np.random.Generator, quick: bool) -> Found:
    """Every method that takes the problem: `exact` first, then the others, those of least prediction first."""
    arrays = problem.arrays(rng)
    queries, keys, values = arrays
    options = problem.options(keys)
    plans = forced.offers(arrays, options)
    found = Found(problem.name, fastnw.plan(*arrays, **options).method)
    found.refused = {method: plan for method, plan in plans.items() if isinstance(plan, str)}
    found.predicted = {method: plan.seconds for method, plan in plans.items() if not isinstance(plan, str)}
    found.planning = _planning(arrays, options, found.chosen)
    some = forced.queries_for(plans["exact"], EXACT_SECONDS)  # `exact` takes all problems

    def call(m: int, method: str) -> Callable[[], Any]:
        return lambda: fastnw.pool(queries[:m], keys, values, method=method, empty=0.0, progress=False, **options)

    for method in sorted(found.predicted, key=lambda name: (name != "exact", found.predicted[name])):
        size = some if method == "exact" else problem.m
        if method == "exact" or problem.kernel == USERS:
            call(min(size, some), method)()  # Numba compiles, libraries are loaded
        _time_first(found, problem, method, lambda m, name=method: call(m, name), size, quick)
    _time_again(
        found, {name: call(some if name == "exact" else problem.m, name) for name in found.seconds}, some, problem
    )
    return found


def _planning(arrays: tuple[np.ndarray, ...], options: dict[str, Any], chosen: str) -> float:
    """Seconds that it takes `auto` to choose, beyond what a forced method checks, too."""
    seconds: dict[str, list[float]] = {"auto": [], chosen: []}
    for method in ("auto", chosen) * 3:
        start = time.perf_counter()
        fastnw.plan(*arrays, method=method, **options)
        seconds[method].append(time.perf_counter() - start)
    return max(min(seconds["auto"]) - min(seconds[chosen]), 0.0)


def _time_first(
    found: Found, problem: Problem, method: str, call: Callable[[int], Callable[[], Any]], size: int, quick: bool
) -> None:
    """One time, or less if it takes too long."""
    if method == "exact":
        found.seconds[method] = timed(call(size), PAUSE)[0] * problem.m / size
        return
    best = min(found.seconds.values())
    if quick and found.predicted[method] > CUT * best and method != found.chosen:
        found.seconds[method] = found.predicted[method]
        found.stopped.append(method)
        return
    estimate = forced.estimate(call, size, float("inf") if method == found.chosen else max(CUT * best, LEAST_LIMIT))
    found.seconds[method] = estimate.seconds
    if estimate.m < size:
        found.stopped.append(method)


def _time_again(found: Found, calls: dict[str, Callable[[], Any]], some: int, problem: Problem) -> None:
    """Medians of more rounds, in turns, where they could change the ratio."""
    best = min(found.seconds.values())
    close = [
        name
        for name, seconds in found.seconds.items()
        if name not in found.stopped and (seconds <= CLOSE * best or name == found.chosen)
    ]
    again = [name for name in close if name == "exact" or found.seconds[name] < LONG]
    if len(close) < 2:
        return  # the only one is chosen, and the rest far away
    rounds: dict[str, list[float]] = {name: [] for name in again}
    for turn in range(ROUNDS):
        for name in rotated(again, turn):
            rounds[name].append(timed(calls[name], PAUSE)[0])
    for name, seconds in rounds.items():
        found.seconds[name] = median(seconds) * (problem.m / some if name == "exact" else 1.0)


def judge(ratios: list[float]) -> tuple[bool, list[str]]:
    """Whether both goals are reached, and a line on each."""
    near, worst = float(np.mean([ratio <= NEAR for ratio in ratios])), max(ratios)
    lines = [
        f"within {NEAR:g} of the best: {near:.1%} of {len(ratios)} problems (goal: {SHARE:.0%})",
        f"worst: {worst:.2f} times the best (goal: {WORST:g})",
    ]
    return near >= SHARE and worst <= WORST, lines


def table(found: list[Found]) -> str:
    """A problem a row: seconds measured (and predicted) of each method."""
    rows = []
    for each in found:
        cells = [_cell(each, method) for method in forced.METHODS]
        rows.append([each.name, each.chosen, *cells, f"{1e3 * each.planning:.2g} ms", f"{each.ratio:.2f}"])
    head = ["problem", "auto takes", *(f"{name}: s (predicted)" for name in forced.METHODS), "choosing", "ratio"]
    return markdown(head, rows)


def _cell(found: Found, method: str) -> str:
    if method not in found.seconds:
        return "–"
    more = "> " if method in found.stopped else ""
    return f"{more}{short(found.seconds[method])} ({found.predicted[method]:.2g})"


def _line(found: Found) -> str:
    cells = ", ".join(f"{method} {_cell(found, method)}" for method in found.seconds)
    return f"{found.name}: auto takes {found.chosen}, {found.ratio:.2f} of the best; seconds (predicted): {cells}"


def _remarks(found: list[Found]) -> list[str]:
    """How well each method is predicted, who had a choice at all, and why methods refused."""
    lines = [f"with two methods or more: {sum(len(each.seconds) > 1 for each in found)} problems"]
    for method in forced.METHODS:
        logs = [
            np.log2(each.predicted[method] / each.seconds[method])
            for each in found
            if method in each.seconds and method not in each.stopped
        ]
        if logs:
            low, middle, high = 2 ** np.quantile(logs, (0.1, 0.5, 0.9))
            lines.append(f"{method}: predicted over measured seconds {middle:.2f} ({low:.2f} to {high:.2f} in 80 %)")
        reasons = {each.refused[method].split(":")[0].split(", not ")[0] for each in found if method in each.refused}
        lines += [f"{method} refused: {reason}" for reason in sorted(reasons)]
    return lines


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # empty windows are not what is looked at
    sys.exit(main())
