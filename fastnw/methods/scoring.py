"""Scoring of the pairs of a problem one by one: for far queries, empty windows, attention weights and gradients."""

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
        """Score with the plan's backend and threads; `errors` may be shared with other problems of the same keys."""
        return cls(problem, backends.get(plan.backend), plan.n_threads, errors or ScoreErrors(problem))

    def with_problem(self, problem: Problem) -> Scoring:
        """The scoring of the same keys at the queries of another problem."""
        return replace(self, problem=problem)

    def score_error(self, queries: Any, dtype: np.dtype[Any] = FLOAT64) -> NDArray[np.float64]:
        """(m,) Bounds on the errors of scores; see `ScoreErrors.of`."""
        return self.errors.of(queries, dtype)

    def nats(self, queries: Any, depth: NDArray[np.float64]) -> NDArray[np.float64]:
        """(m,) Bounds on the errors of log κ; see `ScoreErrors.nats`."""
        return self.errors.nats(queries, depth)
