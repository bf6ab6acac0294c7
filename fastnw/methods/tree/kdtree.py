"""A k-d tree of keys (Bentley, 1975) with full leaves, so that a node of any level is a range of the sorted keys."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.core.pack import (
    KeyBlock,
    aligned_rows,
    coordinates,
    empty_values,
    normalised_values,
    pack_inverse,
    pack_scale,
    readable,
)
from fastnw.core.problem import Problem
from fastnw.methods.tree._order import extend_box, gather, halve, left_size, sort
from fastnw.methods.tree.bands import Band
from fastnw.runtime._constants import CHILDREN_PER_NODE as FAN
from fastnw.runtime._constants import KEYS_PER_LEAF as LEAF
from fastnw.runtime.threads import Meter, check_stop, run

Floats = NDArray[np.float64]
Positions = NDArray[np.intp]
FLOAT64 = np.dtype(np.float64)
PLACE_DTYPE = np.dtype([("x", np.float64), ("at", np.int64)])  # as in src_cython/_order.pyx

# Keys per task, a multiple of LEAF.
PIECE_KEYS = 1 << 15
# Points of a subtree that one task sorts.
SUBTREE_POINTS = 1 << 15


@dataclass(frozen=True)
class Tree:
    """The sorted keys of a band, and the boxes of the nodes.

    Attributes
    ----------
    band : Band
        The band, without its arrays.
    order : (n,) intp
        Positions of the sorted keys among all.
    block : KeyBlock
        The sorted keys, padded to whole leaves with keys of weight 0.
    low, high : (d, nodes) float64
        Boxes of the nodes, level after level, with the leaves first.
    node_weights : (nodes,) float64
    node_scales : (nodes,) float64 or None
        Least `scale` of the nodes' keys.
    levels : (depth + 1,) int64
        Where the nodes of each level begin, followed by the number of nodes.
    """

    band: Band
    order: Positions
    block: KeyBlock
    low: Floats
    high: Floats
    node_weights: Floats
    node_scales: Floats | None
    levels: NDArray[np.int64]


def build(problem: Problem, band: Band, n_threads: int) -> Tree:
    """Build the tree of one band of a problem's keys."""
    points = readable(coordinates(problem, problem.keys), np.float64)
    weights, band_positions = band.weights, band.positions
    n = problem.n if band_positions is None else len(band_positions)
    inverse = pack_inverse(problem, FLOAT64)
    order = sorted_order(points, inverse, n_threads, band_positions)
    size = -(-n // LEAF) * LEAF
    classes, count = problem.classes, problem.c if problem.classes is None else 0
    coords, values = aligned_rows(problem.d, size, FLOAT64), empty_values(count, size, FLOAT64)
    codes = None if classes is None else np.zeros((size, classes.codes.shape[1]), np.int32)
    packed_weights, scale = np.zeros(size), None if problem.key_scale is None else np.empty(size)
    levels = _level_starts(size // LEAF)
    low, high = np.empty((problem.d, levels[-1])), np.empty((problem.d, levels[-1]))

    def fill(i: int) -> float:
        part = slice(i * PIECE_KEYS, min((i + 1) * PIECE_KEYS, n))
        positions, end = order[part], min((i + 1) * PIECE_KEYS, size)
        coords[:, part] = points[positions].T
        packed_weights[part] = 1.0 if weights is None else weights[positions]
        if classes is None or codes is None:
            values[:, part] = normalised_values(problem, positions) * packed_weights[part]
        else:
            codes[part] = classes.codes[positions]
        if scale is not None:
            scale[part] = pack_scale(problem, positions, FLOAT64)
        if end > n:  # pad the last leaf with copies of the last key, without weight
            coords[:, n:end], values[:, n:end] = coords[:, n - 1 : n], 0.0
            if scale is not None:
                scale[n:end] = scale[n - 1]
        leaf_keys, nodes = slice(part.start, end), slice(part.start // LEAF, end // LEAF)
        leaves = coords[:, leaf_keys].reshape(problem.d, -1, LEAF)
        np.min(leaves, axis=2, out=low[:, nodes])
        np.max(leaves, axis=2, out=high[:, nodes])
        return 0.0

    run(fill, math.ceil(size / PIECE_KEYS), n_threads, Meter(False, 0, ""))
    block = KeyBlock(0, coords, scale, packed_weights, problem.weighted, values, codes=codes)
    node_weights = packed_weights.reshape(-1, LEAF).sum(axis=1)
    node_scales = None if scale is None else scale.reshape(-1, LEAF).min(axis=1)
    node_weights, node_scales = _aggregate_nodes(low, high, node_weights, node_scales, levels)
    band_only = replace(band, positions=None, weights=None)
    return Tree(band_only, order, block, low, high, node_weights, node_scales, levels)


def sorted_order(points: Floats, inverse: Floats, n_threads: int, positions: Positions | None = None) -> Positions:
    """Positions of points in the order of a k-d tree with full leaves; the same for any number of threads.

    Threads sort one subtree each. The halves above the subtrees are made level by level, in pieces that threads share,
    except that one thread selects the median of each half.
    """
    order = np.arange(len(points)) if positions is None else positions.copy()
    large, small = ([slice(0, len(order))], []) if len(order) > SUBTREE_POINTS else ([], [slice(0, len(order))])
    places = np.empty(len(order) if large else 0, PLACE_DTYPE)
    while large:
        halves = [left_size(part.stop - part.start, LEAF) for part in large]
        _gather_places(points, inverse, order, large, places, n_threads)

        def select(i: int, parts: list[slice] = large, halves: list[int] = halves) -> float:
            check_stop()
            halve(places[parts[i]], order[parts[i]], halves[i])
            return 0.0

        run(select, len(large), n_threads, Meter(False, 0, ""))
        middles = [part.start + half for part, half in zip(large, halves, strict=True)]
        sides = [(part.start, middle, part.stop) for part, middle in zip(large, middles, strict=True)]
        parts = [slice(*ends) for start, middle, stop in sides for ends in ((start, middle), (middle, stop))]
        large = [part for part in parts if part.stop - part.start > SUBTREE_POINTS]
        small += [part for part in parts if part.stop - part.start <= SUBTREE_POINTS]

    def sort_subtree(i: int) -> float:
        if small[i].stop > small[i].start:
            sort(points, inverse, order[small[i]], LEAF)
        check_stop()
        return 0.0

    run(sort_subtree, len(small), n_threads, Meter(False, 0, ""))
    return order


def _gather_places(
    points: Floats, inverse: Floats, order: Positions, parts: list[slice], places: NDArray[Any], n_threads: int
) -> None:
    """Copy into `places` the points' coordinates along the longest side of each part's box."""
    starts = [range(part.start, part.stop, PIECE_KEYS) for part in parts]
    pieces = [
        (i, slice(start, min(start + PIECE_KEYS, part.stop))) for i, part in enumerate(parts) for start in starts[i]
    ]
    low, high = np.full((len(pieces), len(inverse)), np.inf), np.full((len(pieces), len(inverse)), -np.inf)

    def measure(k: int) -> float:
        check_stop()
        extend_box(points, order[pieces[k][1]], low[k], high[k])
        return 0.0

    run(measure, len(pieces), n_threads, Meter(False, 0, ""))
    firsts = np.cumsum([0] + [len(of_part) for of_part in starts[:-1]])
    sides = np.maximum.reduceat(high, firsts) * 0.5 - np.minimum.reduceat(low, firsts) * 0.5
    axes = np.argmax(sides * inverse, axis=1)

    def copy(k: int) -> float:
        check_stop()
        i, piece = pieces[k]
        gather(points, int(axes[i]), order[piece], places[piece])
        return 0.0

    run(copy, len(pieces), n_threads, Meter(False, 0, ""))


def _level_starts(leaves: int) -> NDArray[np.int64]:
    counts = [leaves]
    while counts[-1] > FAN:
        counts.append(-(-counts[-1] // FAN))
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _aggregate_nodes(
    low: Floats, high: Floats, weights: Floats, scales: Floats | None, levels: NDArray[np.int64]
) -> tuple[Floats, Floats | None]:
    """Fill the boxes above the leaves, and return weights and least scales of all nodes."""
    all_weights, all_scales = [weights], [] if scales is None else [scales]
    for first, stop, end in zip(levels[:-2], levels[1:-1], levels[2:], strict=True):
        starts = np.arange(0, stop - first, FAN)
        np.minimum.reduceat(low[:, first:stop], starts, axis=1, out=low[:, stop:end])
        np.maximum.reduceat(high[:, first:stop], starts, axis=1, out=high[:, stop:end])
        all_weights.append(np.add.reduceat(all_weights[-1], starts))
        if scales is not None:
            all_scales.append(np.minimum.reduceat(all_scales[-1], starts))
    return np.concatenate(all_weights), None if scales is None else np.concatenate(all_scales)


def moments(tree: Tree, inverse: Floats, power: int, n_threads: int) -> NDArray[np.float64]:
    """(nodes, terms, 1 + c) Sums over each node's keys of w [1, t] times the monomials of degree `power` of
    Y = (1, y, |y|²), where y is the key relative to the middle of the node's box in bandwidths, times their multinomial
    coefficients.

    The order of the terms is that of `_add_monomials` in src_cython/_whole.pxi. Sums are made leaf by leaf and then
    level by level, which bounds their rounding.
    """
    d, size = tree.block.coords.shape
    rows = np.concatenate([tree.block.weights[None], tree.block.values])
    terms = list(_monomials(power, d + 2))
    centres = tree.low * 0.5 + tree.high * 0.5
    node_moments = np.empty((tree.low.shape[1], len(terms), len(rows)))
    for level, (first, stop) in enumerate(zip(tree.levels[:-1], tree.levels[1:], strict=True)):
        keys_per_node = LEAF * FAN**level
        leaves = np.empty((size // LEAF, len(terms), len(rows)))

        def fill(i: int, first: int = first, keys_per_node: int = keys_per_node, leaves: Floats = leaves) -> float:
            part = slice(i * PIECE_KEYS, min((i + 1) * PIECE_KEYS, size))
            nodes = first + np.arange(part.start, part.stop) // keys_per_node
            y = (tree.block.coords[:, part] - centres[:, nodes]) * inverse[:, None]
            lifted = [np.ones(y.shape[1]), *y, np.square(y).sum(axis=0)]
            for k, term in enumerate(terms):
                check_stop()
                monomial = np.prod([lifted[v] for v in term], axis=0) * _multinomial_coefficient(term)
                leaves[part.start // LEAF : part.stop // LEAF, k] = (
                    (rows[:, part] * monomial).reshape(len(rows), -1, LEAF).sum(axis=2).T
                )
            return 0.0

        run(fill, math.ceil(size / PIECE_KEYS), n_threads, Meter(False, 0, ""))
        for _ in range(level):
            leaves = np.add.reduceat(leaves, np.arange(0, len(leaves), FAN), axis=0)
        node_moments[first:stop] = leaves
    return node_moments


def terms_of(power: int, d: int) -> int:
    """Number of monomials of that degree."""
    return math.comb(d + 1 + power, power)


def _monomials(degree: int, size: int) -> Iterator[tuple[int, ...]]:
    if degree == 0:
        yield ()
        return
    for v in reversed(range(size)):
        for rest in _monomials(degree - 1, v + 1):
            yield (v, *rest)


def _multinomial_coefficient(term: tuple[int, ...]) -> float:
    return math.factorial(len(term)) / math.prod(math.factorial(count) for count in Counter(term).values())
