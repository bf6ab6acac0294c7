"""The model: keys, a plan and cached summaries. A function call makes one and drops it; an estimator stores it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastnw.core.plan import Plan, Rung
from fastnw.core.problem import Problem
from fastnw.core.score_errors import ScoreErrors
from fastnw.core.state import Sums
from fastnw.runtime.threads import Meter

T = TypeVar("T")


@dataclass(frozen=True)
class Queries:
    """A selection of the queries of a problem.

    Attributes
    ----------
    problem : Problem
        The keys of the model with all queries.
    rows : (m,) intp
        Positions of the selected queries.
    """

    problem: Problem
    rows: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, chosen: Any) -> Queries:
        """Select a part of the selection; `chosen` indexes `rows`."""
        return Queries(self.problem, self.rows[chosen])


class Summary(Protocol):
    """The data that a rung of the ladder prepares from the keys, and its sums."""

    @property
    def panel(self) -> int:
        """The largest number of queries for one call of `sums`."""

    def wanted(self, queries: Queries, mass: NDArray[np.float64] | None) -> NDArray[np.bool_] | None:
        """Select the queries that the rung sums, of those that no earlier rung has certified.

        Parameters
        ----------
        queries : Queries
        mass : (m,) float64 or None
            The masses from the previous rung; None for the first rung.

        Returns
        -------
        wanted : (m,) bool or None
            None selects all queries.
        """

    def sums(self, queries: Queries, meter: Meter) -> Sums:
        """Sum over all keys for each query, with error bounds."""

    def prepare(self, meter: Meter) -> None:
        """Build the cached data now instead of on first use."""


class Model:
    """Keys, a plan, and one cached summary for each rung of its ladder, made on first use.

    Parameters
    ----------
    problem : Problem
        Its keys, metric and options are used; each call has its own queries.
    plan : Plan
    summarise : (Model, Rung) -> Summary
        Makes the summary of a rung.
    nearest : (Model, Problem, rows, Meter, pairs) -> positions
        Finds the nearest keys of queries whose windows are empty.
    """

    def __init__(
        self,
        problem: Problem,
        plan: Plan,
        summarise: Callable[[Model, Rung], Summary],
        nearest: Callable[..., NDArray[np.intp]],
    ) -> None:
        self.problem, self.plan = problem, plan
        self.errors = ScoreErrors(problem)
        self._summarise, self._nearest = summarise, nearest
        self._cache: dict[Hashable, Any] = {}

    def with_plan(self, plan: Plan) -> Model:
        """Return a model of the same keys with another plan; both models share one cache."""
        other = Model(self.problem, plan, self._summarise, self._nearest)
        other.errors, other._cache = self.errors, self._cache
        return other

    def summary(self, rung: Rung) -> Summary:
        """Return the summary of a rung from the cache, or make it."""
        return self.shared(rung, lambda: self._summarise(self, rung))

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the cached object of `key`, or make it. Threads that make it concurrently all get the first result."""
        if key not in self._cache:
            self._cache.setdefault(key, make())
        cached: T = self._cache[key]
        return cached

    def nearest(self, problem: Problem, rows: NDArray[np.intp], meter: Meter, pairs: float) -> NDArray[np.intp]:
        """Find the position of the nearest key of each query in `rows`, −1 without any; adds `pairs` to the meter."""
        return self._nearest(self, problem, rows, meter, pairs)
