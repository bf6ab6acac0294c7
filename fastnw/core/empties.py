"""Empty windows, which are queries without a key of positive weight in their support, and the values for them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.core.array import DeviceRows
from fastnw.core.pack import normalised_values
from fastnw.core.problem import Problem, row_blocks
from fastnw.core.validate import Empty
from fastnw.core.warnings import EmptyWindowWarning, caller_level


@dataclass
class Tally:
    """A count of queries with their first five positions, which ``str()`` lists, and the largest value."""

    count: int = 0
    first: list[int] = field(default_factory=list)
    largest: float = 0.0

    def add(self, rows: NDArray[np.intp], values: NDArray[np.float64] | None = None) -> None:
        self.count += len(rows)
        self.first += rows[: 5 - len(self.first)].tolist()
        if values is not None:
            self.largest = max(self.largest, float(values.max(initial=0.0)))

    def __str__(self) -> str:
        return ", ".join(map(str, self.first)) + (", …" if self.count > len(self.first) else "")


def fill(
    problem: Problem,
    mean: NDArray[Any] | DeviceRows,
    rows: NDArray[np.intp],
    empty: Empty,
    nearest: Callable[[NDArray[np.intp]], NDArray[np.intp]],
) -> None:
    """Write the value that `empty` selects into the given rows of `mean` (m, c).

    `nearest` returns the positions of the nearest keys of rows, −1 for a row without any.
    """
    if empty == "mean":
        mean[rows] = _overall_mean(problem)
    elif empty == "nearest":
        positions = nearest(rows)
        mean[rows] = np.where((positions >= 0)[:, None], problem.values[positions], np.nan)
    else:
        mean[rows] = empty if isinstance(empty, float) else np.nan


def _overall_mean(problem: Problem) -> NDArray[np.float64]:
    """Compute the weighted mean (c,) of all values in float64, clipped to their range; NaN if all weights are 0."""
    if not problem.total_weight:
        return np.full(problem.c, np.nan)
    total = np.zeros(problem.c)
    if problem.classes is not None:
        whole = slice(0, problem.n)
        return problem.classes.sums(whole, problem.weights_at(whole)) / problem.total_weight
    for rows in row_blocks(problem.values):
        values = normalised_values(problem, rows)
        weights = problem.weights_at(rows)
        total += (values if weights is None else values * weights).sum(axis=1)
    (low, high), (centre, half) = problem.values_range, problem.values_centre
    return np.clip(centre + half * (total / problem.total_weight), low, high)


def report(problem: Problem, empty_windows: Tally, empty: Empty) -> None:
    """Report empty windows as `empty` selects.

    Raises
    ------
    ValueError
        There are empty windows and ``empty="raise"``.

    Warns
    -----
    EmptyWindowWarning
        There are empty windows and ``empty="nan"``.
    """
    if not empty_windows.count or empty not in ("raise", "nan"):
        return
    message = (
        f"{empty_windows.count} of {problem.m} queries have no key with positive weight within the support of the "
        f"{problem.kernel.name} kernel (first: {empty_windows}). Use a larger bandwidth, or set empty= to "
        "another value."
    )
    if empty == "raise":
        raise ValueError(message)
    warnings.warn(message, EmptyWindowWarning, stacklevel=caller_level())
