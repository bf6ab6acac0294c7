"""How many pairs a tree of keys would leave, predicted from a sample: what `tree` plans by."""

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

# Sizes of the samples of keys and queries; how many keys of a sample say something about a radius; how much wider
# than a ball the leaves are that it reaches, in radii of a ball of LEAF keys; nats that a choice by mass spares. The
# last two were measured over d = 1 to 8, h from 0.02 to 1, on normal, clustered and Cauchy clouds: shares within 1.6
# times.
SAMPLE, ASKED, FEW, WIDER, SPARED = 2048, 48, 4, 1.2, 3.0
SPARING = 1e-5  # numbers looked at for a pair, up to SAMPLE · ASKED: 0.5 ms where `moments` takes 10 ms


@dataclass(frozen=True)
class Shares:
    """Means over the queries.

    Attributes
    ----------
    reached : float
        Share of the keys in leaves that a query reaches.
    looked_at : float
        Share of the leaves that its block of neighbours does not drop.
    inside : float
        Share of the keys in leaves wholly within its radius.
    """

    reached: float
    looked_at: float
    inside: float


def predict(problem: Problem, nats: float) -> Shares:
    """For queries that sum the support of a compact kernel, or down to so many nats below their nearest key's κ."""
    inverse, n, d = pack_inverse(problem, np.float64), problem.n, problem.d
    share = math.sqrt(min(max(SPARING * problem.m * n / (SAMPLE * ASKED), 1 / 16), 1.0))
    some = np.unique(np.linspace(0, n - 1, int(share * SAMPLE)).astype(np.intp))
    keys = coordinates(problem, problem.keys[some]).astype(np.float64)
    asked = np.unique(np.linspace(0, problem.m - 1, int(share * ASKED)).astype(np.intp))
    queries = coordinates(problem, problem.queries[asked]).astype(np.float64)
    with np.errstate(over="ignore"):
        squares = sum((np.subtract.outer(queries[:, j], keys[:, j]) * inverse[j]) ** 2 for j in range(d))
    if problem.key_scale is not None:
        squares = squares / problem.key_scale[some].astype(np.float64) ** 2
    distances = np.sqrt(np.sort(squares, axis=1))
    of_leaf = _quantile(distances, LEAF / n, d)
    if problem.kernel.support is not None:
        radius = np.full(len(asked), problem.kernel.support)
    else:
        nearest = _quantile(distances, 1 / n, d)
        radius = _radius(problem.kernel, nearest, nats - SPARED)
    reached, looked_at, inside = (
        float(np.mean(_share(distances, np.maximum(radius + factor * WIDER * of_leaf, 0.0), d)))
        for factor in (1.0, 2.5, -2.5)
    )
    return Shares(reached, looked_at, inside)


def _quantile(distances: Floats, share: float, d: int) -> Floats:
    """(queries,) Radius of a ball that holds such a share of the keys; by volume where the sample has too few."""
    place = share * distances.shape[1]
    if place >= FEW:
        return distances[:, min(int(place), distances.shape[1] - 1)]
    return distances[:, FEW - 1] * (place / FEW) ** (1 / d)


def _share(distances: Floats, radius: Floats, d: int) -> Floats:
    """(queries,) Share of the keys within a radius of each."""
    size = distances.shape[1]
    found = (distances <= radius[:, None]).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        by_volume = FEW * (radius / distances[:, FEW - 1]) ** d
    return np.where(found >= FEW, found, np.minimum(np.nan_to_num(by_volume, nan=FEW), FEW)) / size


def _radius(kernel: Kernel, nearest: Floats, nats: float) -> Floats:
    """(queries,) u where κ is e^(−nats) times its value at `nearest`, about; by bisection."""
    if kernel.facts.quadratic_form and not kernel.inner_product:
        return np.sqrt(nearest**2 + 2 * nats)

    def depth(u: Floats) -> Floats:
        return np.asarray(-kernel.log(u * u))

    with np.errstate(all="ignore"):
        wanted, low, high = depth(nearest) + nats, nearest, np.maximum(2 * nearest, nats)
        for _ in range(40):
            short = depth(high) < wanted
            if not short.any():
                break
            high = np.where(short, 2 * high, high)
        for _ in range(12):
            middle = (low + high) / 2
            short = depth(middle) < wanted
            low, high = np.where(short, middle, low), np.where(short, high, middle)
    return high
