"""``python bench/report.py``: measure, or load, and show."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.lib import record
from bench.lib.cases import Case
from bench.lib.markdown import write_section
from bench.lib.record import Progress
from bench.lib.systems import CEILING, FASTNW
from bench.peers import cases, ceiling, checks, compare, table
from bench.peers.adaptors import PEERS
from bench.peers.checks import Check
from bench.peers.compare import Effort, Timing

FULL, QUICK, SWEEP = Effort(rounds=5, budget=0.5), Effort(rounds=3, budget=0.1), Effort(rounds=3, budget=0.1)


def run(options: argparse.Namespace, facts: dict, path: Path, partial: bool) -> int:
    """Print the tables; the full form also writes them and the pictures to the page. Returns 1 if fastnw was wrong."""
    if not options.redraw:
        record.save(path, _measure(options, facts))
    results = _load(path)
    print("\n" + table.text(**results["table"]) + "\n", flush=True)
    if not partial:
        text = table.text(**results["table"], folded=True) + "\n\n" + _draw(results)
        write_section(record.PAGE, text, table.START, table.END)
    return int(any(timing.system == FASTNW and not timing.seconds for timing in results["table"]["timings"]))


def _measure(options: argparse.Namespace, facts: dict) -> dict:
    """All timings and checks, ready for JSON."""
    clock = Progress()
    effort = QUICK if options.quick else FULL
    absent = {name: peer.missing() for name, peer in PEERS.items()} | {CEILING: ceiling.missing()}
    absent = {name: reason for name, reason in absent.items() if reason}
    for name, reason in absent.items():
        clock.say(f"not available: {name}: {reason}")
    timings = []
    for case in cases.CASES:
        if (options.only or "") in case.name:
            rivals = case.quick_rivals if options.quick else case.rivals
            timings += _compare(case, (FASTNW, *rivals), effort, clock)
    found = _check(options, clock)
    sweeps = {} if options.quick or options.only else _sweeps(clock)
    clock.say("measured")
    return {
        "machine": facts,
        "form": "quick" if options.quick else "full",
        "rounds": effort.rounds,
        "absent": absent,
        "timings": [timing.as_json() for timing in timings],
        "checks": [check.as_json() for check in found],
        "sweeps": {name: [timing.as_json() for timing in swept] for name, swept in sweeps.items()},
    }


def _compare(case: Case, systems: tuple[str, ...], effort: Effort, clock: Progress) -> list[Timing]:
    found = compare.compare(case, systems, effort)
    parts = [
        f"{timing.system} {timing.median_rate / 1e9:.3g}" if timing.seconds else f"{timing.system} {timing.status}"
        for timing in found
    ]
    clock.say(f"{case.name}: {', '.join(parts)} Gp/s")
    return found


def _check(options: argparse.Namespace, clock: Progress) -> list[Check]:
    works = [(checks.threads, case) for case in cases.CASES[: 1 if options.quick else 4]]
    works += [(checks.memory, case) for case in cases.MEMORY_CASES[: 1 if options.quick else None]]
    works += [(checks.accuracy, case) for case in (cases.ACCURACY_QUICK if options.quick else cases.ACCURACY_CASES)]
    found = []
    for check, case in works:
        if (options.only or "") in case.name:
            found.append(check(case))
            clock.say(f"{found[-1].name}: {found[-1].found} {found[-1].unit} {found[-1].reason}")
    return found


def _sweeps(clock: Progress) -> dict[str, list[Timing]]:
    """Timings for the pictures."""
    return {
        name: [timing for case in works for timing in _compare(case, (FASTNW, *case.rivals), SWEEP, clock)]
        for name, works in (("by_dimension", cases.BY_DIMENSION), ("by_keys", cases.BY_KEYS))
    }


def _load(path: Path) -> dict:
    """The arguments of the tables and of the pictures."""
    content = record.load(path)
    return {
        "table": {
            "machine": content["machine"],
            "rounds": content["rounds"],
            "absent": content["absent"],
            "timings": [Timing.from_json(each) for each in content["timings"]],
            "checks": [Check.from_json(each) for each in content["checks"]],
        },
        "sweeps": {name: [Timing.from_json(each) for each in swept] for name, swept in content["sweeps"].items()},
    }


def _draw(results: dict) -> str:
    """Write the pictures; returns Markdown that shows them, or an empty text without Matplotlib."""
    try:
        from bench.peers import pictures
    except ImportError as error:
        print(f"no pictures: {error}")
        return ""
    links = []
    for path, title in pictures.draw(results["table"]["timings"], results["sweeps"], record.PAGE.parent).items():
        print(f"wrote {path.name}")
        links.append(f"![{title}]({path.name})")
    return "\n".join(links)
