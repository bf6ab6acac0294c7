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
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw._pack import aligned_rows, coordinates, pack_inverse, pack_scale, readable
from fastnw._problem import Problem
from fastnw._threads import Meter, run
from fastnw.backends.gradients import Keys, Queries, tiles

Floats = NDArray[np.float64]
Positions = NDArray[np.integer[Any]]

TASK_PAIRS = 1 << 20
SHORTEST = 32  # queries, or keys, of a task
FEWEST_TASKS = 16  # rather than TASK_PAIRS a task
SERIAL_PAIRS = 1 << 18  # work that is not worth a thread's start
SPAN_BYTES = 16 << 20  # of the other side, packed at a time
OUTER_BYTES = 16 << 20  # of all tasks' sums of outer products


@dataclass(frozen=True)
class QuerySums:
    """Sums over keys, a row a query.

    Attributes
    ----------
    moved : (p, d) float64
        Σ_j E_ij z_ij/λ_j, with λ = 1 unless there is a key scale. For inner products −Σ_j E_ij k_j/λ_j, with keys
        whitened by a full matrix.
    squares : (p, d) float64
        Σ_j E_ij z_ij² of each coordinate; −Σ_j E_ij q_i k_j/(s λ_j).
    outer : (d, d) float64 or None
        Σ_i Σ_j E_ij z zᵀ; −Σ_i Σ_j E_ij (q kᵀ + k qᵀ)/λ_j.
    """

    moved: Floats
    squares: Floats
    outer: Floats | None


@dataclass(frozen=True)
class KeySums:
    """Sums over queries, a row a key.

    Attributes
    ----------
    moved : (n, d) float64
        Σ_i E_ij z_ij/λ_j; for inner products Σ_i E_ij q_i/λ_j, with queries whitened by a full matrix.
    values : (n, c) float64
        Σ_i p_ij α_i.
    weights : (n,) float64
        Σ_i p_ij (α_i·v_j − γ_i).
    squares : (n,) float64
        Σ_i E_ij u²_ij; −Σ_i E_ij q_i·k_j/(s λ_j).
    """

    moved: Floats
    values: Floats
    weights: Floats
    squares: Floats


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
    """
    p, d = len(positions), problem.d
    summing, inverse = tiles(backend, problem.kernel), pack_inverse(problem, np.float64)
    moved, squares = np.zeros((p, d)), np.zeros((p, d))
    tasks = _tasks(p, problem.n, OUTER_BYTES // (8 * d * d) if outer else p)
    outers = np.zeros((len(tasks), d, d)) if outer else None
    longer = 1 + d // 16 if outer else 1  # outer products take d times as long: Ctrl-C must not wait for them
    for span in _spans(problem.n, _row_bytes(problem) * longer):
        keys = _keys(problem, span, alpha is not None)

        def task(i: int, keys: Keys = keys) -> float:
            rows = tasks[i]
            queries = _queries(problem, rows, positions, log_mass, alpha, gamma)
            mine = None if outers is None else outers[i]
            summing.add_to_queries(problem.kernel, inverse, queries, keys, moved[rows], squares[rows], mine)
            return float(queries.size) * keys.size

        run(task, len(tasks), _threads(n_threads, p, keys.size), meter)
    return QuerySums(moved, squares, None if outers is None else outers.sum(axis=0))


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
) -> KeySums:
    """Each key's sums over the queries at `positions`; parameters as in `by_query`."""
    n, d, c = problem.n, problem.d, 0 if alpha is None else alpha.shape[1]
    summing, inverse = tiles(backend, problem.kernel), pack_inverse(problem, np.float64)
    moved, values = np.zeros((n, d)), np.zeros((n, c))
    weights, squares = np.zeros(n), np.zeros(n)
    tasks = _tasks(n, len(positions), n)
    for span in _spans(len(positions), _row_bytes(problem)):
        queries = _queries(problem, span, positions, log_mass, alpha, gamma)

        def task(i: int, queries: Queries = queries) -> float:
            rows = tasks[i]
            keys = _keys(problem, rows, c > 0)
            summing.add_to_keys(
                problem.kernel, inverse, queries, keys, moved[rows], values[rows], weights[rows], squares[rows]
            )
            return float(queries.size) * keys.size

        run(task, len(tasks), _threads(n_threads, queries.size, n), meter)
    return KeySums(moved, values, weights, squares)


def _queries(
    problem: Problem, rows: slice, positions: Positions, log_mass: Floats, alpha: Floats | None, gamma: Floats
) -> Queries:
    mine = positions[rows]
    points = coordinates(problem, problem.queries[mine])
    coords = aligned_rows(problem.d, len(mine), np.float64)
    coords[...] = points.T
    here = log_mass[rows] > -np.inf
    pull = np.zeros((len(mine), 0)) if alpha is None else np.where(here[:, None], alpha[rows], 0.0)
    own = mine if problem.exclude_self else None
    return Queries(
        own,
        coords,
        np.where(here, log_mass[rows], np.inf),
        np.ascontiguousarray(pull.T),
        np.where(here, gamma[rows], 0.0),
    )


def _keys(problem: Problem, rows: slice, with_values: bool) -> Keys:
    points = coordinates(problem, problem.keys[rows])
    coords = aligned_rows(problem.d, len(points), np.float64)
    coords[...] = points.T
    values = readable(problem.values[rows, : None if with_values else 0].T, np.float64)
    log_weights = problem.log_weights_at(rows)
    if log_weights is not None:
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
