"""Tiles of pairs and leaves of trees, summed by the extension modules `_tiles_*`. `Backend` describes the arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.backends.compiled.levels import active_module
from fastnw.core.pack import KeyBlock
from fastnw.core.state import Sums
from fastnw.kernels.kernel import Kernel
from fastnw.runtime._constants import MAX_PROFILES


def sum_tile(
    kernel: Kernel,
    queries: NDArray[Any],
    keys: KeyBlock,
    inverse: NDArray[Any],
    own: NDArray[np.int64] | None,
    state: Sums,
    error: NDArray[np.float64],
) -> None:
    """Add the block's sums to the state, in place."""
    active_module("tiles").sum_tile(
        kernel.facts.compiled_code, kernel.window_sensitivity, queries, inverse, keys, own, state, error
    )


def sum_several(
    profiles: Sequence[tuple[Kernel, float]],
    queries: NDArray[Any],
    keys: KeyBlock,
    inverse: NDArray[Any],
    own: NDArray[np.int64] | None,
    states: Sequence[Sums],
    error: NDArray[np.float64],
) -> None:
    """Add the block's sums for several profiles to their states, in place."""
    # The profiles of several values would have to be stored one by one, so nothing could be shared.
    if keys.values.shape[0] > 1 or keys.codes is not None:
        for (kernel, factor), state in zip(profiles, states, strict=True):
            sum_tile(kernel, queries, keys, inverse * inverse.dtype.type(factor), own, state, error)
        return
    for first in range(0, len(profiles), MAX_PROFILES):
        part, their_states = profiles[first : first + MAX_PROFILES], states[first : first + MAX_PROFILES]
        factors = np.array([factor for _, factor in part])
        joined = Sums.stacked(their_states)
        arrays = (
            np.array([kernel.facts.compiled_code for kernel, _ in part], np.intc),
            np.array([kernel.window_sensitivity for kernel, _ in part]),
            ((factors / factors[0]) ** 2).astype(inverse.dtype),
        )
        inverses = np.ascontiguousarray(np.outer(factors, inverse.astype(np.float64)), inverse.dtype)
        active_module("tiles").sum_several(arrays, queries, inverses, keys, own, joined, error)
        for i, state in enumerate(their_states):
            state.put(slice(None), joined.rows(slice(i * len(queries), (i + 1) * len(queries))))


def sum_leaves(
    kernel: Kernel,
    queries: NDArray[np.float64],
    tree: Any,
    inverse: NDArray[np.float64],
    own: NDArray[np.int64] | None,
    state: Sums,
    error: NDArray[np.float64],
    weighing: tuple[float, float, float, float],
    moments: tuple[NDArray[np.float64] | None, int, int, float],
) -> tuple[int, float]:
    """Add the sums of the leaves that sorted queries need to the state, in place, until enough pairs are summed.

    Returns
    -------
    done : int
        How many queries are done, counted from the first.
    pairs : float
    """
    done, pairs = active_module("tiles").sum_leaves(
        kernel.facts.compiled_code,
        kernel.window_sensitivity,
        queries,
        inverse,
        tree,
        own,
        state,
        error,
        weighing,
        moments,
    )
    return done, pairs


def score_tile(kernel: Kernel, queries: NDArray[Any], keys: KeyBlock, inverse: NDArray[Any]) -> NDArray[Any]:
    """(m, B) u², or the scaled inner product."""
    out = np.empty((len(queries), keys.size), queries.dtype)
    active_module("tiles").score_tile(kernel.facts.compiled_code, queries, inverse, keys, out)
    return np.negative(out, out=out) if kernel.inner_product else out
