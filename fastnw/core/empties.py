"""Empty windows: queries that no key with positive weight reaches, and what `empty=` puts there."""

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
    """How many queries something befell, and the first few of them; ``str()`` lists these."""

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
    """Put what `empty` asks for into those rows of `mean` (m, c); `nearest` finds the positions of their nearest keys,
    −1 where there is none."""
    if empty == "mean":
        mean[rows] = _overall_mean(problem)
    elif empty == "nearest":
        at = nearest(rows)
        mean[rows] = np.where((at >= 0)[:, None], problem.values[at], np.nan)
    else:
        mean[rows] = empty if isinstance(empty, float) else np.nan


def _overall_mean(problem: Problem) -> NDArray[np.float64]:
    """(c,) Weighted mean of all values, in float64 and within their range; NaN without any weight."""
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


def report(problem: Problem, bare: Tally, empty: Empty) -> None:
    """Raise or warn, as `empty` asks for.

    Raises
    ------
    ValueError
        With ``empty="raise"``, if there are any.

    Warns
    -----
    EmptyWindowWarning
        With ``empty="nan"``, once.
    """
    if not bare.count or empty not in ("raise", "nan"):
        return
    message = (
        f"{bare.count} of {problem.m} queries have no key with positive weight in reach of the {problem.kernel.name} "
        f"kernel (first: {bare}). Use a larger bandwidth, or choose what stands there with empty=."
    )
    if empty == "raise":
        raise ValueError(message)
    warnings.warn(message, EmptyWindowWarning, stacklevel=caller_level())
