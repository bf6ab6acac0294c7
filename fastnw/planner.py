"""How a problem will be done: the methods' own costs compared, in a pure function of problem and kind of hardware."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np

from fastnw import backends
from fastnw.backends.backend import Backend
from fastnw.core.model import Model, Summary
from fastnw.core.plan import NOMINAL_THREADS, Cost, Plan, Refusal, Rung, Work
from fastnw.core.problem import Problem
from fastnw.methods import NAMES, exact, prefix_sums
from fastnw.methods.fourier import method as fourier
from fastnw.methods.nearest.search import nearest
from fastnw.methods.tails import method as tails
from fastnw.methods.tree import method as tree
from fastnw.runtime.hardware import n_threads as threads_for

_METHODS: dict[str, ModuleType] = {"exact": exact, "tree": tree, "moments": prefix_sums, "fourier": fourier}
_MODULES: dict[str, Any] = {**_METHODS, "tails": tails}

# Float32 sums are certified to about 2e-5 of the range at best; a smaller tol is float64's work.
FLOAT32_TOL = 5e-5
FEW_PAIRS = 1 << 15  # exact takes 50 µs for so many in few coordinates
# Smaller weights, relative to the largest, leave float32's range once multiplied by κ.
FLOAT32_WEIGHT = 1e-15
# What every call does besides: its fixed part, and what a matrix adds to it, in seconds; nanoseconds to look through a
# byte of the arrays for NaN and infinity; to find the range of a value that stands alone, or of a row of several and
# each of them; to look at a weight (three times, and at logarithms), and which value it leaves; to make a bound, and
# each mean. Processor time of a Xeon (Sapphire Rapids) of calls with one query.
CALL, CALL_FITTED, CALL_MATRIX = 5e-4, 4.5e-4, 2.5e-4
CHECK_NS, RANGE_NS, RANGES_NS, WEIGHT_NS, WEIGHED_NS = 0.125, 0.5, (40.0, 1.5), 25.0, 1.0
RESULT_NS, RESULTS_NS = 50.0, 15.0
# Reciprocal bandwidths and key scales beyond this leave float32's range once squared.
FLOAT32_RANGE = 1e18


def make_plan(problem: Problem, method: str, backend: str, n_jobs: int | None) -> Plan:
    """The cheapest method that accepts the problem, or the one asked for.

    Raises
    ------
    ValueError
        Unknown choice, or a forced one that is missing or refuses the problem, with its reason.
    """
    if not isinstance(method, str) or method not in NAMES:
        raise ValueError(f"Unknown method {method!r}. Choose one of {', '.join(map(repr, NAMES))}.")
    if method != "auto" and method not in _METHODS:
        raise ValueError(
            f"method={method!r} is not part of this version of fastnw; it has {', '.join(map(repr, _METHODS))}."
        )
    tiles, n_threads = backends.choose(backend, problem.kernel, float(problem.m) * problem.n), threads_for(n_jobs)
    dtype = _compute_dtype(problem, tiles)
    candidates = _METHODS if method == "auto" else {method: _METHODS[method]}
    few = method == "auto" and float(problem.m) * problem.n <= FEW_PAIRS and not problem.prepared
    if few:  # every pair takes less time than a look at the other methods
        candidates = {"exact": exact}
    offers = {name: steps.cost(problem, tiles, n_threads, dtype) for name, steps in candidates.items()}
    costs = {name: offer for name, offer in offers.items() if isinstance(offer, Cost)}
    if not costs:
        refusal = offers[method]
        assert isinstance(refusal, Refusal)
        raise ValueError(f"method={method!r} {refusal.reason}. Use method='auto'.")
    besides = _besides(problem)
    costs = {name: replace(cost, work=(besides, *cost.work)) for name, cost in costs.items()}
    best = min(costs, key=lambda name: costs[name].seconds(NOMINAL_THREADS))
    refusals = {name: offer.reason for name, offer in offers.items() if isinstance(offer, Refusal)}
    if few:
        reason = "every pair takes less time than a comparison of methods"
    elif method != "auto":
        reason = f"method={method!r} was asked for"
    else:
        reason = _comparison(best, costs, refusals, n_threads)
    cost = costs[best]
    return Plan(
        best,
        tiles.name,
        tiles.isa(),
        n_threads,
        cost.pairs,
        cost.seconds(n_threads),
        cost.bytes,
        reason,
        (problem.m, problem.n, problem.d, problem.c),
        problem.kernel.name,
        dtype,
        ladder(problem, best, tiles, dtype),
    )


def ladder(problem: Problem, method: str, backend: Backend, dtype: np.dtype[Any]) -> tuple[Rung, ...]:
    """The rungs that queries go down, the method's own first."""
    below = exact.rungs(problem, backend, dtype)
    if method == "exact":
        return below
    # sums over a tree are as sure as differences in float64; without tails these are tried once more, with every pair
    tree_rung = Rung("tree", rank=3.0 if tails.known(problem.kernel) else 2.5)
    if method == "tree":
        return (tree_rung, *below)
    first = Rung(method)
    return (first, *below) if tree.refusal(problem, backend) else (first, replace(tree_rung, form="if fast"), *below)


def make_model(problem: Problem, method: str, backend: str, n_jobs: int | None) -> Model:
    """The problem's keys under its plan; see `make_plan` for what is raised."""
    return model_of(problem, make_plan(problem, method, backend, n_jobs))


def model_of(problem: Problem, plan: Plan) -> Model:
    """The problem's keys under a plan that was made before."""
    return Model(problem, plan, _summarise, nearest)


def _summarise(model: Model, rung: Rung) -> Summary:
    return _MODULES[rung.method].summarise(model, rung)


def _besides(problem: Problem) -> Work:
    """What every method's call does besides, all on one thread: it checks the arrays, which a fitted model does once,
    and makes results of sums."""
    m, c = problem.m, problem.c
    seconds = 1e-9 * m * (RESULT_NS + RESULTS_NS * c) + CALL_MATRIX * (problem.metric.factor is not None)
    if problem.on_device:
        return Work(CALL + seconds)
    seconds += 1e-9 * CHECK_NS * m * problem.d * problem.queries.dtype.itemsize
    if problem.prepared:
        return Work(CALL_FITTED + seconds)
    values = problem.values if problem.classes is None else problem.classes.codes
    arrays = [problem.keys, values, problem.weights, problem.key_scale]
    checks = CHECK_NS * sum(float(a.size) * a.dtype.itemsize for a in arrays if a is not None)
    columns = values.shape[1]
    checks += problem.n * (RANGES_NS[0] + RANGES_NS[1] * columns if columns > 1 else RANGE_NS * columns)
    if problem.weighted:
        checks += problem.n * (WEIGHT_NS + WEIGHED_NS * columns)
    return Work(CALL + seconds + 1e-9 * checks)


def _comparison(best: str, costs: dict[str, Cost], refusals: dict[str, str], n_threads: int) -> str:
    """Why `best`: what each method takes on the machine that they are compared on, and why others cannot.

    Where another is faster on the call's own number of threads, it says why that does not count.
    """
    times = _times(costs, NOMINAL_THREADS)
    parts = [f"{name} {reason}" for name, reason in refusals.items()]
    if len(costs) == 1:
        return "; ".join([f"no other method can do it: {'; '.join(parts)}"] if parts else [f"{best} can do it"])
    parts.insert(0, f"{best} takes the least time on {NOMINAL_THREADS} threads: {times}")
    if n_threads != NOMINAL_THREADS:
        count = "1 thread" if n_threads == 1 else f"{n_threads} threads"
        here = f"on {count}, as here: {_times(costs, n_threads)}"
        if min(costs, key=lambda name: costs[name].seconds(n_threads)) != best:
            here += f" (choices are made for {NOMINAL_THREADS} threads, so that results do not depend on n_jobs)"
        parts.insert(1, here)
    return "; ".join(parts)


def _times(costs: dict[str, Cost], n_threads: int) -> str:
    """Of each method, the fastest first."""
    seconds = {name: cost.seconds(n_threads) for name, cost in costs.items()}
    return ", ".join(f"{name} {seconds[name]:.2g} s" for name in sorted(seconds, key=seconds.__getitem__))


def _compute_dtype(problem: Problem, tiles: Backend) -> np.dtype[Any]:
    factors = problem.metric.inverse
    if problem.key_scale is not None:
        factors = np.append(factors, problem.key_scale_range)
    fits = np.all((factors < FLOAT32_RANGE) & (factors > 1 / FLOAT32_RANGE))
    # near its edge a boxcar jumps, so whitened coordinates, which are not exact, need their digits
    jumps = problem.kernel.facts.discontinuous and problem.metric.cholesky is not None
    asked_for_more = problem.tol is not None and 0 < problem.tol < FLOAT32_TOL
    narrow = problem.dtype == np.float32 and fits and not jumps and not asked_for_more
    narrow = narrow and problem.least_weight >= FLOAT32_WEIGHT and problem.kernel.fits_float32
    narrow = narrow and exact.narrow_is_enough(problem, tiles)
    return np.dtype(np.float32 if narrow else np.float64)
