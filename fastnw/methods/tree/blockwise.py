"""Blockwise sums over a tree, for backends that only sum tiles: a block of neighbouring queries shares its leaves.

The leaves that any query of the block needs are gathered into one tile. The compiled backend's own `sum_leaves` chooses
leaves for each query; here a block chooses by the kernel's own formula, so that users' kernels work, too, as long as
they do not increase with the distance.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.core.pack import KeyBlock, aligned_rows, empty_values
from fastnw.core.state import Sums
from fastnw.kernels.kernel import Kernel
from fastnw.methods.tree.kdtree import LEAF, Tree

Floats = NDArray[np.float64]

BLOCK_QUERIES = 64
# Leaves that are summed before the mass bounds the sums of the others.
FIRST_LEAVES = 8
MAX_GATHERED_KEYS = 1 << 14
# A squared distance of boxes times this is below those of their keys, despite rounding.
ROUNDING_FACTOR = 1 - 2.0**-40


def sum_leaves(
    backend: Any,
    kernel: Kernel,
    queries: Floats,
    tree: Tree,
    inverse: Floats,
    own_ranks: NDArray[np.int64] | None,
    state: Sums,
    error: Floats,
    limits: tuple[float, float, float, float],
    moments: Any,
) -> tuple[int, float]:
    """Sum the leaves that matter to the first BLOCK_QUERIES queries, as the compiled `sum_leaves` does without moments.

    Returns
    -------
    done : int
        How many queries were summed.
    pairs : float
        How many pairs were summed.
    """
    done = min(len(queries), BLOCK_QUERIES)
    rows = slice(0, done)
    queries, state, error = queries[rows], state.rows(rows), error[rows]
    squares = _box_squares(tree, inverse, queries)

    def add(leaves: NDArray[np.intp]) -> float:
        for start in range(0, len(leaves), MAX_GATHERED_KEYS // LEAF):
            part = leaves[start : start + MAX_GATHERED_KEYS // LEAF]
            own_positions = None if own_ranks is None else _own_positions(part, own_ranks[rows])
            backend.sum_tile(kernel, queries, _gather_leaves(tree, part), inverse, own_positions, state, error)
        return float(len(leaves) * LEAF * done)

    if kernel.support is not None:
        return done, add(np.flatnonzero(squares <= kernel.support**2 * (1 + 2 * float(error.max()))))
    by_distance = np.argsort(squares, kind="stable")
    pairs = add(np.sort(by_distance[:FIRST_LEAVES]))
    rest = by_distance[FIRST_LEAVES:]
    n_open, log_skipped = _count_open_leaves(kernel, squares[rest], tree.node_weights[rest], state, limits[2])
    pairs += add(np.sort(rest[:n_open]))
    if log_skipped > -math.inf:
        state.mass_error[:] += np.exp(log_skipped - state.shift)
    return done, pairs


def _count_open_leaves(
    kernel: Kernel, squares: Floats, weights: Floats, state: Sums, share: float
) -> tuple[int, float]:
    """How many of the leaves, nearest first, must be summed, and the log of a bound on the sums of all others."""
    logs = state.log_mass()
    if not len(squares) or not np.all(np.isfinite(logs)):
        return len(squares), -math.inf
    with np.errstate(divide="ignore", over="ignore"):
        bounds = np.logaddexp.accumulate((kernel.log(squares) + np.log(weights))[::-1])[::-1]
    log_limit = math.log(share) + float(logs.min())
    n_open = int((bounds > log_limit).sum())  # bounds decrease with the distance
    return n_open, float(bounds[n_open]) if n_open < len(bounds) else -math.inf


def _box_squares(tree: Tree, inverse: Floats, queries: Floats) -> Floats:
    """(leaves,) Bound on u² between the block's box and each leaf's."""
    leaves = int(tree.levels[1])
    low, high = queries.min(axis=0)[:, None], queries.max(axis=0)[:, None]
    gaps = np.maximum(np.maximum(tree.low[:, :leaves] - high, low - tree.high[:, :leaves]), 0.0)
    with np.errstate(over="ignore"):
        squares = np.square(gaps * inverse[:, None]).sum(axis=0) * ROUNDING_FACTOR
        return squares if tree.node_scales is None else squares * tree.node_scales[:leaves]


def _gather_leaves(tree: Tree, leaves: NDArray[np.intp]) -> KeyBlock:
    positions = (leaves[:, None] * LEAF + np.arange(LEAF)).ravel()
    block = tree.block
    coords = aligned_rows(len(block.coords), len(positions), np.float64)
    values = empty_values(len(block.values), len(positions), np.float64)
    coords[...], values[...] = block.coords[:, positions], block.values[:, positions]
    scale = None if block.scale is None else block.scale[positions]
    codes = None if block.codes is None else block.codes[positions]
    return KeyBlock(0, coords, scale, block.weights[positions], True, values, codes=codes)


def _own_positions(leaves: NDArray[np.intp], own_ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of the queries' own keys among the gathered keys; −1 where the own key was not gathered."""
    place = np.minimum(np.searchsorted(leaves, own_ranks // LEAF), len(leaves) - 1)
    is_gathered = (leaves[place] == own_ranks // LEAF) & (own_ranks >= 0)
    return np.where(is_gathered, place * LEAF + own_ranks % LEAF, -1)
