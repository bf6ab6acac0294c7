"""``python bench/report.py --planner``: measure and show. ``--predictions 100`` judges predicted seconds instead."""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path

import numpy as np

from bench.lib import record
from bench.lib.internals import METHODS
from bench.lib.markdown import markdown, short, where
from bench.planner import predictions, problems
from bench.planner.measure import Found, measure

NEAR_RATIO, NEAR_SHARE, WORST_RATIO = 1.5, 0.9, 3.0  # 90 % of the problems near the best, and none beyond the worst


def run(options: argparse.Namespace, facts: dict, path: Path, partial: bool) -> int:
    """Draw the problems, measure, save and print. Returns 1 if a goal was missed, and 2 if no problem was chosen."""
    seed = secrets.randbits(32) if options.seed is None else options.seed
    clock = record.Progress()
    clock.say(f"seed {seed}: --seed {seed} draws the same problems again")
    if options.predictions:
        reached, rows = predictions.judged(options.predictions, seed, clock.say)
        print("\n" + where(facts) + "\n\n" + predictions.report(rows))
        return 0 if reached else 1
    found = []
    for i, problem in enumerate(problems.quick_grid() if options.quick else problems.grid()):
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
    record.save(
        path, {"machine": facts, "seed": seed, "summary": lines, "problems": [each.as_json() for each in found]}
    )
    return 0 if reached else 1


def judge(ratios: list[float]) -> tuple[bool, list[str]]:
    """Whether both goals are reached, and a line for each."""
    near, worst = float(np.mean([ratio <= NEAR_RATIO for ratio in ratios])), max(ratios)
    lines = [
        f"within {NEAR_RATIO:g} of the best: {near:.1%} of {len(ratios)} problems (goal: {NEAR_SHARE:.0%})",
        f"worst: {worst:.2f} times the best (goal: {WORST_RATIO:g})",
    ]
    return near >= NEAR_SHARE and worst <= WORST_RATIO, lines


def table(found: list[Found]) -> str:
    """One row for each problem: measured (and predicted) seconds of each method."""
    rows = []
    for each in found:
        cells = [_cell(each, method) for method in METHODS]
        rows.append([each.name, each.chosen, *cells, f"{1e3 * each.planning:.2g} ms", f"{each.ratio:.2f}"])
    head = ["problem", "auto chooses", *(f"{name}: s (predicted)" for name in METHODS), "choosing", "ratio"]
    return markdown(head, rows)


def _cell(found: Found, method: str) -> str:
    if method not in found.seconds:
        return "–"
    more = "> " if method in found.stopped else ""
    return f"{more}{short(found.seconds[method])} ({found.predicted[method]:.2g})"


def _line(found: Found) -> str:
    cells = ", ".join(f"{method} {_cell(found, method)}" for method in found.seconds)
    return f"{found.name}: auto chooses {found.chosen}, {found.ratio:.2f} of the best; seconds (predicted): {cells}"


def _remarks(found: list[Found]) -> list[str]:
    """How well each method is predicted, how many problems offered a choice, and why methods refused."""
    lines = [f"problems with two methods or more: {sum(len(each.seconds) > 1 for each in found)}"]
    for method in METHODS:
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
