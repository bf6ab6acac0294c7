"""The problems that are timed on a card, and the goals for the sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.gpu.peers import Problem


@dataclass(frozen=True)
class Case:
    """`m` standard normal queries on `n` keys, `c` values for each."""

    name: str
    m: int
    n: int
    d: int = 3
    c: int = 1
    dtype: str = "float32"

    @property
    def bandwidth(self) -> float:
        return 0.3 if self.d <= 3 else 0.5 * self.d**0.5

    def problem(self, rng: np.random.Generator) -> Problem:
        queries, keys = (rng.standard_normal((rows, self.d), np.float32) for rows in (self.m, self.n))
        values = np.sin(3 * keys[:, :1]) + 0.1 * rng.standard_normal((self.n, self.c), np.float32)
        return Problem(*(a.astype(self.dtype) for a in (queries, keys, values)), self.bandwidth)


@dataclass(frozen=True)
class Goal:
    """The sums of fastnw must reach `factor` times the rate of `against`, a system, a ceiling or a number."""

    case: str
    against: str
    factor: float


GOALS = [
    Goal("d=3 float32 1e6", "ceiling", 0.75),
    Goal("d=3 float32 1e6", "2.8e12 pairs/s (H200)", 1.0),
    Goal("d=3 float32 1e6", "KeOps", 1.5),
    Goal("d=64 float32 1e5", "torch SDPA", 1.0),
]


def cases(dry: bool) -> list[Case]:
    small, large = (8, 30) if dry else (100_000, 1_000_000)
    dimensions = (3, 34) if dry else (1, 2, 3, 8, 64)
    found = [
        Case(f"d={d} {dtype} {size}", n, n, d, 1, dtype)
        for d in dimensions
        for dtype in ("float32", "float64")
        for size, n in (("1e5", small), ("1e6", large))
        if not (dry and size == "1e6" and d > 3)
    ]
    few, values = (2, 5) if dry else (64, 64)
    found += [Case(f"{m} queries d={d}", m, large, d) for m in (1, few) for d in (dimensions[-1], 3)]
    return found + [Case(f"{values} values d={d}", small, small, d, values) for d in (3, dimensions[-1])]
