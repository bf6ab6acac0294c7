"""The compiled tiles: the module for the processor's instruction set, picked once."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastnw.backends.backend import Backend
from fastnw.core.pack import KeyBlock, RowBlock
from fastnw.core.state import PoolState
from fastnw.kernels.kernel import Kernel
from fastnw.runtime.hardware import cpu_levels

if TYPE_CHECKING:
    from fastnw.backends.gradient_tiles import Keys, Queries
    from fastnw.methods.tree.method import Tree

Floats = NDArray[np.float64]

SEVERAL = 16  # profiles in one pass at most; _fused.h


@lru_cache(maxsize=1)
def levels() -> tuple[str, ...]:
    """The levels that were built and that the processor runs, lowest first."""
    return tuple(level for level in ("plain", *cpu_levels()) if _module(level) is not None)


@lru_cache(maxsize=8)
def _module(level: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"fastnw.backends.compiled._tiles_{level}")
    except ModuleNotFoundError:
        return None


_active: ModuleType | None = _module(levels()[-1]) if levels() else None


@contextmanager
def use_level(level: str) -> Iterator[None]:
    """Run on another of `levels` for a while: for tests, not for threads side by side."""
    global _active
    if level not in levels():
        raise ValueError(f"level {level!r} does not run here; it has {', '.join(levels())}.")
    before, _active = _active, _module(level)
    try:
        yield
    finally:
        _active = before


def missing() -> str | None:
    """Why there are no tiles to run, or None."""
    return None if _active is not None else "no compiled tiles for this processor"


def refusal(kernel: Kernel) -> str | None:
    """Why the kernel does not run here, or None."""
    if kernel.facts.compiled_code is None:
        return f"kernel {kernel.name!r} is not compiled in; backend='reference' runs it"
    return missing()


def bounds(kernel: Kernel) -> bool:
    """Whether `sum_tile` bounds in `mass_error` what the error of u² does."""
    return kernel.window_sensitivity > 0


def isa() -> str:
    """The instruction set in use: 'v2', 'v3', 'v4' (x86-64 levels) or 'plain'."""
    return "none" if _active is None else _active.__name__.rpartition("_")[2]


def sum_tile(
    kernel: Kernel,
    queries: NDArray[Any],
    keys: KeyBlock,
    inverse: NDArray[Any],
    own: NDArray[np.int64] | None,
    state: PoolState,
    error: NDArray[np.float64],
) -> None:
    """Add the block's sums to the state, in place; see `fastnw.backends`."""
    assert _active is not None
    _active.sum_tile(
        kernel.facts.compiled_code,
        queries,
        inverse,
        keys.scale,
        keys.coords,
        keys.weights,
        keys.weighted,
        keys.values,
        keys.codes,
        own,
        state.shift,
        state.mass,
        state.total,
        state.mass_error,
        error,
        kernel.window_sensitivity,
    )


def sum_several(
    profiles: Sequence[tuple[Kernel, float]],
    queries: NDArray[Any],
    keys: KeyBlock,
    inverse: NDArray[Any],
    own: NDArray[np.int64] | None,
    states: Sequence[PoolState],
    error: NDArray[np.float64],
) -> None:
    """Add the block's sums for several profiles to their states, in place; see `fastnw.backends`."""
    assert _active is not None
    if (
        keys.values.shape[0] > 1 or keys.codes is not None
    ):  # kernel values of each profile would have to be kept: nothing is shared
        for (kernel, factor), state in zip(profiles, states, strict=True):
            sum_tile(kernel, queries, keys, inverse * inverse.dtype.type(factor), own, state, error)
        return
    for first in range(0, len(profiles), SEVERAL):
        part, mine = profiles[first : first + SEVERAL], states[first : first + SEVERAL]
        factors = np.array([factor for _, factor in part])
        joined = PoolState.stacked(mine)
        _active.sum_several(
            np.array([kernel.facts.compiled_code for kernel, _ in part], np.intc),
            ((factors / factors[0]) ** 2).astype(inverse.dtype),
            queries,
            np.ascontiguousarray(np.outer(factors, inverse.astype(np.float64)), inverse.dtype),
            keys.scale,
            keys.coords,
            keys.weights,
            keys.values,
            own,
            joined.shift,
            joined.mass,
            joined.total,
            joined.mass_error,
            error,
            np.array([kernel.window_sensitivity for kernel, _ in part]),
        )
        for i, state in enumerate(mine):
            state.put(slice(None), joined.rows(slice(i * len(queries), (i + 1) * len(queries))))


def sum_leaves(
    kernel: Kernel,
    queries: NDArray[np.float64],
    tree: Tree,
    inverse: NDArray[np.float64],
    own: NDArray[np.int64] | None,
    state: PoolState,
    error: NDArray[np.float64],
    weighing: tuple[float, float, float, float],
    moments: tuple[NDArray[np.float64] | None, int, int, float],
) -> tuple[int, float]:
    """Add the sums of the leaves that sorted queries need to the state, in place, until enough pairs were summed.

    `own` (m,) are the positions in the tree of keys to leave out, −1 for none; `weighing` the total and the least
    weight, the share of a mass that may be left out, which goes into ``state.mass_error``, and how many pairs are
    enough; `moments` those of the nodes or None, the kernel's power, the lowest level used and their error per weight.

    Returns
    -------
    done : int
        The first so many queries are done.
    pairs : float
    """
    assert _active is not None
    done, pairs = _active.sum_leaves(
        kernel.facts.compiled_code,
        queries,
        inverse,
        tree.block.scale,
        tree.block.coords,
        tree.block.weights,
        tree.block.values,
        tree.block.codes,
        tree.low,
        tree.high,
        tree.node_weights,
        tree.node_scales,
        tree.levels,
        own,
        state.shift,
        state.mass,
        state.total,
        state.mass_error,
        error,
        kernel.window_sensitivity,
        *weighing,
        *moments,
    )
    return int(done), float(pairs)


def has_products() -> bool:
    """Whether `product_tile` runs here."""
    return _active is not None and isa() != "plain"


def load_products() -> None:
    """Load what `product_tile` needs, SciPy's BLAS included: before BLAS is held to one thread, so that it is, too."""
    _products(isa())


@lru_cache(maxsize=4)
def _products(level: str) -> ModuleType:
    return importlib.import_module(f"fastnw.backends.compiled._products_{level}")


def product_tile(
    kernel: Kernel,
    queries: NDArray[Any],
    scaled: NDArray[Any],
    half: NDArray[Any],
    keys: RowBlock,
    inverse_squared: NDArray[Any],
    own: NDArray[np.int64] | None,
    state: PoolState,
    strip: int,
) -> float:
    """Add the sums of rows of keys to the state, in place, by matrix products.

    The exponent of 2 of a query and a key is ``scaled`` (m, d) · key + ``half`` (m,) − log2(e)/2 Σ_j key_j² v_j, with v
    the ``inverse_squared`` (d,); for inner products just the first term. ``strip`` keys are worked on at a time.

    Returns
    -------
    norm : float
        The largest Σ_j key_j² v_j, or 0 where there were so few queries that squared differences were summed instead.
    """
    return float(
        _products(isa()).product_tile(
            kernel.inner_product,
            queries,
            scaled,
            half,
            keys.keys,
            keys.values,
            keys.weights,
            inverse_squared,
            own,
            state.shift,
            state.mass,
            state.total,
            keys.centre,
            1.0 / keys.spread,
            strip,
        )
    )


@lru_cache(maxsize=4)
def _gradients(level: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"fastnw.backends.compiled._gradients_{level}")
    except ModuleNotFoundError:
        return None


def has_gradients(kernel: Kernel) -> bool:
    """Whether `add_to_queries` and `add_to_keys` run the kernel: those of distances."""
    return refusal(kernel) is None and not kernel.inner_product and _gradients(isa()) is not None


def add_to_queries(
    kernel: Kernel, inverse: Floats, queries: Queries, keys: Keys, moved: Floats, squares: Floats, outer: Floats | None
) -> None:
    """Add the block's part of the sums, in place; see `fastnw.backends.gradient_tiles`."""
    module = _gradients(isa())
    assert module is not None
    module.add_to_queries(
        kernel.facts.compiled_code,
        inverse,
        np.ascontiguousarray(queries.coords.T),
        None if queries.positions is None else (queries.positions - keys.start).astype(np.int64),
        queries.log_mass,
        np.ascontiguousarray(queries.alpha.T),
        queries.gamma,
        keys.coords,
        keys.scale,
        keys.log_weights,
        keys.values,
        moved,
        squares,
        outer,
    )


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
    """Add the queries' part of the sums, in place; see `fastnw.backends.gradient_tiles`."""
    module = _gradients(isa())
    assert module is not None
    module.add_to_keys(
        kernel.facts.compiled_code,
        inverse,
        np.ascontiguousarray(keys.coords.T),
        keys.scale,
        keys.log_weights,
        np.ascontiguousarray(keys.values.T),
        queries.coords,
        None if queries.positions is None else (queries.positions - keys.start).astype(np.int64),
        -queries.log_mass,
        queries.alpha,
        queries.gamma,
        moved,
        values,
        weights,
        squares,
    )


def score_tile(kernel: Kernel, queries: NDArray[Any], keys: KeyBlock, inverse: NDArray[Any]) -> NDArray[Any]:
    """(m, B) u², or the scaled inner product; see `fastnw.backends`."""
    assert _active is not None
    out = np.empty((len(queries), keys.size), queries.dtype)
    _active.score_tile(kernel.facts.compiled_code, queries, inverse, keys.scale, keys.coords, out)
    return np.negative(out, out=out) if kernel.inner_product else out


BACKEND = Backend(
    name="compiled",
    device="host",
    methods=frozenset({"exact", "tree", "moments", "fourier"}),
    isa=isa,
    missing=missing,
    refusal=refusal,
    bounds=bounds,
    sum_tile=sum_tile,
    sum_several=sum_several,
    score_tile=score_tile,
    pads_values=True,
    sum_leaves=sum_leaves,
    has_products=has_products,
    load_products=load_products,
    product_tile=product_tile,
)
