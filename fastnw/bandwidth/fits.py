"""Means and masses at the keys by any method of `fastnw.methods`, as criteria take them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastnw.bandwidth.criteria import Fit
from fastnw.core.plan import Plan
from fastnw.core.problem import Problem
from fastnw.runtime.threads import Meter


def width(problem: Problem) -> int:
    """Columns of a fit: of classes kept as integers each output's own class alone, which is what the log-loss takes."""
    return problem.c if problem.classes is None else problem.classes.codes.shape[1]


def forward(problem: Problem, plan: Plan, positions: NDArray[np.intp] | None, meter: Meter) -> Fit:
    """Means in the values' own units and log masses, certified, at those keys or at all."""
    positions = np.arange(problem.m) if positions is None else positions
    summary = plan.steps.summarise(problem, plan)
    classes = problem.classes
    mean, log_mass = np.empty((len(positions), width(problem))), np.empty(len(positions))
    centre, half = problem.values_centre if classes is None else (0.5, 0.5)
    step = plan.steps.panel(problem)
    for start in range(0, len(positions), step):
        rows = slice(start, min(start + step, len(positions)))
        state = plan.steps.accumulate(summary, positions[rows], meter)
        if classes is not None:
            totals = np.take_along_axis(state.total, classes.codes[positions[rows]].astype(np.intp), axis=1)
            with np.errstate(divide="ignore", invalid="ignore"):  # NaN where empty
                mean[rows] = 0.5 + 0.5 * (totals / state.mass[:, None])
        elif problem.c:
            mean[rows] = centre + half * state.finalise()[0]
        log_mass[rows] = state.log_mass() + problem.log_largest_weight
    return Fit(mean, log_mass)
