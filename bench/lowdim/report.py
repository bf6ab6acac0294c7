"""``python bench/report.py --lowdim``: measure, or load, and show."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bench.lib import record
from bench.lib.markdown import write_section
from bench.lib.record import PAGE, Progress
from bench.lowdim import growth, measure, table
from bench.lowdim.measure import Row
from bench.peers.adaptors import PEERS
from bench.peers.checks import Check
from bench.peers.compare import Timing

PICTURE = PAGE.parent / "bench_large_n.png"
QUICK_RIVAL_KEYS = 10_000  # in two coordinates only


def run(options: argparse.Namespace, facts: dict, path: Path, partial: bool) -> int:
    """Print the table; the full form also writes it and the picture to the page. Returns 1 if an answer was wrong."""
    if not options.redraw:
        record.save(path, _measure(options, facts))
    results = load(path)
    print("\n" + table.text(**results["table"]) + "\n", flush=True)
    if not partial:
        links = _draw(results)
        text = table.text(**results["table"], folded=True) + links
        write_section(PAGE, text, table.START, table.END)
    shown = results["table"]
    wrong = any(table.faults(*pair) for pair in zip(shown["works"], shown["rows"], strict=True))
    return int(wrong or any("not certified" in check.reason for check in shown["checks"]))


def _measure(options: argparse.Namespace, facts: dict) -> dict:
    """All measurements, ready for JSON."""
    clock = Progress()
    form, only = (measure.QUICK if options.quick else measure.FULL), options.only or ""
    works = [work for work in measure.works(form.scale) if only in work.case.name]
    found = {_key(work): measure.measure(work, form, clock).as_json() for work in works}
    checks: list[Check] = []
    timings: dict[str, list[dict]] = {"growth": [], "rivals": []}
    for d in (1, 2, 3):
        if only in f"growth, gaussian, d={d}":
            swept, check = growth.growth(d, form, clock)
            checks.append(check)
            timings["growth"] += [timing.as_json() for timing in swept]
        if not options.only and (d == 2 or not options.quick):
            largest = QUICK_RIVAL_KEYS if options.quick else max(growth.RIVAL_SIZES)
            timings["rivals"] += [timing.as_json() for timing in growth.rivals(d, largest, clock)]
    for work in growth.memory_works(works, form.scale):
        if only in work.case.name:
            checks.append(growth.memory(work, clock))
    clock.say("measured")
    return {
        "machine": facts,
        "form": form.name,
        "rounds": form.rounds,
        "scale": form.scale,
        "absent": {name: PEERS[name].missing() for name in growth.RIVALS if PEERS[name].missing()},
        "rows": found,
        "checks": [check.as_json() for check in checks],
        **timings,
    }


def _key(work: measure.Work) -> str:
    return f"{work.case.name}, n={work.case.n}, {work.what}"


def load(path: Path) -> dict[str, Any]:
    """The arguments of the table and of the picture."""
    content = record.load(path)
    works = [work for work in measure.works(content["scale"]) if _key(work) in content["rows"]]
    return {
        "table": {
            "machine": content["machine"],
            "form": content["form"],
            "rounds": content["rounds"],
            "works": works,
            "rows": [Row.from_json(content["rows"][_key(work)]) for work in works],
            "checks": [Check.from_json(each) for each in content["checks"]],
        },
        "growth": [Timing.from_json(each) for each in content["growth"]],
        "rivals": [Timing.from_json(each) for each in content["rivals"]],
    }


def _draw(results: dict[str, Any]) -> str:
    """Write the picture; returns Markdown that shows it, or an empty text without Matplotlib."""
    try:
        from bench.lowdim import pictures
    except ImportError as error:
        print(f"no picture: {error}")
        return ""
    pictures.draw(results["growth"], results["rivals"], PICTURE)
    print(f"wrote {PICTURE.name}")
    return f"\n\n![Time of each system against n = m]({PICTURE.name})"
