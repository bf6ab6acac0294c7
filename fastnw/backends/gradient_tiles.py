"""Tiles of the sums that `fastnw.gradients.sums` is made of, in NumPy: for every kernel, and what others must equal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.backends.compiled import backend as compiled
from fastnw.kernels.derivative import derivative
from fastnw.kernels.kernel import Kernel
from fastnw.runtime.threads import check_stop, one_blas_thread

Floats = NDArray[np.float64]

PAIRS = 1 << 15  # pairs worked on at a time: arrays of 256 KiB, some of which stay in L2
LARGEST, LOG_LARGEST = 1e300, 700.0  # profiles are NaN at an infinite u²; exp is infinite beyond 709


@dataclass(frozen=True)
class Queries:
    """Some of the queries and what goes with each.

    Attributes
    ----------
    positions : (p,) int array or None
        Of the keys to leave out.
    coords : (d, p) float64
        Raw, or whitened by a full matrix.
    log_mass : (p,) float64
        inf for a query that takes no part.
    alpha : (c, p) float64
    gamma : (p,) float64
    """

    positions: NDArray[np.integer[Any]] | None
    coords: Floats
    log_mass: Floats
    alpha: Floats
    gamma: Floats

    @property
    def size(self) -> int:
        return self.coords.shape[1]

    def part(self, rows: slice) -> Queries:
        positions = None if self.positions is None else self.positions[rows]
        return Queries(positions, self.coords[:, rows], self.log_mass[rows], self.alpha[:, rows], self.gamma[rows])


@dataclass(frozen=True)
class Keys:
    """A block of keys.

    Attributes
    ----------
    start : int
        Position of the first among all keys.
    coords : (d, B) float64
        Raw, or whitened by a full matrix.
    scale : (B,) float64 or None
        Factor of the squared distance, 1/λ²; for an inner product 1/λ.
    log_weights : (B,) float64 or None
    values : (c, B) float64
    """

    start: int
    coords: Floats
    scale: Floats | None
    log_weights: Floats | None
    values: Floats

    @property
    def size(self) -> int:
        return self.coords.shape[1]

    def part(self, rows: slice) -> Keys:
        scale = None if self.scale is None else self.scale[rows]
        log_weights = None if self.log_weights is None else self.log_weights[rows]
        return Keys(self.start + rows.start, self.coords[:, rows], scale, log_weights, self.values[:, rows])


def tiles(backend: str, kernel: Kernel) -> Any:
    """What has `add_to_queries` and `add_to_keys`: compiled tiles where they run the kernel, or this module."""
    compiled_too = backend in ("auto", "compiled") and compiled.has_gradients(kernel)
    return compiled if compiled_too else sys.modules[__name__]


def add_to_queries(
    kernel: Kernel, inverse: Floats, queries: Queries, keys: Keys, moved: Floats, squares: Floats, outer: Floats | None
) -> None:
    """Add the block's part of `QuerySums` to `moved` and `squares`, both (p, d), and `outer` (d, d), in place."""
    with one_blas_thread, np.errstate(all="ignore"):
        for rows in _steps(keys.size, queries.size):
            check_stop()
            part = keys.part(rows)
            pairs = _pairs(kernel, inverse, queries, part)
            if kernel.inner_product:
                sums = pairs.force @ part.coords.T
                scaled = queries.coords.T * inverse
                moved -= sums
                squares -= scaled * sums
                if outer is not None:
                    product = queries.coords @ sums
                    outer -= product + product.T
                continue
            for a, (z, force) in enumerate(_along(inverse, queries, part, pairs.force)):
                moved[:, a] += force.sum(axis=1)
                squares[:, a] += np.einsum("ij,ij->i", force, z)
                if outer is not None:
                    for b in range(len(inverse)):
                        outer[a, b] += np.einsum("ij,ij->", force, _differences(inverse, queries, part, b))


def add_to_keys(
    kernel: Kernel,
    inverse: Floats,
    queries: Queries,
    keys: Keys,
    moved: Floats,
    values: Floats,
    weights: Floats,
    squares: Floats,
) -> None:
    """Add the queries' part of `KeySums` to `moved` (B, d), `values` (B, c), `weights` and `squares` (B,), in place."""
    with one_blas_thread, np.errstate(all="ignore"):
        for rows in _steps(queries.size, keys.size):
            check_stop()
            part = queries.part(rows)
            pairs = _pairs(kernel, inverse, part, keys)
            values += pairs.share.T @ part.alpha.T
            weights += pairs.pull.sum(axis=0)
            if kernel.inner_product:
                sums = pairs.force.T @ part.coords.T
                moved += sums
                squares -= (sums * keys.coords.T) @ inverse
                continue
            for a, (z, force) in enumerate(_along(inverse, part, keys, pairs.force)):
                moved[:, a] += force.sum(axis=0)
                squares += np.einsum("ij,ij->j", force, z)


@dataclass(frozen=True)
class _Pairs:
    """(p, B) arrays: p_ij, p_ij (α_i·v_j − γ_i), and E_ij with the key's scale of products of differences."""

    share: Floats
    pull: Floats
    force: Floats


def _pairs(kernel: Kernel, inverse: Floats, queries: Queries, keys: Keys) -> _Pairs:
    if kernel.inner_product:
        score = (queries.coords.T * inverse) @ keys.coords
    else:
        score = np.zeros((queries.size, keys.size))
        for a in range(len(inverse)):
            z = _differences(inverse, queries, keys, a)
            score += np.multiply(z, z, out=z)
    if keys.scale is not None:
        score *= keys.scale
    if not kernel.inner_product:
        np.minimum(score, LARGEST, out=score)
    logs = np.broadcast_to(-queries.log_mass[:, None], score.shape)
    if keys.log_weights is not None:
        logs = logs + keys.log_weights
    share, fall = _share_and_fall(kernel, score, logs)
    if queries.positions is not None:
        own = queries.positions - keys.start
        here = np.flatnonzero((own >= 0) & (own < keys.size))
        share[here, own[here]] = fall[here, own[here]] = 0.0
    pull = queries.alpha.T @ keys.values - queries.gamma[:, None]
    fall *= pull
    pull = np.where(pull == 0, 0.0, pull * share)  # a share may be infinite: that of a key without weight
    return _Pairs(share, pull, fall if keys.scale is None else fall * keys.scale)


def _share_and_fall(kernel: Kernel, score: Floats, logs: Floats) -> tuple[Floats, Floats]:
    """κ and −2 dκ/du² (for inner products, dκ/dscore), both times exp(logs)."""
    if kernel.log_profile is not None:
        inside = np.ones(score.shape, bool) if kernel.support is None else score <= kernel.support**2
        share = np.where(inside, np.exp(kernel.log_profile(np.where(inside, score, 0.0)) + logs), 0.0)
        return share, share.copy() if kernel.inner_product else share * derivative(kernel, score)
    factor = np.exp(np.minimum(logs, LOG_LARGEST))  # finite: 0 beyond the support stays 0
    inside = np.ones(score.shape, bool) if kernel.support is None else score <= kernel.support**2
    kappa = np.where(inside, np.maximum(kernel.profile(np.where(inside, score, 0.0)), 0.0), 0.0)
    return factor * kappa, factor * derivative(kernel, score)


def _differences(inverse: Floats, queries: Queries, keys: Keys, a: int) -> Floats:
    """(p, B) Differences of one coordinate in bandwidths, before keys' scales."""
    z = queries.coords[a][:, None] - keys.coords[a]
    z *= inverse[a]
    return z


def _along(inverse: Floats, queries: Queries, keys: Keys, force: Floats) -> Iterator[tuple[Floats, Floats]]:
    """Of each coordinate the differences, and their products with `force`."""
    for a in range(len(inverse)):
        z = _differences(inverse, queries, keys, a)
        yield z, force * z


def _steps(count: int, others: int) -> Iterator[slice]:
    step = max(PAIRS // max(others, 1), 1)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
