"""Means and masses at the keys by any method of `fastnw.methods`, as criteria take them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastnw.bandwidth.criteria import Fit
from fastnw.core.driver import answers
from fastnw.core.plan import Plan
from fastnw.core.problem import Problem
from fastnw.planner import model_of
from fastnw.runtime.threads import Meter


def width(problem: Problem) -> int:
    """Columns of a fit: of classes kept as integers each output's own class alone, which is what the log-loss takes."""
    return problem.c if problem.classes is None else problem.classes.codes.shape[1]


def forward(problem: Problem, plan: Plan, positions: NDArray[np.intp] | None, meter: Meter) -> Fit:
    """Means in the values' own units and log masses, certified, at those keys or at all."""
    count = problem.m if positions is None else len(positions)
    classes = problem.classes
    mean, log_mass = np.empty((count, width(problem))), np.empty(count)
    centre, half = problem.values_centre if classes is None else (0.5, 0.5)
    start = 0
    for found in answers(model_of(problem, plan), problem, meter, positions):
        state = found.sums
        rows = slice(start, start := start + len(found.rows))
        if classes is not None:
            totals = np.take_along_axis(state.total, classes.codes[found.rows].astype(np.intp), axis=1)
            with np.errstate(divide="ignore", invalid="ignore"):  # NaN where empty
                mean[rows] = 0.5 + 0.5 * (totals / state.mass[:, None])
        elif problem.c:
            mean[rows] = centre + half * state.means()
        log_mass[rows] = state.log_mass() + problem.log_largest_weight
    return Fit(mean, log_mass)
