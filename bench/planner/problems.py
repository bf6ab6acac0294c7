"""The problems on which the planner is judged: each run draws new ones of many kernels, sizes, bandwidths and kinds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product
from typing import Any

import numpy as np

import fastnw
from bench.peers.adaptors import student

WIGGLE = 0.2  # sizes and bandwidths are drawn within 20 % of the grid's, so that nothing can be tuned to the grid
CLUSTERS, SPREAD = 30, 0.05
JITTER = 0.1  # noise on resampled rows, in standard deviations of the column
REAL = ("digits", "diabetes", "iris", "wine", "breast_cancer")
USERS = "a user's"  # stands for a kernel that is not built in


@dataclass(frozen=True)
class Problem:
    """`h` is in units of the coordinates' spread, half the width of their middle 68 %."""

    kernel: str
    d: int
    n: int
    m: int
    h: float
    data: str = "normal"
    tol: float | None = None
    dtype: str = "float64"

    @property
    def name(self) -> str:
        tol = f", tol={self.tol:g}" if self.tol else ""
        single = "" if self.dtype == "float64" else f", {self.dtype}"
        return f"{self.kernel}, {self.data}, d={self.d}, n={self.n:,}, m={self.m:,}, h={self.h:.3g}{tol}{single}"

    def drawn(self, rng: np.random.Generator) -> Problem:
        """A problem with sizes and a bandwidth near these."""
        n, m, h = (x * (1 + WIGGLE) ** rng.uniform(-1, 1) for x in (self.n, self.m, self.h))
        return Problem(self.kernel, self.d, int(n), max(int(m), 1), float(h), self.data, self.tol, self.dtype)

    def arrays(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Queries (m, d), keys (n, d), values (n,)."""
        points = cloud(self.data, self.n + self.m, self.d, rng)
        queries, keys = points[: self.m], points[self.m :]
        values = np.sin(3 * keys[:, 0]) + 0.1 * rng.standard_normal(self.n)
        return tuple(np.ascontiguousarray(array, dtype=self.dtype) for array in (queries, keys, values))

    def options(self, keys: np.ndarray) -> dict[str, Any]:
        """Options of `fastnw.pool`."""
        low, high = np.quantile(keys[: 1 << 16], (0.16, 0.84), axis=0)
        spread = np.maximum((high - low) / 2, 1e-3)
        kernel = users_kernel() if self.kernel == USERS else self.kernel
        return {"kernel": kernel, "bandwidth": self.h * spread, "tol": self.tol}


@lru_cache(maxsize=1)
def users_kernel() -> fastnw.Kernel:
    return fastnw.Kernel("student", student, monotone=True)


def cloud(data: str, rows: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """(rows, d) points of one kind, in random order."""
    if data == "normal":
        return rng.standard_normal((rows, d))
    if data == "clustered":
        return rng.uniform(-3, 3, (CLUSTERS, d))[rng.integers(CLUSTERS, size=rows)] + SPREAD * rng.standard_normal(
            (rows, d)
        )
    if data == "cauchy":
        return rng.standard_cauchy((rows, d))
    table = real(data)[:, :d]
    if table.shape[1] < d:
        raise ValueError(f"{data} has {table.shape[1]} columns, not {d}")
    return table[rng.integers(len(table), size=rows)] + JITTER * rng.standard_normal((rows, d))


@cache
def real(data: str) -> np.ndarray:
    """Columns of a data set of scikit-learn, scaled to variance 1, in the order of decreasing variance."""
    from sklearn import datasets

    table = getattr(datasets, f"load_{data}")().data.astype(float)
    table = table[:, np.argsort(-table.std(axis=0), kind="stable")]
    table = table[:, table.std(axis=0) > 0]
    return (table - table.mean(axis=0)) / table.std(axis=0)


COMPACT = ("boxcar", "triangular", "epanechnikov", "biweight", "triweight", "tricube", "cosine")
DECAYING = ("laplacian", "matern32", "matern52", "logistic", "cauchy", USERS)


def grid() -> list[Problem]:
    """A hundred problems."""
    return [
        # The Gaussian, where transforms begin to pay off and where they cease to.
        *(Problem("gaussian", d, n, n, h) for d, n, h in product((1, 2), (1_000, 10_000, 100_000), (0.02, 0.2))),
        *(Problem("gaussian", 3, n, n, h) for n, h in product((3_000, 30_000, 200_000), (0.1, 0.4))),
        *(Problem("gaussian", d, 1_000_000, 1_000_000, h) for d, h in ((1, 0.05), (2, 0.1))),
        *(Problem("gaussian", d, 1_000_000, m, 0.1) for d, m in ((1, 100), (2, 1_000), (3, 3_000), (3, 100_000))),
        *(Problem("gaussian", 2, 2_000, 300_000, h) for h in (0.05, 0.5)),
        *(Problem("gaussian", d, 50_000, 50_000, h, tol=1e-4) for d, h in ((3, 0.14), (4, 0.1), (5, 0.1), (5, 0.5))),
        *(Problem("gaussian", d, 20_000, 20_000, h) for d, h in ((4, 0.2), (8, 0.3), (8, 1.0), (16, 1.0))),
        *(Problem("gaussian", d, 100_000, 100_000, 0.1, dtype="float32") for d in (1, 2, 3)),
        *(Problem("gaussian", d, 30_000, 30_000, h, "cauchy") for d, h in ((1, 0.1), (2, 0.3), (3, 0.5), (6, 1.0))),
        *(Problem("gaussian", d, 100_000, 100_000, h, "clustered") for d, h in ((1, 0.01), (2, 0.02), (3, 0.05))),
        *(Problem("gaussian", d, 50_000, 50_000, h, "clustered") for d, h in ((5, 0.05), (8, 0.05), (16, 0.1))),
        *(Problem("gaussian", d, 30_000, 30_000, 0.3, name) for d, name in ((4, "iris"), (8, "digits"), (10, "wine"))),
        # Compact kernels: moments in one coordinate, trees in more.
        *(Problem(kernel, 1, 100_000, 100_000, 0.05) for kernel in COMPACT),
        *(Problem(kernel, 3, 100_000, 100_000, 0.2) for kernel in COMPACT),
        *(
            Problem("epanechnikov", d, 30_000, 30_000, h)
            for d, h in ((2, 0.02), (2, 1.0), (5, 0.5), (8, 1.0), (16, 3.0))
        ),
        *(Problem("epanechnikov", d, 100_000, 100_000, 0.1, "clustered") for d in (2, 4, 8)),
        *(Problem("triangular", d, 30_000, 30_000, 0.3, "cauchy") for d in (1, 2, 4)),
        *(Problem("boxcar", d, 1_000_000, m, 0.05) for d, m in ((1, 1_000_000), (2, 1_000), (2, 200_000))),
        *(Problem("epanechnikov", d, 1_000, 1_000, 0.3) for d in (1, 2, 3)),
        Problem("epanechnikov", 6, 50_000, 50_000, 0.5, "breast_cancer"),
        Problem("biweight", 4, 50_000, 50_000, 0.3, "diabetes"),
        # Kernels that decay more slowly than the Gaussian, or not at all.
        *(Problem(kernel, 1, 50_000, 50_000, 0.05) for kernel in DECAYING),
        *(Problem(kernel, 2, 30_000, 30_000, 0.05) for kernel in DECAYING),
        *(Problem("laplacian", d, 20_000, 20_000, 0.1, data) for d, data in ((3, "clustered"), (3, "cauchy"))),
        Problem("laplacian", 4, 20_000, 20_000, 0.2, "iris"),
        *(Problem(kernel, 4, 10_000, 10_000, 1.0) for kernel in ("constant", "dot")),
    ]


def quick_grid() -> list[Problem]:
    """A few small problems of each kind."""
    small = [problem for problem in grid() if max(problem.n, problem.m) <= 50_000]
    return small[::3]
