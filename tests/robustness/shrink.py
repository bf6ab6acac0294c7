"""Smaller problems with the same fault, for people to look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from robustness.draw import Problem
from robustness.judge import judge


def shrunk(problem: Problem, kind: str, number: int) -> Problem:
    """A smaller problem that still has a fault of that kind: fewer queries, keys and options, tried one at a time."""

    def fails(other: Problem) -> bool:
        return any(fault == kind for fault, _ in judge(other, number).faults)

    changed = True
    while changed:
        changed = False
        for other in _smaller(problem):
            if fails(other):
                problem, changed = other, True
                break
    return problem


def _smaller(problem: Problem) -> Iterator[Problem]:
    m, n = len(problem.queries), len(problem.keys)
    own = problem.options.get("exclude_self", False)
    for size in (n // 2, n // 4, 1):
        for first in range(0, n, max(size, 1)) if 0 < size < n else ():
            if size > 1 or n <= 24:
                kept = np.delete(np.arange(n), slice(first, first + size))
                yield _of_keys(problem, kept, own)
    if not own:
        for size in (m // 2, m // 4, 1):
            for first in range(0, m, max(size, 1)) if 0 < size < m else ():
                if size > 1 or m <= 24:
                    kept = np.delete(np.arange(m), slice(first, first + size))
                    yield replace(problem, queries=problem.queries[kept], suspects=())
    for name in ("sample_weight", "key_scale", "tol"):
        if name in problem.options:
            yield replace(problem, options={k: v for k, v in problem.options.items() if k != name})
    if problem.values is not None and problem.values.ndim == 2:
        for column in range(problem.values.shape[1]):
            yield replace(problem, values=problem.values[:, column])


def _of_keys(problem: Problem, kept: np.ndarray, own: bool) -> Problem:
    options = dict(problem.options)
    for name in ("sample_weight", "key_scale"):
        if name in options:
            options[name] = options[name][kept]
    values = None if problem.values is None else problem.values[kept]
    copies = None if problem.copies is None else problem.copies[kept]
    queries = problem.queries[kept] if own else problem.queries
    return replace(
        problem, queries=queries, keys=problem.keys[kept], values=values, options=options, suspects=(), copies=copies
    )
