"""Many keys and queries in few coordinates: the works, the goals for fastnw, and how they are measured.

The bound of every query is compared with the promise, a few hundred queries are summed by the oracle, and `exact`,
which sums every pair, takes turns with the method that `auto` chooses.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import numpy as np

import fastnw
from bench.lib import forced, internals, truth
from bench.lib.cases import Case, Goal
from bench.lib.record import Progress
from bench.lib.systems import FASTNW_EXACT, MLPACK
from bench.lib.timing import LONG_SECONDS, in_turns, once
from bench.peers.adaptors import PEERS
from fastnw.runtime.hardware import n_threads

BANDWIDTHS = {1: 0.05, 2: 0.1, 3: 0.14}
PROMISE = 1e-8  # tolerance without `tol`, in ranges of the values, or relative for densities
EXACT_ERROR = 1e-12

FORCED_SECONDS = 8.0  # a method that `auto` did not choose is stopped when all queries would take longer
EXACT_SECONDS = 0.7  # `exact` is given as many queries as it can answer in this time
MLPACK_SHARE = 10  # mlpack answers one in ten queries, as all of them take 70 to 115 s
MIN_CHECKED_QUERIES, MAX_DIFFERENCES = 48, 6e8  # differences of coordinates, over all checked queries


@dataclass(frozen=True)
class Form:
    """The size of a run; the numbers of keys and queries are divided by `scale`."""

    name: str
    scale: int
    rounds: int
    checked: int  # the most queries that the oracle sums


FULL, QUICK = Form("full", 1, 3, 300), Form("quick", 10, 1, 60)


@dataclass(frozen=True)
class Work:
    """A row of the table; its goal is a time (`at_most`) or a ratio to another system's time (`case.goals`)."""

    case: Case
    at_most: float | None = None
    tol: float | None = None
    worst: float | None = None  # the largest allowed error, where it is less than the promise
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
    """Measurements of one work; errors and bounds are in ranges of the values, or relative for densities."""

    method: str = ""  # the one that `auto` chose
    seconds: list[float] = field(default_factory=list)  # for `m` queries
    m: int = 0
    others: dict[str, float] = field(default_factory=dict)  # seconds of other systems, extrapolated to all queries
    methods: dict[str, str] = field(default_factory=dict)  # seconds of each forced method, or its refusal
    answered: dict[str, float] = field(default_factory=dict)  # share of the queries that each method answered
    visited: float = 0.0  # share of the pairs, as the progress bar counts them
    uncertified: int = 0
    empty: int = 0
    bound: float = 0.0  # the largest
    error: float = 0.0  # the largest of the checked queries
    checked: int = 0
    beyond: int = 0  # number of errors larger than their bound and rounding
    tightness: float | None = None  # median bound over median error; None where the error is rounding
    notes: list[str] = field(default_factory=list)

    def total(self, m: int) -> float:
        """Median seconds, extrapolated to `m` queries."""
        return median(self.seconds) * m / self.m

    @classmethod
    def from_json(cls, content: dict) -> Row:
        return cls(**content)

    def as_json(self) -> dict:
        return asdict(self)


Results = tuple[np.ndarray, np.ndarray]  # means or densities, and bounds or an empty array


def measure(work: Work, form: Form, clock: Progress) -> Row:
    """Time `auto`, `exact` and the rivals of the goals in turns; then judge every bound and some errors."""
    arrays = work.case.problem()
    plans = forced.offers(_arrays(work, arrays), work.options)
    chosen = fastnw.plan(*_arrays(work, arrays), **work.options)
    exact_m = forced.queries_for(plans["exact"], EXACT_SECONDS)
    row = Row(chosen.method, m=work.case.m)
    if chosen.method == "exact" and chosen.seconds > LONG_SECONDS:
        row.m = exact_m
    calls: dict[str, Callable[[], Any]] = {"auto": call(work, arrays, row.m)}
    sizes = {FASTNW_EXACT: exact_m}
    calls[FASTNW_EXACT] = call(work, arrays, exact_m, "exact")
    if any(goal.against == MLPACK for goal in work.case.goals):
        _add_mlpack(work.case, calls, sizes, row)
    with internals.answered() as by_method, internals.counted_pairs() as counter:
        first = once(calls["auto"])
    row.answered = shares(chosen.method, row.m, by_method)
    row.visited = counter.pairs / (row.m * work.case.n)
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
    """A call for the first `m` queries, with their bounds unless they are densities, which return none."""
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
    row.notes.append(f"{MLPACK} timed on {sizes[MLPACK]:,} of the queries and all keys, extrapolated linearly")


def shares(method: str, m: int, by_method: dict[str, int]) -> dict[str, float]:
    """Share of `m` queries that each method answered: the plan's method has all that no other method has."""
    others = {name: number / m for name, number in by_method.items() if name != method and number}
    return {method: 1.0 - sum(others.values()), **others}


def judge(work: Work, arrays: tuple[np.ndarray, ...], answer: Results, most: int, row: Row) -> None:
    """Compare every query's bound with the promise, and some errors with their bounds by the oracle."""
    found, bound = answer
    scale = 1.0 if work.what == "density" else float(np.ptp(arrays[2]))
    if work.what == "density":
        bound = internals.density_bounds(arrays[0][: row.m], arrays[1], work.options)
    else:
        bound = bound / scale
    compact = fastnw.kernels.get(work.case.kernel).support is not None
    empty = np.isnan(bound) & compact  # if wrongly so, the errors show it: the answer there is 0
    row.empty = int(empty.sum())
    row.uncertified = int((~empty & ~(bound <= work.promise * (1 + 1e-9))).sum())
    row.bound = float(np.max(bound, initial=0.0, where=~empty))
    count = int(np.clip(MAX_DIFFERENCES // (work.case.n * work.case.d), MIN_CHECKED_QUERIES, min(most, row.m)))
    rows = np.random.default_rng(5).choice(row.m, count, replace=False)
    right = plain_sums(work, arrays, rows)
    errors = np.abs(found[rows] - right)
    errors = errors / right if work.what == "density" else errors / scale
    compare_bounds(np.asarray(errors, float), np.where(empty, 0.0, bound)[rows], rounding(work), row)


def rounding(work: Work) -> float:
    """The error of the oracle and of the result's last digits."""
    return 1e-15 if work.worst else 2e-14


def compare_bounds(errors: np.ndarray, bounds: np.ndarray, rounding: float, row: Row) -> None:
    """Fill in the largest error, the number of errors beyond their bound, and the typical ratio of both."""
    row.checked, row.error = len(errors), float(errors.max())
    row.beyond = int((~(errors <= bounds + rounding)).sum())
    typical = float(np.median(errors))
    row.tightness = float(np.median(bounds)) / typical if typical > rounding else None


def plain_sums(work: Work, arrays: tuple[np.ndarray, ...], rows: np.ndarray) -> np.ndarray:
    """(rows,) sums of the oracle on all threads, in float64 or, where the goal asks for more digits, in long double."""
    queries, keys, values = arrays
    dtype = np.longdouble if work.worst else np.float64

    def part(some: np.ndarray) -> np.ndarray:
        if work.what == "density":
            return truth.density(work.case, queries[some], keys)
        return truth.plain(work.case, queries[some], keys, values, dtype)[:, 0]

    with ThreadPoolExecutor(n_threads()) as pool:
        return np.concatenate(list(pool.map(part, np.array_split(rows, min(len(rows), 8 * n_threads())))))


def _forced(work: Work, arrays: tuple[np.ndarray, ...], plans: dict[str, Any], row: Row) -> dict[str, str]:
    """A text for each method: its seconds, or its refusal."""
    texts = {}
    for method, plan in plans.items():
        if isinstance(plan, str):
            texts[method] = plan
        elif method == "exact":
            texts[method] = f"{row.others[FASTNW_EXACT]:.3g} s, extrapolated"
        elif method == row.method:
            texts[method] = f"{row.total(work.case.m):.3g} s, taken by auto"
        else:
            found = forced.estimate(lambda m, name=method: call(work, arrays, m, name), work.case.m, FORCED_SECONDS)
            stopped = f", stopped after {found.m:,} queries" if found.m < work.case.m else ""
            texts[method] = f"{found.seconds:.3g} s{stopped}; {plan.seconds:.2g} s predicted"
    return texts
