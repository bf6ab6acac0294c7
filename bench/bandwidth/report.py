"""``python bench/report.py --bandwidth``: measure, or load, and show."""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median

from bench.bandwidth import measure
from bench.bandwidth.measure import GRID, Row, Work
from bench.lib import record
from bench.lib.markdown import markdown, short, where, word, write_section
from bench.lib.record import PAGE, Progress

START, END = "<!-- bandwidth:start -->", "<!-- bandwidth:end -->"
SLACK = 1e-7  # relative difference of losses whose sums are exact to 1e-8 of the range


def run(options: argparse.Namespace, facts: dict, path: Path, partial: bool) -> int:
    """Print the table; the full form also writes it to the page. Returns 1 if a grid found a better bandwidth."""
    if not options.redraw:
        form, clock = ("quick" if options.quick else "full"), Progress()
        works = [work for work in measure.works(form) if (options.only or "") in work.name]
        rows = {work.name: measure.measure(work, form, clock).as_json() for work in works}
        record.save(path, {"machine": facts, "form": form, "rows": rows})
    content = record.load(path)
    works = [work for work in measure.works(content["form"]) if work.name in content["rows"]]
    rows = [Row.from_json(content["rows"][work.name]) for work in works]
    shown = text(content["machine"], content["form"], works, rows)
    print("\n" + shown + "\n", flush=True)
    if not partial:
        write_section(PAGE, shown, START, END)
    return int(not all(as_good(row) for row in rows))


def as_good(row: Row) -> bool:
    """Whether no bandwidth of the grid or of a rival has a smaller loss."""
    best = min([row.grid, *row.scores.values()])
    return row.score <= best * (1 + SLACK)


def text(machine: dict, form: str, works: list[Work], rows: list[Row]) -> str:
    """The machine and the method, then one row for each work."""
    heading = (
        f"{where(machine)} Leave-one-out least squares for the Gaussian, float64, one bandwidth a coordinate; medians "
        f"of 1 to 15 rounds. Grid: {GRID[form]} bandwidths around those chosen, each by `pool(exclude_self=True)`."
    )
    return (
        heading
        + "\n\n"
        + markdown(
            ["work", "goal", "fastnw", "reached", "bandwidths evaluated", "loss, and the grid's least", "others"],
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
