"""Means and masses at all keys for several multiples of one bandwidth, in one pass over the pairs.

The distance of a pair is computed once and scaled for each bandwidth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fastnw import backends
from fastnw.bandwidth.criteria import Fit
from fastnw.bandwidth.fits.at_keys import fit_at_keys
from fastnw.core import certify
from fastnw.core.pack import KeyBlock, pack_inverse, pack_queries
from fastnw.core.plan import Plan
from fastnw.core.problem import Problem
from fastnw.core.score_errors import ScoreErrors
from fastnw.core.state import Sums
from fastnw.core.validate import metric
from fastnw.methods import exact
from fastnw.planner import model_of
from fastnw.runtime.threads import Meter, check_stop, run

FLOAT64 = np.dtype(np.float64)
QUERIES_PER_TASK = 256
MAX_PROFILES = 16  # the most that the tiles take at a time


def fits(problem: Problem, plan: Plan, factors: Sequence[float], meter: Meter) -> list[Fit]:
    """Means and log masses at the problem's bandwidth times each of the factors."""
    problems = [problem.with_metric(metric(problem.metric.bandwidth * factor, problem.d)) for factor in factors]
    states = [Sums.empty(problem.n, problem.c) for _ in factors]
    for first in range(0, len(factors), MAX_PROFILES):
        group = slice(first, first + MAX_PROFILES)
        _add_all_keys(problem, plan, factors[group], states[group], meter)
    backend, error = backends.get(plan.backend), ScoreErrors(problem).of(pack_queries(problem, slice(None), FLOAT64))
    results = []
    for scaled, state in zip(problems, states, strict=True):
        weight_error = certify.error_of_weights(scaled, backend, error, state)
        sums = certify.Rounding(scaled, FLOAT64).certified(state, weight_error)
        mean, log_mass = sums.means(), sums.log_mass() + scaled.log_largest_weight
        centre, half = scaled.values_centre
        fit = Fit(centre + half * mean if scaled.c else mean, log_mass)
        uncertified = np.flatnonzero(~certify.accurate(scaled, sums, scaled.promise))
        if len(uncertified):  # queries in far tails
            other = fit_at_keys(scaled, plan, uncertified, meter)
            fit.mean[uncertified], fit.log_mass[uncertified] = other.mean, other.log_mass
        results.append(fit)
    return results


def _add_all_keys(problem: Problem, plan: Plan, factors: Sequence[float], states: Sequence[Sums], meter: Meter) -> None:
    """Add the sums over all keys to the states, span by span of keys."""
    profiles = [(problem.kernel, 1.0 / factor) for factor in factors]
    shape, inverse = exact.layout(problem, problem.n, FLOAT64), pack_inverse(problem, FLOAT64)
    keys, queries = exact.keys_of(model_of(problem, plan)), pack_queries(problem, slice(None), FLOAT64)
    error = keys.errors.of(queries)
    if not problem.kernel.works_on_logs:
        for state in states:
            state.shift[:] = 0.0
    buffer = keys.buffer(shape, FLOAT64)
    for start in range(0, problem.n, shape.span * shape.block):
        blocks = keys.span(shape, start, FLOAT64, buffer)

        def task(i: int, blocks: list[KeyBlock] = blocks) -> float:
            rows = slice(i * QUERIES_PER_TASK, min((i + 1) * QUERIES_PER_TASK, problem.n))
            row_states = [state.rows(rows) for state in states]
            for block in blocks:
                check_stop()
                own = np.arange(rows.start, rows.stop) - block.start if problem.exclude_self else None
                keys.backend.sum_several(profiles, queries[rows], block, inverse, own, row_states, error[rows])
            return 0.0

        threads = plan.n_threads if problem.n**2 > exact.SERIAL_PAIRS else 1
        run(task, math.ceil(problem.n / QUERIES_PER_TASK), threads, meter)
