"""One small problem for every method and backend, as data: for tests of what all of them keep, share or leave behind.

Programs of fresh processes take `WAYS` by its text.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# `d` coordinates of a standard normal cloud, and options of `fastnw.pool` and the estimators
WAYS: dict[str, dict[str, Any]] = {
    "exact": {"d": 3, "kernel": "gaussian", "bandwidth": 0.5, "method": "exact", "backend": "compiled"},
    "tree": {"d": 2, "kernel": "laplacian", "bandwidth": 0.02, "method": "tree", "backend": "compiled"},
    "tree of windows": {"d": 2, "kernel": "epanechnikov", "bandwidth": 1.5, "method": "tree", "backend": "compiled"},
    "moments": {"d": 1, "kernel": "triweight", "bandwidth": 0.1, "method": "moments", "backend": "compiled"},
    "moments that decay": {"d": 1, "kernel": "laplacian", "bandwidth": 0.1, "method": "moments", "backend": "compiled"},
    "fourier": {"d": 2, "kernel": "gaussian", "bandwidth": 0.2, "method": "fourier", "backend": "compiled"},
    "numba": {"d": 3, "kernel": "gaussian", "bandwidth": 0.5, "method": "exact", "backend": "numba"},
    "numba by tree": {"d": 3, "kernel": "gaussian", "bandwidth": 0.1, "method": "tree", "backend": "numba"},
    "reference": {"d": 3, "kernel": "gaussian", "bandwidth": 0.5, "method": "exact", "backend": "reference"},
}
# keys and queries so many that each is work for several threads: tasks are of 256 to 262,144 points
SIZES = {
    "exact": (1200, 1200),
    "tree": (50_000, 9000),
    "tree of windows": (12_000, 9000),
    "moments": (300_000, 70_000),
    "moments that decay": (300_000, 70_000),
    "fourier": (300_000, 300_000),
    "numba": (1200, 1200),
    "numba by tree": (20_000, 3000),
    "reference": (1200, 1200),
}


def options(way: str) -> dict[str, Any]:
    return {name: value for name, value in WAYS[way].items() if name != "d"}


def cloud(way: str, n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, keys, values."""
    rng, d = np.random.default_rng(n + m), WAYS[way]["d"]
    keys = rng.normal(size=(n, d))
    return rng.normal(size=(m, d)), keys, np.sin(2 * keys[:, 0]) + 0.1 * rng.normal(size=n)
