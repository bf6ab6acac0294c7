"""Gradient sums of far queries, whose float64 exponents are inaccurate: one query at a time, in NumPy.

At 10⁶ bandwidths u² has an error of 10⁻⁴ in float64, and a gradient is a small difference of terms as large as u or u².
A leading key 0 avoids both errors, as in `fastnw.methods.tails.method`: weights p are computed from exponents relative
to that of the leading key, in double-double arithmetic, and

    Σ_j p_j r_j G_j = Σ_j p_j r_j (G_j − G_0) + G_0 Σ_j p_j r_j,    r_j = α·(v_j − f) + ∂L/∂log mass,

where the last sum is ∂L/∂log mass, because f is the mean with the same weights. G_j is the gradient of −log κ in
double-double arithmetic, with 32 digits.

Queries of a compact kernel are summed here if every key in their window is near its edge, where 1 − u² is inaccurate in
float64.
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
from fastnw.gradients.forces import Forces, forces, power_of_derivative
from fastnw.gradients.totals import KeySums, QuerySums
from fastnw.methods.scoring import Scoring
from fastnw.methods.tails import method as tails
from fastnw.methods.tails.leading_key import LOWEST, SLICE, View, edge_distances, lead, log_weights
from fastnw.planner import make_plan
from fastnw.runtime.threads import check_stop

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

# A weight that is this many nats below the weight of the leading key is 0 in float64.
UNDERFLOW_NATS = 760.0
# Float64 exponents are not used if the bound on the relative error of a weight exceeds this one.
MAX_WEIGHT_ERROR = 1e-8
# Float64 exponents are not used if −log of the mean κ exceeds these nats: gradients cancel to 1/u² of their terms, and
# for kernels that decay as e^−u, eight digits remain at u = 2,000.
MAX_DEPTH_NATS, MAX_QUADRATIC_FORM_DEPTH_NATS, MAX_HEAVY_TAIL_DEPTH_NATS = 2e3, 2e4, 23.0
# The number of pairs that are scored at a time; at least one query is.
PAIRS_PER_BATCH = 1 << 22
# Below this 1 − u², float64 has less than ten of its digits.
MIN_ACCURATE_EDGE_DISTANCE = 1e-6


def are_far(problem: Problem, positions: Rows, log_mass: Floats) -> NDArray[np.bool_]:
    """Select the queries, of those at `positions`, that must be summed here; returns a mask (p,)."""
    kernel = problem.kernel
    if not tails.known(kernel):
        return np.zeros(len(positions), bool)
    relative = log_mass - problem.log_largest_weight
    if kernel.facts.log_ratio is None:
        assert kernel.facts.edge is not None
        return np.exp(relative) < 8 * float(kernel.facts.edge(np.full(1, MIN_ACCURATE_EDGE_DISTANCE))[0])
    limit = MAX_QUADRATIC_FORM_DEPTH_NATS if kernel.facts.quadratic_form else MAX_DEPTH_NATS
    limit = MAX_HEAVY_TAIL_DEPTH_NATS if kernel.facts.heavy_tailed else limit
    nats = depth(problem, log_mass)
    if not kernel.inner_product and problem.metric.cholesky is None:
        return nats > limit
    queries, scoring = pack_queries(problem, positions, np.float64), _scoring(problem)
    error = scoring.score_error(queries, np.dtype(np.float64))
    if kernel.inner_product:  # its terms may be larger than their sum
        return ~((error <= MAX_WEIGHT_ERROR) & (error <= limit * (problem.d + 4) * 2.0**-53))
    if kernel.works_on_logs:
        error = scoring.nats(queries, np.maximum(nats, 0.0))
    return (nats > limit) | ~(error <= MAX_WEIGHT_ERROR)


def _scoring(problem: Problem) -> Scoring:
    return Scoring.of(problem, make_plan(problem, "exact", "auto", 1))


def depth(problem: Problem, log_mass: Floats) -> Floats:
    """Bound −log of the largest κ from below, (p,); for heavy tails, compute −log of the mean κ."""
    largest = problem.log_largest_weight
    if problem.kernel.works_on_logs or problem.kernel.support is not None:
        return largest - log_mass
    return largest + math.log(problem.total_weight or 1.0) - log_mass


@dataclass(frozen=True)
class Pairs:
    """The pairs of one query with the J keys that contribute to its sums.

    Attributes
    ----------
    row : int
        Index of the query among those that are summed.
    query : int
        Position of the query in ``problem.queries``.
    view : View
        The coordinates of `forces`.
    positions : (J,) int array
    logs : (J,) float64
        log κ/mass, with the mass relative to the largest weight.
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
        """Compute r_j = α·(v_j − f) + ∂L/∂log mass, (J,)."""
        relative = values - values[self.share.argmax()]
        return np.asarray((relative - self.share @ relative) @ alpha + by_log_mass)

    def parts(self) -> Iterator[tuple[slice, Forces]]:
        """Yield slices of the pairs, and their forces."""
        step = max(SLICE // self.view.problem.d, 1)
        for start in range(0, len(self.positions), step):
            part = slice(start, start + step)
            yield part, forces(self.view, self.query, self.positions[part])


def add_to_queries(
    problem: Problem, positions: Rows, rows: Rows, alpha: Floats, by_log_mass: Floats, sums: QuerySums
) -> None:
    """Write `rows` of `sums`, for the queries at ``positions[rows]``, and add to its outer products."""
    with np.errstate(all="ignore"):
        for pairs in _pairs(problem, positions, rows, without_weights=False):
            view, i = pairs.view, pairs.row
            root, power = view.root, view.power + power_of_derivative(view)
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
    """Add the contributions of the queries at ``positions[rows]`` to `sums`, in their order.

    `factors` (n,), if given, are added to log κ in place of the log weights.
    """
    with np.errstate(all="ignore"):
        for pairs in _pairs(problem, positions, rows, without_weights=factors is not None):
            view, i, keys = pairs.view, pairs.row, pairs.positions
            pull = pairs.pulls(_values(problem, pairs, alpha), alpha[i], by_log_mass[i])
            share = pairs.share if factors is None else np.exp(pairs.logs + factors[keys])
            pull = np.where(pull == 0, 0.0, share * pull)
            sums.values[keys] += share[:, None] * alpha[i]
            sums.weights[keys] += pull
            root, power = view.root, view.power + power_of_derivative(view)
            for part, force in pairs.parts():
                vector = force.vector[0]
                if problem.kernel.inner_product:
                    vector = force.applied[0] * force.factor[:, None]
                moved = vector * root if root.ndim == 1 else vector @ root
                sums.moved[keys[part]] += np.ldexp(pull[part, None] * moved, power)
                squares = pull[part] * force.products[0].sum(axis=1)
                sums.squares[keys[part]] += np.ldexp(squares, power + view.power)


def _values(problem: Problem, pairs: Pairs, alpha: Floats) -> Floats:
    """Return the values of the keys, (J, c); without columns if `alpha` has none."""
    return problem.values[pairs.positions, : alpha.shape[1]].astype(np.float64)


def _sums(pairs: Pairs, pull: Floats, by_log_mass: float, with_outer: bool) -> tuple[Floats, Floats, Floats | None]:
    """Compute Σ_j p_j r_j times vectors, times differences (both (d,)), and outer products (d, d)."""
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
    """Yield the pairs of one query after the other, except queries with empty windows."""
    bare = replace(problem, weights=None, by_volume=False)  # κ without weights
    scoring = _scoring(bare)
    view, weights = View.of(bare), log_weights(problem, slice(None))
    batch = max(PAIRS_PER_BATCH // problem.n, 1)
    for start in range(0, len(rows), batch):
        batch_rows = rows[start : start + batch]
        for i, scores in zip(batch_rows, _scored(scoring, view, positions[batch_rows]), strict=True):
            check_stop()
            query = int(positions[i])
            contributing = (_within if bare.kernel.facts.log_ratio is None else _decaying)(
                scoring, view, query, scores, weights, without_weights
            )
            if contributing is None:
                continue
            pair_view, keys, logs = contributing
            relative = logs + weights[keys]
            top = relative.max()
            share = np.exp(relative - top)
            total = share.sum()
            yield Pairs(int(i), query, pair_view, keys, logs - top - np.log(total), share / total)


def _scored(scoring: Scoring, view: View, queries: Rows) -> Floats:
    """Compute log κ in float64, (queries, n), with NaN for a left-out key; for a compact kernel u²."""
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
    """Return a view, the keys that contribute, and their log κ relative to one key; None for an empty window."""
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
    lowest = best - UNDERFLOW_NATS - 2 * _log_error(scoring, view, row, 2.0 + UNDERFLOW_NATS - max(best, LOWEST))
    logs_with_bound = plain if without_weights else weighted
    # If the error is not known, the condition selects all keys.
    keys = np.flatnonzero(~(logs_with_bound < lowest) & (logs_with_bound > -np.inf))
    for _ in range(tails.MOST_LEADERS):
        logs, _ = tails._ratios(view, query, leader, keys, UNDERFLOW_NATS)
        first = int(np.argmax(logs + weights[keys]))
        if not logs[first] + weights[keys][first] > weights[leader.position] + 1.0:
            break
        leader = lead(view, query, int(keys[first]))  # the float64 scores selected a key far below the maximum
    return view, keys, logs


def _log_error(scoring: Scoring, view: View, row: Rows, depth: float) -> float:
    """Bound the error of a query's float64 log κ down to `depth` nats."""
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
    """Return a view, the keys in the window of a compact kernel, and their log κ; None for an empty window."""
    queries = pack_queries(scoring.problem, np.array([query]), np.float64)
    outside = 1.0 + 1e-6 + 2 * scoring.score_error(queries, np.dtype(np.float64))[0]
    near = np.flatnonzero(~(squares > outside) & (without_weights | (weights > -np.inf)))
    if scoring.problem.exclude_self:
        near = near[near != query]
    y, error, square = edge_distances(view, query, near)
    inside = y > tails.RIM
    near = near[inside]
    if not np.any(weights[near] > -np.inf):
        return None
    kappa, _ = tails._bounded_kappa(scoring.problem.kernel, y[inside], error[inside], square[inside])
    return view, near, np.log(kappa)
