"""Selects the key nearest to a query among candidates, without rounding.

Candidates are compared by u_i² − u_0² = Σ_j (k_0j − k_ij)(2 q_j − k_0j − k_ij)/h_j² with a leader 0. This has no large
term, unlike u² at 1e9 bandwidths. It is computed in double-double arithmetic, in coordinates scaled by powers of two,
so that no square overflows or underflows.
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
# With more candidates for a query than this, all keys become candidates.
MAX_LISTED_CANDIDATES = 1 << 12
# Number of candidates compared at a time.
SLICE_CANDIDATES = 1 << 14
# Bound on the relative rounding of a double-double number by its multiplication with a scale.
SCALE_ROUNDING = 2.0**-88


def settled(
    problem: Problem, view: View, rows: Positions, present: Positions, candidates: list[Positions | None]
) -> Positions:
    """The nearest key of each query's candidates."""
    nearest_keys = np.full(len(rows), -1)
    listed_rows, listed = [], []
    for i, positions in enumerate(candidates):
        if positions is None or len(positions) > MAX_LISTED_CANDIDATES:
            nearest_keys[i] = _nearest_of_many(problem, view, rows[i], present if positions is None else positions)
        elif len(positions) == 1:
            nearest_keys[i] = positions[0]
        elif len(positions):
            listed_rows.append(i)
            listed.append(positions)
    for part in _slices([len(positions) for positions in listed]):
        check_stop()
        chosen = np.array(listed_rows[part])
        nearest_keys[chosen] = _nearest_of_lists(problem, view, rows[chosen], listed[part])
    return nearest_keys


def _slices(sizes: list[int]) -> Iterator[slice]:
    """Slices of the lists that have about SLICE_CANDIDATES entries together."""
    start, total = 0, 0
    for i, size in enumerate(sizes):
        total += size
        if total >= SLICE_CANDIDATES or i == len(sizes) - 1:
            yield slice(start, i + 1)
            start, total = i + 1, 0


def _nearest_of_many(problem: Problem, view: View, row: int, positions: Positions) -> int:
    """The nearest key of any number of candidates, slice by slice."""
    if problem.exclude_self:
        positions = positions[positions != row]
    one = np.array([row])
    while len(positions) > 1:
        winners = []
        for start in range(0, len(positions), SLICE_CANDIDATES):
            check_stop()
            winners.append(_nearest_of_lists(problem, view, one, [positions[start : start + SLICE_CANDIDATES]]))
        positions = np.concatenate(winners)
    return int(positions[0]) if len(positions) else -1


def _nearest_of_lists(problem: Problem, view: View, rows: Positions, lists: list[Positions]) -> Positions:
    """The nearest key of each query's list, which is not empty; among ties, the first key."""
    sizes = np.array([len(positions) for positions in lists])
    pairs = _Pairs.of(problem, view, rows, np.concatenate(lists), sizes)
    if view.root.ndim == 1 and len(pairs.positions) > 8 * len(rows):
        pairs = pairs.only(pairs.plausible())
    return pairs.nearest()


@dataclass(frozen=True)
class _Pairs:
    """Pairs of queries and candidates, in coordinates in which each query's nearest candidate is about 1 away.

    Attributes
    ----------
    positions : (pairs,) intp
        The candidates, ascending for each query.
    starts : (queries,) intp
        Where each query's pairs begin.
    group : (pairs,) intp
        The query of each pair.
    keys : (pairs, d) float64
    exponents : (pairs, d) int
        Powers of two by which coordinates are divided: of the bandwidth, the nearest distance and λ.
    difference : (pairs, d) double-double
        Query minus key, divided by them.
    scales, mantissas : (pairs,) float64
        λ, and λ divided by its own power of two.
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
        mantissas, scale_powers = np.frexp(scales)
        halves = queries / 2 - keys / 2  # cannot overflow
        powers = np.where(halves == 0, -8192, np.frexp(halves)[1] + 1 - view.exponents).max(axis=1) - scale_powers
        power = np.minimum.reduceat(powers, starts)[group]
        exponents = (view.exponents + (power + scale_powers)[:, None]).astype(np.intp)
        halvings = 4 * (np.maximum(np.abs(queries), np.abs(keys)) > 2.0**1000)
        exact_difference = dd.two_sum(np.ldexp(queries, -halvings), -np.ldexp(keys, -halvings))
        difference = tuple(np.ldexp(part, halvings - exponents) for part in exact_difference)
        return cls(view, positions, starts, group, keys, exponents, difference, scales, mantissas)

    def only(self, selected: NDArray[np.bool_]) -> _Pairs:
        """Only the selected pairs; each query must keep at least one pair."""
        group = self.group[selected]
        return _Pairs(
            self.view,
            self.positions[selected],
            np.searchsorted(group, np.arange(len(self.starts))),
            group,
            self.keys[selected],
            self.exponents[selected],
            (self.difference[0][selected], self.difference[1][selected]),
            self.scales[selected],
            self.mantissas[selected],
        )

    def _leaders(self, squares: Floats) -> Positions:
        """(pairs,) The pair with the smallest square among those of the same query."""
        squares = np.where(np.isfinite(squares), squares, np.inf)
        order = np.lexsort((squares, self.group))
        return order[self.starts][self.group]

    def _leader_difference(self, leaders: Positions) -> dd.Pair:
        """(pairs, d) The leader's key minus the pair's in the leader's coordinates, divided by a power of two of each
        query that makes the largest about 1: products of small differences would underflow at 1e155 bandwidths."""
        keys, others, exponents = self.keys, self.keys[leaders], self.exponents[leaders]
        halvings = 4 * (np.maximum(np.abs(others), np.abs(keys)) > 2.0**1000)
        difference = dd.two_sum(np.ldexp(others, -halvings), -np.ldexp(keys, -halvings))
        powers = np.where(difference[0] == 0, -8192, np.frexp(difference[0])[1] + halvings - exponents).max(axis=1)
        highest = np.maximum.reduceat(powers, self.starts)
        # queries with candidates of several scales compare squares, which need no such power
        several_scales = np.logical_or.reduceat(self.scales != self.scales[leaders], self.starts)
        shift = halvings - exponents - np.where(several_scales | (highest == -8192), 0, highest)[self.group, None]
        return np.ldexp(difference[0], shift), np.ldexp(difference[1], shift)

    def plausible(self) -> NDArray[np.bool_]:
        """(pairs,) Whether a key may be the nearest, by float64 differences of squares; without a bandwidth matrix."""
        d, inverse = self.keys.shape[1], 1.0 / self.view.root
        z, scale_factor = self.difference[0] * inverse, 1.0 / np.square(self.mantissas)
        squares = np.square(z).sum(axis=1) * scale_factor
        leaders = self._leaders(squares)
        same_scale = self.scales == self.scales[leaders]
        difference, sum_of_differences = self._leader_difference(leaders)[0] * inverse, z + z[leaders]
        size = (np.abs(difference) * (np.abs(z) + np.abs(z[leaders]))).sum(axis=1) * scale_factor
        delta = np.where(
            same_scale, (difference * sum_of_differences).sum(axis=1) * scale_factor, squares - squares[leaders]
        )
        error = 8 * (d + 8) * UNIT * np.where(same_scale, size, squares + squares[leaders])
        delta, error = np.where(np.isfinite(delta), delta, np.inf), np.where(np.isfinite(delta), error, 0.0)
        min_upper = np.minimum.reduceat(delta + error, self.starts)[self.group]
        return np.asarray(delta - error <= min_upper)

    def nearest(self) -> Positions:
        """(queries,) Position of each query's nearest key."""
        reciprocal = dd.reciprocal(self.mantissas)
        scale_factor = dd.multiply(reciprocal, reciprocal)
        scores, score_errors = self.view.form_of(self.difference, self.difference)
        squares = dd.multiply(scores, scale_factor)
        leaders = self._leaders(squares[0])
        leader_difference = tuple(part[leaders] for part in self.difference)
        products, product_errors = self.view.form_of(
            self._leader_difference(leaders), dd.add(self.difference, leader_difference)
        )
        by_difference = dd.multiply(products, scale_factor)
        by_squares = dd.add(squares, dd.negate(tuple(part[leaders] for part in squares)))
        same_scale = self.scales == self.scales[leaders]
        high, low = (np.where(same_scale, a, b) for a, b in zip(by_difference, by_squares, strict=True))
        not_finite = ~np.isfinite(high + low)
        high, low = np.where(not_finite, np.inf, high), np.where(not_finite, 0.0, low)
        best = np.lexsort((low, high, self.group))[self.starts][self.group]
        excess = (high - high[best]) + (low - low[best])
        score_errors += SCALE_ROUNDING * scores[0]  # the rounding of the scales
        error = (
            np.where(
                same_scale, product_errors + SCALE_ROUNDING * np.abs(products[0]), score_errors + score_errors[leaders]
            )
            * scale_factor[0]
        )
        tied = (excess <= error + error[best]) & ~not_finite
        tied[best] = True
        return np.minimum.reduceat(np.where(tied, self.positions, np.iinfo(np.intp).max), self.starts)
