"""Which of some candidate keys is the nearest to a query, without rounding.

Candidates are compared by u_i² − u_0² = Σ_j (k_0j − k_ij)(2 q_j − k_0j − k_ij)/h_j² with some leader 0: it has no large
term, as u² has at 1e9 bandwidths. It is computed in double-double arithmetic, in coordinates scaled by powers of two,
so that no square overflows or vanishes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastnw.arithmetic import doubledouble as dd
from fastnw.core.problem import Problem
from fastnw.methods.tails.leading_key import View
from fastnw.runtime.threads import check_stop

Floats = NDArray[np.float64]
Positions = NDArray[np.intp]

UNIT = 2.0**-53
LISTED = 1 << 12  # candidates of a query that are listed; otherwise all keys are
SLICE = 1 << 14  # candidates settled at a time
TIE = 2.0**-88  # of a double-double number: what its multiplication by a scale rounds stays below


def settled(
    problem: Problem, view: View, rows: Positions, present: Positions, candidates: list[Positions | None]
) -> Positions:
    """The nearest of each query's candidates."""
    found = np.full(len(rows), -1)
    few, listed = [], []
    for i, positions in enumerate(candidates):
        if positions is None or len(positions) > LISTED:
            found[i] = _of_many(problem, view, rows[i], present if positions is None else positions)
        elif len(positions) == 1:
            found[i] = positions[0]
        elif len(positions):
            few.append(i)
            listed.append(positions)
    for part in _parts([len(positions) for positions in listed]):
        check_stop()
        chosen = np.array(few[part])
        found[chosen] = _first_of_least(problem, view, rows[chosen], listed[part])
    return found


def _parts(sizes: list[int]) -> Iterator[slice]:
    """Slices of the lists that have about SLICE entries together."""
    start, total = 0, 0
    for i, size in enumerate(sizes):
        total += size
        if total >= SLICE or i == len(sizes) - 1:
            yield slice(start, i + 1)
            start, total = i + 1, 0


def _of_many(problem: Problem, view: View, row: int, positions: Positions) -> int:
    """The nearest of any number of candidates, slice by slice."""
    if problem.exclude_self:
        positions = positions[positions != row]
    one = np.array([row])
    while len(positions) > 1:
        winners = []
        for start in range(0, len(positions), SLICE):
            check_stop()
            winners.append(_first_of_least(problem, view, one, [positions[start : start + SLICE]]))
        positions = np.concatenate(winners)
    return int(positions[0]) if len(positions) else -1


def _first_of_least(problem: Problem, view: View, rows: Positions, lists: list[Positions]) -> Positions:
    """The nearest of each query's list, which has an entry at least; of equally near ones the first."""
    sizes = np.array([len(positions) for positions in lists])
    pairs = _Pairs.of(problem, view, rows, np.concatenate(lists), sizes)
    if view.root.ndim == 1 and len(pairs.positions) > 8 * len(rows):
        pairs = pairs.only(pairs.plausible())
    return pairs.first_of_least()


@dataclass(frozen=True)
class _Pairs:
    """Pairs of a query and a candidate, query by query, in coordinates in which the nearest is about 1 away.

    Attributes
    ----------
    positions : (pairs,) intp
        The candidates, ascending for each query.
    starts : (queries,) intp
        Where each query's pairs begin.
    group : (pairs,) intp
        Which query a pair is of.
    keys : (pairs, d) float64
    exponents : (pairs, d) int
        Powers of two that coordinates are divided by: of the bandwidth, the nearest distance and λ.
    difference : (pairs, d) double-double
        Query less key, divided by them.
    scales, mantissas : (pairs,) float64
        λ, and λ over its own power of two.
    """

    view: View
    positions: Positions
    starts: Positions
    group: Positions
    keys: Floats
    exponents: NDArray[np.intp]
    difference: dd.Pair
    scales: Floats
    mantissas: Floats

    @classmethod
    def of(cls, problem: Problem, view: View, rows: Positions, positions: Positions, sizes: Positions) -> _Pairs:
        group, starts = np.repeat(np.arange(len(rows)), sizes), np.cumsum(sizes) - sizes
        queries = problem.queries[rows].astype(np.float64)[group]
        keys = problem.keys[positions].astype(np.float64)
        scales = np.ones(len(keys)) if problem.key_scale is None else problem.key_scale[positions].astype(np.float64)
        mantissas, of_scales = np.frexp(scales)
        halves = queries / 2 - keys / 2  # does not overflow
        powers = np.where(halves == 0, -8192, np.frexp(halves)[1] + 1 - view.exponents).max(axis=1) - of_scales
        power = np.minimum.reduceat(powers, starts)[group]
        exponents = (view.exponents + (power + of_scales)[:, None]).astype(np.intp)
        large = 4 * (np.maximum(np.abs(queries), np.abs(keys)) > 2.0**1000)
        exact_difference = dd.two_sum(np.ldexp(queries, -large), -np.ldexp(keys, -large))
        difference = tuple(np.ldexp(part, large - exponents) for part in exact_difference)
        return cls(view, positions, starts, group, keys, exponents, difference, scales, mantissas)

    def only(self, kept: NDArray[np.bool_]) -> _Pairs:
        """Those pairs; each query must have one."""
        group = self.group[kept]
        return _Pairs(
            self.view,
            self.positions[kept],
            np.searchsorted(group, np.arange(len(self.starts))),
            group,
            self.keys[kept],
            self.exponents[kept],
            (self.difference[0][kept], self.difference[1][kept]),
            self.scales[kept],
            self.mantissas[kept],
        )

    def _leaders(self, squares: Floats) -> Positions:
        """(pairs,) the pair of the same query whose square is least."""
        squares = np.where(np.isfinite(squares), squares, np.inf)
        order = np.lexsort((squares, self.group))
        return order[self.starts][self.group]

    def _apart(self, leaders: Positions) -> dd.Pair:
        """(pairs, d) The leader's key less the pair's in the leader's coordinates, over a power of two of each query,
        which makes the largest about 1: a small difference times a small one would vanish at 1e155 bandwidths."""
        keys, others, exponents = self.keys, self.keys[leaders], self.exponents[leaders]
        large = 4 * (np.maximum(np.abs(others), np.abs(keys)) > 2.0**1000)
        apart = dd.two_sum(np.ldexp(others, -large), -np.ldexp(keys, -large))
        powers = np.where(apart[0] == 0, -8192, np.frexp(apart[0])[1] + large - exponents).max(axis=1)
        highest = np.maximum.reduceat(powers, self.starts)
        # other squares are compared as they are
        mixed = np.logical_or.reduceat(self.scales != self.scales[leaders], self.starts)
        shift = large - exponents - np.where(mixed | (highest == -8192), 0, highest)[self.group, None]
        return np.ldexp(apart[0], shift), np.ldexp(apart[1], shift)

    def plausible(self) -> NDArray[np.bool_]:
        """(pairs,) which may be the nearest, by differences of squares in float64; bandwidths are no matrix."""
        d, inverse = self.keys.shape[1], 1.0 / self.view.root
        z, of_scale = self.difference[0] * inverse, 1.0 / np.square(self.mantissas)
        squares = np.square(z).sum(axis=1) * of_scale
        leaders = self._leaders(squares)
        same = self.scales == self.scales[leaders]
        apart, both = self._apart(leaders)[0] * inverse, z + z[leaders]
        size = (np.abs(apart) * (np.abs(z) + np.abs(z[leaders]))).sum(axis=1) * of_scale
        delta = np.where(same, (apart * both).sum(axis=1) * of_scale, squares - squares[leaders])
        error = 8 * (d + 8) * UNIT * np.where(same, size, squares + squares[leaders])
        delta, error = np.where(np.isfinite(delta), delta, np.inf), np.where(np.isfinite(delta), error, 0.0)
        least = np.minimum.reduceat(delta + error, self.starts)[self.group]
        return np.asarray(delta - error <= least)

    def first_of_least(self) -> Positions:
        """(queries,) The position of each query's nearest key."""
        reciprocal = dd.reciprocal(self.mantissas)
        of_scale = dd.multiply(reciprocal, reciprocal)
        scores, of_scores = self.view.form_of(self.difference, self.difference)
        squares = dd.multiply(scores, of_scale)
        leaders = self._leaders(squares[0])
        of_leader = tuple(part[leaders] for part in self.difference)
        products, of_products = self.view.form_of(self._apart(leaders), dd.add(self.difference, of_leader))
        close = dd.multiply(products, of_scale)
        wide = dd.add(squares, dd.negate(tuple(part[leaders] for part in squares)))
        same = self.scales == self.scales[leaders]
        high, low = (np.where(same, a, b) for a, b in zip(close, wide, strict=True))
        bad = ~np.isfinite(high + low)
        high, low = np.where(bad, np.inf, high), np.where(bad, 0.0, low)
        best = np.lexsort((low, high, self.group))[self.starts][self.group]
        excess = (high - high[best]) + (low - low[best])
        of_scores += TIE * scores[0]  # the scales' own rounding
        error = np.where(same, of_products + TIE * np.abs(products[0]), of_scores + of_scores[leaders]) * of_scale[0]
        tied = (excess <= error + error[best]) & ~bad
        tied[best] = True
        return np.minimum.reduceat(np.where(tied, self.positions, np.iinfo(np.intp).max), self.starts)
