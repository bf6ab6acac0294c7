"""The nearest key of a query whose window is empty: candidates by a k-d tree or tile by tile, then `settle`.

Float64 distances leave candidates, all keys that may be the nearest within rounding: one for nearly every query, two on
a lattice, and all keys for a query at 1e9 bandwidths, where u² has no digits left for what tells them apart.
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
from fastnw.methods.nearest.settle import LISTED, UNIT, settled
from fastnw.methods.scoring import Scoring
from fastnw.methods.tails.leading_key import View
from fastnw.runtime.threads import Meter, check_stop, run

Floats = NDArray[np.float64]
Positions = NDArray[np.intp]

TILE, BLOCK = 64, 4096  # queries and keys scored at a time
ASKED, ASKED_IN_MANY = 256, 32  # queries of a task that asks the k-d tree; in more than 4 coordinates: for Ctrl-C
MOST_D = 12  # coordinates up to which a k-d tree is faster than a look at each key
MANY_PAIRS = 1 << 23  # queries times keys from which a k-d tree is worth its making
EXACT_BYTES = 32 << 20  # of a k-d tree beside method="exact", whose memory is promised
RANGE = 1e280  # u² between 1 over this and this has all its digits in float64
WIDEST = 1e140  # factors of differences between 1 over this and this can be squared, and multiplied
FAR = 1e100  # of the keys' extent: from there the k-d tree tells nothing
VANISHING = 1e-150  # of the keys' extent: squares of smaller distances vanish


def nearest(
    model: Model, problem: Problem, rows: Positions, meter: Meter | None = None, pairs: float = 0.0
) -> Positions:
    """Position of each query's nearest key in scaled distance, in exact arithmetic; of equally near ones the first.

    Keys without weight do not count, nor does a query's own with `exclude_self`; −1 where there is no other. `pairs` is
    what all of it adds to the meter.
    """
    meter, plan = Meter(False, 0, "") if meter is None else meter, model.plan
    present = np.arange(problem.n) if problem.weights is None else np.flatnonzero(problem.weights[:] > 0)
    found = np.full(len(rows), -1)
    if not len(present) or not len(rows) or problem.kernel.inner_product:  # such a kernel's windows have no rim
        return found
    finder: _Finder = _tile_by_tile(problem, model)
    if _worth_a_tree(problem, plan, len(rows)):
        tree = _tree(model, problem, present)
        finder = finder if tree is None else tree
    view, size = View.of(problem), finder.size
    tasks = math.ceil(len(rows) / size)

    def task(i: int) -> float:
        part = slice(i * size, (i + 1) * size)
        with np.errstate(all="ignore"):
            found[part] = settled(problem, view, rows[part], present, finder.candidates(rows[part]))
        return pairs / tasks

    run(task, tasks, plan.n_threads, meter)
    return found


def _worth_a_tree(problem: Problem, plan: Plan, m: int) -> bool:
    if problem.key_scale is not None or problem.d > MOST_D or m * problem.n < MANY_PAIRS:
        return False
    return plan.method != "exact" or 8 * problem.n * (2 * problem.d + 6) <= EXACT_BYTES


class _Finder:
    """What finds candidates, `size` queries at a time."""

    size: int

    def candidates(self, rows: Positions) -> list[Positions | None]:
        """Of each query the keys, in ascending order, that may be the nearest; None: all of them."""
        raise NotImplementedError


@dataclass
class _Tiles(_Finder):
    """Each key is scored by the backend."""

    problem: Problem  # without values
    scoring: Scoring
    size: int = TILE

    def _scores(self, rows: Positions, queries: Floats, start: int) -> Floats:
        problem = self.problem
        keys = pack_keys(problem, start, min(start + BLOCK, problem.n), np.float64)
        u2 = self.scoring.backend.score_tile(problem.kernel, queries, keys, pack_inverse(problem, np.float64))
        if problem.weights is not None:
            u2[:, problem.weights[start : start + BLOCK] == 0] = np.inf
        if problem.exclude_self:
            here = np.flatnonzero((rows >= start) & (rows < start + keys.size))
            u2[here, rows[here] - start] = np.inf
        return np.nan_to_num(u2, copy=False, nan=np.inf, posinf=np.inf)

    def candidates(self, rows: Positions) -> list[Positions | None]:
        queries = pack_queries(self.problem, rows, np.float64)
        starts = range(0, self.problem.n, BLOCK)
        least = np.empty((len(starts), len(rows)))
        for i, start in enumerate(starts):
            check_stop()
            least[i] = self._scores(rows, queries, start).min(axis=1)
        best, error = least.min(axis=0), 4 * self.scoring.score_error(queries, np.dtype(np.float64))
        limit = best + error * np.maximum(best, 1.0)
        listed = (best < RANGE) & (best > 1 / RANGE) & (error < 0.5) & _scores_are_right(self.problem)
        found: list[list[Positions]] = [[] for _ in rows]
        for i, start in enumerate(starts):
            here = np.flatnonzero(listed & (least[i] <= limit))
            if len(here):
                check_stop()
                near = self._scores(rows[here], queries[here], start) <= limit[here, None]
                for row, keys in zip(here, near, strict=True):
                    found[row].append(np.flatnonzero(keys) + start)
        return [np.concatenate(parts) if parts else None for parts in found]


def _scores_are_right(problem: Problem) -> bool:
    """Whether the factors of differences are numbers, and their squares, too."""
    factors = problem.metric.inverse
    if problem.key_scale is not None:
        factors = np.append(factors, problem.key_scale_range)
    return bool(np.all((factors < WIDEST) & (factors > 1 / WIDEST)))


def _tile_by_tile(problem: Problem, model: Model) -> _Tiles:
    bare = replace(problem, values=problem.values[:, :0])
    return _Tiles(bare, Scoring.of(bare, model.plan, model.errors))


@dataclass
class _Tree(_Finder):
    """A k-d tree of the keys in scaled coordinates; equal keys are there once, or twice where one may be left out."""

    problem: Problem
    scaling: _Scaling
    tree: Any
    positions: Positions  # among all keys
    size: int

    def candidates(self, rows: Positions) -> list[Positions | None]:
        points = self.scaling.apply(self.problem.queries[rows])
        near = np.abs(points).max(axis=1) < FAR  # NaN is not
        found: list[Positions | None] = [None] * len(rows)
        here = np.flatnonzero(near)
        if not len(here):
            return found
        asked = min(3 if self.problem.exclude_self else 2, len(self.positions))
        distances, places = self.tree.query(points[here], k=range(1, asked + 1))
        positions = self.positions[places]
        if self.problem.exclude_self:
            distances[positions == rows[here, None]] = np.inf
        order = np.argsort(distances, axis=1, kind="stable")
        first = np.take_along_axis(distances, order[:, :1], axis=1)[:, 0]
        limit = self.scaling.limit(points[here], first)
        several = (distances <= limit[:, None]).sum(axis=1) > 1
        if asked < len(self.positions):
            several |= distances.max(axis=1, where=distances < np.inf, initial=0.0) <= limit
        several &= first < np.inf
        for i in np.flatnonzero(~several & (first < np.inf)):
            found[here[i]] = positions[i, order[i, :1]]
        again = np.flatnonzero(several)
        if len(again):
            mine, within = points[here[again]], limit[again]
            counts = self.tree.query_ball_point(mine, within, return_length=True)
            for i, point, radius, count in zip(here[again], mine, within, counts, strict=True):
                if count <= LISTED:
                    listed = np.sort(self.positions[self.tree.query_ball_point(point, radius)])
                    found[i] = listed[listed != rows[i]] if self.problem.exclude_self else listed
        return found


@dataclass(frozen=True)
class _Scaling:
    """Coordinates in which distances are u times a constant, of keys within [−1, 1] or so.

    With one bandwidth they are the user's own times a power of two: nothing is rounded. Otherwise they are rounded
    relative to their distance from `centre`.
    """

    problem: Problem
    centre: Floats
    exponents: NDArray[np.intp]
    factors: Floats | None  # None: one bandwidth, or whitened
    error: float  # bound on a coordinate's, relative to the length

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
        """(rows, d); not finite where they leave float64's range."""
        if self.problem.metric.cholesky is not None:
            return np.ascontiguousarray(np.ldexp(coordinates(self.problem, points), -self.exponents))
        points = points.astype(np.float64)
        if self.factors is None:
            return np.ldexp(points, -self.exponents)
        return np.ldexp((points / 2 - self.centre / 2) / self.factors, 1 - self.exponents)

    def limit(self, points: Floats, distances: Floats) -> Floats:
        """Distances up to which a key may be the nearest, if that one seems to be as far as this."""
        lengths = 2 * np.sqrt(np.square(points).sum(axis=1)) + distances
        rounding = 4 * (self.problem.d + 8) * UNIT * distances + 4 * self.error * math.sqrt(self.problem.d) * lengths
        return distances + rounding + VANISHING * math.sqrt(self.problem.d)


def _tree(model: Model, problem: Problem, present: Positions) -> _Tree | None:
    """Made once for the same keys and bandwidth; None where coordinates leave float64's range."""
    kept = model.shared(("nearest keys", problem.exclude_self), lambda: _made(problem, present))
    return None if kept is None else replace(kept, problem=problem, scaling=replace(kept.scaling, problem=problem))


def _made(problem: Problem, present: Positions) -> _Tree | None:
    made: list[_Tree | None] = []

    def task(i: int) -> float:
        from scipy.spatial import cKDTree  # 0.1 s to import, and few need it

        with np.errstate(all="ignore"):
            scaling = _Scaling.of(problem)
            points = np.concatenate([scaling.apply(problem.keys[present[part]]) for part in row_blocks(present)])
            if np.isfinite(points).all():
                kept = _distinct(points, 2 if problem.exclude_self else 1)
                chosen = present if len(kept) == len(present) else present[kept]
                points = points if len(kept) == len(present) else points[kept]
                # balanced trees take long to make where many keys share a coordinate
                size = ASKED if problem.d <= 4 else ASKED_IN_MANY
                made.append(_Tree(problem, scaling, cKDTree(points, balanced_tree=False), chosen, size))
            else:
                made.append(None)
        return 0.0

    run(task, 1, 1, Meter(False, 0, ""), detachable=True)
    return None if made[0] is None else replace(made[0], problem=_keys_only(problem))


def _keys_only(problem: Problem) -> Problem:
    """What may be kept: not the queries."""
    return replace(problem, queries=problem.queries[:0])


def _distinct(points: Floats, most: int) -> Positions:
    """The first `most` of each set of equal points, in ascending order."""
    bits = np.ascontiguousarray(points + 0.0).view(np.uint64)  # −0 becomes 0
    mixed = np.zeros(len(points), np.uint64)
    for column in bits.T:
        mixed = (mixed ^ (column ^ (column >> np.uint64(29)))) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    order = np.argsort(mixed, kind="stable")
    if most >= len(order):
        return np.arange(len(points))
    # equal points have equal hashes; of a run of them the order is that of positions
    repeated = np.zeros(len(points), bool)
    repeated[order[most:]] = np.all(points[order[most:]] == points[order[:-most]], axis=1)
    return np.flatnonzero(~repeated)
