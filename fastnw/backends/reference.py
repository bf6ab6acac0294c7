"""The reference backend: each formula as it is written, in NumPy, to compare with and for users' kernels."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.backends import gradient_tiles
from fastnw.backends.backend import Backend, PairTimes
from fastnw.core.pack import KeyBlock
from fastnw.core.state import Sums
from fastnw.kernels import formula_texts
from fastnw.kernels.intervals import Arithmetic
from fastnw.kernels.kernel import Kernel
from fastnw.runtime.subnormal import flushed
from fastnw.runtime.threads import check_stop, one_blas_thread

MIN_RATIO_TO_PEAK = -1e-15  # of a user's κ to κ(0): values below 0 down to here are roundings and count as 0
PAIRS = 1 << 16  # worked on at a time: temporaries stay in L2
MAX_SQUARE = 1e300  # the largest u² at which a user's formula is computed
_TIMES = {"float32": PairTimes(5.0, 5.0, 0.6, 0.15, 3.0), "float64": PairTimes(5.0, 5.0, 1.2, 0.20, 3.0)}


def missing() -> str | None:
    """None: NumPy is always there."""
    return None


def refusal(kernel: Kernel) -> str | None:
    """None: it runs every kernel."""
    return None


def bounds(kernel: Kernel) -> bool:
    """Whether `sum_tile` bounds the effect of errors of u² in `mass_error`."""
    return not kernel.facts.built_in or kernel.window_sensitivity > 0


def isa() -> str:
    """What runs the tiles."""
    return "numpy"


def pair_times(dtype: np.dtype[Any]) -> PairTimes:
    """The times measured on one Zen 4 core."""
    return _TIMES[dtype.name]


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
    step = max(PAIRS // max(len(queries), 1), 1)
    if keys.codes is not None:  # a row of totals is added for each part
        step = max(step, state.total.shape[1] // 4)
    # a user's formula may need subnormal numbers
    flushing = nullcontext() if not kernel.facts.built_in else flushed(inverse, keys.scale)
    with one_blas_thread, np.errstate(all="ignore"), flushing:
        for first in range(0, keys.size, step):
            check_stop()
            part = keys.part(first, min(first + step, keys.size))
            u2 = score_tile(kernel, queries, part, inverse)
            present = np.ones(u2.shape, bool)
            if own is not None:
                rows = np.flatnonzero((own >= first) & (own < first + part.size))
                present[rows, own[rows] - first] = False
            sums = _sums(kernel, u2, present, part, error, state.total.shape[1])
            state.put(slice(None), state.merge(sums))


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
    for (kernel, factor), state in zip(profiles, states, strict=True):
        sum_tile(kernel, queries, keys, inverse * inverse.dtype.type(factor), own, state, error)


def _sums(
    kernel: Kernel,
    u2: NDArray[Any],
    present: NDArray[np.bool_],
    keys: KeyBlock,
    error: NDArray[np.float64],
    c: int,
) -> Sums:
    if (
        not kernel.facts.built_in
    ):  # a user's formula is computed in float64, which holds its constants as they were written
        u2 = u2.astype(np.float64)
        beyond = ~(u2 <= MAX_SQUARE)
        u2 = np.fmin(u2, MAX_SQUARE)  # formulas such as u²/(1 + u²) are NaN where u² overflows
    w, values = keys.weights.astype(np.float64), keys.values.astype(np.float64)
    if (
        not kernel.facts.built_in
    ):  # a key without weight must not set the shift; for built-in kernels `tails` takes over
        present = present & (w > 0)
    weights, shift = _weights(kernel, u2, present)
    if not kernel.facts.built_in:
        # how much the profile changes within the error of u², at a slope or at a jump
        steps = (u2 if keys.relative else np.maximum(u2, 1)) * error[:, None]
        nudged = [_weights(kernel, np.maximum(u2 + by, 0), present, shift)[0] for by in (steps, -steps)]
        change = np.maximum(*(np.abs(other - weights) for other in nudged))
        change = np.where(beyond, weights, change)
        mass_error = np.maximum(change, _between(kernel, u2, steps, present, weights)) @ w
    elif kernel.window_sensitivity > 0:
        mass_error = (present & (u2 <= 1 + 2 * error[:, None])) @ w * (kernel.window_sensitivity * error)
    else:
        mass_error = np.zeros(len(u2))
    if keys.codes is None:
        total = weights @ values.T
    else:
        total, outputs = np.empty((len(u2), c)), keys.codes.shape[1]
        for row, terms in zip(total, weights * w, strict=True):
            row[:] = np.bincount(keys.codes.ravel(), np.repeat(terms, outputs), c)
    return Sums(shift, weights @ w, total, mass_error, np.zeros(len(u2)))


def _between(
    kernel: Kernel, u2: NDArray[Any], steps: NDArray[Any], present: NDArray[np.bool_], weights: NDArray[Any]
) -> NDArray[np.float64]:
    """Bound on the change of κ anywhere within the steps, where comparisons of its formula could hide a jump and its
    return."""
    text = None if kernel.works_on_logs or not kernel.needs_pair_bounds else formula_texts.of(kernel, plain=True)
    if text is None or not any(" if " in line for line in text.lines):
        return np.zeros(u2.shape)
    edge = np.inf if kernel.support is None else kernel.support**2
    low, high = np.maximum(u2 - steps, 0.0), u2 + steps
    x = _EXACT.over(text, np.minimum(low, edge).ravel(), np.minimum(high, edge).ravel())
    least = np.where(high > edge, 0.0, np.maximum(x.low.reshape(u2.shape), 0.0))
    most = np.where(low > edge, 0.0, np.maximum(x.high.reshape(u2.shape), 0.0))
    change = np.where(present, np.maximum(most - weights, weights - least), 0.0)
    return np.where(np.isfinite(change), np.maximum(change, 0.0), 0.0)


_EXACT = Arithmetic.as_numpy(error=0.0)


def _weights(
    kernel: Kernel, u2: NDArray[Any], present: NDArray[np.bool_], shift: NDArray[Any] | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """κ(u²) exp(−shift) in float64, 0 for absent keys and beyond the support, and the shift."""
    if kernel.support is not None:
        present = present & (u2 <= kernel.support**2)
    inside = np.where(present, u2, u2.dtype.type(0))  # profiles are only computed within the support
    if kernel.log_profile is None:
        weights = np.asarray(kernel.profile(inside))
        if (
            not kernel.facts.built_in
        ):  # NaN, which is reported: a value below 0 by more than a rounding is none of a kernel
            least = MIN_RATIO_TO_PEAK * float(kernel.profile(np.zeros(1))[0])
            weights = np.where(weights < least, np.nan, weights)
        weights = np.where(present, np.maximum(weights, 0.0), 0.0)
        return weights.astype(np.float64), np.zeros(len(u2))
    logs = np.where(present, kernel.log_profile(inside), -np.inf).astype(np.float64)
    if shift is None:
        shift = logs.max(axis=1, initial=-np.inf)
    finite = np.isfinite(shift)
    weights = np.exp(logs - np.where(finite, shift, 0.0)[:, None])
    return np.where(finite[:, None], weights, 0.0), shift


def score_tile(kernel: Kernel, queries: NDArray[Any], keys: KeyBlock, inverse: NDArray[Any]) -> NDArray[Any]:
    """(m, B) u², or the scaled inner product."""
    out = np.zeros((len(queries), keys.size), queries.dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # methods look for scores that are not finite
        for j in range(queries.shape[1]):
            if kernel.inner_product:
                out += (queries[:, j, None] * inverse[j]) * keys.coords[j]
            else:
                out += ((queries[:, j, None] - keys.coords[j]) * inverse[j]) ** 2
        return out if keys.scale is None else out * keys.scale


BACKEND = Backend(
    name="reference",
    device="host",
    methods=frozenset({"exact", "tree"}),
    isa=isa,
    missing=missing,
    refusal=refusal,
    bounds=bounds,
    sum_tile=sum_tile,
    sum_several=sum_several,
    pair_times=pair_times,
    score_tile=score_tile,
    as_written=True,
    gradients=gradient_tiles.TILES,
)
