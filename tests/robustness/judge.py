"""Whether an answer of fastnw keeps its promises: the certificate, the accuracy, the range, emptiness, the warnings."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache
from typing import Any
from unittest import mock

import numpy as np
from oracle import normalising_constant

import fastnw
from fastnw.backends.compiled import backend as compiled
from fastnw.methods import exact
from robustness.draw import Problem
from robustness.truth import DIGITS, Oracle, Sums, context, determinant, result_type, screen

PROMISE = {np.dtype(np.float64): 1e-8, np.dtype(np.float32): 1e-4}
LEAST_LOG = -700  # of a mass; a user's profile is 0 in float64 below it, and such a window is empty
LOOKED_AT = 2  # queries of each suspicion, and as many at random
THREADED = 20  # one problem of so many is done again on two threads

PROFILES: dict[str, dict[str, Any]] = {
    "user student": {"profile": lambda u2: 1 / (1 + u2) ** 2, "monotone": True},
    "user bump": {"profile": lambda u2: (1 - u2 / 4) ** 2, "support": 2.0},
    "user power": {"profile": lambda u2: (1 + u2) ** -2.5},
    "user stretched": {
        "profile": lambda u2: np.exp(-2 * u2 / (1 + np.sqrt(u2))),
        "log_profile": lambda u2: -2 * u2 / (1 + np.sqrt(u2)),
        "monotone": True,
    },
    "user two scales": {
        "profile": lambda u2: np.exp(-np.sqrt(u2)) * (1 + u2 / (1 + u2)),
        "log_profile": lambda u2: -np.sqrt(u2) + np.log1p(u2 / (1 + u2)),
    },
}


@lru_cache(maxsize=len(PROFILES))
def user_kernel(name: str) -> fastnw.Kernel:
    return fastnw.Kernel(name, **PROFILES[name])


@dataclass
class Verdict:
    """What became of a problem: "held", "refused" or the faults found, as (kind, words)."""

    outcome: str = "held"
    faults: list[tuple[str, str]] = field(default_factory=list)
    warned: bool = False

    def add(self, kind: str, words: str) -> None:
        self.outcome = "broken"
        self.faults.append((kind, words))


@dataclass(frozen=True)
class Given:
    """What fastnw gave: its arrays, and the number of queries that an `AccuracyWarning` names."""

    results: tuple[np.ndarray, ...]
    unsure: int


def expanded(problem: Problem) -> Problem:
    """With each copy of a key as a key of its own."""
    if problem.copies is None:
        return problem
    options = dict(problem.options)
    for name in ("sample_weight", "key_scale"):
        if name in options:
            options[name] = np.repeat(options[name], problem.copies)
    values = None if problem.values is None else np.repeat(problem.values, problem.copies, axis=0)
    keys = np.repeat(problem.keys, problem.copies, axis=0)
    return replace(problem, keys=keys, values=values, options=options, copies=None)


def call(problem: Problem, **more: Any) -> Given:
    """fastnw's answer; any warning but its own two is an error."""
    problem = expanded(problem)
    options = problem.options | more
    if options["kernel"] in PROFILES:
        options["kernel"] = user_kernel(options["kernel"])
    levels = compiled.levels()
    level = levels[-1 - min(problem.level, len(levels) - 1)]
    with warnings.catch_warnings(record=True) as caught, compiled.use_level(level):
        warnings.simplefilter("error")
        warnings.simplefilter("always", fastnw.AccuracyWarning)
        warnings.simplefilter("ignore", fastnw.EmptyWindowWarning)
        if problem.ask == "pool":
            options |= {"return_mass": True, "return_error": True}
            results = fastnw.pool(problem.queries, problem.keys, problem.values, **options)
        elif problem.ask == "density":
            results = (fastnw.density(problem.queries, problem.keys, log=True, **options),)
        else:
            results = (fastnw.attention_weights(problem.queries, problem.keys, **options),)
    counts = [int(match[1]) for w in caught if (match := re.match(r"(\d+) of \d+ results", str(w.message)))]
    if len(counts) != len(caught):
        counts.append(0)
    return Given(results, sum(counts) if caught else 0)


def judge(problem: Problem, number: int = 0) -> Verdict:
    """Check one problem; `number` decides what is looked at at random."""
    verdict = Verdict()
    h = problem.options["bandwidth"]
    with context(DIGITS):
        positive = np.ndim(h) < 2 or determinant(np.asarray(h)) > 0
    try:
        given = call(problem)
    except ValueError as error:
        if not _allowed(problem, str(error), positive):
            verdict.add("raised", f"{type(error).__name__}: {error}")
        else:
            verdict.outcome = "refused"
        return verdict
    except Exception as error:  # a report of 50,000 problems goes on
        verdict.add("raised", f"{type(error).__name__}: {error}")
        return verdict
    verdict.warned = given.unsure > 0
    if not positive:
        verdict.add("raised", "a bandwidth matrix that is not positive definite was taken")
        return verdict
    with np.errstate(all="ignore"):
        {"pool": _pool, "density": _density, "weights": _weights}[problem.ask](problem, given, verdict, number)
    if number % THREADED == 0:
        with mock.patch.object(exact, "SERIAL_PAIRS", 0):
            one, two = (call(problem, n_jobs=jobs).results for jobs in (1, 2))
        if any(a.tobytes() != b.tobytes() for a, b in zip(one, two, strict=True)):
            verdict.add("threads", "n_jobs=1 and n_jobs=2 differ in their bits")
    return verdict


def _allowed(problem: Problem, words: str, positive: bool) -> bool:
    """Whether a refusal is in order: of a forced method, a kernel without a density, a matrix that is none."""
    if words.endswith("Use method='auto'.") or "cannot run this: " in words:
        return problem.options.get("method", "auto") != "auto" or problem.options.get("backend", "auto") != "auto"
    if problem.ask == "density" and ("normal" in words or "density" in words or "integr" in words):
        return True
    matrix = np.ndim(problem.options["bandwidth"]) == 2
    return matrix and "positive definite" in words and (not positive or _condition(problem) > 1e12)


def _condition(problem: Problem) -> float:
    return float(np.linalg.cond(np.asarray(problem.options["bandwidth"])))


def _rows(problem: Problem, suspicions: list[np.ndarray], number: int) -> list[int]:
    """The most suspicious queries, the drawn ones and a few others."""
    m = len(problem.queries)
    rows = {int(row) for row in problem.suspects if row < m}
    for measure in suspicions:
        measure = np.nan_to_num(np.asarray(measure, np.float64), nan=-1.0, posinf=1e300)
        rows.update(int(row) for row in np.argsort(measure)[-LOOKED_AT:] if measure[row] > 0)
    rows.update(int(row) for row in np.random.default_rng(number).integers(0, m, LOOKED_AT))
    return sorted(rows)


def _spacing(x: float, dtype: np.dtype[Any]) -> Decimal:
    return Decimal(float(np.spacing(dtype.type(abs(x)))))


def _weighted(problem: Problem) -> np.ndarray:
    """(n, c) values of the keys with weight, or of all if none has any."""
    assert problem.values is not None
    columns = problem.values.reshape(len(problem.keys), -1).astype(np.float64)
    kept = np.asarray(problem.options.get("sample_weight", np.ones(len(columns)))) > 0
    return columns[kept] if kept.any() else columns


def _promise(problem: Problem) -> float:
    return problem.options.get("tol") or PROMISE[result_type(problem)]


def _pool(problem: Problem, given: Given, verdict: Verdict, number: int) -> None:
    f, log_mass, error = given.results
    dtype, m = result_type(problem), len(problem.queries)
    if (f.dtype, log_mass.dtype, error.dtype) != (dtype, dtype, np.float64):
        verdict.add("type", f"{f.dtype}, {log_mass.dtype}, {error.dtype}, expected {dtype}")
    f = f.reshape(m, -1)
    held, promise = _weighted(problem), _promise(problem)
    low, high = held.min(axis=0), held.max(axis=0)
    spans = [Decimal(b) - Decimal(a) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
    span = float(max(spans))
    empty = np.isneginf(log_mass)
    if not np.array_equal(np.isnan(error), empty) or not all(np.array_equal(np.isnan(x), empty) for x in f.T):
        verdict.add("nan", f"NaN of f, NaN of error and log_mass of -inf differ: {np.isnan(f)}, {error}, {log_mass}")
        return
    edges = (low.astype(dtype), high.astype(dtype))
    if not np.all(empty[:, None] | ((f >= edges[0]) & (f <= edges[1]))):
        verdict.add("range", f"results outside [min V, max V] = {edges}: {f}")
    late = int((error > promise * span * (1 + 1e-9) + 1e-320).sum()) if span else int((error > 0).sum())
    if given.unsure != late and span:
        verdict.add("warning", f"{late} bounds exceed the promise, a warning counts {given.unsure}")
    if not problem.values.size:
        return
    right, right_mass = screen(problem)
    with np.errstate(all="ignore"):
        off = (abs(f - right) / np.maximum(high - low, 1e-320)).max(axis=1)
        suspicions = [
            off,
            off / np.maximum(error, 1e-300),
            abs(log_mass - right_mass),
            empty != np.isneginf(right_mass),
        ]
    oracle = Oracle(problem)
    for row in _rows(problem, suspicions, number):
        answer = oracle.at(row)
        with context(DIGITS):
            if empty[row]:
                of_users = problem.options["kernel"].startswith("user") and problem.options.get("sample_weight") is None
                vanishes = of_users and answer.ways[0].log_mass < LEAST_LOG
                if not answer.may_be_empty and not vanishes:
                    verdict.add("empty", f"query {row} is said to be empty; log_mass is {answer.ways[0].log_mass:.20g}")
                continue
            if answer.anything:
                continue
            ways = [way for way in answer.ways if way.f is not None]
            if not ways:
                verdict.add("empty", f"query {row} has no key in reach, and got {f[row]}")
                continue
            _compare(problem, verdict, row, f[row], float(error[row]), log_mass[row], ways, spans, given.unsure > 0)


def _compare(
    problem: Problem,
    verdict: Verdict,
    row: int,
    f: np.ndarray,
    error: float,
    log_mass: Any,
    ways: list[Sums],
    spans: list[Decimal],
    warned: bool,
) -> None:
    """Of one query: the certificate, the promise and the mass, by the way that fits best."""
    dtype, promise = result_type(problem), _promise(problem)
    rounding = [_spacing(float(x), dtype) for x in f]

    def miss(way: Sums) -> Decimal:
        assert way.f is not None
        return max(abs(Decimal(float(x)) - y) - r for x, y, r in zip(f, way.f, rounding, strict=True))

    way = min(ways, key=miss)
    over = miss(way)
    if over > Decimal(error):
        verdict.add(
            "certificate", f"query {row}: off by {over:.3g}, certificate {error:.3g}; got {f}, expected {_floats(way)}"
        )
    for x, y, r, span in zip(f, way.f or [], rounding, spans, strict=True):
        off = abs(Decimal(float(x)) - y) - r
        if not warned and off > Decimal(promise) * span * Decimal("1.000001"):
            verdict.add(
                "promise",
                f"query {row}: off by {off:.3g} of a range {span:.3g}, no warning; got {x}, expected {y:.17g}",
            )
            break
    slack = _log_slack(problem, way.log_mass)
    masses = [abs(Decimal(float(log_mass)) - other.log_mass) for other in ways]
    held = abs(way.log_mass) < Decimal(float(np.finfo(dtype).max)) / 100  # beyond, logarithms end
    if held and not warned and min(masses) > Decimal(promise) + slack:
        verdict.add("mass", f"query {row}: log_mass {log_mass!r}, expected {way.log_mass:.20g}, off {min(masses):.3g}")


def _log_slack(problem: Problem, log_mass: Decimal) -> Decimal:
    """The rounding of a logarithm: of its u², whose parts are d, and of itself."""
    eps = Decimal(float(np.finfo(result_type(problem)).eps))
    return 4 * eps * max(abs(log_mass), 1)


def _floats(way: Sums) -> list[str]:
    return [f"{x:.17g}" for x in way.f or []]


def _density(problem: Problem, given: Given, verdict: Verdict, number: int) -> None:
    got = given.results[0]
    d = problem.keys.shape[1]
    kernel, h = problem.options["kernel"], np.asarray(problem.options["bandwidth"], np.float64)
    if kernel.startswith("user"):
        return
    if got.dtype != result_type(problem) or np.isnan(got).any():
        verdict.add("nan", f"densities {got}")
        return
    with context(DIGITS):
        volume = determinant(h).ln() / 2 if h.ndim == 2 else sum(Decimal(float(x)).ln() for x in np.broadcast_to(h, d))
        constant = Decimal(float(normalising_constant(kernel, d))).ln() + volume
    _, right = screen(problem)
    oracle, promise, eps = Oracle(problem), _promise(problem), float(np.finfo(result_type(problem)).eps)
    # the logarithm's rounding, and that of what adds up to it
    for row in _rows(
        problem, [np.isneginf(got) != np.isneginf(right), abs(got - right - np.median(got - right))], number
    ):
        answer = oracle.at(row)
        with context(DIGITS):
            if answer.anything or (np.isneginf(got[row]) and answer.may_be_empty):
                continue
            weights = [w for i, w in enumerate(oracle.weight) if not (problem.options.get("exclude_self") and i == row)]
            total = sum(weights, Decimal(0))
            ways = [way.log_mass - constant - total.ln() for way in answer.ways if way.f is not None]
            if not ways:
                verdict.add("empty", f"query {row} has no key in reach; log density {got[row]}")
                continue
            if np.isneginf(got[row]):
                verdict.add("empty", f"query {row}: log density -inf, expected {ways[0]:.17g}")
                continue
            off = min(abs(Decimal(float(got[row])) - way) for way in ways)
            sizes = 1 + abs(answer.ways[-1].log_mass) + abs(constant) + abs(total.ln())
            if abs(ways[0]) > Decimal(float(np.finfo(got.dtype).max)) / 100:
                continue  # logarithms end there
            if given.unsure == 0 and off > Decimal(promise) + 4 * Decimal(eps) * sizes + Decimal("1e-13"):
                verdict.add("mass", f"query {row}: log density {got[row]!r}, expected {ways[0]:.17g}, off by {off:.3g}")


def _weights(problem: Problem, given: Given, verdict: Verdict, number: int) -> None:
    got = given.results[0]
    dtype, n = result_type(problem), len(problem.keys)
    if problem.copies is not None:
        got = np.add.reduceat(got, np.concatenate([[0], np.cumsum(problem.copies)[:-1]]), axis=1)
    if got.dtype != dtype or got.shape != (len(problem.queries), n):
        verdict.add("type", f"weights of {got.dtype}{got.shape}")
        return
    empty = np.isnan(got).any(axis=1)
    if np.any(got[~empty] < 0) or not np.array_equal(empty, np.isnan(got).all(axis=1)):
        verdict.add("range", f"weights below 0, or NaN in part: {got}")
    _, right = screen(problem)
    oracle = Oracle(problem)
    for row in _rows(problem, [empty != np.isneginf(right)], number):
        answer = oracle.at(row)
        with context(DIGITS):
            if answer.anything or (empty[row] and answer.may_be_empty):
                continue
            ways = [way for way in answer.ways if way.f is not None]
            if empty[row] or not ways:
                verdict.add("empty", f"query {row}: weights {got[row]}, expected {[dict(w.shares) for w in ways]}")
                continue
            worst = min(
                max(abs(Decimal(float(x)) - way.shares.get(i, Decimal(0))) for i, x in enumerate(got[row]))
                for way in ways
            )
            if given.unsure == 0 and worst > Decimal(PROMISE[dtype]):
                verdict.add("weights", f"query {row}: a weight is off by {worst:.3g}")
