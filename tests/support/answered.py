"""How many queries each method answered, and which: what `fastnw.pool` does, looked at from inside."""

from __future__ import annotations

from collections import Counter

import numpy as np

from fastnw.core.driver import answers, predict
from fastnw.functions import asked
from fastnw.planner import make_model
from fastnw.runtime.threads import Meter


def model_and_problem(queries, keys, values=None, *, method="auto", backend="auto", n_jobs=None, **choices):
    given = {"kernel": "gaussian", "bandwidth": 1.0, "sample_weight": None, "key_scale": None, "exclude_self": False}
    question = asked(queries, keys, values, backend, **{**given, "tol": None, **choices})
    return make_model(question.problem, method, question.backend, n_jobs), question.problem


def answered(*arrays, **options) -> Counter[str]:
    """Counts of queries by the method that answered them."""
    model, problem = model_and_problem(*arrays, **options)
    return predict(model, problem, False, np.empty((problem.m, problem.c)))


def methods_of(*arrays, **options) -> np.ndarray:
    """(m,) The name of the method that answered each query."""
    model, problem = model_and_problem(*arrays, **options)
    names = np.array([rung.method for rung in model.plan.ladder])
    return np.concatenate([names[found.rungs] for found in answers(model, problem, Meter(False, 0, ""))])
