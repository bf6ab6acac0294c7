"""Results as Markdown: goals, then every system's rate; the same text is printed and put into the README."""

from __future__ import annotations

from pathlib import Path

from bench.cases import CASES, CEILING, FASTNW, Case
from bench.checks import Check
from bench.measure import Timing, fastnw_over
from bench.peers import PEERS

START, END = "<!-- bench:start -->", "<!-- bench:end -->"


def text(
    machine: dict, rounds: int, absent: dict[str, str], timings: list[Timing], checks: list[Check], folded: bool = False
) -> str:
    """Everything; `folded` hides all but the goals behind a line to click on, as GitHub shows it."""
    measured = {timing.case for timing in timings}
    cases = [case for case in CASES if case.name in measured]
    details = "\n\n".join([rates(cases, timings), notes(timings, absent)])
    if folded:
        details = f"<details><summary>Every system and every rate</summary>\n\n{details}\n\n</details>"
    return "\n\n".join([heading(machine, rounds), goals(cases, timings, checks), details])


def goals(cases: list[Case], timings: list[Timing], checks: list[Check]) -> str:
    """One row a goal: what fastnw reached, and whether it is enough."""
    rows = []
    for case in cases:
        of_case = [timing for timing in timings if timing.case == case.name]
        for goal in case.goals:
            ratio = fastnw_over(of_case, goal.against)
            asked = f"≥ {goal.factor:.0%}" if goal.against == CEILING else f"≥ {goal.factor:g} ×"
            found = _missing_reason(of_case, goal.against)
            reached = None
            if ratio is not None:
                found = f"{ratio:.0%}" if goal.against == CEILING else f"{short(ratio)} ×"
                reached = ratio >= goal.factor
                if any(timing.disturbed and timing.system in (FASTNW, goal.against) for timing in of_case):
                    found, reached = f"{found} (disturbed: rounds differ by more than 2 ×)", None
            rows.append([_title(case), goal.against, found, asked, word(reached)])
    for check in checks:
        found = check.reason if check.found is None else f"{check.found:.3g} {check.unit}"
        note = f" ({check.reason})" if check.reason and check.found is not None else ""
        rows.append([check.name, "", found + note, f"≤ {check.allowed:g} {check.unit}", word(check.reached)])
    return markdown(["work", "against", "fastnw", "goal", "reached"], rows)


def rates(cases: list[Case], timings: list[Timing]) -> str:
    """One row a system on each case: 10⁹ pairs a second, median and spread of the rounds."""
    rows = []
    for case in cases:
        of_case = [timing for timing in timings if timing.case == case.name]
        for position, timing in enumerate(of_case):
            rows.append([_title(case) if position == 0 else "", timing.system, *_rate_cells(timing, of_case)])
    return markdown(["work", "system", "Gp/s (min to max)", "fastnw is", "note"], rows)


def _rate_cells(timing: Timing, of_case: list[Timing]) -> list[str]:
    if not timing.seconds:
        return ["", "", f"{timing.status}: {timing.reason}"]
    low, high = (timing.rate(seconds(timing.seconds)) / 1e9 for seconds in (max, min))
    rate = f"{short(timing.median_rate / 1e9)} ({short(low)} to {short(high)})"
    ratio = fastnw_over(of_case, timing.system) if timing.system != FASTNW else None
    notes = ["density only"] if timing.what == "density" else []
    notes += [timing.note] if timing.note else []
    notes += ["disturbed"] if timing.disturbed else []
    notes += [f"extrapolated from {timing.m:,} queries"] if timing.extrapolated else []
    return [rate, "" if ratio is None else f"{short(ratio)} ×", "; ".join(notes)]


def notes(timings: list[Timing], absent: dict[str, str]) -> str:
    """What has to be known of each system that was timed, and which could not be."""
    used = dict.fromkeys(timing.system for timing in timings if timing.system in PEERS and timing.system not in absent)
    lines = [f"* {name}: {PEERS[name].note}." for name in used if PEERS[name].note]
    return "\n".join([*lines, *(f"* {name} was not there: {reason}." for name, reason in absent.items())])


def heading(machine: dict, rounds: int) -> str:
    return (
        f"{where(machine)} Systems take turns, {rounds} rounds; medians. Every answer is checked "
        "against a NumPy oracle before and after. Gp/s: 10⁹ query–key pairs a second."
    )


def where(machine: dict) -> str:
    """Machine, day and versions, as a sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    return (
        f"{machine['cpu']}, {machine['isa']}, threads: {machine['threads']}, {machine['date'][:10]}; Python "
        f"{machine['python']}, {versions}."
    )


def write_readme(readme: Path, text: str, start: str = START, end: str = END) -> None:
    """Put `text` between the markers.

    Raises
    ------
    ValueError
        The README has no pair of markers.
    """
    before, opened, rest = readme.read_text(encoding="utf-8").partition(start)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise ValueError(f"{readme.name} has no markers {start} and {end}.")
    readme.write_text(f"{before}{start}\n{text.strip()}\n{end}{after}", encoding="utf-8")


def _title(case: Case) -> str:
    kernel = "" if case.kernel == "gaussian" or case.kernel in case.name else f", {case.kernel}"
    return f"{case.name}{kernel}: {case.dtype}, d={case.d}, m={case.m:,}, n={case.n:,}, {case.c} values".replace(
        " 1 values", " 1 value"
    )


def _missing_reason(timings: list[Timing], system: str) -> str:
    """Why there is no ratio: a system that was not timed, fastnw itself included, says so."""
    found = next((timing for timing in timings if timing.system == system), None)
    if found is None:
        return "not measured"
    return f"{found.status}: {found.reason}" if not found.seconds else "fastnw was not timed"


def short(number: float) -> str:
    return f"{number:.3g}" if number < 1000 else f"{number:,.0f}"


def word(reached: bool | None) -> str:
    return {True: "yes", False: "**no**", None: "–"}[reached]


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Markdown that is legible as plain text too."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
