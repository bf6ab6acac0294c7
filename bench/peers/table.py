"""Results as Markdown: goals, then every system's rate."""

from __future__ import annotations

from bench.lib.cases import Case
from bench.lib.markdown import markdown, short, where, word
from bench.lib.systems import CEILING, FASTNW
from bench.peers.adaptors import PEERS
from bench.peers.cases import CASES
from bench.peers.checks import Check
from bench.peers.compare import Timing, fastnw_over

START, END = "<!-- bench:start -->", "<!-- bench:end -->"


def text(
    machine: dict, rounds: int, absent: dict[str, str], timings: list[Timing], checks: list[Check], folded: bool = False
) -> str:
    """The whole section; `folded` hides all but the goals until the reader clicks."""
    measured = {timing.case for timing in timings}
    cases = [case for case in CASES if case.name in measured]
    details = "\n\n".join([rates(cases, timings), notes(timings, absent)])
    if folded:
        details = f"<details><summary>Every system and every rate</summary>\n\n{details}\n\n</details>"
    return "\n\n".join([heading(machine, rounds), goals(cases, timings, checks), details])


def goals(cases: list[Case], timings: list[Timing], checks: list[Check]) -> str:
    """One row for each goal: the ratio that fastnw reached, and whether it is enough."""
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
    """One row for each system on each case: median and range of the rounds in 10⁹ pairs a second."""
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
    """Remarks on the systems that were timed, and reasons why others were not."""
    used = dict.fromkeys(timing.system for timing in timings if timing.system in PEERS and timing.system not in absent)
    lines = [f"* {name}: {PEERS[name].note}." for name in used if PEERS[name].note]
    return "\n".join([*lines, *(f"* {name} was not available: {reason}." for name, reason in absent.items())])


def heading(machine: dict, rounds: int) -> str:
    return (
        f"{where(machine)} Systems take turns, {rounds} rounds; medians. Every answer is checked "
        "against a NumPy oracle before and after. Gp/s: 10⁹ query–key pairs a second."
    )


def _title(case: Case) -> str:
    kernel = "" if case.kernel == "gaussian" or case.kernel in case.name else f", {case.kernel}"
    return f"{case.name}{kernel}: {case.dtype}, d={case.d}, m={case.m:,}, n={case.n:,}, {case.c} values".replace(
        " 1 values", " 1 value"
    )


def _missing_reason(timings: list[Timing], system: str) -> str:
    """The reason why there is no ratio: the system, or fastnw itself, was not timed."""
    found = next((timing for timing in timings if timing.system == system), None)
    if found is None:
        return "not measured"
    return f"{found.status}: {found.reason}" if not found.seconds else "fastnw was not timed"
