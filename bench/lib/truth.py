"""The oracle for every system: the formulas in plain NumPy, in any floating type, distances by difference."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from bench.lib.cases import Case

KEY_BLOCK = 65_536  # rows of differences at a time
MAX_CHECKED_QUERIES, MAX_DIFFERENCES = 16, 5e8  # differences of coordinates, over all checked queries
PROFILES = {
    "gaussian": lambda u2: np.exp(-u2 / 2),
    "epanechnikov": lambda u2: np.where(u2 <= 1, 1 - u2, 0),
    "boxcar": lambda u2: np.where(u2 <= 1, 1, 0).astype(u2.dtype),
    "1/(1 + u²)²": lambda u2: 1 / (1 + u2) ** 2,
    "laplacian": lambda u2: np.exp(-np.sqrt(u2)),
    "triangular": lambda u2: np.maximum(1 - np.sqrt(u2), 0),
}


def plain(case: Case, queries: np.ndarray, keys: np.ndarray, values: np.ndarray, dtype: type) -> np.ndarray:
    """(m, c) kernel-weighted means, computed in `dtype`; 0 where the window holds no key."""
    values = values.reshape(len(keys), -1).astype(dtype)
    means = np.zeros((len(queries), values.shape[1]), dtype)
    for i, u2 in enumerate(_squared_distances(case, queries, keys, dtype)):
        # Only ratios matter: relative to the nearest key the Gaussian cannot underflow.
        weights = PROFILES[case.kernel](u2 - u2.min() if case.kernel == "gaussian" else u2)
        mass = weights.sum()
        if mass > 0:
            means[i] = (weights @ values) / mass
    return means


def density(case: Case, queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """(m,) Gaussian density estimate in float64."""
    masses = [PROFILES["gaussian"](u2).mean() for u2 in _squared_distances(case, queries, keys, np.float64)]
    return np.array(masses) / (2 * np.pi * case.bandwidth**2) ** (case.d / 2)


def _squared_distances(case: Case, queries, keys, dtype):
    """Yields (n,) squared distances in bandwidths, one query after the other."""
    for query in queries.astype(dtype):
        yield np.concatenate(
            [
                (((keys[start : start + KEY_BLOCK].astype(dtype) - query) / dtype(case.bandwidth)) ** 2).sum(axis=1)
                for start in range(0, len(keys), KEY_BLOCK)
            ]
        )


def spread_rows(m: int, count: int) -> np.ndarray:
    """At most `count` indices of m queries, evenly spread."""
    return np.unique(np.linspace(0, m - 1, min(m, count)).astype(int))


def error(case: Case, answer: np.ndarray, what: str) -> float:
    """Largest error of `answer` on some queries, in ranges of the values, or relative to the largest density."""
    if len(answer) != case.m:
        return float("inf")
    rows = spread_rows(case.m, int(np.clip(MAX_DIFFERENCES // (case.n * case.d), 4, MAX_CHECKED_QUERIES)))
    right, scale = _right(case, what, tuple(rows))
    worst = np.abs(np.asarray(answer, dtype=float).reshape(case.m, -1)[rows] - right).max() / scale
    return float(worst) if np.isfinite(worst) else float("inf")


@lru_cache(maxsize=64)  # an answer is checked both before and after it is timed
def _right(case: Case, what: str, rows: tuple[int, ...]) -> tuple[np.ndarray, float]:
    """(rows, columns) in float64, and the unit of errors."""
    queries, keys, values = case.problem()
    if what == "density":
        right = density(case, queries[list(rows)], keys)[:, None]
        return right, float(right.max())
    return plain(case, queries[list(rows)], keys, values, np.float64), float(np.ptp(values, axis=0).max())
