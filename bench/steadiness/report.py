"""``python bench/report.py --steadiness``: measure, or load, and show."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from bench.lib import record
from bench.lib.markdown import markdown, where, write_section
from bench.steadiness.measure import KEYS, QUERIES, D, Row, measure

START, END = "<!-- steadiness:start -->", "<!-- steadiness:end -->"
GOAL = 1.5  # the most that the slowest input of a kernel may take, in times of the fastest


def run(options: argparse.Namespace, facts: dict, path: Path, partial: bool) -> int:
    """Print the table; the full form also writes those of all machines to the page. Returns 0."""
    if not options.redraw:
        rows = measure("quick" if options.quick else "full", options.only or "", record.Progress())
        record.save(path, {"machine": facts, "rows": [asdict(row) for row in rows]})
    print("\n" + text(record.load(path)) + "\n", flush=True)
    if not partial:
        found = sorted(record.RESULTS.glob("*-steadiness.json"))
        shown = "\n\n".join(text(record.load(each)) for each in found)
        write_section(record.PAGE, shown, START, END)
    return 0


def text(content: dict) -> str:
    """One row for each instruction set and type, with the kernel whose times differ most."""
    rows = [Row(**row) for row in content["rows"]]
    worst = [max(group, key=lambda row: row.ratio) for group in _groups(rows)]
    worst.sort(key=lambda row: -row.ratio)
    head = [
        "level, type",
        "kernel",
        "slowest input",
        "ns per pair",
        "fastest input",
        "ns per pair",
        f"ratio (≤ {GOAL})",
    ]
    cells = [
        [
            f"{row.level}, {row.dtype}",
            row.kernel,
            row.slowest,
            f"{row.nanoseconds[row.slowest]:.3g}",
            row.fastest,
            f"{row.nanoseconds[row.fastest]:.3g}",
            f"{row.ratio:.2f}",
        ]
        for row in worst
    ]
    heading = (
        f"{where(content['machine'])} {QUERIES:,} queries, {KEYS:,} keys, d = {D}, one value, `exact` on one "
        f"thread; of {len(rows)} combinations of kernel, type and level, "
        f"{sum(row.ratio <= GOAL for row in rows)} reach the goal. A row shows the kernel whose times differ most."
    )
    return heading + "\n\n" + markdown(head, cells)


def _groups(rows: list[Row]) -> list[list[Row]]:
    kinds = dict.fromkeys((row.level, row.dtype) for row in rows)
    return [[row for row in rows if (row.level, row.dtype) == kind] for kind in kinds]
