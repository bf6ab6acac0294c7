"""Answers of every kernel against plain sums in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastnw
from bench.gpu import arrays
from bench.gpu.cases import Case
from bench.gpu.peers import Problem
from fastnw import kernels

PROMISE = {"float32": 1e-4, "float64": 1e-8}
CHECKED_QUERIES = 32  # of each case


def parity(seed: int, dry: bool) -> list[dict[str, Any]]:
    """Largest errors of every kernel, type and some shapes, in ranges of the values."""
    found, rng = [], np.random.default_rng(seed)
    m, n = (4, 30) if dry else (500, 20_000)
    shapes = [
        (1, 1),
        (3, 5),
        (20, 1),
        (64, 1),
        (64, 40),
    ]  # only three kernels, as each takes seconds to compile
    for name in kernels.names():
        for dtype in ("float32", "float64"):
            for d, c in [(3, 1), *(shapes if name in ("gaussian", "epanechnikov", "dot") and not dry else [])]:
                case = Case("", m, n, d, c, dtype)
                problem = case.problem(rng)
                h = float(d) if name == "dot" else 2 * case.bandwidth
                host = [problem.queries, problem.keys, problem.values]
                for where, placed in (("host", host), ("card", arrays.placed(problem))):
                    got = fastnw.pool(*placed, kernel=name, bandwidth=h, backend="cuda", empty=0.0)
                    error = worst(problem, on_host(got), name, h)
                    found.append({"kernel": name, "dtype": dtype, "d": d, "c": c, "arrays": where, "error": error})
                    found[-1]["right"] = bool(error <= PROMISE[dtype])
    return found


def worst(problem: Problem, answer: np.ndarray, kernel: str = "gaussian", h: float | None = None) -> float:
    """Largest error on some queries, in ranges of the values."""
    rows = np.unique(np.linspace(0, len(problem.queries) - 1, CHECKED_QUERIES).astype(int))
    keys, values = problem.keys.astype(float), problem.values.astype(float)
    h, kappa, error = h or problem.bandwidth, kernels.get(kernel), 0.0
    for row in rows:
        q = problem.queries[row].astype(float)
        u2 = keys @ q / h if kappa.inner_product else (((keys - q) / h) ** 2).sum(axis=1)
        if kappa.log_profile is not None:
            logs = kappa.log_profile(u2)
            weights = np.exp(logs - logs.max())
        else:
            weights = kappa.profile(np.minimum(u2, 1) if kappa.support else u2) * (u2 <= (kappa.support or np.inf))
        right = weights @ values / weights.sum() if weights.sum() > 0 else np.zeros(values.shape[1])
        error = max(error, float((np.abs(np.asarray(answer)[row] - right) / np.ptp(values, axis=0)).max()))
    return error


def on_host(answer: Any) -> np.ndarray:
    """The answer as a NumPy array."""
    if hasattr(answer, "copy_to_host"):
        return answer.copy_to_host()
    return answer.cpu().numpy() if hasattr(answer, "cpu") else np.asarray(answer)
