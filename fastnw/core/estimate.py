"""Conversion of sums to results: means in the units of the values, log masses, and the warning about accuracy."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.core.array import DeviceRows
from fastnw.core.empties import Tally
from fastnw.core.problem import Problem
from fastnw.core.state import Sums
from fastnw.core.warnings import AccuracyWarning, caller_level

Array = NDArray[Any]


def finite_logs(logs: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """Clip logarithms to the range of `dtype`, except −inf, which marks an empty window."""
    largest = float(np.finfo(dtype).max)
    return np.where(np.isfinite(logs), np.clip(logs, -largest, largest), logs)


def check_masses(problem: Problem, state: Sums, start: int) -> None:
    """Check that masses are finite: a user's profile may fail at a distance that its first check did not evaluate.

    Raises
    ------
    ValueError
        A mass is NaN or infinite; the message has the position of the query, counted from `start`.
    """
    finite = np.isfinite(state.mass)
    if not finite.all():
        row = start + int(np.flatnonzero(~finite)[0])
        raise ValueError(
            f"kernel {problem.kernel.name!r} must be finite and non-negative, but is not at every key of query {row}. "
            "Correct its profile at that query's distances."
        )


def write_means(
    problem: Problem, state: Sums, bound: NDArray[np.float64], out: Array | DeviceRows
) -> NDArray[np.float64]:
    """Write means in the units of the values into `out`, clipped to the range of the values.

    Parameters
    ----------
    problem : Problem
    state : Sums
    bound : (m,) float64
        Bound on the error of the normalised means.
    out : (m, c) array or DeviceRows

    Returns
    -------
    bound : (m,) float64
        Bound on the error of the means in the units of the values; without values, on the relative error of the mass.
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
    """Return the tolerance in the units of the bound that `write_means` returns."""
    return problem.promise if problem.c == 0 else problem.promise * 2 * problem.largest_half


def warn_of_accuracy(problem: Problem, missed: Tally) -> None:
    """Warn about queries whose error bounds exceed the tolerance."""
    if missed.count:
        unit = "relative error" if problem.c == 0 else "of the values' range (return_error=True returns each bound)"
        warnings.warn(
            f"{missed.count} of {problem.m} results are not certified to {problem.promise:g} {unit}; the largest bound "
            f"is {missed.largest:.3g} (first queries: {missed}).",
            AccuracyWarning,
            stacklevel=caller_level(),
        )
