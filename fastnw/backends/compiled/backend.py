"""The record of the compiled backend: tiles for the processor's instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnw.backends.backend import Backend, PairTimes
from fastnw.backends.compiled import gradients
from fastnw.backends.compiled.levels import active, levels, use_level
from fastnw.backends.compiled.products import has_products, load_products, product_tile
from fastnw.backends.compiled.tiles import score_tile, sum_leaves, sum_several, sum_tile
from fastnw.kernels.kernel import Kernel
from fastnw.runtime.hardware import vendor

__all__ = ["BACKEND", "isa", "levels", "use_level"]

# The loops of inner products are not vectorised, so their coordinates and values take longer. No distance is computed
# for the constant kernel.
_LOOPS: Any = {"inner_product": (2.0, 5.0), "constant_coordinate": 0.0}
# Measured with tiles of 64 queries on one Zen 4 core (a shared one: ±30 %), fitted over d = 1 to 256, c = 1 to 64.
_TIMES = {
    ("v4", "float32"): PairTimes(0.10, 0.14, 0.022, 0.032, 3.0, **_LOOPS),
    ("v4", "float64"): PairTimes(0.20, 0.42, 0.046, 0.064, 3.0, **_LOOPS),
    ("v3", "float32"): PairTimes(0.14, 0.25, 0.050, 0.045, 3.0, **_LOOPS),
    ("v3", "float64"): PairTimes(0.30, 0.80, 0.120, 0.095, 3.0, **_LOOPS),
    ("v2", "float32"): PairTimes(0.30, 0.70, 0.130, 0.120, 3.0, **_LOOPS),
    ("v2", "float64"): PairTimes(0.60, 2.60, 0.300, 0.270, 3.0, **_LOOPS),
    ("plain", "float32"): PairTimes(0.80, 1.20, 0.140, 0.200, 3.0, **_LOOPS),
    ("plain", "float64"): PairTimes(1.40, 3.80, 0.300, 0.400, 3.0, **_LOOPS),
}
# Measured on one core of a Xeon (Sapphire Rapids, a shared one: ±30 %): processor time of calls with 500 to 4,000
# queries on 8,000 keys, less that of a quarter of the queries; d = 1 to 100, c = 1 to 60.
_TIMES_INTEL = {
    ("v4", "float32"): PairTimes(0.07, 0.15, 0.040, 0.030, 2.7, **_LOOPS),
    ("v4", "float64"): PairTimes(0.12, 0.32, 0.080, 0.045, 4.5, **_LOOPS),
}


def missing() -> str | None:
    """Why there are no tiles to run, or None."""
    return None if active() is not None else "no compiled tiles for this processor"


def refusal(kernel: Kernel) -> str | None:
    """Why the kernel does not run here, or None."""
    if not kernel.facts.built_in or kernel.facts.compiled_code is None:
        return f"kernel {kernel.name!r} is not compiled in; backend='reference' runs it"
    return missing()


def bounds(kernel: Kernel) -> bool:
    """Whether `sum_tile` bounds the effect of errors of u² in `mass_error`."""
    return kernel.window_sensitivity > 0


def isa() -> str:
    """The instruction set in use: 'v2', 'v3', 'v4' (x86-64 levels), 'plain', or 'none'."""
    return active() or "none"


def pair_times(dtype: np.dtype[Any]) -> PairTimes:
    """The measured times of the instruction set in use, on processors of this maker if they were measured there."""
    key = (isa(), dtype.name)
    return _TIMES_INTEL.get(key, _TIMES[key]) if vendor() == "intel" else _TIMES[key]


BACKEND = Backend(
    name="compiled",
    device="host",
    methods=frozenset({"exact", "tree", "moments", "fourier"}),
    isa=isa,
    missing=missing,
    refusal=refusal,
    bounds=bounds,
    pair_times=pair_times,
    sum_tile=sum_tile,
    sum_several=sum_several,
    score_tile=score_tile,
    pads_values=True,
    sum_leaves=sum_leaves,
    has_products=has_products,
    load_products=load_products,
    product_tile=product_tile,
    gradients=gradients.TILES,
)
