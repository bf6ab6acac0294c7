"""Problems to be timed, as data: sizes, kernel, bandwidth, seeded arrays, and the goals for fastnw."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from bench.lib.systems import DENSE, SDPA


@dataclass(frozen=True)
class Goal:
    """fastnw's rate must be at least `factor` times that of `against`."""

    against: str
    factor: float


@dataclass(frozen=True)
class Case:
    """`m` queries and `n` keys of `d` standard normal coordinates around `centre`, `c` values for each key."""

    name: str
    m: int = 10_000
    n: int = 100_000
    d: int = 3
    c: int = 1
    dtype: str = "float32"
    kernel: str = "gaussian"
    bandwidth: float = 0.3
    centre: float = 0.0
    backend: str = "compiled"  # of fastnw
    fitted: bool = False  # keys are prepared once, before the timed call
    goals: tuple[Goal, ...] = ()
    rivals: tuple[str, ...] = DENSE
    quick_rivals: tuple[str, ...] = (SDPA,)

    def with_queries(self, m: int) -> Case:
        """The same problem with the first `m` queries."""
        return replace(self, m=m)

    def problem(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Queries (m, d), keys (n, d), values (n,) or (n, c): the same for every system, and read-only."""
        queries = _normal(1, self.m, self.d, self.dtype, self.centre)
        return queries, *_keys_and_values(self.n, self.d, self.c, self.dtype, self.centre)


def _normal(seed: int, rows: int, d: int, dtype: str, centre: float) -> np.ndarray:
    """(rows, d) standard normal points; fewer rows are the first of many."""
    points = np.random.default_rng(seed).standard_normal((rows, d), dtype=np.dtype(dtype))
    points += points.dtype.type(centre)
    return _frozen(points)


@lru_cache(maxsize=2)  # systems take turns on one case, and the largest case needs 0.5 GB
def _keys_and_values(n: int, d: int, c: int, dtype: str, centre: float) -> tuple[np.ndarray, np.ndarray]:
    keys = _normal(2, n, d, dtype, centre)
    noise = np.random.default_rng(3).standard_normal((n, c), dtype=np.dtype(dtype))
    values = np.sin(3 * (keys[:, 0] - centre)) + 0.1 * noise[:, 0] if c == 1 else noise
    return keys, _frozen(values.astype(dtype))


def _frozen(array: np.ndarray) -> np.ndarray:
    """Makes the array read-only, so that no system can change the data of the next one."""
    array.flags.writeable = False
    return array
