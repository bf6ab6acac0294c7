"""How the time of fastnw and its peers grows with n = m, and how much memory fastnw needs."""

from __future__ import annotations

from statistics import median

import numpy as np

from bench.lib.cases import Case
from bench.lib.record import Progress
from bench.lib.systems import FASTNW, FASTNW_EXACT, KEOPS, KERNEL_REG, MLPACK, SDPA, SKLEARN_KDE
from bench.lib.timing import in_turns
from bench.lowdim.measure import PROMISE, Form, Work, call, case
from bench.peers import checks
from bench.peers.adaptors import PEERS
from bench.peers.checks import Check
from bench.peers.compare import Effort, Timing, compare

SIZES = [1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000]
MAX_KEYS = {1: 10_000_000, 2: 10_000_000, 3: 3_000_000}
MAX_SLOPE, SLOPE_FROM = 1.15, 100_000  # with fewer keys most of the time does not depend on n

RIVALS = (FASTNW_EXACT, SDPA, KEOPS, MLPACK, SKLEARN_KDE, KERNEL_REG)
RIVAL_SIZES = [1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000]
RIVAL_SECONDS = 20.0  # a rival that took longer is not given more keys
EFFORT = Effort(rounds=1, budget=0.15)

BYTES_A_KEY, BYTES = 200, 2**30


def growth_cases(d: int, scale: int) -> list[Case]:
    """Cases of the Gaussian with one bandwidth and as many queries as keys."""
    return [case("gaussian", n // scale, d) for n in SIZES if n <= MAX_KEYS[d] and n >= 1_000 * scale]


def growth(d: int, form: Form, clock: Progress) -> tuple[list[Timing], Check]:
    """Times of fastnw, and the slope of log time over log n."""
    timings = [_timing(one, form.rounds) for one in growth_cases(d, form.scale)]
    points = [(t.m, median(t.seconds)) for t in timings if t.m >= SLOPE_FROM // form.scale]
    found = slope(*zip(*points, strict=True))
    uncertified = [t.case for t in timings if t.status != "timed"]
    span = f"n = m = {points[0][0]:.0e} to {points[-1][0]:.0e}".replace("e+0", "e")
    check = Check(f"growth, gaussian, d={d}, {span}", found, MAX_SLOPE, "in log-log")
    check.reason = "; ".join(
        [f"{seconds:.3g} s" for _, seconds in points] + [f"not certified: {n}" for n in uncertified]
    )
    clock.say(f"{check.name}: {found:.3f} ({check.reason})")
    return timings, check


def slope(sizes: tuple[float, ...], seconds: tuple[float, ...]) -> float:
    """Least-squares slope of log seconds over log size; NaN for a single size."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]) if len(sizes) > 1 else float("nan")


def _timing(one: Case, rounds: int) -> Timing:
    """Time all queries of a case by `auto`, with their bounds."""
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
    """Time the peers on more and more keys and queries until each takes too long; slow ones get fewer queries."""
    names = [name for name in RIVALS if not PEERS[name].missing()]
    found = []
    for n in RIVAL_SIZES:
        if n > largest or not names:
            break
        one = case("gaussian", n, d)
        timings = compare(one, tuple(names), EFFORT, limits=False)
        for timing in timings:
            timing.case = case_name(one)
        found += timings
        took = {t.system: median(t.seconds) * t.m_asked / t.m for t in timings if t.seconds}
        clock.say(f"d={d}, n={n:,}: " + ", ".join(f"{name} {seconds:.3g} s" for name, seconds in took.items()))
        names = [name for name, seconds in took.items() if seconds < RIVAL_SECONDS]
    return found


def memory_works(works: list[Work], scale: int) -> list[Work]:
    """One work for each size, dimension and way of summing, and the largest work of each growth."""
    chosen: dict[tuple, Work] = {}
    for work in (*works, *(Work(growth_cases(d, scale)[-1]) for d in MAX_KEYS)):
        if work.what == "regression":
            chosen.setdefault((work.case.n, work.case.d, work.case.kernel == "gaussian"), work)
    return list(chosen.values())


def memory(work: Work, clock: Progress) -> Check:
    """MiB beyond inputs and outputs at the peak of `auto`, in a fresh process."""
    limit = (BYTES_A_KEY * work.case.n + BYTES) / 2**20
    title = f"{work.case.name}, n = m = {work.case.n:,}"
    check = checks.memory(work.case, "auto", limit, work.tol, title)
    clock.say(f"{check.name}: {check.found} MiB {check.reason}")
    return check
