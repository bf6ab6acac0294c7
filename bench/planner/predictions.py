"""How well `Plan.seconds` predicts the time of calls on one thread, on problems of every kind, drawn anew.

The time of a call is the least processor time of some rounds, which other programs disturb least. It includes the
checks of the arrays and planning.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import fastnw
from bench.lib.internals import plan_of_prediction
from bench.lib.markdown import markdown, short
from bench.planner.problems import USERS, cloud, users_kernel
from fastnw.core.plan import Plan

WITHIN, SHARE = 2.0, 0.95  # the goal: predictions within a factor of 2 for 95 % of the problems
LONGEST_SECONDS = 0.5  # a problem with a longer prediction gets fewer queries
ROUNDS, ALL_SECONDS = 5, 0.6  # no round begins after so many seconds
KINDS = ("normal", "normal", "clustered", "cauchy")
WORST_ROWS = 15
MAX_D_HEAVY = 3  # in more coordinates most queries of a heavy tail need 32 digits, which cannot be predicted
MAX_SELF_KEYS = 10_000  # of problems with exclude_self, which have as many queries


@dataclass
class Case:
    """A problem of random kind."""

    kernel: str
    data: str
    n: int
    m: int
    d: int
    c: int
    dtype: str
    bandwidth: str  # "number", "vector" or "matrix"
    h: float  # in units of the spread of the keys times the root of 2d
    tol: float | None
    weighted: bool
    scaled: bool
    exclude_self: bool
    fitted: bool

    @property
    def name(self) -> str:
        marks = [mark for mark in ("weighted", "scaled", "exclude_self", "fitted") if getattr(self, mark)]
        marks += [f"tol={self.tol:g}"] if self.tol is not None else []
        head = f"{self.kernel}, {self.data}, m={self.m:,}, n={self.n:,}, d={self.d}, c={self.c}, {self.dtype}"
        return ", ".join([head, f"{self.bandwidth} h={self.h:.3g}", *marks])


@dataclass
class Prediction:
    """Predicted and measured seconds of one thread."""

    case: Case
    method: str
    backend: str
    predicted: float
    measured: float

    @property
    def ratio(self) -> float:
        return self.predicted / self.measured

    @property
    def factor(self) -> float:
        """Factor between prediction and measurement, at least 1."""
        return max(self.ratio, 1 / self.ratio)

    def as_json(self) -> dict:
        return asdict(self) | {"ratio": self.ratio}


def drawn(rng: np.random.Generator) -> Case:
    """One case of random kind and size."""
    d = int(np.exp(rng.uniform(0, np.log(100)))) if rng.random() < 0.5 else int(rng.integers(1, 6))
    c = int(rng.choice([0, 1, 1, 1, 2, int(np.exp(rng.uniform(0, np.log(64))))]))
    n = int(np.exp(rng.uniform(np.log(1e3), np.log(1e6))))
    n = max(min(n, int(3e7 / (d + c))), 1000)
    fitted = bool(rng.random() < 0.25) and c > 0
    m = int(np.exp(rng.uniform(0, np.log(1e6 if not fitted else 1e3))))
    exclude_self = bool(rng.random() < 0.1) and not fitted
    n = min(n, MAX_SELF_KEYS) if exclude_self else n
    kernel = str(rng.choice([*fastnw.kernels.names(), "gaussian", "gaussian", USERS]))
    if kernel in ("constant", "dot", "cauchy", USERS):  # no density with these
        c = max(c, 1)
    tol = [None, None, None, 1e-3, 1e-6, 1e-10, 0.0][rng.integers(7)] if not fitted else None
    return Case(
        kernel=kernel,
        data=str(rng.choice(KINDS if d <= MAX_D_HEAVY else KINDS[:3])),
        n=n,
        m=n if exclude_self else m,
        d=d,
        c=c,
        dtype=str(rng.choice(["float64", "float32"])),
        bandwidth=str(rng.choice(["number", "number", "vector", "matrix"])) if d > 1 else "number",
        h=float(np.exp(rng.uniform(np.log(0.02), np.log(2)))),
        tol=tol,
        weighted=bool(rng.random() < 0.25),
        scaled=bool(rng.random() < 0.1) and not fitted and kernel != "dot",
        exclude_self=exclude_self,
        fitted=fitted,
    )


def judged(number: int, seed: int, say: Callable[[str], None]) -> tuple[bool, list[Prediction]]:
    """Whether the goal is reached, and all predictions."""
    found = []
    for i in range(number):
        rng = np.random.default_rng([seed, i])
        found.append(measured(drawn(rng), rng))
        say(f"{found[-1].case.name}: {found[-1].method}, {found[-1].ratio:.2f} of {found[-1].measured:.3g} s")
    return bool(np.mean([each.factor <= WITHIN for each in found]) >= SHARE), found


def report(found: list[Prediction]) -> str:
    """The share of good predictions, for each method, and the worst rows."""
    share = float(np.mean([each.factor <= WITHIN for each in found]))
    lines = [f"predicted within a factor of {WITHIN:g}: {share:.1%} of {len(found)} problems (goal: {SHARE:.0%})"]
    for method in sorted({each.method for each in found}):
        ratios = np.array([each.ratio for each in found if each.method == method])
        low, middle, high = np.quantile(ratios, (0.1, 0.5, 0.9))
        near = np.mean(np.maximum(ratios, 1 / ratios) <= WITHIN)
        lines.append(
            f"{method}: {len(ratios)} problems, {near:.0%} near; predicted over measured {middle:.2f} "
            f"({low:.2f} to {high:.2f} in 80 %)"
        )
    worst = sorted(found, key=lambda each: -each.factor)[:WORST_ROWS]
    rows = [
        [each.case.name, each.method, each.backend, short(each.predicted), short(each.measured), f"{each.ratio:.2f}"]
        for each in worst
    ]
    head = ["problem", "method", "backend", "predicted, s", "measured, s", "ratio"]
    return "\n".join([*lines, "", markdown(head, rows)])


def measured(case: Case, rng: np.random.Generator) -> Prediction:
    """The prediction for the case and its time, with fewer queries if all of them would take too long."""
    points = cloud(case.data, case.n, case.d, rng).astype(case.dtype)
    queries = points if case.exclude_self else cloud(case.data, case.m, case.d, rng).astype(case.dtype)
    values = rng.standard_normal((case.n, case.c)).astype(case.dtype) if case.c else None
    options = _options(case, points, rng)
    planned = _fitted(case, points, values, options) if case.fitted else _unfitted(case, points, values, options)
    plan, call = planned(queries)
    while plan.seconds > LONGEST_SECONDS and case.m > 1 and not case.exclude_self:
        case.m = max(int(case.m * LONGEST_SECONDS / plan.seconds * 0.8), 1)
        queries = queries[: case.m]
        plan, call = planned(queries)
    return Prediction(case, plan.method, plan.backend, plan.seconds, _processor_seconds(call))


def _options(case: Case, points: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    low, high = np.quantile(points[: 1 << 14].astype(float), (0.16, 0.84), axis=0)
    spread = np.maximum((high - low) / 2, 1e-3)
    h = case.h * np.sqrt(2 * case.d)
    if case.bandwidth == "matrix":
        mixing = np.eye(case.d) + 0.2 * rng.standard_normal((case.d, case.d)) / np.sqrt(case.d)
        bandwidth: Any = (h * spread[:, None] * mixing) @ (h * spread[:, None] * mixing).T
    else:
        bandwidth = h * spread if case.bandwidth == "vector" else float(h * np.median(spread))
    options: dict[str, Any] = {
        "kernel": users_kernel() if case.kernel == USERS else case.kernel,
        "bandwidth": bandwidth,
        "tol": case.tol,
        "exclude_self": case.exclude_self,
        "n_jobs": 1,
    }
    if case.weighted:
        options["sample_weight"] = rng.exponential(size=case.n)
    if case.scaled:
        options["key_scale"] = rng.uniform(0.5, 2.0, case.n)
    return options


Planned = Callable[[np.ndarray], tuple[Plan, Callable[[], Any]]]


def _unfitted(case: Case, keys: np.ndarray, values: np.ndarray | None, options: dict[str, Any]) -> Planned:
    def planned(queries: np.ndarray) -> tuple[Plan, Callable[[], Any]]:
        plan = fastnw.plan(queries, keys, values, **options)
        if values is None:
            return plan, lambda: fastnw.density(queries, keys, progress=False, **options)
        return plan, lambda: fastnw.pool(queries, keys, values, empty=0.0, progress=False, **options)

    return planned


def _fitted(case: Case, keys: np.ndarray, values: np.ndarray | None, options: dict[str, Any]) -> Planned:
    weights = options.get("sample_weight")
    model = fastnw.NadarayaWatsonRegressor(
        kernel=options["kernel"], bandwidth=options["bandwidth"], n_jobs=1, empty=0.0
    )
    model.fit(keys, values if case.c > 1 else values[:, 0], sample_weight=weights)

    def planned(queries: np.ndarray) -> tuple[Plan, Callable[[], Any]]:
        return plan_of_prediction(model, queries), lambda: model.predict(queries)

    return planned


def _processor_seconds(call: Callable[[], Any]) -> float:
    """Least time of some calls, after a first one that loads libraries and compiles."""
    call()
    seconds: list[float] = []
    while not seconds or (len(seconds) < ROUNDS and sum(seconds) < ALL_SECONDS):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return min(seconds)
