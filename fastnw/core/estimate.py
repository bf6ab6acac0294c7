"""Sums become results: means in the values' own units, logarithms of masses, and a warning where no bound is kept."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.core.array import DeviceRows
from fastnw.core.empties import Tally
from fastnw.core.problem import Problem
from fastnw.core.state import PoolState
from fastnw.core.warnings import AccuracyWarning, caller_level

Array = NDArray[Any]


def finite_logs(logs: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """Logarithms within the range of `dtype`; −inf, which means empty, stays."""
    largest = float(np.finfo(dtype).max)
    return np.where(np.isfinite(logs), np.clip(logs, -largest, largest), logs)


def check_masses(problem: Problem, state: PoolState, start: int) -> None:
    """A user's profile may turn NaN, infinite or negative at a distance that its first check did not try."""
    finite = np.isfinite(state.mass)
    if not finite.all():
        row = start + int(np.flatnonzero(~finite)[0])
        raise ValueError(f"kernel {problem.kernel.name!r} is not finite and non-negative at every key of query {row}.")


def write_means(
    problem: Problem, state: PoolState, bound: NDArray[np.float64], out: Array | DeviceRows
) -> NDArray[np.float64]:
    """Write means in the values' own units into `out`, clipped to their range. `bound` is that of normalised means.

    Returns
    -------
    bound : (m,) float64
        On the means' error in the values' units; without values, on the relative error of the mass.
    """
    if problem.c == 0:
        return np.where(np.isnan(bound), np.nan, state.relative_mass_error())
    (low, high), (centre, half) = problem.values_range, problem.values_centre
    if problem.dtype == np.float32 and problem.values.dtype.kind != "f":
        low, high = low.astype(np.float32), high.astype(np.float32)
    if isinstance(out, DeviceRows) and isinstance(state.total, DeviceRows):
        out.put_means(state.total, state.mass, low, high, centre, half)
    else:
        out[:] = np.minimum(np.maximum(centre + half * state.means(), low), high)
    return bound * problem.largest_half


def allowed_error(problem: Problem) -> float:
    """Largest error that keeps the promise, in the units of the bound that `write_means` returns."""
    return problem.promise if problem.c == 0 else problem.promise * 2 * problem.largest_half


def warn_of_accuracy(problem: Problem, missed: Tally) -> None:
    """Warn of queries whose bounds exceed the promise."""
    if missed.count:
        what = "in relative terms" if problem.c == 0 else "of the values' range (return_error=True gives each bound)"
        warnings.warn(
            f"{missed.count} of {problem.m} results are not certified to {problem.promise:g} {what}; the largest bound "
            f"is {missed.largest:.3g} (first queries: {missed}).",
            AccuracyWarning,
            stacklevel=caller_level(),
        )
