"""The nearest key of a query whose window is empty: candidates by a k-d tree or by tiles of pairs, then `settle`.

Float64 distances leave candidates, which are all keys that may be the nearest within rounding: one for nearly every
query, two on a lattice, and all keys for a query at 1e9 bandwidths, where u² cannot distinguish the keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.core.model import Model
from fastnw.core.pack import coordinates, pack_inverse, pack_keys, pack_queries
from fastnw.core.plan import Plan
from fastnw.core.problem import Problem, row_blocks
from fastnw.methods.nearest.settle import MAX_LISTED_CANDIDATES, UNIT, settled
from fastnw.methods.scoring import Scoring
from fastnw.methods.tails.leading_key import View
from fastnw.runtime.threads import Meter, check_stop, run

Floats = NDArray[np.float64]
Positions = NDArray[np.intp]

# Queries and keys scored at a time.
TILE_QUERIES, BLOCK_KEYS = 64, 4096
# Queries per task of the k-d tree in up to 4 coordinates and in more, so that Ctrl-C responds in time.
TREE_TASK_QUERIES, TREE_TASK_QUERIES_HIGH_D = 256, 32
# In more coordinates, scoring each key is faster than a k-d tree.
MAX_TREE_D = 12
# With fewer pairs of queries and keys, building a k-d tree does not pay off.
MIN_TREE_PAIRS = 1 << 23
# Size of a k-d tree beside method="exact", whose memory is limited.
MAX_EXACT_TREE_BYTES = 32 << 20
# Values of u² between 1 over this and this have all their digits in float64.
MAX_ACCURATE_SQUARE = 1e280
# Factors of differences between 1 over this and this can be squared and multiplied.
MAX_FACTOR = 1e140
# Beyond this distance, in units of the keys' extent, the k-d tree cannot distinguish keys.
MAX_TREE_DISTANCE = 1e100
# Squares of smaller distances, in units of the keys' extent, underflow.
MIN_SQUARABLE_DISTANCE = 1e-150


def nearest(
    model: Model, problem: Problem, rows: Positions, meter: Meter | None = None, pairs: float = 0.0
) -> Positions:
    """Positions of the queries' nearest keys in scaled distance, in exact arithmetic; among ties, the first key.

    Keys without weight do not count, nor does the query's own key with `exclude_self`; −1 if no key counts. The whole
    search adds `pairs` to the meter.
    """
    meter, plan = Meter(False, 0, "") if meter is None else meter, model.plan
    present = np.arange(problem.n) if problem.weights is None else np.flatnonzero(problem.weights[:] > 0)
    nearest_keys = np.full(len(rows), -1)
    if not len(present) or not len(rows) or problem.kernel.inner_product:  # inner products have no windows
        return nearest_keys
    finder: _Finder = _tile_finder(problem, model)
    if _tree_pays(problem, plan, len(rows)):
        tree = _tree(model, problem, present)
        finder = finder if tree is None else tree
    view, size = View.of(problem), finder.size
    tasks = math.ceil(len(rows) / size)

    def task(i: int) -> float:
        part = slice(i * size, (i + 1) * size)
        with np.errstate(all="ignore"):
            nearest_keys[part] = settled(problem, view, rows[part], present, finder.candidates(rows[part]))
        return pairs / tasks

    run(task, tasks, plan.n_threads, meter)
    return nearest_keys


def _tree_pays(problem: Problem, plan: Plan, m: int) -> bool:
    if problem.key_scale is not None or problem.d > MAX_TREE_D or m * problem.n < MIN_TREE_PAIRS:
        return False
    return plan.method != "exact" or 8 * problem.n * (2 * problem.d + 6) <= MAX_EXACT_TREE_BYTES


class _Finder:
    """Finds candidates for `size` queries at a time."""

    size: int

    def candidates(self, rows: Positions) -> list[Positions | None]:
        """For each query, the keys that may be the nearest, in ascending order; None for all keys."""
        raise NotImplementedError


@dataclass
class _Tiles(_Finder):
    """Finds candidates by scoring each key with the backend."""

    problem: Problem  # the problem without values
    scoring: Scoring
    size: int = TILE_QUERIES

    def _scores(self, rows: Positions, queries: Floats, start: int) -> Floats:
        problem = self.problem
        keys = pack_keys(problem, start, min(start + BLOCK_KEYS, problem.n), np.float64)
        u2 = self.scoring.backend.score_tile(problem.kernel, queries, keys, pack_inverse(problem, np.float64))
        if problem.weights is not None:
            u2[:, problem.weights[start : start + BLOCK_KEYS] == 0] = np.inf
        if problem.exclude_self:
            own_rows = np.flatnonzero((rows >= start) & (rows < start + keys.size))
            u2[own_rows, rows[own_rows] - start] = np.inf
        return np.nan_to_num(u2, copy=False, nan=np.inf, posinf=np.inf)

    def candidates(self, rows: Positions) -> list[Positions | None]:
        queries = pack_queries(self.problem, rows, np.float64)
        starts = range(0, self.problem.n, BLOCK_KEYS)
        block_minima = np.empty((len(starts), len(rows)))
        for i, start in enumerate(starts):
            check_stop()
            block_minima[i] = self._scores(rows, queries, start).min(axis=1)
        minima, error = block_minima.min(axis=0), 4 * self.scoring.score_error(queries, np.dtype(np.float64))
        limit = minima + error * np.maximum(minima, 1.0)
        listed = (
            (minima < MAX_ACCURATE_SQUARE)
            & (minima > 1 / MAX_ACCURATE_SQUARE)
            & (error < 0.5)
            & _factors_in_range(self.problem)
        )
        near_keys: list[list[Positions]] = [[] for _ in rows]
        for i, start in enumerate(starts):
            block_rows = np.flatnonzero(listed & (block_minima[i] <= limit))
            if len(block_rows):
                check_stop()
                near = self._scores(rows[block_rows], queries[block_rows], start) <= limit[block_rows, None]
                for row, keys in zip(block_rows, near, strict=True):
                    near_keys[row].append(np.flatnonzero(keys) + start)
        return [np.concatenate(parts) if parts else None for parts in near_keys]


def _factors_in_range(problem: Problem) -> bool:
    """Whether the factors of differences, and their squares, are in float64's range."""
    factors = problem.metric.inverse
    if problem.key_scale is not None:
        factors = np.append(factors, problem.key_scale_range)
    return bool(np.all((factors < MAX_FACTOR) & (factors > 1 / MAX_FACTOR)))


def _tile_finder(problem: Problem, model: Model) -> _Tiles:
    without_values = replace(problem, values=problem.values[:, :0])
    return _Tiles(without_values, Scoring.of(without_values, model.plan, model.errors))


@dataclass
class _Tree(_Finder):
    """Finds candidates by a k-d tree in scaled coordinates; equal keys are stored once, with `exclude_self` twice."""

    problem: Problem
    scaling: _Scaling
    tree: Any
    positions: Positions  # of the tree's points among all keys
    size: int

    def candidates(self, rows: Positions) -> list[Positions | None]:
        points = self.scaling.apply(self.problem.queries[rows])
        near = np.abs(points).max(axis=1) < MAX_TREE_DISTANCE  # false for NaN
        near_keys: list[Positions | None] = [None] * len(rows)
        near_rows = np.flatnonzero(near)
        if not len(near_rows):
            return near_keys
        n_neighbours = min(3 if self.problem.exclude_self else 2, len(self.positions))
        distances, places = self.tree.query(points[near_rows], k=range(1, n_neighbours + 1))
        positions = self.positions[places]
        if self.problem.exclude_self:
            distances[positions == rows[near_rows, None]] = np.inf
        order = np.argsort(distances, axis=1, kind="stable")
        first = np.take_along_axis(distances, order[:, :1], axis=1)[:, 0]
        limit = self.scaling.limit(points[near_rows], first)
        ambiguous = (distances <= limit[:, None]).sum(axis=1) > 1
        if n_neighbours < len(self.positions):
            ambiguous |= distances.max(axis=1, where=distances < np.inf, initial=0.0) <= limit
        ambiguous &= first < np.inf
        for i in np.flatnonzero(~ambiguous & (first < np.inf)):
            near_keys[near_rows[i]] = positions[i, order[i, :1]]
        ambiguous_rows = np.flatnonzero(ambiguous)
        if len(ambiguous_rows):
            ambiguous_points, limits = points[near_rows[ambiguous_rows]], limit[ambiguous_rows]
            counts = self.tree.query_ball_point(ambiguous_points, limits, return_length=True)
            for i, point, radius, count in zip(
                near_rows[ambiguous_rows], ambiguous_points, limits, counts, strict=True
            ):
                if count <= MAX_LISTED_CANDIDATES:
                    listed = np.sort(self.positions[self.tree.query_ball_point(point, radius)])
                    near_keys[i] = listed[listed != rows[i]] if self.problem.exclude_self else listed
        return near_keys


@dataclass(frozen=True)
class _Scaling:
    """Coordinates in which distances are u times a constant, and keys lie within about [−1, 1].

    With one bandwidth these are the user's coordinates times a power of two, so nothing is rounded. Otherwise they are
    rounded relative to their distance from `centre`.
    """

    problem: Problem
    centre: Floats
    exponents: NDArray[np.intp]
    factors: Floats | None  # None for one bandwidth, or for whitened coordinates
    error: float  # bound on the error of a coordinate, relative to the point's length

    @classmethod
    def of(cls, problem: Problem) -> _Scaling:
        h, cholesky, d = problem.metric.bandwidth, problem.metric.cholesky, problem.d
        plain = cls(problem, np.zeros(d), np.zeros(d, np.intp), None, 0.0)
        if cholesky is not None:
            condition = float(np.linalg.cond(cholesky)) ** 2
            plain = replace(plain, error=(d + 4) ** 2 * UNIT * condition)
        elif np.any(h != h[0]):
            mantissas, exponents = np.frexp(h)
            sample = problem.keys[:: max(problem.n // 1001, 1)].astype(np.float64)
            plain = cls(problem, np.median(sample, axis=0), exponents.astype(np.intp), mantissas, 8 * UNIT)
        with np.errstate(all="ignore"):
            largest = max(float(np.abs(plain.apply(problem.keys[rows])).max()) for rows in row_blocks(problem.keys))
        return replace(plain, exponents=plain.exponents + int(np.frexp(largest)[1]))

    def apply(self, points: NDArray[Any]) -> Floats:
        """(rows, d) Scaled points; not finite where they leave float64's range."""
        if self.problem.metric.cholesky is not None:
            return np.ascontiguousarray(np.ldexp(coordinates(self.problem, points), -self.exponents))
        points = points.astype(np.float64)
        if self.factors is None:
            return np.ldexp(points, -self.exponents)
        return np.ldexp((points / 2 - self.centre / 2) / self.factors, 1 - self.exponents)

    def limit(self, points: Floats, distances: Floats) -> Floats:
        """Distances up to which a key may be the nearest, where the nearest distance was computed as `distances`."""
        lengths = 2 * np.sqrt(np.square(points).sum(axis=1)) + distances
        rounding = 4 * (self.problem.d + 8) * UNIT * distances + 4 * self.error * math.sqrt(self.problem.d) * lengths
        return distances + rounding + MIN_SQUARABLE_DISTANCE * math.sqrt(self.problem.d)


def _tree(model: Model, problem: Problem, present: Positions) -> _Tree | None:
    """The k-d tree, cached for the same keys and bandwidth; None where coordinates leave float64's range."""
    tree = model.shared(("nearest keys", problem.exclude_self), lambda: _build_tree(problem, present))
    return None if tree is None else replace(tree, problem=problem, scaling=replace(tree.scaling, problem=problem))


def _build_tree(problem: Problem, present: Positions) -> _Tree | None:
    trees: list[_Tree | None] = []

    def task(i: int) -> float:
        from scipy.spatial import cKDTree  # imported here: it takes 0.1 s, and few calls need it

        with np.errstate(all="ignore"):
            scaling = _Scaling.of(problem)
            points = np.concatenate([scaling.apply(problem.keys[present[part]]) for part in row_blocks(present)])
            if np.isfinite(points).all():
                distinct = _distinct(points, 2 if problem.exclude_self else 1)
                tree_positions = present if len(distinct) == len(present) else present[distinct]
                points = points if len(distinct) == len(present) else points[distinct]
                # balanced trees take long to build where many keys share a coordinate
                size = TREE_TASK_QUERIES if problem.d <= 4 else TREE_TASK_QUERIES_HIGH_D
                trees.append(_Tree(problem, scaling, cKDTree(points, balanced_tree=False), tree_positions, size))
            else:
                trees.append(None)
        return 0.0

    run(task, 1, 1, Meter(False, 0, ""), detachable=True)
    return None if trees[0] is None else replace(trees[0], problem=_without_queries(problem))


def _without_queries(problem: Problem) -> Problem:
    """The problem without its queries, which must not be cached."""
    return replace(problem, queries=problem.queries[:0])


def _distinct(points: Floats, most: int) -> Positions:
    """Positions of the first `most` points of each set of equal points, in ascending order."""
    bits = np.ascontiguousarray(points + 0.0).view(np.uint64)  # −0 becomes 0
    mixed = np.zeros(len(points), np.uint64)
    for column in bits.T:
        mixed = (mixed ^ (column ^ (column >> np.uint64(29)))) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    order = np.argsort(mixed, kind="stable")
    if most >= len(order):
        return np.arange(len(points))
    # equal points have equal hashes, and a run of equal points is in the order of positions
    repeated = np.zeros(len(points), bool)
    repeated[order[most:]] = np.all(points[order[most:]] == points[order[:-most]], axis=1)
    return np.flatnonzero(~repeated)
