"""The matrix-product form of `exact`: exponents of the Gaussian and of `dot` by BLAS, from rows as the user keeps them.

    −u²/2 = q·k/h² − |q/h|²/2 − |k/h|²/2

Nothing is packed, which is what few queries need, and in many coordinates BLAS is as fast as arithmetic gets. But the
three terms may cancel, so the error of an exponent is absolute: some roundings of |q||k|/h². Where that breaks the
promise, as for data far from 0, differences are taken instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.backends.backend import Backend
from fastnw.core.array import DeviceArray
from fastnw.core.model import Queries
from fastnw.core.pack import RAW_VALUES, RowBlock, are_rows, coordinates, keeps_values, pack_rows
from fastnw.core.plan import Plan, Work
from fastnw.core.problem import Problem
from fastnw.core.state import PoolState
from fastnw.runtime.hardware import vendor
from fastnw.runtime.threads import Meter, one_blas_thread, run

Floats = NDArray[np.float64]

LOG2E = 1.4426950408889634
TILE = 256  # queries a tile: BLAS needs that many (of 64, 128, 256: 0.28, 0.29, 0.31 Gp/s at d = c = 64)
STRIP = 256  # keys a product: what float32 adds up one after another, and 256 KiB of exponents
PANEL = 128  # coordinates a product adds up; _products.pxi
FOLD = 2048  # coordinates of a norm that are added up in one go; _rows_body.h
FEW = 4  # queries up to which differences are taken; _products.pxi
LEAST_D = 32  # in fewer coordinates errors exceed twice those of differences, whose sums still are short
TASK_FLOPS = 2e8  # 2 to 5 ms
SAMPLE = 1 << 18  # coordinates looked at to find out whether products are accurate enough
BUFFER_BYTES = 1 << 20  # of a tile's exponents and totals
COPY_BYTES = 8 << 20  # of keys and values a span, where they cannot be read in place
STATE_BYTES = 16 << 20  # of all groups' states
GROUPS, FEW_TILES = 16, 16  # parts of the keys with a state each, where there are fewer query tiles

# Nanoseconds a pair and thread: (exponential, a coordinate, a value); and to read an element of keys and values.
# Measured on one Zen 4 core with its OpenBLAS (SkylakeX kernels): tiles of 256 queries, d = 32 to 768, c = 0 to 64.
NANOSECONDS = {"float32": (0.30, 0.0235, 0.0235), "float64": (0.80, 0.050, 0.050)}
NANOSECONDS_INTEL = {"float32": (0.30, 0.030, 0.030), "float64": (0.80, 0.055, 0.055)}
READ, COPY = 0.10, 1.0
START = 4e-4  # seconds: BLAS is found and held to one thread
PACKERS = 4  # threads that copy keys


def can(problem: Problem, tiles: Any) -> bool:
    """Whether the kernel and the bandwidth are a quadratic form of raw coordinates."""
    plain = problem.key_scale is None and problem.metric.cholesky is None and problem.squares_in_range
    return problem.kernel.facts.quadratic_form and plain and problem.d >= LEAST_D and tiles.has_products()


def seconds(problem: Problem, dtype: np.dtype[Any]) -> float:
    """Predicted, on one thread."""
    return sum(part.seconds for part in work(problem, dtype))


def work(problem: Problem, dtype: np.dtype[Any]) -> tuple[Work, ...]:
    """Reading the keys, and products, which tiles of queries and parts of the keys share out."""
    n, m, d, c = problem.n, problem.m, problem.d, problem.c
    base, per_coordinate, per_value = (NANOSECONDS_INTEL if vendor() == "intel" else NANOSECONDS)[dtype.name]
    in_place = are_rows(problem.keys, dtype) and keeps_values(problem, dtype)
    pair = base + per_coordinate * d + per_value * c
    tiles = math.ceil(m / TILE)
    tasks = tiles * (1 if tiles >= FEW_TILES else GROUPS)
    tasks = min(tasks, max(math.ceil(n / STRIP) * tiles, 1))
    return (
        Work(START),
        Work(1e-9 * n * (d + c) * (READ if in_place else COPY), tasks if in_place else PACKERS),
        Work(1e-9 * m * float(n) * pair, tasks),
    )


@dataclass(frozen=True)
class _Queries:
    """Queries as the products want them."""

    plain: NDArray[Any]
    scaled: NDArray[Any]
    half: NDArray[Any]
    norm: Floats  # (m,) |q/h|²

    @classmethod
    def of(cls, problem: Problem, positions: NDArray[np.intp], dtype: Any) -> _Queries:
        queries, inverse = problem.queries[positions].astype(np.float64), problem.metric.inverse
        inner = problem.kernel.inner_product
        with np.errstate(over="ignore", invalid="ignore"):  # such a query has no sums here, and is handed on
            norm = np.square(queries * inverse).sum(axis=1)
            half = np.zeros_like(norm) if inner else -0.5 * LOG2E * norm
            scaled = queries * (LOG2E * (inverse if inner else inverse * inverse))
            return cls(queries.astype(dtype), scaled.astype(dtype), half.astype(dtype), norm)


def exponent_error(problem: Problem, query_norm: Any, key_norm: Any, dtype: np.dtype[Any]) -> Any:
    """Bound on the error of exponents of e: products of up to PANEL terms, norms, and the sum of the three."""
    unit = float(np.finfo(dtype).eps) / 2
    product = np.sqrt(query_norm) * np.sqrt(key_norm)
    if problem.kernel.inner_product:  # norms are those of q/h and k/h, the product is of q/h and k
        inverse = problem.metric.inverse
        product = product / float(inverse.min())
        return unit * (min(problem.d, PANEL) + problem.d / PANEL + 12) * product
    norms = (query_norm + key_norm) / 2
    of_norms = min(problem.d, FOLD) / 16 + problem.d / FOLD + 16
    return unit * ((min(problem.d, PANEL) + problem.d / PANEL + 12) * product + of_norms * norms)


def promising(problem: Problem, dtype: np.dtype[Any], limit: float) -> bool:
    """Whether a look at some queries and keys says that most will be certified."""
    of_queries, of_keys = norms(problem, problem.queries), norms(problem, problem.keys)
    with np.errstate(over="ignore", invalid="ignore"):  # not finite: not accurate
        accurate = exponent_error(problem, of_queries, 1.5 * of_keys.max(), dtype) <= limit
    return bool(accurate.sum() > 0.9 * len(accurate))


def norms(problem: Problem, points: Any) -> Floats:
    """|p/h|² of some of those points, evenly spaced; of whitened ones, |p|²."""
    step = max(len(points) // min(max(SAMPLE // problem.d, 1), 256), 1)
    with np.errstate(over="ignore"):
        if isinstance(points, DeviceArray):
            return points.every(step).norms(problem.metric.inverse)
        some = coordinates(problem, points[::step]).astype(np.float64)
        return np.asarray(np.square(some * problem.metric.inverse).sum(axis=1))


def sweep(queries: Queries, plan: Plan, backend: Backend, dtype: np.dtype[Any], meter: Meter) -> Any:
    """The state of those queries, and (m,) the largest squared norm of a key, 0 where differences were taken."""
    problem, positions = queries.problem, queries.rows
    points = _Queries.of(problem, positions, dtype)
    inverse_squared = np.square(problem.metric.inverse).astype(dtype)
    m, width = len(positions), problem.d + problem.c
    strip = STRIP if width <= 1024 else max(STRIP * 1024 // width // 32 * 32, 32)
    size = max(min(TILE, BUFFER_BYTES // (dtype.itemsize * (strip + problem.c))), FEW)
    tiles = [slice(i, min(i + size, m)) for i in range(0, m, size)]
    groups = 1 if len(tiles) >= FEW_TILES else min(GROUPS, max(STATE_BYTES // (8 * max(m, 1) * (4 + problem.c)), 1))
    block = max(int(TASK_FLOPS / (2 * min(max(m, 1), size) * width)) // strip * strip, strip)
    block = min(block, max(math.ceil(problem.n / groups / strip), 1) * strip)
    in_place = are_rows(problem.keys, dtype) and keeps_values(problem, dtype)
    copied = 64 if in_place else max(COPY_BYTES // (block * width * dtype.itemsize), 1)
    span = max(copied // groups, 1) * groups if in_place else copied
    states = [PoolState.empty(m, problem.c) for _ in range(groups)]
    norms = np.zeros((groups, len(tiles)))
    product_tile = backend.product_tile
    assert product_tile is not None
    assert backend.load_products is not None
    backend.load_products()
    for first in range(0, problem.n, span * block):
        starts = range(first, min(first + span * block, problem.n), block)
        blocks = _blocks(problem, plan, starts, block, dtype)
        per_group = math.ceil(len(blocks) / groups)

        def tile(task: int, blocks: list[RowBlock] = blocks, per_group: int = per_group) -> float:
            number, group = task // groups, task % groups
            rows = tiles[number]
            state = states[group].rows(rows)
            for keys in blocks[group * per_group : (group + 1) * per_group]:
                own = (positions[rows] - keys.start).astype(np.int64) if problem.exclude_self else None
                norm = product_tile(
                    problem.kernel,
                    points.plain[rows],
                    points.scaled[rows],
                    points.half[rows],
                    keys,
                    inverse_squared,
                    own,
                    state,
                    strip,
                )
                norms[group, number] = max(norms[group, number], norm)
            return float(rows.stop - rows.start) * sum(
                keys.size for keys in blocks[group * per_group : (group + 1) * per_group]
            )

        with one_blas_thread:
            run(tile, len(tiles) * groups, plan.n_threads, meter)
    largest = np.repeat(norms.max(axis=0), size)[:m]
    return PoolState.merged(states), largest, points.norm


def _blocks(problem: Problem, plan: Plan, starts: range, block: int, dtype: np.dtype[Any]) -> list[RowBlock]:
    blocks: list[RowBlock] = [None] * len(starts)  # type: ignore[list-item]

    def pack(i: int) -> float:
        blocks[i] = pack_rows(problem, starts[i], min(starts[i] + block, problem.n), dtype)
        return 0.0

    in_place = are_rows(problem.keys, dtype) and keeps_values(problem, dtype)  # then there is nothing to share out
    run(pack, len(starts), 1 if in_place else min(plan.n_threads, PACKERS), Meter(False, 0, ""))
    return blocks


def values_spread(problem: Problem, dtype: np.dtype[Any]) -> float:
    """What errors of totals are multiplied with: values that were not normalised are up to so many times larger."""
    return 1.0 + RAW_VALUES if keeps_values(problem, dtype) else 1.0
