"""Means and masses at the keys for one bandwidth, by any method of `fastnw.methods`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastnw.bandwidth.criteria import Fit
from fastnw.core.driver import answers
from fastnw.core.plan import Plan
from fastnw.core.problem import Problem
from fastnw.planner import model_of
from fastnw.runtime.threads import Meter


def fit_at_keys(problem: Problem, plan: Plan, positions: NDArray[np.intp] | None, meter: Meter) -> Fit:
    """Certified means, in the units of the values, and log masses at the keys of those positions, or at all keys.

    Where the values are classes kept as integers, the means are the shares of each output's own class: the log-loss
    needs no others.
    """
    count = problem.m if positions is None else len(positions)
    classes = problem.classes
    columns = problem.c if classes is None else classes.codes.shape[1]
    mean, log_mass = np.empty((count, columns)), np.empty(count)
    centre, half = problem.values_centre if classes is None else (0.5, 0.5)
    start = 0
    for answer in answers(model_of(problem, plan), problem, meter, positions):
        state = answer.sums
        rows = slice(start, start := start + len(answer.rows))
        if classes is not None:
            totals = np.take_along_axis(state.total, classes.codes[answer.rows].astype(np.intp), axis=1)
            with np.errstate(divide="ignore", invalid="ignore"):  # NaN where the window is empty
                mean[rows] = 0.5 + 0.5 * (totals / state.mass[:, None])
        elif problem.c:
            mean[rows] = centre + half * state.means()
        log_mass[rows] = state.log_mass() + problem.log_largest_weight
    return Fit(mean, log_mass)
