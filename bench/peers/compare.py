"""Systems take turns on one case, on the same cores; each answer is checked before and after it is timed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median

import numpy as np

from bench.lib import truth
from bench.lib.cases import Case
from bench.lib.systems import CEILING, FASTNW, READ
from bench.lib.timing import once, rotated, timed
from bench.peers.adaptor import Peer, Work
from bench.peers.adaptors import PEERS
from bench.peers.ceiling import Ceiling, ceiling
from bench.peers.one_read import read_seconds

CEILING_SECONDS = 0.3


@dataclass(frozen=True)
class Effort:
    """How long a measurement may take."""

    rounds: int
    budget: float  # seconds of one call; slower systems get fewer queries


@dataclass
class Timing:
    """One system on one case; `seconds` holds the time of `m` queries for each round."""

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
        """Whether the rounds differ so much that another program must have run, and no ratio can be trusted."""
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
    """Time every system on one case, and the ceiling between them unless `limits` is false.

    A system that could not be timed has an entry with the reason.
    """
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
        # the ceiling's arithmetic is the Gaussian's
        if limits and case.kernel == "gaussian" and (found := ceiling(case, CEILING_SECONDS)) is not None:
            ceilings.append(found)
        if case.fitted:
            reads.append(min(read_seconds(case) for _ in range(3)))
    for name in works:
        _check(timings[name], PEERS[name], case.with_queries(timings[name].m), answers[name])
    limits = [*([_ceiling_timing(case, ceilings)] if ceilings else []), *([_read_timing(case, reads)] if reads else [])]
    return [*timings.values(), *limits]


def _give_up(timing: Timing, failure: Exception) -> None:
    """Records a peer's failure, which does not end the run."""
    timing.status, timing.seconds = "failed", []
    timing.reason = f"{type(failure).__name__}: {failure}".splitlines()[0][:200]


def _ready(peer: Peer, case: Case, budget: float) -> tuple[Timing, Work | None]:
    """A work with as many queries as fit the budget, whose first answer is right; None if there is none."""
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
    """Grow the number of queries until a call takes about the budget, or there are no more."""
    m = case.m if case.fitted else min(case.m, peer.first_queries)  # few queries are the point of a fitted case
    while True:
        work = peer.prepare(case.with_queries(m))
        work()
        enough = 0.6 * budget
        taken, answer = once(work)
        for _ in range(2):  # a single call that another program disturbed must not end the growth
            if taken > enough:
                again, answer = once(work)
                taken = min(taken, again)
        if m == case.m or taken > enough:
            return work, m, answer
        m = max(int(m * min(budget / taken, 16)), m + 1)
        if 2 * m >= case.m:
            m = case.m  # a call of twice the budget is better than an extrapolated rate


def _check(timing: Timing, peer: Peer, case: Case, answer: np.ndarray) -> None:
    timing.tolerance = peer.tolerance[case.dtype]
    timing.error = truth.error(peer.answers(case), answer, peer.what())
    if not timing.error <= timing.tolerance:
        timing.status, timing.seconds = "wrong", []
        timing.reason = f"error {timing.error:.1e} where {timing.tolerance:.0e} is allowed"


def _ceiling_timing(case: Case, found: list[Ceiling]) -> Timing:
    """The seconds that the whole case would take at the ceiling's rate."""
    pairs = float(case.m) * case.n
    timing = Timing(case.name, CEILING, "regression", pairs, case.m, case.m, "timed")
    timing.seconds = [pairs / each.pairs_per_second for each in found]
    clock, pipes = found[-1].clock_hz / 1e9, found[-1].share_of_pipes
    parts = [(clock, f"{clock:.2f} GHz"), (pipes, f"{pipes:.0%} of the busier pipes' slots")]
    timing.note = ", ".join(text for number, text in parts if number == number)  # NaN means unknown
    return timing


def _read_timing(case: Case, seconds: list[float]) -> Timing:
    """The seconds of one read of keys and values, as the time of the whole case."""
    timing = Timing(case.name, READ, "regression", float(case.m) * case.n, case.m, case.m, "timed", seconds=seconds)
    size = case.n * (case.d + case.c) * np.dtype(case.dtype).itemsize
    timing.note = f"{size / median(seconds) / 1e9:.3g} GB/s on all threads"
    return timing


def share(timings: list[Timing], system: str, against: str) -> float | None:
    """Ratio of two systems' median rates; None if either was not timed."""
    rates = {timing.system: timing.median_rate for timing in timings if timing.seconds}
    if system not in rates or against not in rates:
        return None
    return rates[system] / rates[against]


def fastnw_over(timings: list[Timing], against: str) -> float | None:
    return share(timings, FASTNW, against)
