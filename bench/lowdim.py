"""Many keys and queries in few coordinates: the works, what fastnw has to reach on each, and how that is measured.

Every query's bound is looked at, some hundred queries are summed plainly by `truth`, and `exact`, which sums every
pair, takes turns with what `method="auto"` chooses.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any
from unittest import mock

import numpy as np

import fastnw
from bench import forced, truth
from bench.cases import FASTNW_EXACT, MLPACK, Case, Goal
from bench.measure import once, rotated, timed
from bench.peers import PEERS
from bench.record import Progress
from fastnw.core import driver
from fastnw.runtime.hardware import n_threads
from fastnw.runtime.threads import Meter

BANDWIDTHS = {1: 0.05, 2: 0.1, 3: 0.14}
PROMISE = 1e-8  # of the values' range, or relative for densities, where no tol is given
EXACT_ERROR = 1e-12

LONG = 20.0  # s: a work that takes longer is timed once
FORCED_LIMIT = 8.0  # s: a method that `auto` did not take is stopped
EXACT_SECONDS = 0.7  # of `exact` on some of the queries
MLPACK_SHARE = 10  # one in so many queries: it takes 70 to 115 s for all
LEAST_CHECKED, CHECKED_WORK = 48, 6e8  # queries summed plainly, and their coordinates' differences altogether


@dataclass(frozen=True)
class Form:
    """How much is done: sizes are divided by `scale`."""

    name: str
    scale: int
    rounds: int
    checked: int  # queries summed plainly, at most


FULL, QUICK = Form("full", 1, 3, 300), Form("quick", 10, 1, 60)


@dataclass(frozen=True)
class Work:
    """A row of the table: seconds at most, or (`case.goals`) so many times as fast as another system at least."""

    case: Case
    at_most: float | None = None
    tol: float | None = None
    worst: float | None = None  # error allowed, where it is less than what is promised
    what: str = "regression"

    @property
    def promise(self) -> float:
        return PROMISE if self.tol is None else self.tol

    @property
    def options(self) -> dict[str, Any]:
        return {"kernel": self.case.kernel, "bandwidth": self.case.bandwidth, "tol": self.tol}


def case(kernel: str, n: int, d: int, bandwidth: float | None = None, goals: tuple[Goal, ...] = ()) -> Case:
    """As many queries as keys, in float64."""
    h = BANDWIDTHS[d] if bandwidth is None else bandwidth
    return Case(f"{kernel}, d={d}", n, n, d, 1, "float64", kernel, h, goals=goals)


def works(scale: int = 1) -> list[Work]:
    """The rows, at sizes divided by `scale`."""
    million, fifth = 1_000_000 // scale, 200_000 // scale
    forty = (Goal(FASTNW_EXACT, 40),)
    return [
        *(Work(case("gaussian", million, d), limit) for d, limit in ((1, 0.4), (2, 1.0), (3, 9.0))),
        *(Work(case(kernel, million, 1), 0.5, worst=EXACT_ERROR) for kernel in ("epanechnikov", "laplacian")),
        Work(case("epanechnikov", 10 * million, 1), 6.0, worst=EXACT_ERROR),
        *(
            Work(case(kernel, million, 3, goals=forty), worst=EXACT_ERROR)
            for kernel in ("epanechnikov", "boxcar", "triangular")
        ),
        Work(case("gaussian", fifth, 5, 0.1, (Goal(FASTNW_EXACT, 2.5),)), tol=1e-4),
        *(
            Work(case("gaussian", fifth, d, goals=(Goal(MLPACK, factor),)), what="density")
            for d, factor in ((2, 300), (3, 20))
        ),
    ]


@dataclass
class Row:
    """What was measured on one work; errors and bounds in ranges of the values, relative ones for densities."""

    method: str = ""  # what `auto` chose
    seconds: list[float] = field(default_factory=list)  # of `m` queries
    m: int = 0
    others: dict[str, float] = field(default_factory=dict)  # seconds of other systems, as if for all queries
    methods: dict[str, str] = field(default_factory=dict)  # seconds of each forced method, or why none
    answered: dict[str, float] = field(default_factory=dict)  # share of the queries by who answered them
    visited: float = 0.0  # share of the pairs, as the run itself counts them
    uncertified: int = 0
    empty: int = 0
    bound: float = 0.0  # the largest
    error: float = 0.0  # the largest of those checked
    checked: int = 0
    beyond: int = 0  # errors larger than their bound and rounding
    tightness: float | None = None  # median bound over median error; None where that is rounding
    notes: list[str] = field(default_factory=list)

    def total(self, m: int) -> float:
        """Seconds as if for `m` queries."""
        return median(self.seconds) * m / self.m

    @classmethod
    def from_json(cls, content: dict) -> Row:
        return cls(**content)

    def as_json(self) -> dict:
        return asdict(self)


Results = tuple[np.ndarray, np.ndarray]  # means or densities, bounds or nothing


def measure(work: Work, form: Form, clock: Progress) -> Row:
    """Time `auto`, `exact` and whom the goals name in turns; then look at each bound and at errors."""
    arrays = work.case.problem()
    plans = forced.offers(_arrays(work, arrays), work.options)
    chosen = fastnw.plan(*_arrays(work, arrays), **work.options)
    some = forced.queries_for(plans["exact"], EXACT_SECONDS)
    row = Row(chosen.method, m=work.case.m)
    if chosen.method == "exact" and chosen.seconds > LONG:
        row.m = some
    calls: dict[str, Callable[[], Any]] = {"auto": call(work, arrays, row.m)}
    sizes = {FASTNW_EXACT: some}
    calls[FASTNW_EXACT] = call(work, arrays, some, "exact")
    if any(goal.against == MLPACK for goal in work.case.goals):
        _add_mlpack(work.case, calls, sizes, row)
    with counted_pairs() as meter:
        first = once(calls["auto"])
    row.answered = shares(chosen.method, row.m, answered(work, arrays, row.m))
    row.visited = meter.pairs / (row.m * work.case.n)
    seconds, answers = in_turns(calls, form.rounds, {"auto": first})
    row.seconds = seconds["auto"]
    row.others = {name: median(seconds[name]) * work.case.m / m for name, m in sizes.items()}
    judge(work, arrays, answers["auto"], form.checked, row)
    if MLPACK in answers:
        part = work.case.with_queries(sizes[MLPACK])
        row.notes.append(f"{MLPACK}'s error {truth.error(part, answers[MLPACK], 'density'):.0e}")
    row.methods = _forced(work, arrays, plans, row)
    clock.say(f"{work.case.name}, n={work.case.n:,}, {work.what}: {row.method} {row.total(work.case.m):.3g} s")
    return row


def _arrays(work: Work, arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    return arrays if work.what == "regression" else arrays[:2]


def call(work: Work, arrays: tuple[np.ndarray, ...], m: int, method: str = "auto") -> Callable[[], Results]:
    """The work of the first `m` queries; bounds are part of it but for densities, which do not give any."""
    queries, keys, values = arrays
    options = {**work.options, "method": method, "progress": False}
    if work.what == "density":
        return lambda: (fastnw.density(queries[:m], keys, **options), np.empty(0))
    return lambda: fastnw.pool(queries[:m], keys, values, empty=0.0, return_error=True, **options)


def _add_mlpack(whole: Case, calls: dict[str, Callable[[], Any]], sizes: dict[str, int], row: Row) -> None:
    missing = PEERS[MLPACK].missing()
    if missing:
        row.notes.append(missing)
        return
    sizes[MLPACK] = whole.m // MLPACK_SHARE
    calls[MLPACK] = PEERS[MLPACK].prepare(whole.with_queries(sizes[MLPACK]))
    row.notes.append(f"{MLPACK} timed on {sizes[MLPACK]:,} of the queries and all keys, as if linear in queries")


def in_turns(
    calls: dict[str, Callable[[], Any]], rounds: int, first: dict[str, tuple[float, Any]] | None = None
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each call and its last answer; after a first round to warm up, which has to do for what is long.

    `first` has what was called before.
    """
    seconds: dict[str, list[float]] = {}
    answers: dict[str, Any] = {}
    for name, each in calls.items():
        taken, answers[name] = (first or {}).get(name) or timed(each)
        seconds[name] = [taken] if taken > LONG else []
    again = [name for name in calls if not seconds[name]]
    for turn in range(rounds):
        for name in rotated(again, turn):
            taken, answers[name] = timed(calls[name])
            seconds[name].append(taken)
    return seconds, answers


class _Counting(Meter):
    """A meter that shows nothing and adds up."""

    def __init__(self) -> None:
        super().__init__(False, 0, "")
        self.pairs = 0.0
        self._counting = threading.Lock()

    def add(self, pairs: float) -> None:
        with self._counting:
            self.pairs += pairs


@contextmanager
def counted_pairs() -> Iterator[_Counting]:
    """The pairs that tasks report for the progress bar."""
    meter = _Counting()
    with mock.patch.object(driver, "progress_meter", return_value=nullcontext(meter)):
        yield meter


def shares(method: str, m: int, handed: dict[str, int]) -> dict[str, float]:
    """Share of `m` queries by who answered them: the plan's method all but those that others did."""
    others = {name: number / m for name, number in handed.items() if name != method and number}
    return {method: 1.0 - sum(others.values()), **others}


def judge(work: Work, arrays: tuple[np.ndarray, ...], answer: Results, most: int, row: Row) -> None:
    """Every query's certificate, and the errors of some against sums that share nothing with fastnw."""
    found, bound = answer
    scale = 1.0 if work.what == "density" else float(np.ptp(arrays[2]))
    bound = density_bounds(work, arrays, row.m) if work.what == "density" else bound / scale
    compact = fastnw.kernels.get(work.case.kernel).support is not None
    empty = np.isnan(bound) & compact  # whether rightly so is seen in the errors: 0 stands for them
    row.empty = int(empty.sum())
    row.uncertified = int((~empty & ~(bound <= work.promise * (1 + 1e-9))).sum())
    row.bound = float(np.max(bound, initial=0.0, where=~empty))
    count = int(np.clip(CHECKED_WORK // (work.case.n * work.case.d), LEAST_CHECKED, min(most, row.m)))
    rows = np.random.default_rng(5).choice(row.m, count, replace=False)
    right = plain_sums(work, arrays, rows)
    errors = np.abs(found[rows] - right)
    errors = errors / right if work.what == "density" else errors / scale
    compare_bounds(np.asarray(errors, float), np.where(empty, 0.0, bound)[rows], rounding(work), row)


def rounding(work: Work) -> float:
    """What the oracle and the result's own last digits may be off by."""
    return 1e-15 if work.worst else 2e-14


def compare_bounds(errors: np.ndarray, bounds: np.ndarray, rounding: float, row: Row) -> None:
    """Fill in the largest error, how many exceed their bound, and how far bounds typically are above errors."""
    row.checked, row.error = len(errors), float(errors.max())
    row.beyond = int((~(errors <= bounds + rounding)).sum())
    typical = float(np.median(errors))
    row.tightness = float(np.median(bounds)) / typical if typical > rounding else None


def plain_sums(work: Work, arrays: tuple[np.ndarray, ...], rows: np.ndarray) -> np.ndarray:
    """(rows,) in float64, or in long double where more digits are asked for; rows are shared out to threads."""
    queries, keys, values = arrays
    dtype = np.longdouble if work.worst else np.float64

    def part(mine: np.ndarray) -> np.ndarray:
        if work.what == "density":
            return truth.density(work.case, queries[mine], keys)
        return truth.plain(work.case, queries[mine], keys, values, dtype)[:, 0]

    with ThreadPoolExecutor(n_threads()) as pool:
        return np.concatenate(list(pool.map(part, np.array_split(rows, min(len(rows), 8 * n_threads())))))


def answered(work: Work, arrays: tuple[np.ndarray, ...], m: int) -> Counter[str]:
    """How many of the first `m` queries each method answers."""
    from fastnw.core.driver import predict
    from fastnw.functions import asked
    from fastnw.planner import make_model

    queries, *others = _arrays(work, arrays)
    given = {"sample_weight": None, "key_scale": None, "exclude_self": False, "tol": None, **work.options}
    problem, backend, _ = asked(queries[:m], *others, *[None] * (2 - len(others)), "auto", **given)
    return predict(make_model(problem, "auto", backend, None), problem, False, np.empty((problem.m, problem.c)))


def density_bounds(work: Work, arrays: tuple[np.ndarray, ...], m: int) -> np.ndarray:
    """(m,) bounds on relative errors, which `fastnw.density` looks at and keeps to itself."""
    from fastnw.core.driver import predict
    from fastnw.core.validate import build
    from fastnw.planner import make_model

    queries, keys, _ = arrays
    problem = build(queries[:m], keys, None, sample_weight=None, key_scale=None, exclude_self=False, **work.options)
    bounds = np.empty(m)
    predict(make_model(problem, "auto", "auto", None), problem, False, np.empty((m, 0)), error=bounds)
    return bounds


def _forced(work: Work, arrays: tuple[np.ndarray, ...], plans: dict[str, Any], row: Row) -> dict[str, str]:
    """Seconds of every method as text, or its refusal."""
    told = {}
    for method, plan in plans.items():
        if isinstance(plan, str):
            told[method] = plan
        elif method == "exact":
            told[method] = f"{row.others[FASTNW_EXACT]:.3g} s, extrapolated"
        elif method == row.method:
            told[method] = f"{row.total(work.case.m):.3g} s, taken by auto"
        else:
            found = forced.estimate(lambda m, name=method: call(work, arrays, m, name), work.case.m, FORCED_LIMIT)
            stopped = f", stopped after {found.m:,} queries" if found.m < work.case.m else ""
            told[method] = f"{found.seconds:.3g} s{stopped}; {plan.seconds:.2g} s predicted"
    return told
