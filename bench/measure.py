"""Systems take turns on one case, on the same cores; each answer is checked before it is timed, and again after."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TypeVar

import numpy as np

from bench import truth
from bench.cases import CEILING, FASTNW, READ, Case
from bench.ceiling import Ceiling, ceiling
from bench.memory import read_seconds
from bench.peers import PEERS, Peer, Work

SHORTEST = 0.02  # s: shorter works are repeated within one round
PAUSE = 0.3  # s: OpenMP threads spin for 0.2 s after their work, on the next system's cores
CEILING_SECONDS = 0.3

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Effort:
    """How long the measurement may take."""

    rounds: int
    budget: float  # s a call; slower systems get fewer queries


@dataclass
class Timing:
    """One system on one case; `seconds` are those of `m` queries, one entry a round."""

    case: str
    system: str
    what: str
    pairs: float  # of one call
    m: int
    m_asked: int
    status: str  # timed, wrong, failed, refused, missing
    reason: str = ""
    note: str = ""
    error: float | None = None
    tolerance: float | None = None
    seconds: list[float] = field(default_factory=list)

    @property
    def extrapolated(self) -> bool:
        return self.m < self.m_asked

    @property
    def disturbed(self) -> bool:
        """Rounds this far apart say that something else ran: no ratio to it can be believed."""
        return bool(self.seconds) and max(self.seconds) > 2 * min(self.seconds)

    def rate(self, seconds: float) -> float:
        return self.pairs / seconds

    @property
    def median_rate(self) -> float:
        return self.rate(median(self.seconds))

    @classmethod
    def from_json(cls, content: dict) -> Timing:
        return cls(**{key: value for key, value in content.items() if key != "extrapolated"})

    def as_json(self) -> dict:
        return asdict(self) | {"extrapolated": self.extrapolated}


def compare(case: Case, systems: tuple[str, ...], effort: Effort, limits: bool = True) -> list[Timing]:
    """Every system on one case, those that could not be timed included; the ceiling takes its turns among them, unless
    `limits` is false."""
    ready = {name: _ready(PEERS[name], case, effort.budget) for name in systems}
    works = {name: work for name, (_, work) in ready.items() if work is not None}
    timings = {name: timing for name, (timing, _) in ready.items()}
    ceilings: list[Ceiling] = []
    reads: list[float] = []
    answers = {}
    for turn in range(effort.rounds):
        for name in rotated(list(works), turn):
            try:
                taken, answers[name] = timed(works[name])
                timings[name].seconds.append(taken)
            except Exception as failure:
                del works[name]
                _give_up(timings[name], failure)
        # a compact kernel's arithmetic is another
        if limits and case.kernel == "gaussian" and (found := ceiling(case, CEILING_SECONDS)) is not None:
            ceilings.append(found)
        if case.fitted:
            reads.append(min(read_seconds(case) for _ in range(3)))
    for name in works:
        _check(timings[name], PEERS[name], case.with_queries(timings[name].m), answers[name])
    limits = [*([_ceiling_timing(case, ceilings)] if ceilings else []), *([_read_timing(case, reads)] if reads else [])]
    return [*timings.values(), *limits]


def _give_up(timing: Timing, failure: Exception) -> None:
    """A peer's failure is a result, not the end of the run."""
    timing.status, timing.seconds = "failed", []
    timing.reason = f"{type(failure).__name__}: {failure}".splitlines()[0][:200]


def rotated(names: list[str], turn: int) -> list[str]:
    """Nobody always comes after the same neighbour's heat."""
    turn %= max(len(names), 1)
    return names[turn:] + names[:turn]


def _ready(peer: Peer, case: Case, budget: float) -> tuple[Timing, Work | None]:
    """The work with as many queries as fit the budget, called at least once and found right."""
    timing = Timing(case.name, peer.name, peer.what(), 0.0, 0, case.m, "timed")
    for status, reason in (("missing", peer.missing()), ("refused", peer.refuses(case))):
        if reason:
            timing.status, timing.reason = status, reason
            return timing, None
    try:
        work, m, answer = _sized(peer, case, budget)
    except Exception as failure:
        _give_up(timing, failure)
        return timing, None
    timing.m, timing.pairs, timing.note = m, float(m) * case.n, work.note
    _check(timing, peer, case.with_queries(m), answer)
    return timing, work if timing.status == "timed" else None


def _sized(peer: Peer, case: Case, budget: float) -> tuple[Work, int, np.ndarray]:
    """Grow the number of queries until a call takes about the budget, or all are in."""
    m = case.m if case.fitted else min(case.m, peer.first_queries)  # where there are few, their number is the point
    while True:
        work = peer.prepare(case.with_queries(m))
        work()
        enough = 0.6 * budget
        taken, answer = once(work)
        for _ in range(2):  # one call that others disturbed must not end the growth
            if taken > enough:
                again, answer = once(work)
                taken = min(taken, again)
        if m == case.m or taken > enough:
            return work, m, answer
        m = max(int(m * min(budget / taken, 16)), m + 1)
        if 2 * m >= case.m:
            m = case.m  # twice the budget is better than a rate that is extrapolated


def _check(timing: Timing, peer: Peer, case: Case, answer: np.ndarray) -> None:
    timing.tolerance = peer.tolerance[case.dtype]
    timing.error = truth.error(peer.answers(case), answer, peer.what())
    if not timing.error <= timing.tolerance:
        timing.status, timing.seconds = "wrong", []
        timing.reason = f"error {timing.error:.1e} where {timing.tolerance:.0e} is allowed"


def timed(work: Callable[[], Answer], pause: float = PAUSE) -> tuple[float, Answer]:
    """Seconds a call, as the mean of enough calls to see, and the answer of the last."""
    time.sleep(pause)
    total, calls = 0.0, 0
    while total < SHORTEST:
        taken, answer = once(work)
        total, calls = total + taken, calls + 1
    return total / calls, answer


def once(work: Callable[[], Answer]) -> tuple[float, Answer]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # empty windows and the like are checked, not printed
        start = time.perf_counter()
        answer = work()
        return time.perf_counter() - start, answer


def _ceiling_timing(case: Case, found: list[Ceiling]) -> Timing:
    """As if the ceiling had done the whole case."""
    pairs = float(case.m) * case.n
    timing = Timing(case.name, CEILING, "regression", pairs, case.m, case.m, "timed")
    timing.seconds = [pairs / each.pairs_per_second for each in found]
    clock, pipes = found[-1].clock_hz / 1e9, found[-1].share_of_pipes
    parts = [(clock, f"{clock:.2f} GHz"), (pipes, f"{pipes:.0%} of the busier pipes' slots")]
    timing.note = ", ".join(text for number, text in parts if number == number)  # NaN: not known
    return timing


def _read_timing(case: Case, seconds: list[float]) -> Timing:
    """As if reading keys and values once were the whole case."""
    timing = Timing(case.name, READ, "regression", float(case.m) * case.n, case.m, case.m, "timed", seconds=seconds)
    size = case.n * (case.d + case.c) * np.dtype(case.dtype).itemsize
    timing.note = f"{size / median(seconds) / 1e9:.3g} GB/s on all threads"
    return timing


def share(timings: list[Timing], system: str, against: str) -> float | None:
    """Rate of one system over that of another, medians of both; None if either was not timed."""
    rates = {timing.system: timing.median_rate for timing in timings if timing.seconds}
    if system not in rates or against not in rates:
        return None
    return rates[system] / rates[against]


def fastnw_over(timings: list[Timing], against: str) -> float | None:
    return share(timings, FASTNW, against)
