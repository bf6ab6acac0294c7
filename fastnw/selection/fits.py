"""Means and masses at the keys by any method of `fastnw.methods`, as criteria take them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw._plan import Plan
from fastnw._problem import Problem
from fastnw._threads import Meter
from fastnw.selection.criteria import Fit, Sample


def forward(problem: Problem, plan: Plan, positions: NDArray[np.intp] | None, meter: Meter) -> Fit:
    """Means in the values' own units and log masses, certified, at those keys or at all."""
    positions = np.arange(problem.m) if positions is None else positions
    summary = plan.steps.summarise(problem, plan)
    mean, log_mass = np.empty((len(positions), problem.c)), np.empty(len(positions))
    centre, half = problem.values_centre
    step = plan.steps.panel(problem)
    for start in range(0, len(positions), step):
        rows = slice(start, min(start + step, len(positions)))
        state = plan.steps.accumulate(summary, positions[rows], meter)
        if problem.c:
            mean[rows] = centre + half * state.finalise()[0]
        log_mass[rows] = state.log_mass() + problem.log_largest_weight
    return Fit(mean, log_mass)


def with_copies(sample: Sample, fit: Fit, problem: Problem, positions: Any = slice(None)) -> Fit:
    """The fit with what is left of keys that count for more than one observation: w − 1 of them stay where they are."""
    if sample.weights is None or not problem.exclude_self:
        return fit
    copies = np.maximum(sample.weights[positions] - 1.0, 0.0)
    rows = np.flatnonzero(copies)
    if not len(rows):
        return fit
    at_zero = float(problem.kernel.profile(np.zeros(1))[0])
    logs = np.log(copies[rows] * at_zero)
    log_mass = fit.log_mass.copy()
    log_mass[rows] = np.logaddexp(fit.log_mass[rows], logs)
    mean = fit.mean.copy()
    share = np.exp(logs - log_mass[rows])[:, None]
    values = sample.values[positions][rows]
    mean[rows] = np.where(share < 1.0, (1.0 - share) * np.nan_to_num(fit.mean[rows]), 0.0) + share * values
    return Fit(mean, log_mass)
