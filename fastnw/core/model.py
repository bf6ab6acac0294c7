"""Keys with a plan, and what its methods keep of them: what one call makes and drops, and an estimator keeps."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastnw.core.plan import Plan, Rung
from fastnw.core.problem import Problem
from fastnw.core.score_errors import ScoreErrors
from fastnw.core.state import PoolState
from fastnw.runtime.threads import Meter

T = TypeVar("T")


@dataclass(frozen=True)
class Queries:
    """Some of the queries of a problem.

    Attributes
    ----------
    problem : Problem
        The keys of the model, asked at all queries.
    rows : (m,) intp
        Positions of the queries that are meant.
    """

    problem: Problem
    rows: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, chosen: Any) -> Queries:
        """Those of them."""
        return Queries(self.problem, self.rows[chosen])


class Summary(Protocol):
    """What a rung of the ladder keeps of the keys, and how it sums."""

    @property
    def panel(self) -> int:
        """How many queries to sum at a time."""

    def wanted(self, queries: Queries, mass: NDArray[np.float64] | None) -> NDArray[np.bool_] | None:
        """(m,) Which of these queries, that no earlier rung has certified, the rung would sum; `mass` (m,) is what the
        last rung found, None if this is the first. None: all of them."""

    def sums(self, queries: Queries, meter: Meter) -> PoolState:
        """Sums of those queries over all keys, with bounds on their errors."""

    def prepare(self, meter: Meter) -> None:
        """Make at once what is kept of the keys."""


class Model:
    """Keys, a plan, and one summary for each rung of its ladder, made when it is first needed.

    Parameters
    ----------
    problem : Problem
        Its keys, metric and choices; queries come with each call.
    plan : Plan
    summarise : (Model, Rung) -> Summary
    nearest : (Model, Problem, rows, Meter, pairs) -> positions
        The nearest key of queries whose windows are empty.
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
        self._kept: dict[Hashable, Any] = {}

    def with_plan(self, plan: Plan) -> Model:
        """The same keys under another plan of the same problem; what was made for one serves the other."""
        other = Model(self.problem, plan, self._summarise, self._nearest)
        other.errors, other._kept = self.errors, self._kept
        return other

    def summary(self, rung: Rung) -> Summary:
        """Of that rung; made once."""
        return self.shared(rung, lambda: self._summarise(self, rung))

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """What several rungs share, made once. Of two threads that make it at once, both get the first one's."""
        if key not in self._kept:
            self._kept.setdefault(key, make())
        found: T = self._kept[key]
        return found

    def nearest(self, problem: Problem, rows: NDArray[np.intp], meter: Meter, pairs: float) -> NDArray[np.intp]:
        """Position of each of those queries' nearest key; −1 where there is none. `pairs` is added to the meter."""
        return self._nearest(self, problem, rows, meter, pairs)
