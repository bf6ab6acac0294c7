"""Gradients of kernel-weighted means as sums over pairs, without arrays of size m × n.

With f_i = Σ_j w_j κ_ij v_j / mass_i, a loss L that depends on f and log mass has

    ∂L/∂κ_ij = w_j (α_i·v_j − γ_i)/mass_i,    α_i = ∂L/∂f_i,    γ_i = α_i·f_i − ∂L/∂log mass_i.

All its gradients are sums over pairs of p_ij = w_j κ_ij/mass_i, of E_ij = g_ij ∂L/∂κ_ij with g = −2 dκ/du², and of the
difference z_ij of query and key in bandwidths, u² = |z|²:

    ∂L/∂q_i     = −L⁻ᵀ QuerySums.moved_i        ∂L/∂k_j     = L⁻ᵀ KeySums.moved_j    (H = L Lᵀ; 1/h in place of L⁻ᵀ)
    ∂L/∂log h_a = Σ_i QuerySums.squares_ia      ∂L/∂v_j     = KeySums.values_j
    ∂L/∂H       = ½ L⁻ᵀ QuerySums.outer L⁻¹     ∂L/∂log w_j = KeySums.weights_j
                                                ∂L/∂log λ_j = KeySums.squares_j

The same formulas hold for inner products, with −2 q·k/s in place of u².

Terms of a gradient are as large as u or u², and they cancel. If no key is near a query, or if values are far from 0,
means and masses are therefore summed again in float64, relative to the centre of the values. If float64 exponents are
inaccurate, `far_queries` sums the query. Both need ∂L/∂log mass_i separately: without it (`by_log_mass`), the given f
and masses are used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fastnw.backends import gradients as gradient_tiles
from fastnw.backends.gradient_tiles import Keys, Queries
from fastnw.core import certify
from fastnw.core.model import Queries as ModelQueries
from fastnw.core.pack import aligned_rows, coordinates, pack_inverse, pack_scale, readable
from fastnw.core.problem import Problem
from fastnw.gradients import far_queries
from fastnw.gradients.totals import KeySums, QuerySums
from fastnw.methods import exact
from fastnw.methods.tails import method as tails
from fastnw.planner import make_model
from fastnw.runtime.threads import Meter, run

Floats = NDArray[np.float64]
Positions = NDArray[np.intp]

# The number of pairs of one task, unless it has MIN_TASK_ROWS queries or keys, or there are fewer than MIN_TASKS tasks.
TASK_PAIRS = 1 << 20
MIN_TASK_ROWS = 32
MIN_TASKS = 16
# Up to this number of pairs, one thread sums all of them, because the start of others takes longer.
SERIAL_PAIRS = 1 << 18
# The memory of the other side's packed rows (keys for sums by query, queries for sums by key).
SPAN_BYTES = 16 << 20
# The memory of the sums of outer products of all tasks.
OUTER_BYTES = 16 << 20
# Up to this −log κ in nats, a gradient does not amplify the error of its mean.
MAX_NEAR_NATS = 8.0
# Values are centred if |centre|/half exceeds this one.
MAX_VALUE_OFFSET = 8.0
# The largest relative error of the means in γ.
MAX_MEAN_ERROR = 1e-9
# Sums by key are divided by the weight of the key, but not by one whose logarithm is below this one.
MIN_LOG_DIVISOR = -650.0


def by_query(
    problem: Problem,
    positions: Positions,
    log_mass: Floats,
    alpha: Floats | None,
    gamma: Floats,
    n_threads: int,
    meter: Meter,
    *,
    outer: bool = False,
    backend: str = "auto",
    by_log_mass: Floats | None = None,
) -> QuerySums:
    """Sum over all keys for each query.

    Parameters
    ----------
    problem : Problem
        Its arrays are host arrays of any dtype. Sums are in float64.
    positions : (p,) int array
        Positions of the queries; with `exclude_self` the key at the same position is left out.
    log_mass : (p,) float64 array
        log Σ w κ of these queries. A query with −inf has sums of 0.
    alpha : (p, c) float64 array or None
        None if the loss does not depend on the means.
    gamma : (p,) float64 array
    n_threads : int
        Results are bitwise equal for all numbers of threads.
    meter : Meter
    outer : bool
        Whether to sum outer products.
    backend : str
        As in `fastnw.pool`; the NumPy backend replaces backends without gradient sums.
    by_log_mass : (p,) float64 array, optional
        ∂L/∂log mass. With it, γ and `log_mass` of queries far from keys are computed again.

    Returns
    -------
    sums : QuerySums
    """
    p, d = len(positions), problem.d
    terms = _terms(problem, positions, log_mass, alpha, gamma, by_log_mass, backend, meter)
    backend_tiles, inverse = gradient_tiles(backend, problem.kernel), pack_inverse(problem, np.float64)
    moved, squares = np.zeros((p, d)), np.zeros((p, d))
    tasks = _tasks(p, problem.n, OUTER_BYTES // (8 * d * d) if outer else p)
    outers = np.zeros((len(tasks), d, d)) if outer else None
    longer = 1 + d // 16 if outer else 1  # outer products take d times as long, and Ctrl-C is checked between spans
    for span in _spans(problem.n, _row_bytes(problem) * longer):
        keys = _keys(problem, span, terms)

        def task(i: int, keys: Keys = keys) -> float:
            rows = tasks[i]
            queries = _queries(problem, rows, terms)
            outer_sums = None if outers is None else outers[i]
            backend_tiles.add_to_queries(problem.kernel, inverse, queries, keys, moved[rows], squares[rows], outer_sums)
            return float(queries.size) * keys.size

        run(task, len(tasks), _threads(n_threads, p, keys.size), meter)
    sums = QuerySums(moved, squares, None if outers is None else outers.sum(axis=0))
    if len(terms.far):
        assert by_log_mass is not None
        far_queries.add_to_queries(problem, positions, terms.far, terms.alpha, by_log_mass, sums)
    return sums


def by_key(
    problem: Problem,
    positions: Positions,
    log_mass: Floats,
    alpha: Floats | None,
    gamma: Floats,
    n_threads: int,
    meter: Meter,
    *,
    backend: str = "auto",
    by_log_mass: Floats | None = None,
    by_weight: bool = False,
) -> KeySums:
    """Sum over the queries at `positions` for each key; parameters are as in `by_query`.

    With `by_weight`, the sums `weights` are ∂L/∂w_j, which is defined for a weight of 0 too.
    """
    n, d = problem.n, problem.d
    terms = _terms(problem, positions, log_mass, alpha, gamma, by_log_mass, backend, meter)
    c, factors = terms.alpha.shape[1], None
    if by_weight:
        factors = _log_factors(problem)
        terms = replace(terms, log_mass=terms.log_mass - problem.log_largest_weight)
    backend_tiles, inverse = gradient_tiles(backend, problem.kernel), pack_inverse(problem, np.float64)
    moved, values = np.zeros((n, d)), np.zeros((n, c))
    weights, squares = np.zeros(n), np.zeros(n)
    tasks = _tasks(n, len(positions), n)
    for span in _spans(len(positions), _row_bytes(problem)):
        queries = _queries(problem, span, terms)

        def task(i: int, queries: Queries = queries) -> float:
            rows = tasks[i]
            keys = _keys(problem, rows, terms, factors)
            backend_tiles.add_to_keys(
                problem.kernel, inverse, queries, keys, moved[rows], values[rows], weights[rows], squares[rows]
            )
            return float(queries.size) * keys.size

        run(task, len(tasks), _threads(n_threads, queries.size, n), meter)
    sums = KeySums(moved, values, weights, squares)
    if len(terms.far):
        assert by_log_mass is not None
        far_queries.add_to_keys(problem, positions, terms.far, terms.alpha, by_log_mass, factors, sums)
    return sums if factors is None else _weighted(problem, sums, factors)


@dataclass(frozen=True)
class _Terms:
    """The factors of the terms of gradient sums, with one row per query.

    Attributes
    ----------
    positions : (p,) int array
    log_mass : (p,) float64 array
        −inf for a query that is not summed in float64.
    alpha : (p, c) float64 array
    gamma : (p,) float64 array
        γ − α·`centre`.
    centre : (c,) float64 array
        The values of the terms are relative to it.
    far : (f,) int array
        Rows of the queries that `far_queries` sums.
    """

    positions: Positions
    log_mass: Floats
    alpha: Floats
    gamma: Floats
    centre: Floats
    far: NDArray[np.intp]


def _terms(
    problem: Problem,
    positions: Positions,
    log_mass: Floats,
    alpha: Floats | None,
    gamma: Floats,
    by_log_mass: Floats | None,
    backend: str,
    meter: Meter,
) -> _Terms:
    """Classify the queries by the accuracy of float64, and compute γ and log mass again where they are inaccurate."""
    alpha = np.zeros((len(positions), 0)) if alpha is None else alpha
    no_rows, centre = np.zeros(0, np.intp), np.zeros(alpha.shape[1])
    if by_log_mass is None:
        return _Terms(positions, log_mass, alpha, gamma, centre, no_rows)
    present = (log_mass > -np.inf) & (np.any(alpha != 0, axis=1) | (by_log_mass != 0))
    log_mass = np.where(present, log_mass, -np.inf)
    backend = "reference" if backend == "reference" else "auto"
    far, near = present & far_queries.are_far(problem, positions, log_mass), np.zeros(len(positions), bool)
    if alpha.shape[1]:
        middle, half = problem.values_centre
        centre = np.where(np.abs(middle) > MAX_VALUE_OFFSET * half, middle, 0.0)
        near = present & ~far & (np.any(centre != 0) | (far_queries.depth(problem, log_mass) > MAX_NEAR_NATS))
    rows = np.flatnonzero(near)
    if len(rows):
        gamma, keys = gamma.copy(), exact.keys_of(make_model(problem, "exact", backend, 1))
        state = exact.sweep(keys, ModelQueries(problem, positions[rows]), np.dtype(np.float64), meter)
        means, logs = middle - centre + half * state.means(), state.log_mass() + problem.log_largest_weight
        inaccurate = ~certify.accurate(problem, state, MAX_MEAN_ERROR)
        if tails.known(problem.kernel):
            far[rows[inaccurate]] = True
        rows, means, logs = rows[~inaccurate], means[~inaccurate], logs[~inaccurate]
        gamma[rows] = (alpha[rows] * means).sum(axis=1) - by_log_mass[rows]
        log_mass[rows] = logs
    log_mass[far] = -np.inf
    return _Terms(positions, log_mass, alpha, gamma, centre, np.flatnonzero(far))


def _log_factors(problem: Problem) -> Floats:
    """Compute the log weights (n,) after the division of key sums by the weights: 0, or negative for a tiny weight."""
    logs = problem.log_weights_at(slice(None))
    if logs is None:
        return np.zeros(problem.n)
    return np.where(logs > -np.inf, np.minimum(logs - MIN_LOG_DIVISOR, 0.0), 0.0)


def _weighted(problem: Problem, sums: KeySums, factors: Floats) -> KeySums:
    """Multiply sums that were divided by the weights by them; `weights` are divided by the largest weight."""
    logs = problem.log_weights_at(slice(None))
    factor = np.ones(problem.n) if logs is None else np.exp(logs - factors)
    column = factor[:, None]
    with np.errstate(invalid="ignore", over="ignore"):  # a key of weight 0 far from all others has infinite sums
        moved, values = (np.where(column > 0, column * x, 0.0) for x in (sums.moved, sums.values))
        squares = np.where(factor > 0, factor * sums.squares, 0.0)
        half = np.exp(-(factors + problem.log_largest_weight) / 2)  # its square may overflow where the product does not
        weights = sums.weights * half * half
        if problem.weights is not None:
            weights = np.where(factors == 0, sums.weights / float(problem.weights.max() or 1), weights)
    return KeySums(moved, values, weights, squares)


def _queries(problem: Problem, rows: slice, terms: _Terms) -> Queries:
    """Pack the queries at `rows` of the terms."""
    positions, log_mass = terms.positions[rows], terms.log_mass[rows]
    points = coordinates(problem, problem.queries[positions])
    coords = aligned_rows(problem.d, len(positions), np.float64)
    coords[...] = points.T
    present = log_mass > -np.inf
    return Queries(
        positions if problem.exclude_self else None,
        coords,
        np.where(present, log_mass, np.inf),
        np.ascontiguousarray(np.where(present[:, None], terms.alpha[rows], 0.0).T),
        np.where(present, terms.gamma[rows], 0.0),
    )


def _keys(problem: Problem, rows: slice, terms: _Terms, factors: Floats | None = None) -> Keys:
    """Pack the keys at `rows`; `factors` (n,), if given, replace the logarithms of their weights."""
    points = coordinates(problem, problem.keys[rows])
    coords = aligned_rows(problem.d, len(points), np.float64)
    coords[...] = points.T
    values = readable(problem.values[rows, : terms.alpha.shape[1]].T, np.float64)
    if np.any(terms.centre != 0):
        values = values - terms.centre[:, None]
    log_weights = problem.log_weights_at(rows)
    if factors is not None:
        log_weights = factors[rows] if np.any(factors[rows] != 0) else None
    elif log_weights is not None:
        log_weights += problem.log_largest_weight
    return Keys(rows.start, coords, pack_scale(problem, rows, np.float64), log_weights, values)


def _tasks(count: int, others: int, most: int) -> list[slice]:
    """Divide `count` rows into at most max(`most`, 8) tasks; a function of the problem alone."""
    size = max(TASK_PAIRS // max(others, 1), MIN_TASK_ROWS)
    size = max(min(size, math.ceil(count / MIN_TASKS)), MIN_TASK_ROWS, math.ceil(count / max(most, 8)))
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _spans(count: int, row_bytes: int) -> Iterator[slice]:
    step = max(SPAN_BYTES // row_bytes, MIN_TASK_ROWS)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _row_bytes(problem: Problem) -> int:
    return 8 * (problem.d + problem.c + 2)


def _threads(n_threads: int, p: int, n: int) -> int:
    return n_threads if p * n > SERIAL_PAIRS else 1
