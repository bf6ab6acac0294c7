"""Tiles of pairs, summed with matrix products by the extension modules `_products_*`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.backends.compiled import levels
from fastnw.core.pack import RowBlock
from fastnw.core.state import Sums
from fastnw.kernels.kernel import Kernel


def has_products() -> bool:
    """Whether `product_tile` can run: whether the instruction set in use has vectors."""
    level = levels.active()
    return level is not None and level != "plain"


def load_products() -> None:
    """Load the extension module and SciPy's BLAS, which must be there before BLAS is held to one thread."""
    levels.active_module("products")


def product_tile(
    kernel: Kernel,
    queries: NDArray[Any],
    scaled: NDArray[Any],
    half: NDArray[Any],
    keys: RowBlock,
    inverse_squared: NDArray[Any],
    own: NDArray[np.int64] | None,
    state: Sums,
    strip: int,
) -> float:
    """Add the sums of rows of keys to the state, in place; `Backend` describes the arguments and the result."""
    tile, factor = levels.active_module("products").product_tile, 1.0 / keys.spread
    arrays = (queries, scaled, half)
    return float(tile(kernel.inner_product, arrays, inverse_squared, keys, factor, own, state, strip))
