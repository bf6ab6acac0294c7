"""``python bench/report.py --lowdim``: measure, or load, and show."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bench import lowdim, lowdim_growth, lowdim_table, record, table
from bench.checks import Check
from bench.lowdim import Row
from bench.measure import Timing
from bench.peers import PEERS
from bench.record import ROOT, Progress

PICTURE = ROOT / "docs" / "bench_large_n.png"
QUICK_RIVALS = 10_000  # keys at most, in two coordinates


def run(options: argparse.Namespace, facts: dict, path: Path, partial: bool) -> int:
    """The table on the screen; in its full form also into README.md, and the picture. 1 if an answer was wrong."""
    if not options.redraw:
        record.save(path, _measure(options, facts))
    results = load(path)
    print("\n" + lowdim_table.text(**results["table"]) + "\n", flush=True)
    if not partial:
        links = _draw(results)
        text = lowdim_table.text(**results["table"], folded=True) + links
        table.write_readme(ROOT / "README.md", text, lowdim_table.START, lowdim_table.END)
        print("wrote the table into README.md")
    shown = results["table"]
    wrong = any(lowdim_table.faults(*pair) for pair in zip(shown["works"], shown["rows"], strict=True))
    return int(wrong or any("not certified" in check.reason for check in shown["checks"]))


def _measure(options: argparse.Namespace, facts: dict) -> dict:
    """Everything, ready for JSON."""
    clock = Progress()
    form, only = (lowdim.QUICK if options.quick else lowdim.FULL), options.only or ""
    works = [work for work in lowdim.works(form.scale) if only in work.case.name]
    found = {_key(work): lowdim.measure(work, form, clock).as_json() for work in works}
    checks: list[Check] = []
    timings: dict[str, list[dict]] = {"growth": [], "rivals": []}
    for d in (1, 2, 3):
        if only in f"growth, gaussian, d={d}":
            swept, check = lowdim_growth.growth(d, form, clock)
            checks.append(check)
            timings["growth"] += [timing.as_json() for timing in swept]
        if not options.only and (d == 2 or not options.quick):
            largest = QUICK_RIVALS if options.quick else max(lowdim_growth.RIVAL_SIZES)
            timings["rivals"] += [timing.as_json() for timing in lowdim_growth.rivals(d, largest, clock)]
    for work in lowdim_growth.memory_works(works, form.scale):
        if only in work.case.name:
            checks.append(lowdim_growth.memory(work, clock))
    clock.say("measured")
    return {
        "machine": facts,
        "form": form.name,
        "rounds": form.rounds,
        "scale": form.scale,
        "absent": {name: PEERS[name].missing() for name in lowdim_growth.RIVALS if PEERS[name].missing()},
        "rows": found,
        "checks": [check.as_json() for check in checks],
        **timings,
    }


def _key(work: lowdim.Work) -> str:
    return f"{work.case.name}, n={work.case.n}, {work.what}"


def load(path: Path) -> dict[str, Any]:
    """What the table and the picture take."""
    content = record.load(path)
    works = [work for work in lowdim.works(content["scale"]) if _key(work) in content["rows"]]
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
    """Write the picture; returns Markdown that shows it, or nothing."""
    try:
        from bench import pictures
    except ImportError as error:
        print(f"no picture: {error}")
        return ""
    pictures.draw_large_n(results["growth"], results["rivals"], PICTURE)
    print(f"wrote {PICTURE.relative_to(ROOT)}")
    return f"\n\n![Time of each system against n = m]({PICTURE.relative_to(ROOT).as_posix()})"
