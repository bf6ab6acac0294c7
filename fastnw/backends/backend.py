"""What a backend is: a record of its functions and of its capabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastnw.core.problem import Problem
from fastnw.kernels.kernel import Kernel


@dataclass(frozen=True)
class PairTimes:
    """How many nanoseconds a backend takes on one thread, as it was measured.

    Attributes
    ----------
    plain, exponential : float
        A pair of a kernel without and with an exponential.
    coordinate, value : float
        A coordinate and a value of a pair.
    packed_element : float
        Packing an element of the keys and values.
    inner_product : (float, float)
        How many times longer a coordinate and a value of an inner product take.
    constant_coordinate : float
        How many times longer a coordinate takes where the kernel is constant: 0 if no distance is computed.
    """

    plain: float
    exponential: float
    coordinate: float
    value: float
    packed_element: float
    inner_product: tuple[float, float] = (1.0, 1.0)
    constant_coordinate: float = 1.0


@dataclass(frozen=True, eq=False)
class GradientTiles:
    """The functions that add a tile of pairs to sums that gradients are made of; see `fastnw.backends.gradient_tiles`.

    Attributes
    ----------
    runs : kernel -> bool
        Whether they can run that kernel.
    add_to_queries : (kernel, inverse, queries, keys, moved, squares, outer) -> None
    add_to_keys : (kernel, inverse, queries, keys, moved, values, weights, squares) -> None
    """

    runs: Callable[[Kernel], bool]
    add_to_queries: Callable[..., None]
    add_to_keys: Callable[..., None]


class SweptKeys(Protocol):
    """The keys that a backend's `sweep` sums, and what it keeps of them."""

    problem: Problem
    on_device: dict[Any, Any]

    @property
    def extent(self) -> tuple[NDArray[np.float64], float]:
        """Largest |k_j| (d,) of the (whitened) keys, and the largest factor that a key scale puts on a score."""


@dataclass(frozen=True, eq=False)
class Backend:
    """The functions that sum a tile of pairs, and the capabilities that methods and the planner read.

    A backend never checks its arguments, never chooses the size of a tile and never normalises.

    Attributes
    ----------
    name : str
    device : {"host", "cuda"}
        Where its blocks of queries and keys lie.
    dtypes : tuple of str
        The compute types of its tiles.
    methods : frozenset of str
        The methods that can run on it.
    compiles : bool
        Whether it compiles a kernel at first use, which takes a second or two.
    as_written : bool
        Whether it computes each formula as it is written, in NumPy.
    pads_values : bool
        Whether it sums several values in whole vectors, so that a pair costs as much as the next multiple.
    pair_times : dtype -> PairTimes
        Its measured times on this kind of processor.
    isa : () -> str
        The instruction set in use.
    missing : () -> str or None
        Why the backend is unavailable, or None if it can run.
    refusal : kernel -> str or None
        Why it cannot run that kernel, or None.
    bounds : kernel -> bool
        Whether `sum_tile` adds bounds on the effect of errors of u² to `mass_error`, as for compact kernels. If not,
        the method bounds that effect.
    sum_tile : (kernel, queries, keys, inverse, own, state, error) -> None
        Adds the sums of a `KeyBlock` to the state of a query block, in place. ``queries`` (m, d) and ``inverse`` (d,)
        are of the keys' type; ``own`` (m,) int64 are the positions within the block of the keys to leave out, or None;
        ``error`` (m,) bounds the relative error of u² (the absolute one below 1).
    sum_several : (profiles, queries, keys, inverse, own, states, error) -> None
        The same for several ``profiles``, pairs of a kernel and a factor of `inverse` (which divides the bandwidth), in
        one pass over the distances where that saves time; ``states`` has a state for each profile.
    score_tile : (kernel, queries, keys, inverse) -> (m, B) array
        u²; for inner products, the scaled product.
    prepare : (kernel, inverse, c, scaled) -> None, optional
        Compiles what the tiles need, before threads begin.
    sum_leaves : (kernel, queries, tree, inverse, own, state, error, weighing, moments) -> (done, pairs), optional
        Adds to the states of sorted queries the leaves of a tree that each needs, until enough pairs are summed.
        ``own`` are positions in the tree, −1 for none. ``weighing`` holds the total and the least weight, the share of
        a mass that may be left out (its bound goes into `mass_error`), and how many pairs are enough. ``moments`` holds
        those of the nodes or None, the kernel's power, the lowest level to use and their error per weight. For other
        backends `methods.tree.blockwise` makes tiles of leaves.
    has_products : () -> bool
        Whether `product_tile` can run with the instruction set in use.
    load_products : () -> None, optional
        Loads BLAS for `product_tile`.
    product_tile : (kernel, queries, scaled, half, keys, inverse_squared, own, state, strip) -> float, optional
        Adds the sums of a `RowBlock` to the state of a query block, in place, by matrix products; returns the largest
        Σ_j key_j² v_j with v the ``inverse_squared`` (d,), or 0 where squared differences were summed instead. The
        exponent of 2 of a query and a key is ``scaled`` (m, d) · key + ``half`` (m,) − log2(e)/2 Σ_j key_j² v_j; for
        inner products only the first term. ``strip`` keys are multiplied at a time.
    sweep : optional
        Sums all keys for its queries at once: for a backend whose queries do not lie in the host's memory.
    by_products : problem -> bool, optional
        Whether `sweep` can take u² from matrix products.
    gradients : GradientTiles, optional
    """

    name: str
    device: str
    methods: frozenset[str]
    isa: Callable[[], str]
    missing: Callable[[], str | None]
    refusal: Callable[[Kernel], str | None]
    bounds: Callable[[Kernel], bool]
    pair_times: Callable[[np.dtype[Any]], PairTimes]
    sum_tile: Callable[..., None]
    sum_several: Callable[..., None]
    score_tile: Callable[..., Any]
    dtypes: tuple[str, ...] = ("float32", "float64")
    compiles: bool = False
    as_written: bool = False
    pads_values: bool = False
    prepare: Callable[..., None] | None = None
    sum_leaves: Callable[..., tuple[int, float]] | None = None
    has_products: Callable[[], bool] = lambda: False
    load_products: Callable[[], None] | None = None
    product_tile: Callable[..., float] | None = None
    sweep: Callable[..., Any] | None = None
    by_products: Callable[..., bool] | None = None
    gradients: GradientTiles | None = None

    def __reduce__(self) -> Any:
        from fastnw.backends import get

        return get, (self.name,)
