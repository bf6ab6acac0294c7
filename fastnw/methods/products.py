"""The matrix-product form of `exact`: BLAS computes exponents of the Gaussian and of `dot` from the user's own rows.

    −u²/2 = q·k/h² − |q/h|²/2 − |k/h|²/2

Nothing is packed, which suits few queries, and in many coordinates BLAS is as fast as arithmetic gets. But the three
terms may cancel, so the error of an exponent is absolute: a few roundings of |q||k|/h². Where that exceeds the
tolerance, as it may for data far from 0, the next rung takes differences instead.
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
from fastnw.core.pack import MAX_RAW_OFFSET, RowBlock, are_rows, coordinates, keeps_values, pack_rows
from fastnw.core.plan import Plan, Work
from fastnw.core.problem import Problem
from fastnw.core.state import Sums
from fastnw.runtime._constants import COORDINATES_PER_NORM, COORDINATES_PER_PRODUCT, MAX_DIRECT_QUERIES
from fastnw.runtime.hardware import vendor
from fastnw.runtime.threads import Meter, one_blas_thread, run

Floats = NDArray[np.float64]

LOG2E = 1.4426950408889634
# BLAS is faster with more queries per tile: 64, 128 and 256 give 0.28, 0.29 and 0.31 Gp/s at d = c = 64.
TILE_QUERIES = 256
# Keys per product: float32 adds up so many terms one after another, and their exponents take 256 KiB.
STRIP_KEYS = 256
# In fewer coordinates errors exceed twice those of differences, whose sums are still short there.
MIN_D = 32
# Floating-point operations per task, which take 2 to 5 ms.
TASK_FLOPS = 2e8
# Size of the sample of points that decides whether products are accurate enough.
MAX_SAMPLE_COORDINATES = 1 << 18
# Size of the exponents and totals of one tile.
BUFFER_BYTES = 1 << 20
# Size of the copies of keys and values made at a time, where rows cannot be read in place.
COPY_BYTES = 8 << 20
# Size of the states of all groups together.
STATE_BYTES = 16 << 20
# With fewer query tiles, the keys are split into groups with a state each.
MAX_GROUPS, MIN_TILES_FOR_ONE_GROUP = 16, 16

# Nanoseconds per pair and thread: (exponential, per coordinate, per value). Measured on one Zen 4 core with its
# OpenBLAS (SkylakeX kernels): tiles of 256 queries, d = 32 to 768, c = 0 to 64.
PAIR_NS = {"float32": (0.30, 0.0235, 0.0235), "float64": (0.80, 0.050, 0.050)}
PAIR_NS_INTEL = {"float32": (0.30, 0.030, 0.030), "float64": (0.80, 0.055, 0.055)}
# Nanoseconds to read or to copy an element of keys and values.
READ_NS, COPY_NS = 0.10, 1.0
# Time to find BLAS and to limit it to one thread.
START_SECONDS = 4e-4
# Number of threads that copy keys.
MAX_PACKING_THREADS = 4


def supports(problem: Problem, backend: Any) -> bool:
    """Whether exponents are a quadratic form of raw coordinates, and the backend has matrix products."""
    diagonal = problem.key_scale is None and problem.metric.cholesky is None and problem.squares_in_range
    return problem.kernel.facts.quadratic_form and diagonal and problem.d >= MIN_D and backend.has_products()


def seconds(problem: Problem, dtype: np.dtype[Any]) -> float:
    """Predicted seconds on one thread."""
    return sum(part.seconds for part in work(problem, dtype))


def work(problem: Problem, dtype: np.dtype[Any]) -> tuple[Work, ...]:
    """Work of reading the keys, and of products, which threads share by query tiles and groups of keys."""
    n, m, d, c = problem.n, problem.m, problem.d, problem.c
    base, per_coordinate, per_value = (PAIR_NS_INTEL if vendor() == "intel" else PAIR_NS)[dtype.name]
    in_place = are_rows(problem.keys, dtype) and keeps_values(problem, dtype)
    pair = base + per_coordinate * d + per_value * c
    tiles = math.ceil(m / TILE_QUERIES)
    tasks = tiles * (1 if tiles >= MIN_TILES_FOR_ONE_GROUP else MAX_GROUPS)
    tasks = min(tasks, max(math.ceil(n / STRIP_KEYS) * tiles, 1))
    return (
        Work(START_SECONDS),
        Work(1e-9 * n * (d + c) * (READ_NS if in_place else COPY_NS), tasks if in_place else MAX_PACKING_THREADS),
        Work(1e-9 * m * float(n) * pair, tasks),
    )


@dataclass(frozen=True)
class _Queries:
    """Queries in the form that matrix products need."""

    unscaled: NDArray[Any]
    scaled: NDArray[Any]
    half: NDArray[Any]
    norm: Floats  # (m,) |q/h|²

    @classmethod
    def of(cls, problem: Problem, positions: NDArray[np.intp], dtype: Any) -> _Queries:
        queries, inverse = problem.queries[positions].astype(np.float64), problem.metric.inverse
        inner = problem.kernel.inner_product
        with np.errstate(over="ignore", invalid="ignore"):  # a query that overflows goes to the next rung
            norm = np.square(queries * inverse).sum(axis=1)
            half = np.zeros_like(norm) if inner else -0.5 * LOG2E * norm
            scaled = queries * (LOG2E * (inverse if inner else inverse * inverse))
            return cls(queries.astype(dtype), scaled.astype(dtype), half.astype(dtype), norm)


def exponent_error(problem: Problem, query_norm: Any, key_norm: Any, dtype: np.dtype[Any]) -> Any:
    """Bound on the error of exponents of e: of long products, of norms, and of their sum."""
    unit = float(np.finfo(dtype).eps) / 2
    product = np.sqrt(query_norm) * np.sqrt(key_norm)
    product_terms = min(problem.d, COORDINATES_PER_PRODUCT) + problem.d / COORDINATES_PER_PRODUCT + 12
    if problem.kernel.inner_product:  # the norms are those of q/h and k/h, but the product is of q/h and k
        product = product / float(problem.metric.inverse.min())
        return unit * product_terms * product
    norms = (query_norm + key_norm) / 2
    norm_terms = min(problem.d, COORDINATES_PER_NORM) / 16 + problem.d / COORDINATES_PER_NORM + 16
    return unit * (product_terms * product + norm_terms * norms)


def promising(problem: Problem, dtype: np.dtype[Any], limit: float) -> bool:
    """Whether a sample of queries and keys predicts that most queries will be certified."""
    query_norms, key_norms = norms(problem, problem.queries), norms(problem, problem.keys)
    with np.errstate(over="ignore", invalid="ignore"):  # values that are not finite count as inaccurate
        accurate = exponent_error(problem, query_norms, 1.5 * key_norms.max(), dtype) <= limit
    return bool(accurate.sum() > 0.9 * len(accurate))


def norms(problem: Problem, points: Any) -> Floats:
    """|p/h|² of an evenly spaced sample of points; |p|² of whitened points."""
    step = max(len(points) // min(max(MAX_SAMPLE_COORDINATES // problem.d, 1), 256), 1)
    with np.errstate(over="ignore"):
        if isinstance(points, DeviceArray):
            return points.every(step).norms(problem.metric.inverse)
        sample = coordinates(problem, points[::step]).astype(np.float64)
        return np.asarray(np.square(sample * problem.metric.inverse).sum(axis=1))


def sweep(queries: Queries, plan: Plan, backend: Backend, dtype: np.dtype[Any], meter: Meter) -> Any:
    """Sum all keys by matrix products.

    Returns
    -------
    state : Sums
        Sums of the queries.
    key_norm : (m,) float64
        The largest squared norm of a key, or 0 where differences were taken.
    query_norm : (m,) float64
        The queries' squared norms.
    """
    problem, positions = queries.problem, queries.rows
    points = _Queries.of(problem, positions, dtype)
    inverse_squared = np.square(problem.metric.inverse).astype(dtype)
    m, width = len(positions), problem.d + problem.c
    strip = STRIP_KEYS if width <= 1024 else max(STRIP_KEYS * 1024 // width // 32 * 32, 32)
    size = max(min(TILE_QUERIES, BUFFER_BYTES // (dtype.itemsize * (strip + problem.c))), MAX_DIRECT_QUERIES)
    tiles = [slice(i, min(i + size, m)) for i in range(0, m, size)]
    max_groups = min(MAX_GROUPS, max(STATE_BYTES // (8 * max(m, 1) * (4 + problem.c)), 1))
    groups = 1 if len(tiles) >= MIN_TILES_FOR_ONE_GROUP else max_groups
    block = max(int(TASK_FLOPS / (2 * min(max(m, 1), size) * width)) // strip * strip, strip)
    block = min(block, max(math.ceil(problem.n / groups / strip), 1) * strip)
    in_place = are_rows(problem.keys, dtype) and keeps_values(problem, dtype)
    blocks_per_copy = 64 if in_place else max(COPY_BYTES // (block * width * dtype.itemsize), 1)
    span = max(blocks_per_copy // groups, 1) * groups if in_place else blocks_per_copy
    states = [Sums.empty(m, problem.c) for _ in range(groups)]
    max_norms = np.zeros((groups, len(tiles)))
    product_tile = backend.product_tile
    assert product_tile is not None
    assert backend.load_products is not None
    backend.load_products()
    for first in range(0, problem.n, span * block):
        starts = range(first, min(first + span * block, problem.n), block)
        blocks = _pack_blocks(problem, plan, starts, block, dtype)
        per_group = math.ceil(len(blocks) / groups)

        def sum_group(task: int, blocks: list[RowBlock] = blocks, per_group: int = per_group) -> float:
            number, group = task // groups, task % groups
            rows = tiles[number]
            state = states[group].rows(rows)
            for keys in blocks[group * per_group : (group + 1) * per_group]:
                own_positions = (positions[rows] - keys.start).astype(np.int64) if problem.exclude_self else None
                key_norm = product_tile(
                    problem.kernel,
                    points.unscaled[rows],
                    points.scaled[rows],
                    points.half[rows],
                    keys,
                    inverse_squared,
                    own_positions,
                    state,
                    strip,
                )
                max_norms[group, number] = max(max_norms[group, number], key_norm)
            return float(rows.stop - rows.start) * sum(
                keys.size for keys in blocks[group * per_group : (group + 1) * per_group]
            )

        with one_blas_thread:
            run(sum_group, len(tiles) * groups, plan.n_threads, meter)
    key_norms = np.repeat(max_norms.max(axis=0), size)[:m]
    return Sums.merged(states), key_norms, points.norm


def _pack_blocks(problem: Problem, plan: Plan, starts: range, block: int, dtype: np.dtype[Any]) -> list[RowBlock]:
    blocks: list[RowBlock] = [None] * len(starts)  # type: ignore[list-item]

    def pack(i: int) -> float:
        blocks[i] = pack_rows(problem, starts[i], min(starts[i] + block, problem.n), dtype)
        return 0.0

    in_place = are_rows(problem.keys, dtype) and keeps_values(problem, dtype)  # then no thread has anything to copy
    run(pack, len(starts), 1 if in_place else min(plan.n_threads, MAX_PACKING_THREADS), Meter(False, 0, ""))
    return blocks


def value_error_factor(problem: Problem, dtype: np.dtype[Any]) -> float:
    """Factor on the errors of totals: values that were not normalised are up to so many times larger."""
    return 1.0 + MAX_RAW_OFFSET if keeps_values(problem, dtype) else 1.0
