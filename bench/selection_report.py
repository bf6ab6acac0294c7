"""``python bench/report.py --bandwidth``: measure, or load, and show."""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median

from bench import record, selection, table
from bench.record import ROOT, Progress
from bench.selection import GRID, Row, Work
from bench.table import markdown, short, where, word

START, END = "<!-- bandwidth:start -->", "<!-- bandwidth:end -->"
SLACK = 1e-7  # of the loss: what sums that keep 1e-8 of the range may differ by


def run(options: argparse.Namespace, facts: dict, path: Path, partial: bool) -> int:
    """The table on the screen; in its full form also into README.md. 1 if a grid found anything better."""
    if not options.redraw:
        form, clock = ("quick" if options.quick else "full"), Progress()
        works = [work for work in selection.works(form) if (options.only or "") in work.name]
        rows = {work.name: selection.measure(work, form, clock).as_json() for work in works}
        record.save(path, {"machine": facts, "form": form, "rows": rows})
    content = record.load(path)
    works = [work for work in selection.works(content["form"]) if work.name in content["rows"]]
    rows = [Row.from_json(content["rows"][work.name]) for work in works]
    shown = text(content["machine"], content["form"], works, rows)
    print("\n" + shown + "\n", flush=True)
    if not partial:
        table.write_readme(ROOT / "README.md", shown, START, END)
        print("wrote the table into README.md")
    return int(not all(as_good(row) for row in rows))


def as_good(row: Row) -> bool:
    """Whether no bandwidth of the grid, nor of another system, has a lesser loss."""
    best = min([row.grid, *row.scores.values()])
    return row.score <= best * (1 + SLACK)


def text(machine: dict, form: str, works: list[Work], rows: list[Row]) -> str:
    """Where and how, then a row a work."""
    heading = (
        f"{where(machine)} Leave-one-out least squares for the Gaussian, float64, one bandwidth a coordinate; medians "
        f"of 1 to 15 rounds. Grid: {GRID[form]} bandwidths around those chosen, each with `pool(exclude_self=True)`."
    )
    return (
        heading
        + "\n\n"
        + markdown(
            ["work", "goal", "fastnw", "reached", "bandwidths looked at", "loss, and the grid's least", "others"],
            [_row(work, row) for work, row in zip(works, rows, strict=True)],
        )
    )


def _row(work: Work, row: Row) -> list[str]:
    taken = median(row.seconds)
    goal = "" if work.at_most is None else f"≤ {work.at_most:g} s"
    reached = as_good(row) and (work.at_most is None or taken <= work.at_most)
    others = [
        f"{name} {short(seconds)} s ({short(seconds / taken)} ×), loss {row.scores[name]:.6g}"
        for name, seconds in row.others.items()
    ]
    return [
        f"n = {work.n:,}, d = {work.d}",
        goal,
        f"{short(taken)} s",
        word(reached),
        str(row.looked_at),
        f"{row.score:.7g}, {row.grid:.7g}",
        "; ".join(others + row.notes),
    ]
