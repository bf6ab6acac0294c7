"""Measurements in few coordinates as Markdown, and whether they reach the goals."""

from __future__ import annotations

from bench.lib.markdown import markdown, short, where, word
from bench.lib.systems import FASTNW_EXACT
from bench.lowdim.measure import MLPACK_SHARE, PROMISE, Row, Work
from bench.peers.checks import Check

START, END = "<!-- lowdim:start -->", "<!-- lowdim:end -->"
MAX_EXACT_SHARE = 0.01  # of a Gaussian's queries
MAX_TIGHTNESS = 1e4  # median bound over median error
VISITED_SHARE = 0.01  # a larger share of the pairs is worth a remark


def faults(work: Work, row: Row) -> list[str]:
    """Faults of the answers: certificates that are missing or violated, or errors that are too large."""
    found = []
    if row.uncertified:
        found.append(f"{row.uncertified:,} queries not certified")
    if row.beyond:
        found.append(f"{row.beyond} of {row.checked} errors beyond their bounds")
    allowed = min(work.worst or work.promise, work.promise)
    if not row.error <= allowed:
        found.append(f"error {row.error:.1e} where {allowed:.0e} is allowed")
    return found


def shortcomings(work: Work, row: Row) -> list[str]:
    """Missed goals other than speed."""
    found = []
    by_exact = row.answered.get("exact", 0.0)
    if work.case.kernel == "gaussian" and by_exact > MAX_EXACT_SHARE:
        found.append(f"{_percent(by_exact)} of the queries reached exact")
    if row.tightness is not None and row.tightness > MAX_TIGHTNESS:
        found.append(f"the median bound is {row.tightness:.1e} × the median error")
    return found


def speed(work: Work, row: Row) -> tuple[str, str, bool | None]:
    """The goal, the time or ratio, and whether the goal is reached; None if the rival was not available."""
    taken = row.total(work.case.m)
    if work.at_most is not None:
        return f"≤ {work.at_most:g} s", f"{short(taken)} s", taken <= work.at_most
    (goal,) = work.case.goals
    asked = f"≥ {goal.factor:g} × {goal.against}"
    if goal.against not in row.others:
        return asked, f"{short(taken)} s; not compared", None
    ratio = row.others[goal.against] / taken
    return (
        asked,
        f"{short(ratio)} × ({short(taken)} s against {short(row.others[goal.against])} s)",
        ratio >= goal.factor,
    )


def verdict(work: Work, row: Row, sized: bool) -> bool | None:
    """Whether a row reaches all its goals; at sizes other than the goals' only faults count."""
    if faults(work, row):
        return False
    if not sized:
        return None
    return False if shortcomings(work, row) else speed(work, row)[2]


def text(
    machine: dict,
    form: str,
    rounds: int,
    works: list[Work],
    rows: list[Row],
    checks: list[Check],
    folded: bool = False,
) -> str:
    """Everything; `folded` hides the methods' times behind a line to click on."""
    sized = form == "full"
    details = _methods(works, rows)
    if folded:
        details = f"<details><summary>Every method on each work</summary>\n\n{details}\n\n</details>"
    heading = _heading(machine, rounds, max(row.checked for row in rows), sized)
    return "\n\n".join([heading, _goals(works, rows, checks, sized), details])


def _heading(machine: dict, rounds: int, checked: int, sized: bool) -> str:
    smaller = "" if sized else " Sizes are a tenth of those that the goals are for: only answers are judged."
    return (
        f"{where(machine)} float64, standard normal keys and queries, values sin(3x₁) and noise, tolerance "
        f'{PROMISE:g} of the values\' range unless said; `method="auto"`. Times are medians of {rounds} after a first '
        f"call, bounds for every query included. `exact`, which sums every pair, took turns with it, on as many of the "
        f"queries as fit into a second; {MLPACK_SHARE - 1} in {MLPACK_SHARE} queries were left out for mlpack: their "
        f"times are extrapolated. Errors are those of up to {checked} random queries against plain sums in NumPy, in "
        f"ranges of the values, or relative for densities.{smaller}"
    )


def _goals(works: list[Work], rows: list[Row], checks: list[Check], sized: bool) -> str:
    """One row a goal."""
    lines = []
    for work, row in zip(works, rows, strict=True):
        asked, found, _ = speed(work, row)
        lines.append(
            [
                _title(work),
                asked,
                found,
                word(verdict(work, row, sized)),
                f"{short(row.others[FASTNW_EXACT] / row.total(work.case.m))} ×",
                _errors(work, row),
                ", ".join(f"{name} {_percent(share)}" for name, share in row.answered.items()),
                "; ".join([*faults(work, row), *shortcomings(work, row), *_remarks(work, row)]),
            ]
        )
    for check in checks:
        found = "not measured" if check.found is None else f"{check.found:.3g} {check.unit}"
        lines.append(
            [check.name, f"≤ {check.allowed:.4g} {check.unit}", found, word(_reached(check, sized)), *[""] * 3]
        )
        lines[-1].append(check.reason)
    head = ["work", "goal", "fastnw", "reached", "over every pair", "error (bound)", "answered by", "remarks"]
    return markdown(head, lines)


def _reached(check: Check, sized: bool) -> bool | None:
    """Growth with uncertified answers does not count; at other sizes than the goal's it is not judged."""
    if "not certified" in check.reason:
        return False
    return check.reached if sized or check.name.startswith("memory") else None


def _title(work: Work) -> str:
    case = work.case
    sizes = f"n = m = {case.n:,}" if case.n == case.m else f"n = {case.n:,}, m = {case.m:,}"
    parts = [case.name, sizes, f"h = {case.bandwidth:g}", *([f"tol = {work.tol:g}"] if work.tol else [])]
    return ", ".join([*parts, *(["density"] if work.what == "density" else [])])


def _errors(work: Work, row: Row) -> str:
    certified = "all certified" if not row.uncertified else "**not all certified**"
    return f"{row.error:.1e} ({row.bound:.1e}); {certified}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _remarks(work: Work, row: Row) -> list[str]:
    remarks = [f"bound {short(row.tightness)} × error"] if row.tightness is not None else []
    remarks += [f"{_percent(row.visited)} of the pairs visited"] if row.visited > VISITED_SHARE else []
    remarks += [f"empty windows: {row.empty:,}"] if row.empty else []
    remarks += [f"auto timed on {row.m:,} of the queries"] if row.m < work.case.m else []
    remarks += ["disturbed: rounds differ by more than 2 ×"] if max(row.seconds) > 2 * min(row.seconds) else []
    return remarks + row.notes


def _methods(works: list[Work], rows: list[Row]) -> str:
    """What each method takes when it is forced, or why it cannot."""
    names = list(dict.fromkeys(name for row in rows for name in row.methods))
    lines = [
        [_title(work), *(row.methods.get(name, "") for name in names)] for work, row in zip(works, rows, strict=True)
    ]
    return markdown(["work", *names], lines)
