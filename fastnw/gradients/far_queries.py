"""Gradient sums of queries for which float64 exponents are not accurate enough, one query at a time, in NumPy.

At 10⁶ bandwidths the error of u² in float64 is 10⁻⁴, and a gradient is a small difference of terms as large as u or u².
Both problems are solved by a leading key 0, as in `fastnw.methods.tails.method`. The weights p come from exponents
relative to that of the leading key, in double-double arithmetic, and

    Σ_j p_j r_j G_j = Σ_j p_j r_j (G_j − G_0) + G_0 Σ_j p_j r_j,    r_j = α·(v_j − f) + ∂L/∂log mass.

The last sum equals ∂L/∂log mass, because f is the mean under the weights p. G_j is the gradient of −log κ, with
32 digits.

For compact kernels, this module sums the queries whose keys all lie near the edge of the window, where rounding takes
the digits of 1 − u².
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

NEGLIGIBLE_NATS = 760.0  # A weight that is so far below the leading key's is 0 in float64.
MAX_WEIGHT_ERROR = 1e-8  # Largest relative error of weights for which float64 exponents are accurate enough.
# Largest −log of the mean κ for which float64 exponents are accurate enough. Gradients cancel to 1/u² of their terms:
# for kernels that decay like e^−u, eight digits are left at u = 2,000.
MAX_NATS, MAX_NATS_OF_QUADRATIC_FORMS, MAX_NATS_OF_HEAVY_TAILS = 2e3, 2e4, 23.0
BATCH_PAIRS = 1 << 22  # Pairs that are scored together, if one query does not have more.
NEAR_EDGE = 1e-6  # Below this value of 1 − u², fewer than ten of its digits are right.


def are_far(problem: Problem, positions: Rows, log_mass: Floats) -> NDArray[np.bool_]:
    """Return which of the queries at `positions` this module has to sum: (p,) booleans."""
    kernel = problem.kernel
    if not tails.known(kernel):
        return np.zeros(len(positions), bool)
    relative = log_mass - problem.log_largest_weight
    if kernel.facts.log_ratio is None:
        assert kernel.facts.edge is not None
        return np.exp(relative) < 8 * float(kernel.facts.edge(np.full(1, NEAR_EDGE))[0])
    nats, limit = depth(problem, log_mass), MAX_NATS
    if kernel.facts.quadratic_form:
        limit = MAX_NATS_OF_QUADRATIC_FORMS
    if kernel.facts.heavy_tailed:
        limit = MAX_NATS_OF_HEAVY_TAILS
    if not kernel.inner_product and problem.metric.cholesky is None:
        return nats > limit
    queries, scoring = pack_queries(problem, positions, np.float64), _scoring(problem)
    error = scoring.score_error(queries, np.dtype(np.float64))
    if kernel.inner_product:  # the terms may be large although their sum is not
        return ~((error <= MAX_WEIGHT_ERROR) & (error <= limit * (problem.d + 4) * 2.0**-53))
    if kernel.works_on_logs:
        error = scoring.nats(queries, np.maximum(nats, 0.0))
    return (nats > limit) | ~(error <= MAX_WEIGHT_ERROR)


def _scoring(problem: Problem) -> Scoring:
    return Scoring.of(problem, make_plan(problem, "exact", "auto", 1))


def depth(problem: Problem, log_mass: Floats) -> Floats:
    """Return an upper bound on −log of each query's largest κ (p,); for heavy tails, −log of the mean κ."""
    largest = problem.log_largest_weight
    if problem.kernel.works_on_logs or problem.kernel.support is not None:
        return largest - log_mass
    return largest + math.log(problem.total_weight or 1.0) - log_mass


@dataclass(frozen=True)
class Pairs:
    """The pairs of one query with the J keys whose weights are not negligible.

    Attributes
    ----------
    row : int
        Row of the query in `QuerySums`.
    query : int
        Position in ``problem.queries``.
    view : View
        The coordinates in which `forces` are computed.
    positions : (J,) int array
    logs : (J,) float64
        log(κ/mass), with the mass in units of the largest weight.
    share : (J,) float64
        w κ/mass; 0 for a key whose weight is 0.
    """

    row: int
    query: int
    view: View
    positions: Rows
    logs: Floats
    share: Floats

    def pulls(self, values: Floats, alpha: Floats, by_log_mass: float) -> Floats:
        """Return r_j = α·(v_j − f) + ∂L/∂log mass: (J,)."""
        relative = values - values[self.share.argmax()]
        return np.asarray((relative - self.share @ relative) @ alpha + by_log_mass)

    def parts(self) -> Iterator[tuple[slice, Forces]]:
        """Yield slices of the pairs with their forces, so that few double-double arrays exist at one time."""
        step = max(SLICE // self.view.problem.d, 1)
        for start in range(0, len(self.positions), step):
            part = slice(start, start + step)
            yield part, forces(self.view, self.query, self.positions[part])


def add_to_queries(
    problem: Problem, positions: Rows, rows: Rows, alpha: Floats, by_log_mass: Floats, sums: QuerySums
) -> None:
    """Write the sums of the queries at ``positions[rows]`` into rows `rows` of `sums`; add to the outer products."""
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
    """Add the contributions of the queries at ``positions[rows]``, in this order, to `sums`.

    `factors` (n,), if given, replace the logarithms of the keys' weights.
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
    """Return the values of the keys as float64 (J, c), with c = 0 if the loss does not depend on the means."""
    return problem.values[pairs.positions, : alpha.shape[1]].astype(np.float64)


def _sums(pairs: Pairs, pull: Floats, by_log_mass: float, with_outer: bool) -> tuple[Floats, Floats, Floats | None]:
    """Return the sums, weighted with `pull`, of force vectors (d,), their products (d,) and outer products (d, d)."""
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
    """Yield the pairs of each query in turn; queries with empty windows are skipped."""
    unweighted = replace(problem, weights=None, by_volume=False)  # scores are log κ without the weights
    scoring = _scoring(unweighted)
    view, weights = View.of(unweighted), log_weights(problem, slice(None))
    batch = max(BATCH_PAIRS // problem.n, 1)
    for start in range(0, len(rows), batch):
        batch_rows = rows[start : start + batch]
        for i, scores in zip(batch_rows, _scored(scoring, view, positions[batch_rows]), strict=True):
            check_stop()
            query = int(positions[i])
            select = _keys_in_window if unweighted.kernel.facts.log_ratio is None else _significant_keys
            selected = select(scoring, view, query, scores, weights, without_weights)
            if selected is None:
                continue
            used, keys, logs = selected
            relative = logs + weights[keys]
            top = relative.max()
            share = np.exp(relative - top)
            total = share.sum()
            yield Pairs(int(i), query, used, keys, logs - top - np.log(total), share / total)


def _scored(scoring: Scoring, view: View, queries: Rows) -> Floats:
    """Return log κ in float64 (queries, n), with NaN for excluded keys; u² instead for a compact kernel."""
    facts = scoring.problem.kernel.facts
    if facts.log_ratio is not None:
        blocks = [logs for _, logs in tails._plain_logs(scoring, view, queries)]
        scores = np.concatenate(blocks, axis=1)
        scores[scores == -np.inf] = np.nan
        return scores
    return np.concatenate([squares for _, squares in tails._scores(scoring, view, queries)], axis=1)


def _significant_keys(
    scoring: Scoring, view: View, query: int, plain: Floats, weights: Floats, without_weights: bool
) -> tuple[View, Rows, Floats] | None:
    """Return a view, the keys whose weights are not negligible, and log κ of each relative to the leading key."""
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
        return _significant_keys(scoring, scaled, query, _scored(scoring, scaled, row)[0], weights, without_weights)
    lowest = best - NEGLIGIBLE_NATS - 2 * _error_of_logs(scoring, view, row, 2.0 + NEGLIGIBLE_NATS - max(best, LOWEST))
    counted = plain if without_weights else weighted
    kept = np.flatnonzero(~(counted < lowest) & (counted > -np.inf))  # if the error is NaN, all keys remain
    for _ in range(tails.MOST_LEADERS):
        logs, _ = tails._ratios(view, query, leader, kept, NEGLIGIBLE_NATS)
        first = int(np.argmax(logs + weights[kept]))
        if not logs[first] + weights[kept][first] > weights[leader.position] + 1.0:
            break
        leader = lead(view, query, int(kept[first]))  # float64 had chosen a leading key that is too light
    return view, kept, logs


def _error_of_logs(scoring: Scoring, view: View, row: Rows, depth: float) -> float:
    """Return a bound on the error of one query's float64 logarithms that are at least −`depth`."""
    problem, queries = scoring.problem, pack_queries(scoring.problem, row, np.float64)
    if view.power:
        return view.square_error * depth
    if problem.kernel.works_on_logs and not problem.kernel.inner_product:
        return float(scoring.nats(queries, np.array([depth]))[0])
    error = float(scoring.score_error(queries, np.dtype(np.float64))[0])
    return error if problem.kernel.inner_product else error * depth


def _keys_in_window(
    scoring: Scoring, view: View, query: int, squares: Floats, weights: Floats, without_weights: bool
) -> tuple[View, Rows, Floats] | None:
    """Return the view, the keys in the window of a compact kernel, and log κ of each."""
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
