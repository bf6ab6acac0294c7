"""``python bench/report.py``: fastnw and its peers in turns, as a table, as JSON and as pictures.

The full form takes some twenty minutes, writes the tables into README.md and the pictures into docs/. ``--quick``
takes under two minutes on two cores: fewer rounds, fewer queries (rates are extrapolated, and marked so), no README, no
pictures. The exit status is 1 if fastnw gave a wrong answer; missed goals are in the table.

``--lowdim`` is a report of its own: many keys and queries in few coordinates, every query's certificate, growth and
memory; in full under fifteen minutes, with ``--quick`` at a tenth of the sizes under two. So is ``--bandwidth``: the
choice of bandwidths, and whether a grid finds better ones; ten minutes, or one. And ``--steadiness``: whether the time
of a pair depends on the data; three minutes, or one.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if os.environ.get("FASTNW_NUM_THREADS"):
    os.environ["OMP_NUM_THREADS"] = os.environ["FASTNW_NUM_THREADS"]  # read when BLAS and OpenMP are loaded

import fastnw  # noqa: E402, F401 (before the next line: what is installed counts, not a source tree without kernels)

sys.path.append(str(ROOT))

from bench import cases, ceiling, checks, lowdim_report, machine, measure, record, selection_report, steadiness, table  # noqa: E402
from bench.cases import FASTNW, Case  # noqa: E402
from bench.checks import Check  # noqa: E402
from bench.latency import report as latency  # noqa: E402
from bench.measure import Effort, Timing  # noqa: E402
from bench.peers import PEERS  # noqa: E402
from bench.record import Progress  # noqa: E402

REPORTS = {  # of their own
    "lowdim": lowdim_report,
    "bandwidth": selection_report,
    "steadiness": steadiness,
    "latency": latency,
}
FULL, QUICK, SWEEP = Effort(rounds=5, budget=0.5), Effort(rounds=3, budget=0.1), Effort(rounds=3, budget=0.1)


def main(arguments: list[str] | None = None) -> int:
    """Run everything, or draw again what was run."""
    options = _parser().parse_args(arguments)
    facts = machine.describe()
    partial = bool(options.quick or options.only)
    asked = next((name for name in REPORTS if getattr(options, name)), None)
    path = record.results_path(facts, f"-{asked}" if asked else "", partial)
    if asked:
        return REPORTS[asked].run(options, facts, path, partial)
    if not options.redraw:
        record.save(path, _measure(options, facts))
    results = _load(path)
    print("\n" + table.text(**results["table"]) + "\n", flush=True)
    if not partial:
        pictures = _draw(results)
        table.write_readme(ROOT / "README.md", table.text(**results["table"], folded=True) + "\n\n" + pictures)
        print("wrote the tables into README.md")
    return int(any(timing.system == FASTNW and not timing.seconds for timing in results["table"]["timings"]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under two minutes; no README, no pictures")
    parser.add_argument("--lowdim", action="store_true", help="many keys and queries in few coordinates instead")
    parser.add_argument("--bandwidth", action="store_true", help="the choice of bandwidths instead")
    parser.add_argument("--steadiness", action="store_true", help="whether times depend on the data instead")
    parser.add_argument("--latency", action="store_true", help="small calls instead")
    parser.add_argument("--only", metavar="NAME", help="cases whose name contains NAME; no README, no pictures")
    parser.add_argument("--redraw", action="store_true", help="measure nothing: tables and pictures of the last run")
    return parser


def _measure(options: argparse.Namespace, facts: dict) -> dict:
    """All timings and checks, ready for JSON."""
    clock = Progress()
    effort = QUICK if options.quick else FULL
    absent = {name: peer.missing() for name, peer in PEERS.items()} | {cases.CEILING: ceiling.missing()}
    absent = {name: reason for name, reason in absent.items() if reason}
    for name, reason in absent.items():
        clock.say(f"not here: {name}: {reason}")
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
    found = measure.compare(case, systems, effort)
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
    """What the tables and the pictures take."""
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
    """Write the pictures; returns Markdown that shows them."""
    try:
        from bench import pictures
    except ImportError as error:
        print(f"no pictures: {error}")
        return ""
    links = []
    for path, title in pictures.draw(results["table"]["timings"], results["sweeps"], ROOT / "docs").items():
        print(f"wrote {path.relative_to(ROOT)}")
        links.append(f"![{title}]({path.relative_to(ROOT).as_posix()})")
    return "\n".join(links)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # peers' deprecations; what matters is checked
    sys.exit(main())
