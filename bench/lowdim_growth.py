"""How time grows with n = m, of fastnw and of its peers, and how much memory is taken."""

from __future__ import annotations

from statistics import median

import numpy as np

from bench import checks
from bench.cases import FASTNW, FASTNW_EXACT, KEOPS, KERNEL_REG, MLPACK, SDPA, SKLEARN_KDE, Case
from bench.checks import Check
from bench.lowdim import PROMISE, Form, Work, call, case, in_turns
from bench.measure import Effort, Timing, compare
from bench.peers import PEERS
from bench.record import Progress

SIZES = [1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000]
LARGEST = {1: 10_000_000, 2: 10_000_000, 3: 3_000_000}
SLOPE, SLOPE_FROM = 1.15, 100_000  # below, what does not grow is most of the time

RIVALS = (FASTNW_EXACT, SDPA, KEOPS, MLPACK, SKLEARN_KDE, KERNEL_REG)
RIVAL_SIZES = [1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000]
ENOUGH = 20.0  # s: a rival that took longer is not asked for more
EFFORT = Effort(rounds=1, budget=0.15)

BYTES_A_KEY, BYTES = 200, 2**30


def growth_cases(d: int, scale: int) -> list[Case]:
    """Gaussians of one bandwidth, as many queries as keys."""
    return [case("gaussian", n // scale, d) for n in SIZES if n <= LARGEST[d] and n >= 1_000 * scale]


def growth(d: int, form: Form, clock: Progress) -> tuple[list[Timing], Check]:
    """fastnw's times, and the slope of their logarithms over those of n."""
    timings = [_timing(one, form.rounds) for one in growth_cases(d, form.scale)]
    points = [(t.m, median(t.seconds)) for t in timings if t.m >= SLOPE_FROM // form.scale]
    found = slope(*zip(*points, strict=True))
    uncertified = [t.case for t in timings if t.status != "timed"]
    span = f"n = m = {points[0][0]:.0e} to {points[-1][0]:.0e}".replace("e+0", "e")
    check = Check(f"growth, gaussian, d={d}, {span}", found, SLOPE, "in log-log")
    check.reason = "; ".join(
        [f"{seconds:.3g} s" for _, seconds in points] + [f"not certified: {n}" for n in uncertified]
    )
    clock.say(f"{check.name}: {found:.3f} ({check.reason})")
    return timings, check


def slope(sizes: tuple[float, ...], seconds: tuple[float, ...]) -> float:
    """Least squares of log seconds on log size; NaN for a single one."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]) if len(sizes) > 1 else float("nan")


def _timing(one: Case, rounds: int) -> Timing:
    """All queries of a case by `auto`, their bounds among the answers."""
    arrays = one.problem()
    timing = Timing(case_name(one), FASTNW, "regression", float(one.m) * one.n, one.m, one.m, "timed")
    seconds, answers = in_turns({FASTNW: call(Work(one), arrays, one.m)}, rounds)
    timing.seconds, bounds = seconds[FASTNW], answers[FASTNW][1]
    timing.error, timing.tolerance = float(bounds.max() / np.ptp(arrays[2])), PROMISE
    if not timing.error <= PROMISE * (1 + 1e-9):
        timing.status, timing.reason = "wrong", f"a bound of {timing.error:.1e}"
    return timing


def case_name(one: Case) -> str:
    return f"d={one.d}, n={one.n}"


def rivals(d: int, largest: int, clock: Progress) -> list[Timing]:
    """Peers, on more and more keys and queries until each has taken too long; longer ones on some of the queries."""
    left = [name for name in RIVALS if not PEERS[name].missing()]
    found = []
    for n in RIVAL_SIZES:
        if n > largest or not left:
            break
        one = case("gaussian", n, d)
        timings = compare(one, tuple(left), EFFORT, limits=False)
        for timing in timings:
            timing.case = case_name(one)
        found += timings
        took = {t.system: median(t.seconds) * t.m_asked / t.m for t in timings if t.seconds}
        clock.say(f"d={d}, n={n:,}: " + ", ".join(f"{name} {seconds:.3g} s" for name, seconds in took.items()))
        left = [name for name, seconds in took.items() if seconds < ENOUGH]
    return found


def memory_works(works: list[Work], scale: int) -> list[Work]:
    """Each size and dimension once, of each kernel that is summed in another way; the largest of each growth, too."""
    kept: dict[tuple, Work] = {}
    for work in (*works, *(Work(growth_cases(d, scale)[-1]) for d in LARGEST)):
        if work.what == "regression":
            kept.setdefault((work.case.n, work.case.d, work.case.kernel == "gaussian"), work)
    return list(kept.values())


def memory(work: Work, clock: Progress) -> Check:
    """MiB beyond inputs and outputs at the peak of `auto`, in a fresh process."""
    limit = (BYTES_A_KEY * work.case.n + BYTES) / 2**20
    title = f"{work.case.name}, n = m = {work.case.n:,}"
    check = checks.memory(work.case, "auto", limit, work.tol, title)
    clock.say(f"{check.name}: {check.found} MiB {check.reason}")
    return check
