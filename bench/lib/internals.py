"""The only place where the CPU benchmarks read what `fastnw` does not publish."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import numpy as np

import fastnw
from fastnw import functions, methods
from fastnw.core import driver
from fastnw.core.plan import Plan
from fastnw.core.validate import build
from fastnw.planner import make_model, make_plan
from fastnw.runtime.threads import Meter

METHODS = tuple(name for name in methods.NAMES if name != "auto")


class PairCounter(Meter):
    """A progress meter that shows nothing and adds up the pairs."""

    def __init__(self) -> None:
        super().__init__(False, 0, "")
        self.pairs = 0.0
        self._lock = threading.Lock()

    def add(self, pairs: float) -> None:
        with self._lock:
            self.pairs += pairs


@contextmanager
def answered() -> Iterator[Counter[str]]:
    """Count the queries that each method answers, while public functions are called."""
    counts: Counter[str] = Counter()

    def counting(*arguments: Any, **options: Any) -> Counter[str]:
        found = driver.predict(*arguments, **options)
        counts.update(found)
        return found

    with mock.patch.object(functions, "predict", counting):
        yield counts


@contextmanager
def counted_pairs() -> Iterator[PairCounter]:
    """Count the pairs that calls report to their progress bar."""
    counter = PairCounter()
    with mock.patch.object(driver, "progress_meter", return_value=nullcontext(counter)):
        yield counter


def density_bounds(queries: np.ndarray, keys: np.ndarray, options: dict[str, Any]) -> np.ndarray:
    """(m,) bounds on relative errors, which `fastnw.density` computes and does not return."""
    problem = build(queries, keys, None, sample_weight=None, key_scale=None, exclude_self=False, **options)
    bounds = np.empty(len(queries))
    model = make_model(problem, "auto", "auto", None)
    driver.predict(model, problem, False, np.empty((len(queries), 0)), error=bounds)
    return bounds


def plan_of_prediction(model: fastnw.NadarayaWatsonRegressor, queries: np.ndarray) -> Plan:
    """The plan by which a fitted model would predict, on one thread."""
    problem = model._problem.asked(queries, kernel=fastnw.kernels.get(model.kernel), tol=None)
    return make_plan(problem, "auto", "auto", 1)
