"""The whole check of a card, its table and its file."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.gpu import ceiling
from bench.gpu.cases import GOALS, Case, cases
from bench.gpu.measure import CALLS, SUMS, THERE, Timing, compare
from bench.gpu.parity import parity
from bench.lib.record import RESULTS
from fastnw.backends.cuda import backend as cuda


def with_cases(timings: list[Timing], dry: bool) -> list[tuple[Timing, Case]]:
    by_name = {case.name: case for case in cases(dry)}
    return [(timing, by_name[timing.case]) for timing in timings]


def as_json(timing: Timing, case: Case, rates: ceiling.Rates) -> dict[str, Any]:
    """The timing with its share of the ceiling, which is known for cases with one value."""
    share = timing.rate / rates.pairs(case.d, case.dtype) if case.c == 1 else None
    return asdict(timing) | {"rate": timing.rate, "wrong": timing.wrong, "share": share}


def goals(timings: list[Timing], rates: ceiling.Rates) -> list[dict[str, Any]]:
    """The share of each goal that was reached; None where there is no rate to compare with."""
    by_name = {(t.case, t.system): t.rate for t in timings if t.seconds}
    found = []
    for goal in GOALS:
        rate, d = by_name.get((goal.case, SUMS)), int(re.match(r"d=(\d+)", goal.case).group(1))
        if goal.against == "ceiling":
            other = rates.pairs(d, "float32")
        elif goal.against.endswith("(H200)"):
            other = float(goal.against.split()[0])
        else:
            other = by_name.get((goal.case, goal.against))
        share = rate / other if rate and other else None
        found.append({**asdict(goal), "share": share, "reached": None if share is None else share >= goal.factor})
    return found


def card() -> dict[str, Any]:
    """The card and the versions that the results belong to."""
    from numba import cuda as device

    names = ("fastnw", "numpy", "numba", "numba-cuda", "torch", "pykeops")
    facts: dict[str, Any] = {"versions": {name: _version(name) for name in names}}
    current = device.get_current_device()
    name = getattr(current, "name", b"simulator")
    facts["card"] = name.decode() if isinstance(name, bytes) else str(name)
    facts["multiprocessors"] = getattr(current, "MULTIPROCESSOR_COUNT", None)
    facts["date"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return facts


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def table(results: dict[str, Any]) -> str:
    """Plain text: ceilings, parity, one line for each timing and goal."""
    lines = [f"{results['card']}, {results['date']}", f"ceilings: {results['ceilings']}"]
    wrong = [p for p in results["parity"] if not p["right"]]
    lines.append(f"parity: {len(results['parity']) - len(wrong)} right, {len(wrong)} wrong {wrong[:5]}")
    lines.append(
        f"{'case':<24}{'system':<22}{'queries':>9}{'pairs/s':>11}{'of ceiling':>11}{'error':>10}{'to host':>10}"
    )
    for t in results["timings"]:
        if t["reason"]:
            lines.append(f"{t['case']:<24}{t['system']:<22}{t['reason']}")
        else:
            share = f"{t['share']:.0%}" if t["share"] else ""
            lines.append(
                f"{t['case']:<24}{t['system']:<22}{t['m']:>9}{t['rate']:>11.3g}{share:>11}{t['error']:>10.1e}"
                + ("" if t["to_host"] is None else f"{t['to_host']:>10.1e}")
                + (" WRONG" if t["wrong"] else "")
            )
    for g in results["goals"]:
        said = "nothing to compare" if g["share"] is None else f"{g['share']:.2f}"
        reached = {None: "", True: "reached", False: "missed"}[g["reached"]]
        lines.append(f"goal: {g['case']}, {g['factor']} x {g['against']}: {said} {reached}")
    return "\n".join(lines)


def main(description: str, arguments: list[str] | None = None) -> int:
    """Run everything; returns 1 if an answer was wrong, and 2 without a card."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes in the simulator, to see if all runs")
    parser.add_argument("--output", type=Path, help="where to write the results")
    parser.add_argument("--seed", type=int, default=int(perf_counter() * 1e6) % 2**31, help="seed of the random data")
    options = parser.parse_args(arguments)
    reason = cuda.missing()
    if reason is not None:
        print(f"CUDA is not available: {reason}", file=sys.stderr)
        return 2
    results = card() | {"seed": options.seed, "dry_run": options.dry_run}
    slug = re.sub(r"[^a-z0-9]+", "-", results["card"].lower()).strip("-")
    path = options.output or RESULTS / f"gpu-{slug}.json"
    rates = ceiling.measure(*((2, 4, 3) if options.dry_run else (2048, 256, 4096)))
    results["ceilings"] = asdict(rates)
    print(f"parity on {results['card']} …", flush=True)
    results["parity"] = parity(options.seed, options.dry_run)
    timings: list[Timing] = []
    for case in cases(options.dry_run):
        compare(case, options.seed, timings)
        results["timings"] = [as_json(t, case, rates) for t, case in with_cases(timings, options.dry_run)]
        results["goals"] = goals(timings, rates)
        path.write_text(json.dumps(results, indent=1) + "\n")  # an interrupted run leaves its results so far
    print(table(results) + f"\nwrote {path.name}")
    failed = [t for t in timings if t.system in (CALLS, THERE, SUMS) and (t.wrong or not t.seconds)]
    return int(bool(failed) or not all(p["right"] for p in results["parity"]))
