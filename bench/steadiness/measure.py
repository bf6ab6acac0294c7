"""How much the time of a pair depends on the data.

Each kernel sums the same number of pairs by `exact`, on one thread, for inputs that differ as data do: windows that
hold from all keys down to ten, offsets, queries far from the keys, clusters, heavy tails, sorted keys, weights.
Times are processor times (`time.thread_time`), the least of some rounds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastnw
from bench.lib.record import Progress
from fastnw.backends.compiled import backend as compiled

TYPES = ("float32", "float64")
D, KEYS, QUERIES, ROUNDS = 3, 20_000, 1_000, {"quick": 2, "full": 5}
SHARES = (1.0, 0.3, 0.1, 0.01, 10 / KEYS)  # of the keys, within a query's window


@dataclass(frozen=True)
class Inputs:
    """Arrays to sum; `window` is the bandwidth of a compact kernel, and two bandwidths of other kernels."""

    name: str
    queries: NDArray[np.float64]
    keys: NDArray[np.float64]
    window: float
    weights: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Row:
    """Nanoseconds for each pair, by the name of the inputs."""

    level: str
    dtype: str
    kernel: str
    nanoseconds: dict[str, float]

    @property
    def slowest(self) -> str:
        return max(self.nanoseconds, key=lambda name: self.nanoseconds[name])

    @property
    def fastest(self) -> str:
        return min(self.nanoseconds, key=lambda name: self.nanoseconds[name])

    @property
    def ratio(self) -> float:
        return self.nanoseconds[self.slowest] / self.nanoseconds[self.fastest]


def inputs() -> Iterator[Inputs]:
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(KEYS, D))
    queries = keys[:QUERIES] + 1e-3 * rng.normal(size=(QUERIES, D))
    for share in SHARES:
        yield Inputs(
            f"a window holds {max(round(share * KEYS), 1):,} keys", queries, keys, _radius(queries, keys, share)
        )
    tenth = _radius(queries, keys, 0.1)
    yield Inputs("keys 10,000 windows from 0", queries + 1e4 * tenth, keys + 1e4 * tenth, tenth)
    order = np.argsort(keys[:, 0])
    yield Inputs("sorted keys", np.sort(queries, axis=0), keys[order], tenth)
    heavy = rng.standard_t(1.5, size=(KEYS, D))
    yield Inputs("heavy tails", heavy[:QUERIES], heavy, _radius(heavy[:QUERIES], heavy, 0.1))
    centres = rng.integers(0, 2, KEYS)
    clusters = np.where(centres[:, None] == 0, 0.01, 1.0) * keys + 20.0 * centres[:, None]
    yield Inputs("clusters of spreads 0.01 and 1", clusters[:QUERIES], clusters, tenth)
    yield Inputs("queries 5 windows outside", queries + 5 * tenth + 5, keys, tenth)
    yield Inputs("weights over 12 decades", queries, keys, tenth, 10.0 ** rng.uniform(-12, 0, KEYS))
    yield Inputs("four of five weights 0", queries, keys, tenth, (rng.random(KEYS) < 0.2).astype(np.float64))


def _radius(queries: NDArray[np.float64], keys: NDArray[np.float64], share: float) -> float:
    """Median radius of the balls around queries that hold this share of the keys."""
    sample = queries[:: max(len(queries) // 50, 1)]
    distances = np.sqrt(np.square(sample[:, None] - keys).sum(axis=2))
    return float(np.median(np.quantile(distances, share, axis=1)))


def measure(form: str, only: str, clock: Progress) -> list[Row]:
    works, rows = list(inputs()), []
    for level in compiled.levels():
        for dtype in TYPES:
            for kernel in fastnw.kernels.names():
                if kernel == "dot" or only not in kernel:
                    continue
                with compiled.use_level(level):
                    rows.append(Row(level, dtype, kernel, _times(kernel, dtype, works, ROUNDS[form])))
            clock.say(
                f"{level} {dtype}: worst {max(r.ratio for r in rows if (r.level, r.dtype) == (level, dtype)):.2f} x"
            )
    return rows


def _times(kernel: str, dtype: str, works: list[Inputs], rounds: int) -> dict[str, float]:
    calls: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
    compact = fastnw.kernels.get(kernel).support is not None
    for work in works:
        arrays = tuple(a.astype(dtype) for a in (work.queries, work.keys, work.keys[:, 0]))
        weights = None if work.weights is None else work.weights.astype(dtype)
        h = work.window if compact else work.window / 2
        calls[work.name] = arrays, {"bandwidth": h, "sample_weight": weights, "kernel": kernel}
    best = dict.fromkeys(calls, np.inf)
    for _ in range(rounds):
        for name, (arrays, options) in calls.items():
            start = time.thread_time()
            fastnw.pool(*arrays, **options, method="exact", backend="compiled", empty=0.0, n_jobs=1)
            best[name] = min(best[name], time.thread_time() - start)
    return {name: 1e9 * seconds / (QUERIES * KEYS) for name, seconds in best.items()}
