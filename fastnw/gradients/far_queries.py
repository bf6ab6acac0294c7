"""Gradient sums of queries whose exponents have lost their digits, one query at a time, in NumPy.

At 10⁶ bandwidths float64 knows u² to 10⁻⁴, and a gradient is a small difference of terms as large as u or u². Both are
cured by a leading key 0, as in `fastnw.methods.tails.method`: weights p come from exponents relative to its own, in
double-double arithmetic, and

    Σ_j p_j r_j G_j = Σ_j p_j r_j (G_j − G_0) + G_0 Σ_j p_j r_j,    r_j = α·(v_j − f) + ∂L/∂log mass,

where the last sum is ∂L/∂log mass, since f is the mean of these very weights. G_j is the gradient of −log κ, to 32
digits.

Compact kernels come here when every key in the window is near its edge, where 1 − u² has lost its digits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fastnw.arithmetic import doubledouble as dd
from fastnw.core.pack import pack_queries
from fastnw.core.problem import Problem
from fastnw.gradients.forces import Forces, forces, power_of_slope
from fastnw.gradients.totals import KeySums, QuerySums
from fastnw.methods.scoring import Scoring
from fastnw.methods.tails import method as tails
from fastnw.methods.tails.leading_key import LOWEST, SLICE, View, edge_distances, lead, log_weights
from fastnw.planner import make_plan
from fastnw.runtime.threads import check_stop

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

REACH = 760.0  # nats below the leading key from which on a weight is 0 in float64
FAR = 1e-8  # bound on the relative error of a weight from which on float64 exponents do not do
# −log of the mean κ from which on they do not do either: gradients cancel to 1/u² of their terms, of which those that
# decay like e^−u leave eight digits at u = 2,000.
DEPTH, DEPTH_OF_QUADRATIC_FORMS, DEPTH_OF_HEAVY_TAILS = 2e3, 2e4, 23.0
BATCH = 1 << 22  # pairs scored at a time, or one query's
NEAR_EDGE = 1e-6  # 1 − u² below which less than ten of its digits are left


def are_far(problem: Problem, positions: Rows, log_mass: Floats) -> NDArray[np.bool_]:
    """(p,) Which of the queries at `positions` are to be summed here."""
    kernel = problem.kernel
    if not tails.known(kernel):
        return np.zeros(len(positions), bool)
    relative = log_mass - problem.log_largest_weight
    if kernel.facts.log_ratio is None:
        assert kernel.facts.edge is not None
        return np.exp(relative) < 8 * float(kernel.facts.edge(np.full(1, NEAR_EDGE))[0])
    limit = DEPTH_OF_QUADRATIC_FORMS if kernel.facts.quadratic_form else DEPTH
    nats, limit = depth(problem, log_mass), DEPTH_OF_HEAVY_TAILS if kernel.facts.heavy_tailed else limit
    if not kernel.inner_product and problem.metric.cholesky is None:
        return nats > limit
    queries, scoring = pack_queries(problem, positions, np.float64), _scoring(problem)
    error = scoring.score_error(queries, np.dtype(np.float64))
    if kernel.inner_product:  # its terms may be large where their sum is not
        return ~((error <= FAR) & (error <= limit * (problem.d + 4) * 2.0**-53))
    if kernel.works_on_logs:
        error = scoring.nats(queries, np.maximum(nats, 0.0))
    return (nats > limit) | ~(error <= FAR)


def _scoring(problem: Problem) -> Scoring:
    return Scoring.of(problem, make_plan(problem, "exact", "auto", 1))


def depth(problem: Problem, log_mass: Floats) -> Floats:
    """(p,) −log of the largest κ, at least, or for heavy tails of the mean κ."""
    largest = problem.log_largest_weight
    if problem.kernel.works_on_logs or problem.kernel.support is not None:
        return largest - log_mass
    return largest + math.log(problem.total_weight or 1.0) - log_mass


@dataclass(frozen=True)
class Pairs:
    """One query's pairs with the keys that can matter, J of them.

    Attributes
    ----------
    row : int
        Index among the queries asked for.
    query : int
        Position in ``problem.queries``.
    view : View
        The coordinates of `forces`.
    positions : (J,) int array
    logs : (J,) float64
        log κ/mass, the mass in units of the largest weight.
    share : (J,) float64
        w κ/mass; 0 for a key without weight.
    """

    row: int
    query: int
    view: View
    positions: Rows
    logs: Floats
    share: Floats

    def pulls(self, values: Floats, alpha: Floats, by_log_mass: float) -> Floats:
        """(J,) α·(v_j − f) + ∂L/∂log mass."""
        relative = values - values[self.share.argmax()]
        return np.asarray((relative - self.share @ relative) @ alpha + by_log_mass)

    def parts(self) -> Iterator[tuple[slice, Forces]]:
        """Slices of the pairs, and their forces."""
        step = max(SLICE // self.view.problem.d, 1)
        for start in range(0, len(self.positions), step):
            part = slice(start, start + step)
            yield part, forces(self.view, self.query, self.positions[part])


def add_to_queries(
    problem: Problem, positions: Rows, rows: Rows, alpha: Floats, by_log_mass: Floats, sums: QuerySums
) -> None:
    """Fill the rows `rows` of `sums`, those of the queries at ``positions[rows]``, and add to its outer products."""
    with np.errstate(all="ignore"):
        for pairs in _pairs(problem, positions, rows, without_weights=False):
            view, i = pairs.view, pairs.row
            root, power = view.root, view.power + power_of_slope(view)
            pull = pairs.share * pairs.pulls(_values(problem, pairs, alpha), alpha[i], by_log_mass[i])
            moved, squares, outer = _sums(pairs, pull, by_log_mass[i], root.ndim == 2 or sums.outer is not None)
            sums.moved[i] = np.ldexp(moved * root if root.ndim == 1 else moved @ root, power)
            if outer is not None:
                whitened = root[:, None] * outer * root if root.ndim == 1 else root.T @ outer @ root
                squares = squares if root.ndim == 1 else np.diag(whitened) / (2 if problem.kernel.inner_product else 1)
                if sums.outer is not None:
                    sums.outer[...] += np.ldexp(whitened, power + view.power)
            sums.squares[i] = np.ldexp(squares, power + view.power)


def add_to_keys(
    problem: Problem,
    positions: Rows,
    rows: Rows,
    alpha: Floats,
    by_log_mass: Floats,
    factors: Floats | None,
    sums: KeySums,
) -> None:
    """Add the part of the queries at ``positions[rows]`` to `sums`, in their order.

    `factors` (n,) are logarithms to add to those of κ in place of the weights', if these are left out.
    """
    with np.errstate(all="ignore"):
        for pairs in _pairs(problem, positions, rows, without_weights=factors is not None):
            view, i, keys = pairs.view, pairs.row, pairs.positions
            pull = pairs.pulls(_values(problem, pairs, alpha), alpha[i], by_log_mass[i])
            share = pairs.share if factors is None else np.exp(pairs.logs + factors[keys])
            pull = np.where(pull == 0, 0.0, share * pull)
            sums.values[keys] += share[:, None] * alpha[i]
            sums.weights[keys] += pull
            root, power = view.root, view.power + power_of_slope(view)
            for part, force in pairs.parts():
                vector = force.vector[0]
                if problem.kernel.inner_product:
                    vector = force.applied[0] * force.factor[:, None]
                moved = vector * root if root.ndim == 1 else vector @ root
                sums.moved[keys[part]] += np.ldexp(pull[part, None] * moved, power)
                squares = pull[part] * force.products[0].sum(axis=1)
                sums.squares[keys[part]] += np.ldexp(squares, power + view.power)


def _values(problem: Problem, pairs: Pairs, alpha: Floats) -> Floats:
    """(J, c) The keys' values; no columns where they play no part."""
    return problem.values[pairs.positions, : alpha.shape[1]].astype(np.float64)


def _sums(pairs: Pairs, pull: Floats, by_log_mass: float, with_outer: bool) -> tuple[Floats, Floats, Floats | None]:
    """Σ pull_j times the vectors, times their products with differences (d,), and times outer products (d, d)."""
    kernel, leader = pairs.view.problem.kernel, pairs.positions[pairs.share.argmax(), None]
    first = forces(pairs.view, pairs.query, leader)
    moved, squares = by_log_mass * first.vector[0][0], by_log_mass * first.products[0][0]
    outer = by_log_mass * np.outer(first.vector[0], first.applied[0]) if with_outer else None
    for part, force in pairs.parts():
        change = _difference(force.vector, first.vector)
        moved = moved + pull[part] @ change
        squares = squares + pull[part] @ _difference(force.products, first.products)
        if outer is not None and not kernel.inner_product:
            outer += (pull[part, None] * change).T @ force.applied[0]
            outer += np.outer(first.vector[0], pull[part] @ _difference(force.applied, first.applied))
    if outer is not None and kernel.inner_product:
        outer = np.outer(moved, first.applied[0])
        outer = outer + outer.T
    return moved, squares, outer


def _difference(one: dd.Pair, other: dd.Pair) -> Floats:
    first, second = dd.add(one, dd.negate(other))
    return np.asarray(first + second)


def _pairs(problem: Problem, positions: Rows, rows: Rows, without_weights: bool) -> Iterator[Pairs]:
    """The pairs of one query after another; none for an empty window."""
    bare = replace(problem, weights=None, by_volume=False)  # κ by itself
    scoring = _scoring(bare)
    view, weights = View.of(bare), log_weights(problem, slice(None))
    batch = max(BATCH // problem.n, 1)
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        for i, scores in zip(some, _scored(scoring, view, positions[some]), strict=True):
            check_stop()
            query = int(positions[i])
            found = (_within if bare.kernel.facts.log_ratio is None else _decaying)(
                scoring, view, query, scores, weights, without_weights
            )
            if found is None:
                continue
            used, keys, logs = found
            relative = logs + weights[keys]
            top = relative.max()
            share = np.exp(relative - top)
            total = share.sum()
            yield Pairs(int(i), query, used, keys, logs - top - np.log(total), share / total)


def _scored(scoring: Scoring, view: View, queries: Rows) -> Floats:
    """(queries, n) log κ in plain float64, NaN for a key to be left out; u² for a compact kernel."""
    facts = scoring.problem.kernel.facts
    if facts.log_ratio is not None:
        blocks = [logs for _, logs in tails._plain_logs(scoring, view, queries)]
        scores = np.concatenate(blocks, axis=1)
        scores[scores == -np.inf] = np.nan
        return scores
    return np.concatenate([squares for _, squares in tails._scores(scoring, view, queries)], axis=1)


def _decaying(
    scoring: Scoring, view: View, query: int, plain: Floats, weights: Floats, without_weights: bool
) -> tuple[View, Rows, Floats] | None:
    """The view used, the keys that can matter, and their log κ less one key's."""
    problem, row = scoring.problem, np.array([query])
    weighted = plain + weights
    weighted[np.isnan(weighted)] = -np.inf
    top = int(weighted.argmax())
    best = float(weighted[top])
    if best == -np.inf:
        return None
    leader = lead(view, query, top)
    if view.beyond(leader):
        present = replace(problem, weights=(weights > -np.inf).astype(np.float64))
        scaled = view.scaled(tails._power(replace(view, problem=present), query, leader))
        return _decaying(scoring, scaled, query, _scored(scoring, scaled, row)[0], weights, without_weights)
    lowest = best - REACH - 2 * _error_of_logs(scoring, view, row, 2.0 + REACH - max(best, LOWEST))
    counted = plain if without_weights else weighted
    kept = np.flatnonzero(~(counted < lowest) & (counted > -np.inf))  # an error that is not known: all may matter
    for _ in range(tails.MOST_LEADERS):
        logs, _ = tails._ratios(view, query, leader, kept, REACH)
        first = int(np.argmax(logs + weights[kept]))
        if not logs[first] + weights[kept][first] > weights[leader.position] + 1.0:
            break
        leader = lead(view, query, int(kept[first]))  # plain float64 was wrong by so much that logarithms round
    return view, kept, logs


def _error_of_logs(scoring: Scoring, view: View, row: Rows, depth: float) -> float:
    """Bound on the error of a query's plain logarithms down to that depth."""
    problem, queries = scoring.problem, pack_queries(scoring.problem, row, np.float64)
    if view.power:
        return view.square_error * depth
    if problem.kernel.works_on_logs and not problem.kernel.inner_product:
        return float(scoring.nats(queries, np.array([depth]))[0])
    error = float(scoring.score_error(queries, np.dtype(np.float64))[0])
    return error if problem.kernel.inner_product else error * depth


def _within(
    scoring: Scoring, view: View, query: int, squares: Floats, weights: Floats, without_weights: bool
) -> tuple[View, Rows, Floats] | None:
    """The same for a compact kernel: log κ of the keys in the window."""
    queries = pack_queries(scoring.problem, np.array([query]), np.float64)
    outside = 1.0 + 1e-6 + 2 * scoring.score_error(queries, np.dtype(np.float64))[0]
    near = np.flatnonzero(~(squares > outside) & (without_weights | (weights > -np.inf)))
    if scoring.problem.exclude_self:
        near = near[near != query]
    y, error, square = edge_distances(view, query, near)
    inside = y > tails.MIN_EDGE_DISTANCE
    near = near[inside]
    if not np.any(weights[near] > -np.inf):
        return None
    kappa, _ = tails._bounded_kappa(scoring.problem.kernel, y[inside], error[inside], square[inside])
    return view, near, np.log(kappa)
