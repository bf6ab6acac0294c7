"""What a backend is: a record of its functions and of what it can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastnw.kernels.kernel import Kernel


@dataclass(frozen=True, eq=False)
class Backend:
    """The functions that sum a tile of pairs, and the capabilities that methods and the planner read.

    A backend never checks its arguments, never chooses the size of a tile and never normalises.

    Attributes
    ----------
    name : str
    device : {"host", "cuda"}
        Where its blocks of queries and keys lie.
    methods : frozenset of str
        The methods that can run on it.
    as_written : bool
        Whether it computes each formula as it is written, in NumPy.
    pads_values : bool
        Whether it sums several values in whole vectors, so that a pair costs as much as the next multiple.
    isa : () -> str
        The instruction set in use.
    missing : () -> str or None
        Why the backend is unavailable, or None if it can run.
    refusal : kernel -> str or None
        Why it cannot run that kernel, or None.
    bounds : kernel -> bool
        Whether `sum_tile` fills `mass_error`, as for compact kernels; if not, the method bounds what the error of u²
        does.
    sum_tile : (kernel, queries, keys, inverse, own, state, error) -> None
        Adds a key block's sums to a query block's `PoolState`, in place. ``queries`` (m, d) and ``inverse`` (d,) are of
        the keys' type; ``own`` (m,) int64 are the positions within the block of keys to leave out, or None; ``error``
        (m,) bounds the relative error of u² (the absolute one below 1).
    sum_several : (profiles, queries, keys, inverse, own, states, error) -> None
        The same for several ``profiles``, pairs of a kernel and a factor of `inverse` (so a bandwidth is divided by
        it), in one pass over the distances where that saves anything; ``states`` has one for each profile.
    score_tile : (kernel, queries, keys, inverse) -> (m, B) array
        u²; for inner products, the scaled product.
    prepare : (kernel, inverse, c, scaled) -> None, optional
        Compiles what the tiles need, before threads begin.
    sum_leaves : optional
        Each query of a block chooses leaves of a tree of keys and sums them. For the other backends
        `methods.tree.blockwise` makes tiles of leaves.
    has_products : () -> bool
        Whether `product_tile` can run: whether there are matrix products for the instruction set in use.
    load_products : () -> None, optional
        Finds BLAS for `product_tile`.
    product_tile : optional
        Sums a tile of pairs whose exponents are matrix products.
    sweep : optional
        Sums all keys for its queries at once: a backend that keeps its queries elsewhere than in the host's memory.
    by_products : (problem, dtype) -> bool, optional
        Whether `sweep` takes u² from matrix products.
    """

    name: str
    device: str
    methods: frozenset[str]
    isa: Callable[[], str]
    missing: Callable[[], str | None]
    refusal: Callable[[Kernel], str | None]
    bounds: Callable[[Kernel], bool]
    sum_tile: Callable[..., None]
    sum_several: Callable[..., None]
    score_tile: Callable[..., Any]
    as_written: bool = False
    pads_values: bool = False
    prepare: Callable[..., None] | None = None
    sum_leaves: Callable[..., tuple[int, float]] | None = None
    has_products: Callable[[], bool] = lambda: False
    load_products: Callable[[], None] | None = None
    product_tile: Callable[..., float] | None = None
    sweep: Callable[..., Any] | None = None
    by_products: Callable[..., bool] | None = None

    def __reduce__(self) -> Any:
        from fastnw.backends import get

        return get, (self.name,)
