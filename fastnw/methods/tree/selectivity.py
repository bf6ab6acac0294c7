"""Predicts from a sample the selectivity of a tree: which share of the pairs it cannot skip."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastnw.core.pack import coordinates, pack_inverse
from fastnw.core.problem import Problem
from fastnw.kernels.kernel import Kernel
from fastnw.methods.tree.kdtree import LEAF

Floats = NDArray[np.float64]

# Sizes of the samples of keys and queries.
MAX_SAMPLE_KEYS, MAX_SAMPLE_QUERIES = 2048, 48
# A sample tells the number of keys within a radius from at least so many of them.
MIN_NEIGHBOURS = 4
# Reach of a leaf's box in radii of a ball of LEAF keys, and nats that choosing leaves by mass saves. Both were measured
# over d = 1 to 8 and h from 0.02 to 1 on normal, clustered and Cauchy clouds, where predicted shares are right within a
# factor of 1.6.
LEAF_RADIUS_FACTOR, SAVED_NATS = 1.2, 3.0
# Sampled pairs per pair of the problem, up to the product of both sample sizes: 0.5 ms where "moments" takes 10 ms.
SAMPLED_PAIRS_PER_PAIR = 1e-5


@dataclass(frozen=True)
class Shares:
    """Selectivity of a tree: means over the queries.

    Attributes
    ----------
    summed : float
        Share of the keys in leaves that a query sums.
    examined : float
        Share of the leaves that its block of neighbours examines.
    inside : float
        Share of the keys in leaves wholly within the query's radius.
    """

    summed: float
    examined: float
    inside: float


def predict(problem: Problem, nats: float) -> Shares:
    """Predict shares for queries that sum a compact kernel, or sum down to so many nats below the nearest key's κ."""
    inverse, n, d = pack_inverse(problem, np.float64), problem.n, problem.d
    sample_share = math.sqrt(
        min(max(SAMPLED_PAIRS_PER_PAIR * problem.m * n / (MAX_SAMPLE_KEYS * MAX_SAMPLE_QUERIES), 1 / 16), 1.0)
    )
    key_positions = np.unique(np.linspace(0, n - 1, int(sample_share * MAX_SAMPLE_KEYS)).astype(np.intp))
    keys = coordinates(problem, problem.keys[key_positions]).astype(np.float64)
    query_positions = np.unique(np.linspace(0, problem.m - 1, int(sample_share * MAX_SAMPLE_QUERIES)).astype(np.intp))
    queries = coordinates(problem, problem.queries[query_positions]).astype(np.float64)
    with np.errstate(over="ignore"):
        squares = sum((np.subtract.outer(queries[:, j], keys[:, j]) * inverse[j]) ** 2 for j in range(d))
    if problem.key_scale is not None:
        squares = squares / problem.key_scale[key_positions].astype(np.float64) ** 2
    distances = np.sqrt(np.sort(squares, axis=1))
    leaf_radius = _ball_radius(distances, LEAF / n, d)
    if problem.kernel.support is not None:
        radius = np.full(len(query_positions), problem.kernel.support)
    else:
        nearest = _ball_radius(distances, 1 / n, d)
        radius = _cutoff_radius(problem.kernel, nearest, nats - SAVED_NATS)
    summed, examined, inside = (
        float(np.mean(_share_within(distances, np.maximum(radius + factor * LEAF_RADIUS_FACTOR * leaf_radius, 0.0), d)))
        for factor in (1.0, 2.5, -2.5)
    )
    return Shares(summed, examined, inside)


def _ball_radius(distances: Floats, share: float, d: int) -> Floats:
    """(queries,) Radius of a ball that holds this share of the keys; scaled by volume if the sample has too few."""
    rank = share * distances.shape[1]
    if rank >= MIN_NEIGHBOURS:
        return distances[:, min(int(rank), distances.shape[1] - 1)]
    return distances[:, MIN_NEIGHBOURS - 1] * (rank / MIN_NEIGHBOURS) ** (1 / d)


def _share_within(distances: Floats, radius: Floats, d: int) -> Floats:
    """(queries,) Share of the keys within a radius of each query."""
    size = distances.shape[1]
    n_within = (distances <= radius[:, None]).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        by_volume = MIN_NEIGHBOURS * (radius / distances[:, MIN_NEIGHBOURS - 1]) ** d
    return (
        np.where(
            n_within >= MIN_NEIGHBOURS,
            n_within,
            np.minimum(np.nan_to_num(by_volume, nan=MIN_NEIGHBOURS), MIN_NEIGHBOURS),
        )
        / size
    )


def _cutoff_radius(kernel: Kernel, nearest: Floats, nats: float) -> Floats:
    """(queries,) Bisects for u where κ is about e^(−nats) times its value at `nearest`."""
    if kernel.facts.quadratic_form and not kernel.inner_product:
        return np.sqrt(nearest**2 + 2 * nats)

    def depth(u: Floats) -> Floats:
        return np.asarray(-kernel.log(u * u))

    with np.errstate(all="ignore"):
        target_depth, low, high = depth(nearest) + nats, nearest, np.maximum(2 * nearest, nats)
        for _ in range(40):
            too_shallow = depth(high) < target_depth
            if not too_shallow.any():
                break
            high = np.where(too_shallow, 2 * high, high)
        for _ in range(12):
            middle = (low + high) / 2
            too_shallow = depth(middle) < target_depth
            low, high = np.where(too_shallow, middle, low), np.where(too_shallow, high, middle)
    return high
