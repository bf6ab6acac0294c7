"""The record of the CUDA backend: NVIDIA GPUs through numba-cuda, an optional extra that is imported at first use.

`source` and `wide` write the text of a device function for each formula, type and dimension. `kernels` compiles it at
first use, and `stream` copies the keys to the device and launches it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.backends.backend import Backend, PairTimes, SweptKeys
from fastnw.core.pack import KeyBlock, pack_keys
from fastnw.core.problem import Problem
from fastnw.core.state import Sums
from fastnw.kernels.kernel import Kernel
from fastnw.runtime.threads import Meter

Array = NDArray[Any]

INSTALL = "pip install 'fastnw[cuda]'"
_TIMES = {"float32": PairTimes(1.2e-4, 2e-4, 5e-5, 2e-5, 3.0), "float64": PairTimes(4e-4, 9e-4, 1e-4, 4e-5, 3.0)}
BLOCK_BYTES = 8 << 20  # size of a block of keys that is copied to the device; host memory holds three blocks
MIN_PRODUCT_D = 33  # number of coordinates from which exponents may be computed as |q|² + |k|² − 2 q·k


@lru_cache(maxsize=1)
def missing() -> str | None:
    """Why the backend is unavailable, or None if it can run."""
    if importlib.util.find_spec("numba_cuda") is None:
        return f"numba-cuda is not installed: {INSTALL}"
    try:
        from numba import cuda
    except Exception as failure:  # an incompatible version of numba, NumPy or the driver's bindings
        return f"numba-cuda cannot be imported ({failure}): {INSTALL}"
    try:
        if len(list(cuda.gpus)) == 0:
            return "the NVIDIA driver finds no device"
    except Exception as failure:  # numba-cuda raises errors of several classes of its own
        reason = " ".join(str(failure).split()) or type(failure).__name__
        if "driver" in reason.lower():
            return f"no NVIDIA driver that works ({reason})"
        return f"no CUDA device ({reason})"
    return None


def refusal(kernel: Kernel) -> str | None:
    """Why the backend cannot run the kernel, or None if it can. An available backend runs every kernel."""
    return missing()


def bounds(kernel: Kernel) -> bool:
    """Whether `sum_tile` bounds the effect of errors of u² in `mass_error`."""
    return not kernel.facts.built_in or kernel.window_sensitivity > 0


def isa() -> str:
    """The name that stands for the instruction set."""
    return "cuda"


def pair_times(dtype: np.dtype[Any]) -> PairTimes:
    """Times estimated from the throughput of a large device. They are not measured."""
    return _TIMES[dtype.name]


def sum_tile(
    kernel: Kernel,
    queries: Array,
    keys: KeyBlock,
    inverse: Array,
    own: NDArray[np.int64] | None,
    state: Sums,
    error: NDArray[np.float64],
) -> None:
    """Add the block's sums to the state, in place."""
    from fastnw.backends.cuda.stream import Queries, Stream, sums

    if len(queries) == 0 or keys.size == 0:
        return
    keys = KeyBlock(0, keys.coords, keys.scale, keys.weights, keys.weighted, keys.values)
    shape = shape_of(kernel, queries.dtype, inverse, state.total.shape[1], keys.scale is not None, keys.weighted, own)
    stream = Stream(shape, inverse, lambda: iter([keys]), keys.size, keys.size)
    part = sums(kernel, shape, Queries(queries, inverse, error, own), stream, lambda pairs: None)
    state.put(slice(None), state.merge(part))


def sum_several(
    profiles: Sequence[tuple[Kernel, float]],
    queries: Array,
    keys: KeyBlock,
    inverse: Array,
    own: NDArray[np.int64] | None,
    states: Sequence[Sums],
    error: NDArray[np.float64],
) -> None:
    """Add the block's sums for several profiles to their states, in place."""
    for (kernel, factor), state in zip(profiles, states, strict=True):
        sum_tile(kernel, queries, keys, inverse * inverse.dtype.type(factor), own, state, error)


def score_tile(kernel: Kernel, queries: Array, keys: KeyBlock, inverse: Array) -> Array:
    """(m, B) u², or the scaled inner product."""
    from numba import cuda

    from fastnw.backends.cuda.functions import SIMULATED
    from fastnw.backends.cuda.kernels import scores

    if len(queries) == 0 or keys.size == 0:
        return np.empty((len(queries), keys.size), queries.dtype)
    table = keys.coords if keys.scale is None else np.concatenate([keys.coords, keys.scale[None]])
    out = cuda.device_array((len(queries), keys.size), queries.dtype)
    threads = (4, 2) if SIMULATED else (32, 8)
    grid = (-(-keys.size // threads[0]), -(-len(queries) // threads[1]))
    arrays = (cuda.to_device(np.ascontiguousarray(a)) for a in (queries, table, inverse))
    scores[grid, threads](*arrays, kernel.inner_product, keys.scale is not None, out)
    return np.asarray(out.copy_to_host())


def by_products(problem: Problem) -> bool:
    """Whether a first sweep may compute u² by matrix products, whose error is absolute."""
    plain = problem.kernel.facts.quadratic_form and not problem.kernel.inner_product and problem.key_scale is None
    return plain and problem.metric.cholesky is None and problem.d >= MIN_PRODUCT_D


def sweep(
    summary: SweptKeys,
    positions: NDArray[np.intp],
    queries: Any,
    inverse: Array,
    error: NDArray[np.float64],
    meter: Meter,
    products: bool = False,
) -> tuple[Sums, NDArray[np.float64] | None]:
    """The state of the queries at `positions` over all keys.

    With `products` it also returns (m,) bounds on the absolute errors of exponents. Queries and keys that lie on the
    device (`DeviceArray`) are read there.
    """
    from fastnw.backends.cuda.stream import Queries, Resident, Stream, sums

    problem = summary.problem
    own = positions.astype(np.int64) if problem.exclude_self else None
    scaled = problem.key_scale is not None
    shape = shape_of(problem.kernel, queries.dtype, inverse, problem.c, scaled, problem.weighted, own, products)
    tables = summary.on_device
    if shape not in tables:
        per_key = queries.dtype.itemsize * shape.rows
        block = min(max(BLOCK_BYTES // per_key, 1), problem.n)
        if problem.on_device:
            tables[shape] = Resident(shape, inverse, problem, block)
        else:
            tables[shape] = Stream(shape, inverse, lambda: _blocks(problem, block, queries.dtype), block, problem.n)
    device_queries = Queries(queries, inverse, error, own)
    state = sums(problem.kernel, shape, device_queries, tables[shape], meter.add)
    return state, _exponent_error(problem, summary, device_queries) if products else None


def _blocks(problem: Problem, size: int, dtype: np.dtype[Any]) -> Iterator[KeyBlock]:
    for start in range(0, problem.n, size):
        yield pack_keys(problem, start, min(start + size, problem.n), dtype, codes=False)


def _exponent_error(problem: Problem, summary: SweptKeys, queries: Any) -> NDArray[np.float64]:
    """Bound on the error of exponents of e that are computed as |q|² + |k|² − 2 q·k.

    It covers the rounding of products of d terms that are added in sequence, of the norms and of the final sum.
    """
    unit = float(np.finfo(queries.points.dtype).eps) / 2
    radius, _ = summary.extent
    with np.errstate(over="ignore", invalid="ignore"):
        key_norm, query_norm = np.square(radius * problem.metric.inverse).sum(), queries.norm()
        product = np.sqrt(query_norm) * np.sqrt(key_norm)
        return unit * ((problem.d + 12) * product + 16 * (query_norm + key_norm))


def shape_of(
    kernel: Kernel,
    dtype: np.dtype[Any],
    inverse: Array,
    c: int,
    scaled: bool,
    weighted: bool,
    own: Any,
    products: bool = False,
) -> Any:
    """The `fastnw.backends.cuda.kernels.Shape` that determines which device functions run."""
    from fastnw.backends.cuda.kernels import Shape

    # One bandwidth, and squares of raw differences times its inverse square stay within range.
    one_bandwidth = bool(np.all(inverse == inverse[0])) and 1e-10 < float(inverse[0]) < 1e10
    form = "dot" if kernel.inner_product else "norms" if products else "one" if one_bandwidth else "each"
    return Shape(dtype.name, len(inverse), c, form, scaled, weighted, own is not None)


BACKEND = Backend(
    name="cuda",
    device="cuda",
    methods=frozenset({"exact"}),
    isa=isa,
    missing=missing,
    refusal=refusal,
    bounds=bounds,
    pair_times=pair_times,
    sum_tile=sum_tile,
    sum_several=sum_several,
    score_tile=score_tile,
    sweep=sweep,
    by_products=by_products,
)
