"""A block of neighbouring queries over a tree of keys, for backends that sum tiles alone: the leaves that any of the
block's queries needs are gathered into one tile.

What `sum_leaves` of compiled tiles does for each query is done here for a block, with the kernel's own formula: for a
user's kernel, too, as long as it does not grow with the distance.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.core.pack import KeyBlock, aligned_rows, empty_values
from fastnw.core.state import PoolState
from fastnw.kernels.kernel import Kernel
from fastnw.methods.tree.kdtree import LEAF, Tree

Floats = NDArray[np.float64]

BLOCK = 64  # queries
FIRST = 8  # leaves summed before what is left out is judged by the mass
KEYS = 1 << 14  # gathered at a time
SLACK = 1 - 2.0**-40  # a distance of boxes times this is below those of their keys, rounding included


def sum_leaves(
    tiles: Any,
    kernel: Kernel,
    queries: Floats,
    tree: Tree,
    inverse: Floats,
    own: NDArray[np.int64] | None,
    state: PoolState,
    error: Floats,
    weighing: tuple[float, float, float, float],
    moments: Any,
) -> tuple[int, float]:
    """What ``tiles.sum_leaves`` of compiled tiles does, for the first BLOCK queries; without moments."""
    done = min(len(queries), BLOCK)
    rows = slice(0, done)
    queries, state, error = queries[rows], state.rows(rows), error[rows]
    squares = _box_squares(tree, inverse, queries)

    def add(leaves: NDArray[np.intp]) -> float:
        for start in range(0, len(leaves), KEYS // LEAF):
            part = leaves[start : start + KEYS // LEAF]
            mine = None if own is None else _places(part, own[rows])
            tiles.sum_tile(kernel, queries, _gathered(tree, part), inverse, mine, state, error)
        return float(len(leaves) * LEAF * done)

    if kernel.support is not None:
        return done, add(np.flatnonzero(squares <= kernel.support**2 * (1 + 2 * float(error.max()))))
    nearest = np.argsort(squares, kind="stable")
    pairs = add(np.sort(nearest[:FIRST]))
    rest = nearest[FIRST:]
    kept, dropped = _judged(kernel, squares[rest], tree.node_weights[rest], state, weighing[2])
    pairs += add(np.sort(rest[:kept]))
    if dropped > -math.inf:
        state.mass_error[:] += np.exp(dropped - state.shift)
    return done, pairs


def _judged(kernel: Kernel, squares: Floats, weights: Floats, state: PoolState, share: float) -> tuple[int, float]:
    """How many of the leaves, nearest first, have to be summed, and the log of what the others weigh at most."""
    logs = state.log_mass()
    if not len(squares) or not np.all(np.isfinite(logs)):
        return len(squares), -math.inf
    with np.errstate(divide="ignore", over="ignore"):
        bounds = np.logaddexp.accumulate((kernel.log(squares) + np.log(weights))[::-1])[::-1]
    enough = math.log(share) + float(logs.min())
    kept = int((bounds > enough).sum())  # bounds fall with the distance
    return kept, float(bounds[kept]) if kept < len(bounds) else -math.inf


def _box_squares(tree: Tree, inverse: Floats, queries: Floats) -> Floats:
    """(leaves,) Bound on u² between the block's box and each leaf's."""
    leaves = int(tree.levels[1])
    low, high = queries.min(axis=0)[:, None], queries.max(axis=0)[:, None]
    gaps = np.maximum(np.maximum(tree.low[:, :leaves] - high, low - tree.high[:, :leaves]), 0.0)
    with np.errstate(over="ignore"):
        squares = np.square(gaps * inverse[:, None]).sum(axis=0) * SLACK
        return squares if tree.node_scales is None else squares * tree.node_scales[:leaves]


def _gathered(tree: Tree, leaves: NDArray[np.intp]) -> KeyBlock:
    at = (leaves[:, None] * LEAF + np.arange(LEAF)).ravel()
    block = tree.block
    coords = aligned_rows(len(block.coords), len(at), np.float64)
    values = empty_values(len(block.values), len(at), np.float64)
    coords[...], values[...] = block.coords[:, at], block.values[:, at]
    scale = None if block.scale is None else block.scale[at]
    codes = None if block.codes is None else block.codes[at]
    return KeyBlock(0, coords, scale, block.weights[at], True, values, codes=codes)


def _places(leaves: NDArray[np.intp], own: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the queries' own keys are among the gathered ones; −1 for those that are not."""
    place = np.minimum(np.searchsorted(leaves, own // LEAF), len(leaves) - 1)
    found = (leaves[place] == own // LEAF) & (own >= 0)
    return np.where(found, place * LEAF + own % LEAF, -1)
