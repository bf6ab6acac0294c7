"""The planner: compares the predicted costs of the methods, as a pure function of the problem and the hardware kind."""

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

# The smallest `tol` for sums in float32, whose bounds are about 2e-5 of the range at best.
MIN_FLOAT32_TOL = 5e-5
# Up to this number of pairs, all pairs are summed without a comparison of methods: in few dimensions that takes 50 µs.
MAX_UNPLANNED_PAIRS = 1 << 15
# The smallest weight, relative to the largest, whose product with κ is in the range of float32.
MIN_FLOAT32_WEIGHT = 1e-15
# The overhead that every method shares, measured as processor time of calls with one query on a Xeon (Sapphire Rapids).
# Seconds of a call, of a call of a fitted model, and for a bandwidth matrix in addition:
CALL_SECONDS, FITTED_CALL_SECONDS, MATRIX_SECONDS = 5e-4, 4.5e-4, 2.5e-4
# Nanoseconds of the check for NaN and infinity, per byte of the arrays:
CHECK_NS_PER_BYTE = 0.125
# Nanoseconds per key of the range of a single value; of several values, per key and per value of a key:
VALUE_RANGE_NS, ROW_RANGE_NS, ROW_VALUE_RANGE_NS = 0.5, 40.0, 1.5
# Nanoseconds per weight of the statistics of weights, and per value for the selection of weighted values:
WEIGHT_NS, WEIGHTED_VALUE_NS = 25.0, 1.0
# Nanoseconds per query of an error bound, and per mean:
BOUND_NS, MEAN_NS = 50.0, 15.0
# The largest reciprocal bandwidth or key scale whose square is in float32's range, and the inverse of the smallest.
MAX_FLOAT32_FACTOR = 1e18


def make_plan(problem: Problem, method: str, backend: str, n_jobs: int | None) -> Plan:
    """Choose the fastest method that supports the problem, or the requested one, and predict its cost.

    Raises
    ------
    ValueError
        The method or backend is unknown, is not available, or does not support the problem.
    """
    if not isinstance(method, str) or method not in NAMES:
        raise ValueError(f"Unknown method {method!r}. Choose one of {', '.join(map(repr, NAMES))}.")
    if method != "auto" and method not in _METHODS:
        raise ValueError(
            f"method={method!r} is not part of this version of fastnw; it has {', '.join(map(repr, _METHODS))}."
        )
    chosen_backend = backends.choose(backend, problem.kernel, float(problem.m) * problem.n)
    n_threads = threads_for(n_jobs)
    dtype = _compute_dtype(problem, chosen_backend)
    candidates = _METHODS if method == "auto" else {method: _METHODS[method]}
    is_small = method == "auto" and float(problem.m) * problem.n <= MAX_UNPLANNED_PAIRS and not problem.prepared
    if is_small:  # all pairs take less time than the costs of the other methods
        candidates = {"exact": exact}
    offers = {name: module.cost(problem, chosen_backend, n_threads, dtype) for name, module in candidates.items()}
    costs = {name: offer for name, offer in offers.items() if isinstance(offer, Cost)}
    if not costs:
        refusal = offers[method]
        assert isinstance(refusal, Refusal)
        raise ValueError(f"method={method!r} {refusal.reason}. Use method='auto'.")
    overhead = _overhead(problem)
    costs = {name: replace(cost, work=(overhead, *cost.work)) for name, cost in costs.items()}
    best = min(costs, key=lambda name: costs[name].seconds(NOMINAL_THREADS))
    refusals = {name: offer.reason for name, offer in offers.items() if isinstance(offer, Refusal)}
    if is_small:
        reason = "every pair takes less time than a comparison of methods"
    elif method != "auto":
        reason = f"method={method!r} was asked for"
    else:
        reason = _comparison(best, costs, refusals, n_threads)
    cost = costs[best]
    return Plan(
        best,
        chosen_backend.name,
        chosen_backend.isa(),
        n_threads,
        cost.pairs,
        cost.seconds(n_threads),
        cost.bytes,
        reason,
        (problem.m, problem.n, problem.d, problem.c),
        problem.kernel.name,
        dtype,
        ladder(problem, best, chosen_backend, dtype),
    )


def ladder(problem: Problem, method: str, backend: Backend, dtype: np.dtype[Any]) -> tuple[Rung, ...]:
    """Return the rungs in the order in which they are tried: the method's own, then those of the exact method."""
    exact_rungs = exact.rungs(problem, backend, dtype)
    if method == "exact":
        return exact_rungs
    # Sums over a tree are as accurate as exact differences in float64, so a query continues at the tails. For a kernel
    # without tails, its pairs are summed again without the tree.
    tree_rung = Rung("tree", rank=3.0 if tails.known(problem.kernel) else 2.5)
    if method == "tree":
        return (tree_rung, *exact_rungs)
    first = Rung(method)
    if tree.refusal(problem, backend):
        return (first, *exact_rungs)
    return (first, replace(tree_rung, form="if fast"), *exact_rungs)


def make_model(problem: Problem, method: str, backend: str, n_jobs: int | None) -> Model:
    """Plan the problem and make a model of its keys; raises the errors of `make_plan`."""
    return model_of(problem, make_plan(problem, method, backend, n_jobs))


def model_of(problem: Problem, plan: Plan) -> Model:
    """Make a model of the problem's keys with a given plan."""
    return Model(problem, plan, _summarise, nearest)


def _summarise(model: Model, rung: Rung) -> Summary:
    return _MODULES[rung.method].summarise(model, rung)


def _overhead(problem: Problem) -> Work:
    """Predict the single-threaded work of a call for any method.

    It checks the arrays, which a fitted model does once, and converts sums to results.
    """
    m, c = problem.m, problem.c
    seconds = 1e-9 * m * (BOUND_NS + MEAN_NS * c) + MATRIX_SECONDS * (problem.metric.factor is not None)
    if problem.on_device:
        return Work(CALL_SECONDS + seconds)
    seconds += 1e-9 * CHECK_NS_PER_BYTE * m * problem.d * problem.queries.dtype.itemsize
    if problem.prepared:
        return Work(FITTED_CALL_SECONDS + seconds)
    values = problem.values if problem.classes is None else problem.classes.codes
    arrays = [problem.keys, values, problem.weights, problem.key_scale]
    checks = CHECK_NS_PER_BYTE * sum(float(a.size) * a.dtype.itemsize for a in arrays if a is not None)
    columns = values.shape[1]
    row_range = ROW_RANGE_NS + ROW_VALUE_RANGE_NS * columns
    checks += problem.n * (row_range if columns > 1 else VALUE_RANGE_NS * columns)
    if problem.weighted:
        checks += problem.n * (WEIGHT_NS + WEIGHTED_VALUE_NS * columns)
    return Work(CALL_SECONDS + seconds + 1e-9 * checks)


def _comparison(best: str, costs: dict[str, Cost], refusals: dict[str, str], n_threads: int) -> str:
    """Explain the choice of `best`: the seconds of each method for NOMINAL_THREADS, and the refusals of the others.

    If another method is faster for the call's number of threads, explain why it was not chosen.
    """
    times = _times(costs, NOMINAL_THREADS)
    parts = [f"{name} {reason}" for name, reason in refusals.items()]
    if len(costs) == 1:
        return "; ".join([f"no other method can do it: {'; '.join(parts)}"] if parts else [f"{best} can do it"])
    parts.insert(0, f"{best} takes the least time on {NOMINAL_THREADS} threads: {times}")
    if n_threads != NOMINAL_THREADS:
        count = "1 thread" if n_threads == 1 else f"{n_threads} threads"
        times_here = f"on {count}, as here: {_times(costs, n_threads)}"
        if min(costs, key=lambda name: costs[name].seconds(n_threads)) != best:
            times_here += f" (choices are made for {NOMINAL_THREADS} threads, so that results do not depend on n_jobs)"
        parts.insert(1, times_here)
    return "; ".join(parts)


def _times(costs: dict[str, Cost], n_threads: int) -> str:
    """List the seconds of each method, the fastest first."""
    seconds = {name: cost.seconds(n_threads) for name, cost in costs.items()}
    return ", ".join(f"{name} {seconds[name]:.2g} s" for name in sorted(seconds, key=seconds.__getitem__))


def _compute_dtype(problem: Problem, backend: Backend) -> np.dtype[Any]:
    factors = problem.metric.inverse
    if problem.key_scale is not None:
        factors = np.append(factors, problem.key_scale_range)
    fits = np.all((factors < MAX_FLOAT32_FACTOR) & (factors > 1 / MAX_FLOAT32_FACTOR))
    # A discontinuous kernel with whitened coordinates, which have rounding errors, needs the digits of float64.
    jumps = problem.kernel.facts.discontinuous and problem.metric.cholesky is not None
    tol_needs_float64 = problem.tol is not None and 0 < problem.tol < MIN_FLOAT32_TOL
    narrow = problem.dtype == np.float32 and fits and not jumps and not tol_needs_float64
    narrow = narrow and problem.least_weight >= MIN_FLOAT32_WEIGHT and problem.kernel.fits_float32
    narrow = narrow and exact.narrow_is_enough(problem, backend)
    return np.dtype(np.float32 if narrow else np.float64)
