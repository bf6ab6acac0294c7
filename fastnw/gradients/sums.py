"""Gradients of kernel-weighted means, summed pair by pair: nothing of size m × n is kept.

With f_i = Σ_j w_j κ_ij v_j / mass_i, a loss L that depends on f and log mass has

    ∂L/∂κ_ij = w_j (α_i·v_j − γ_i)/mass_i,    α_i = ∂L/∂f_i,    γ_i = α_i·f_i − ∂L/∂log mass_i.

All its gradients are sums over pairs of p_ij = w_j κ_ij/mass_i, of E_ij = g_ij ∂L/∂κ_ij with g = −2 dκ/du², and of the
difference z_ij of query and key in bandwidths, u² = |z|²:

    ∂L/∂q_i     = −L⁻ᵀ QuerySums.moved_i        ∂L/∂k_j     = L⁻ᵀ KeySums.moved_j    (H = L Lᵀ; 1/h in place of L⁻ᵀ)
    ∂L/∂log h_a = Σ_i QuerySums.squares_ia      ∂L/∂v_j     = KeySums.values_j
    ∂L/∂H       = ½ L⁻ᵀ QuerySums.outer L⁻¹     ∂L/∂log w_j = KeySums.weights_j
                                                ∂L/∂log λ_j = KeySums.squares_j

The same lines hold for inner products, whose logarithm falls with −2 q·k/s as the Gaussian's does with u².

Terms of a gradient are as large as u or u², and cancel. So where no key is near, or where values lie far from 0, means
and masses are summed once more, in float64 and about the middle of the values; where float64 does not do for exponents
either, `far` takes over. Both need ∂L/∂log mass_i by itself: without it (`by_log_mass`), f and the mass are
taken as given.
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
from fastnw.core.model import Queries as SomeQueries
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

TASK_PAIRS = 1 << 20
SHORTEST = 32  # queries, or keys, of a task
FEWEST_TASKS = 16  # rather than TASK_PAIRS a task
SERIAL_PAIRS = 1 << 18  # work that is not worth a thread's start
SPAN_BYTES = 16 << 20  # of the other side, packed at a time
OUTER_BYTES = 16 << 20  # of all tasks' sums of outer products
NEAR = 8.0  # nats of −log κ up to which a mean's error counts for no more in its gradient than in itself
OFFSET = 8.0  # |centre|/half of values from which on they are taken relative to the centre
ACCURATE = 1e-9  # bound on the relative errors of means that γ is made of
LEAST_FACTOR = -650.0  # log of the least weight that key sums are divided by


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
    """Each query's sums over all keys.

    Parameters
    ----------
    problem : Problem
        Its arrays lie on the host. Sums are in float64, whatever they are.
    positions : (p,) int array
        Which queries; with `exclude_self` the key at the query's own position is left out.
    log_mass : (p,) float64 array
        log Σ w κ of those queries; one with −inf has sums of 0.
    alpha : (p, c) float64 array or None
        None: values play no part.
    gamma : (p,) float64 array
    n_threads : int
        Results are the same for any number, to the last bit.
    meter : Meter
    outer : bool
        Also sum outer products.
    backend : str
        As in `fastnw.pool`; NumPy's sums stand for backends without any.
    by_log_mass : (p,) float64 array, optional
        ∂L/∂log mass. With it, γ and `log_mass` of queries in tails are made anew.
    """
    p, d = len(positions), problem.d
    asked = _asked(problem, positions, log_mass, alpha, gamma, by_log_mass, backend, meter)
    summing, inverse = gradient_tiles(backend, problem.kernel), pack_inverse(problem, np.float64)
    moved, squares = np.zeros((p, d)), np.zeros((p, d))
    tasks = _tasks(p, problem.n, OUTER_BYTES // (8 * d * d) if outer else p)
    outers = np.zeros((len(tasks), d, d)) if outer else None
    longer = 1 + d // 16 if outer else 1  # outer products take d times as long: Ctrl-C must not wait for them
    for span in _spans(problem.n, _row_bytes(problem) * longer):
        keys = _keys(problem, span, asked)

        def task(i: int, keys: Keys = keys) -> float:
            rows = tasks[i]
            queries = _queries(problem, rows, asked)
            mine = None if outers is None else outers[i]
            summing.add_to_queries(problem.kernel, inverse, queries, keys, moved[rows], squares[rows], mine)
            return float(queries.size) * keys.size

        run(task, len(tasks), _threads(n_threads, p, keys.size), meter)
    sums = QuerySums(moved, squares, None if outers is None else outers.sum(axis=0))
    if len(asked.far):
        assert by_log_mass is not None
        far_queries.add_to_queries(problem, positions, asked.far, asked.alpha, by_log_mass, sums)
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
    """Each key's sums over the queries at `positions`; parameters as in `by_query`.

    With `by_weight`, the sums named `weights` are ∂L/∂w_j, which a weight of 0 has, too.
    """
    n, d = problem.n, problem.d
    asked = _asked(problem, positions, log_mass, alpha, gamma, by_log_mass, backend, meter)
    c, factors = asked.alpha.shape[1], None
    if by_weight:
        factors = _log_factors(problem)
        asked = replace(asked, log_mass=asked.log_mass - problem.log_largest_weight)
    summing, inverse = gradient_tiles(backend, problem.kernel), pack_inverse(problem, np.float64)
    moved, values = np.zeros((n, d)), np.zeros((n, c))
    weights, squares = np.zeros(n), np.zeros(n)
    tasks = _tasks(n, len(positions), n)
    for span in _spans(len(positions), _row_bytes(problem)):
        queries = _queries(problem, span, asked)

        def task(i: int, queries: Queries = queries) -> float:
            rows = tasks[i]
            keys = _keys(problem, rows, asked, factors)
            summing.add_to_keys(
                problem.kernel, inverse, queries, keys, moved[rows], values[rows], weights[rows], squares[rows]
            )
            return float(queries.size) * keys.size

        run(task, len(tasks), _threads(n_threads, queries.size, n), meter)
    sums = KeySums(moved, values, weights, squares)
    if len(asked.far):
        assert by_log_mass is not None
        far_queries.add_to_keys(problem, positions, asked.far, asked.alpha, by_log_mass, factors, sums)
    return sums if factors is None else _weighted(problem, sums, factors)


@dataclass(frozen=True)
class _Asked:
    """What is summed of which queries.

    Attributes
    ----------
    positions : (p,) int array
    log_mass : (p,) float64 array
        −inf for a query that takes no part in sums of float64.
    alpha : (p, c) float64 array
    gamma : (p,) float64 array
        With α·`centre` taken off.
    centre : (c,) float64 array
        What values are relative to.
    far : (f,) int array
        Rows of the queries that `far` sums.
    """

    positions: Positions
    log_mass: Floats
    alpha: Floats
    gamma: Floats
    centre: Floats
    far: NDArray[np.intp]


def _asked(
    problem: Problem,
    positions: Positions,
    log_mass: Floats,
    alpha: Floats | None,
    gamma: Floats,
    by_log_mass: Floats | None,
    backend: str,
    meter: Meter,
) -> _Asked:
    """Sort the queries by what float64 can do for them, and make γ and log mass anew where the given ones do not do."""
    alpha = np.zeros((len(positions), 0)) if alpha is None else alpha
    nothing, centre = np.zeros(0, np.intp), np.zeros(alpha.shape[1])
    if by_log_mass is None:
        return _Asked(positions, log_mass, alpha, gamma, centre, nothing)
    present = (log_mass > -np.inf) & (np.any(alpha != 0, axis=1) | (by_log_mass != 0))
    log_mass = np.where(present, log_mass, -np.inf)
    backend = "reference" if backend == "reference" else "auto"
    far, near = present & far_queries.are_far(problem, positions, log_mass), np.zeros(len(positions), bool)
    if alpha.shape[1]:
        middle, half = problem.values_centre
        centre = np.where(np.abs(middle) > OFFSET * half, middle, 0.0)
        near = present & ~far & (np.any(centre != 0) | (far_queries.depth(problem, log_mass) > NEAR))
    rows = np.flatnonzero(near)
    if len(rows):
        gamma, keys = gamma.copy(), exact.keys_of(make_model(problem, "exact", backend, 1))
        state = exact.sweep(keys, SomeQueries(problem, positions[rows]), np.dtype(np.float64), meter)
        means, logs = middle - centre + half * state.means(), state.log_mass() + problem.log_largest_weight
        lost = ~certify.accurate(problem, state, ACCURATE)
        if tails.known(problem.kernel):
            far[rows[lost]] = True
        rows, means, logs = rows[~lost], means[~lost], logs[~lost]
        gamma[rows] = (alpha[rows] * means).sum(axis=1) - by_log_mass[rows]
        log_mass[rows] = logs
    log_mass[far] = -np.inf
    return _Asked(positions, log_mass, alpha, gamma, centre, np.flatnonzero(far))


def _log_factors(problem: Problem) -> Floats:
    """(n,) What stands for the keys' log weights where key sums are divided by the weights: 0, or what is left of a
    weight too small to divide by."""
    logs = problem.log_weights_at(slice(None))
    if logs is None:
        return np.zeros(problem.n)
    return np.where(logs > -np.inf, np.minimum(logs - LEAST_FACTOR, 0.0), 0.0)


def _weighted(problem: Problem, sums: KeySums, factors: Floats) -> KeySums:
    """Sums that were divided by the weights, times the weights; those named `weights` over the largest one."""
    logs = problem.log_weights_at(slice(None))
    factor = np.ones(problem.n) if logs is None else np.exp(logs - factors)
    column = factor[:, None]
    with np.errstate(invalid="ignore", over="ignore"):  # far from all others, a key of no weight has infinite sums
        moved, values = (np.where(column > 0, column * x, 0.0) for x in (sums.moved, sums.values))
        squares = np.where(factor > 0, factor * sums.squares, 0.0)
        half = np.exp(-(factors + problem.log_largest_weight) / 2)  # its square may overflow where the product does not
        weights = sums.weights * half * half
        if problem.weights is not None:
            weights = np.where(factors == 0, sums.weights / float(problem.weights.max() or 1), weights)
    return KeySums(moved, values, weights, squares)


def _queries(problem: Problem, rows: slice, asked: _Asked) -> Queries:
    positions, log_mass = asked.positions[rows], asked.log_mass[rows]
    points = coordinates(problem, problem.queries[positions])
    coords = aligned_rows(problem.d, len(positions), np.float64)
    coords[...] = points.T
    present = log_mass > -np.inf
    return Queries(
        positions if problem.exclude_self else None,
        coords,
        np.where(present, log_mass, np.inf),
        np.ascontiguousarray(np.where(present[:, None], asked.alpha[rows], 0.0).T),
        np.where(present, asked.gamma[rows], 0.0),
    )


def _keys(problem: Problem, rows: slice, asked: _Asked, factors: Floats | None = None) -> Keys:
    """Those keys; with `factors` (n,) in place of the logarithms of their weights."""
    points = coordinates(problem, problem.keys[rows])
    coords = aligned_rows(problem.d, len(points), np.float64)
    coords[...] = points.T
    values = readable(problem.values[rows, : asked.alpha.shape[1]].T, np.float64)
    if np.any(asked.centre != 0):
        values = values - asked.centre[:, None]
    log_weights = problem.log_weights_at(rows)
    if factors is not None:
        log_weights = factors[rows] if np.any(factors[rows] != 0) else None
    elif log_weights is not None:
        log_weights += problem.log_largest_weight
    return Keys(rows.start, coords, pack_scale(problem, rows, np.float64), log_weights, values)


def _tasks(count: int, others: int, most: int) -> list[slice]:
    """`count` rows in tasks, `most` at most (but for 8); a function of the problem alone."""
    size = max(TASK_PAIRS // max(others, 1), SHORTEST)
    size = max(min(size, math.ceil(count / FEWEST_TASKS)), SHORTEST, math.ceil(count / max(most, 8)))
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _spans(count: int, row_bytes: int) -> Iterator[slice]:
    step = max(SPAN_BYTES // row_bytes, SHORTEST)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _row_bytes(problem: Problem) -> int:
    return 8 * (problem.d + problem.c + 2)


def _threads(n_threads: int, p: int, n: int) -> int:
    return n_threads if p * n > SERIAL_PAIRS else 1
