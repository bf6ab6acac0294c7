"""What scores the pairs of a problem one by one: for far queries, empty windows, weights and gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw import backends
from fastnw.backends.backend import Backend
from fastnw.core.plan import Plan
from fastnw.core.problem import Problem
from fastnw.core.score_errors import FLOAT64, ScoreErrors


@dataclass(frozen=True)
class Scoring:
    """A problem, the backend that scores its pairs, and bounds on the errors of scores."""

    problem: Problem
    backend: Backend
    n_threads: int
    errors: ScoreErrors

    @classmethod
    def of(cls, problem: Problem, plan: Plan, errors: ScoreErrors | None = None) -> Scoring:
        """With the plan's backend and threads; `errors` may be those of the same keys."""
        return cls(problem, backends.get(plan.backend), plan.n_threads, errors or ScoreErrors(problem))

    def with_problem(self, problem: Problem) -> Scoring:
        """The same keys asked at other queries."""
        return replace(self, problem=problem)

    def score_error(self, queries: Any, dtype: np.dtype[Any] = FLOAT64) -> NDArray[np.float64]:
        """(m,) See `ScoreErrors.of`."""
        return self.errors.of(queries, dtype)

    def nats(self, queries: Any, depth: NDArray[np.float64]) -> NDArray[np.float64]:
        """(m,) See `ScoreErrors.nats`."""
        return self.errors.nats(queries, depth)
