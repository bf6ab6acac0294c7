"""``python bench/report.py --steadiness``: how much the time of a pair depends on the data.

Each kernel sums the same number of pairs by `exact`, on one thread, for inputs that differ as data do: bandwidths at
which a query sees all keys down to ten, offsets, queries far outside, clusters, heavy tails, sorted keys, weights.
The table has a row for each instruction set and type, and the kernel and input that were slowest beside the fastest of
the same kernel. Times are those of the processor (`time.thread_time`), the least of some rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastnw
from bench import record, table
from bench.record import ROOT, Progress
from fastnw.backends.compiled import backend as compiled

START, END = "<!-- steadiness:start -->", "<!-- steadiness:end -->"
GOAL = 1.5  # slowest to fastest input of a kernel, per pair
TYPES = ("float32", "float64")
D, KEYS, QUERIES, ROUNDS = 3, 20_000, 1_000, {"quick": 2, "full": 5}
SEEN = (1.0, 0.3, 0.1, 0.01, 10 / KEYS)  # shares of the keys within a query's window


@dataclass(frozen=True)
class Inputs:
    """What a kernel sums; `bandwidth` is the support, or two bandwidths of a kernel without one."""

    name: str
    queries: NDArray[np.float64]
    keys: NDArray[np.float64]
    window: float
    weights: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Row:
    """Nanoseconds a pair, by the name of the inputs."""

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
    for share in SEEN:
        yield Inputs(f"a query sees {max(round(share * KEYS), 1):,} keys", queries, keys, _radius(queries, keys, share))
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
    """Median radius of a ball around a query that holds such a share of the keys."""
    some = queries[:: max(len(queries) // 50, 1)]
    distances = np.sqrt(np.square(some[:, None] - keys).sum(axis=2))
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


def run(options: argparse.Namespace, facts: dict, path: Path, partial: bool) -> int:
    """The table on the screen; in its full form also into README.md. The exit status is 0: goals are in the table."""
    if not options.redraw:
        rows = measure("quick" if options.quick else "full", options.only or "", Progress())
        record.save(path, {"machine": facts, "rows": [asdict(row) for row in rows]})
    print("\n" + text(record.load(path)) + "\n", flush=True)
    if not partial:
        found = sorted((ROOT / "bench" / "results").glob("*-steadiness.json"))
        shown = "\n\n".join(text(record.load(each)) for each in found)
        table.write_readme(ROOT / "README.md", shown, START, END)
        print("wrote the tables into README.md")
    return 0


def text(content: dict) -> str:
    """The slowest kernel and input first."""
    rows = [Row(**row) for row in content["rows"]]
    worst = [max(group, key=lambda row: row.ratio) for group in _groups(rows)]
    worst.sort(key=lambda row: -row.ratio)
    head = ["level, type", "kernel", "slowest input", "ns a pair", "fastest input", "ns a pair", f"ratio (≤ {GOAL})"]
    cells = [
        [
            f"{row.level}, {row.dtype}",
            row.kernel,
            row.slowest,
            f"{row.nanoseconds[row.slowest]:.3g}",
            row.fastest,
            f"{row.nanoseconds[row.fastest]:.3g}",
            f"{row.ratio:.2f}",
        ]
        for row in worst
    ]
    heading = (
        f"{table.where(content['machine'])} {QUERIES:,} queries, {KEYS:,} keys, d = {D}, one value, `exact` on one "
        f"thread; of {len(rows)} pairs of a kernel and a type on a level, "
        f"{sum(row.ratio <= GOAL for row in rows)} reach the goal. A row shows the kernel whose times differ most."
    )
    return heading + "\n\n" + table.markdown(head, cells)


def _groups(rows: list[Row]) -> list[list[Row]]:
    kinds = dict.fromkeys((row.level, row.dtype) for row in rows)
    return [[row for row in rows if (row.level, row.dtype) == kind] for kind in kinds]
