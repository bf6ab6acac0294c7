"""Tiles of the sums that gradients are made of, by the extension modules `_gradients_*`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastnw.backends.backend import GradientTiles
from fastnw.backends.compiled.levels import active, active_module, module
from fastnw.backends.gradient_tiles import Keys, Queries
from fastnw.kernels.kernel import Kernel

Floats = NDArray[np.float64]


def runs(kernel: Kernel) -> bool:
    """Whether these tiles run the kernel: built-in ones of distances."""
    built_in, level = kernel.facts.built_in and kernel.facts.compiled_code is not None, active()
    return built_in and not kernel.inner_product and level is not None and module("gradients", level) is not None


def add_to_queries(
    kernel: Kernel, inverse: Floats, queries: Queries, keys: Keys, moved: Floats, squares: Floats, outer: Floats | None
) -> None:
    """Add the block's part of the sums, in place."""
    points = np.ascontiguousarray(queries.coords.T), np.ascontiguousarray(queries.alpha.T)
    own, sums = _positions_within(queries, keys), (moved, squares, outer)
    active_module("gradients").add_to_queries(kernel.facts.compiled_code, inverse, points, queries, keys, own, sums)


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
    """Add the queries' part of the sums, in place."""
    points = np.ascontiguousarray(keys.coords.T), np.ascontiguousarray(keys.values.T)
    own, sums = _positions_within(queries, keys), (moved, values, weights, squares)
    active_module("gradients").add_to_keys(
        kernel.facts.compiled_code, inverse, points, keys, queries, -queries.log_mass, own, sums
    )


def _positions_within(queries: Queries, keys: Keys) -> NDArray[np.int64] | None:
    """(p,) Positions within the block of the keys to leave out."""
    return None if queries.positions is None else (queries.positions - keys.start).astype(np.int64)


TILES = GradientTiles(runs, add_to_queries, add_to_keys)
