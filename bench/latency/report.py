"""``python bench/report.py --latency``: measure, or load, and show."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.latency import measure
from bench.latency.works import FASTNW, FIRST_USES, WORKS
from bench.lib import record
from bench.lib.markdown import markdown, where, word, write_section

START, END = "<!-- latency:start -->", "<!-- latency:end -->"


def run(options: argparse.Namespace, facts: dict, path: Path, partial: bool) -> int:
    """Print the table; the full form also writes it to the page. Returns 0: the table shows the goals."""
    if not options.redraw:
        form, clock = ("quick" if options.quick else "full"), record.Progress()
        rows = []
        for works, timed in ((WORKS, measure.measure), (FIRST_USES, measure.measure_first_use)):
            for work in works:
                if (options.only or "") in work.name:
                    rows += [row.as_json() for row in timed(work, form)]
                    clock.say(f"{work.name}: {', '.join(_said(row) for row in rows if row['work'] == work.name)}")
        record.save(path, {"machine": facts, "form": form, "rows": rows})
    shown = text(record.load(path))
    print("\n" + shown + "\n", flush=True)
    if not partial:
        write_section(record.PAGE, shown, START, END)
    return 0


def text(content: dict) -> str:
    """The machine and the method, then one row for each call and system."""
    heading = (
        f"{where(content['machine'])} float64, d = 3; one row at a time on keys that `fit` has prepared, or "
        "`pool` and scikit-learn's `fit` and answer together. Systems take turns; medians of the calls' times, the "
        "first and ninth decile beside them, and the median of the processor's time. Answers are checked against "
        "NumPy's."
    )
    rows = []
    for work in [*WORKS, *FIRST_USES]:
        of_work = [row for row in content["rows"] if row["work"] == work.name]
        for position, row in enumerate(of_work):
            title = getattr(work, "title", work.name) if position == 0 else ""
            rows.append([title, row["system"], *_times(row), *_judged(row, work.goal)])
    head = ["call", "system", "median", "deciles", "processor", "goal", "reached"]
    return heading + "\n\n" + markdown(head, rows)


def _times(row: dict) -> list[str]:
    low, high = row["deciles"]
    return [_short(row["median"]), f"{_short(low)} to {_short(high)}", _short(row["processor_median"])]


def _judged(row: dict, goal: float) -> list[str]:
    if row["system"] != FASTNW:
        return ["", ""]
    return [f"≤ {_short(goal)}", word(row["median"] <= goal)]


def _said(row: dict) -> str:
    return f"{row['system']} {_short(row['median'])}"


def _short(seconds: float) -> str:
    """Microseconds below a millisecond, milliseconds below a second."""
    for unit, size in (("µs", 1e-6), ("ms", 1e-3)):
        if seconds < 1000 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
