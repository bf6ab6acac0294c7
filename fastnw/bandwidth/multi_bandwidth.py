"""Sums at all keys for several multiples of one bandwidth in one pass over the pairs: distances are taken once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fastnw import backends
from fastnw.bandwidth.criteria import Fit
from fastnw.bandwidth.fits import forward
from fastnw.core import certify
from fastnw.core.pack import KeyBlock, pack_inverse, pack_queries
from fastnw.core.plan import Plan
from fastnw.core.problem import Problem
from fastnw.core.score_errors import ScoreErrors
from fastnw.core.state import PoolState
from fastnw.core.validate import metric
from fastnw.methods import exact
from fastnw.planner import model_of
from fastnw.runtime.threads import Meter, check_stop, run

FLOAT64 = np.dtype(np.float64)
TILE = 256  # queries a task
MOST = 16  # profiles at a time, as many as the tiles take


def fits(problem: Problem, plan: Plan, factors: Sequence[float], meter: Meter) -> list[Fit]:
    """Means and log masses at the problem's bandwidth times each factor."""
    problems = [problem.with_metric(metric(problem.metric.bandwidth * factor, problem.d)) for factor in factors]
    states = [PoolState.empty(problem.n, problem.c) for _ in factors]
    for first in range(0, len(factors), MOST):
        _sum(problem, plan, factors[first : first + MOST], states[first : first + MOST], meter)
    backend, error = backends.get(plan.backend), ScoreErrors(problem).of(pack_queries(problem, slice(None), FLOAT64))
    found = []
    for mine, state in zip(problems, states, strict=True):
        of_weights = certify.error_of_weights(mine, backend, error, state)
        sums = certify.Rounding(mine, FLOAT64).certified(state, of_weights)
        mean, log_mass = sums.means(), sums.log_mass() + mine.log_largest_weight
        centre, half = mine.values_centre
        fit = Fit(centre + half * mean if mine.c else mean, log_mass)
        again = np.flatnonzero(~certify.accurate(mine, sums, mine.promise))
        if len(again):  # in far tails
            other = forward(mine, plan, again, meter)
            fit.mean[again], fit.log_mass[again] = other.mean, other.log_mass
        found.append(fit)
    return found


def _sum(problem: Problem, plan: Plan, factors: Sequence[float], states: Sequence[PoolState], meter: Meter) -> None:
    """Add all keys' sums to the states, panel by panel of queries."""
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
            rows = slice(i * TILE, min((i + 1) * TILE, problem.n))
            mine = [state.rows(rows) for state in states]
            for block in blocks:
                check_stop()
                own = np.arange(rows.start, rows.stop) - block.start if problem.exclude_self else None
                keys.backend.sum_several(profiles, queries[rows], block, inverse, own, mine, error[rows])
            return 0.0

        threads = plan.n_threads if problem.n**2 > exact.SERIAL_PAIRS else 1
        run(task, math.ceil(problem.n / TILE), threads, meter)
