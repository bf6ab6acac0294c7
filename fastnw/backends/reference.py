"""The reference: each formula as it is written, in NumPy, for correctness and for user kernels."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.backends.backend import Backend
from fastnw.core.pack import KeyBlock
from fastnw.core.state import PoolState
from fastnw.kernels import formula_texts
from fastnw.kernels.intervals import Arithmetic
from fastnw.kernels.kernel import Kernel
from fastnw.runtime.subnormal import flushed
from fastnw.runtime.threads import check_stop, one_blas_thread

NEGATIVE = 1e-15  # κ over κ(0) down to which it counts as 0
PAIRS = 1 << 16  # pairs worked on at a time: temporaries stay in L2
LARGEST = 1e300  # u² of a user's formula; what κ is beyond is not known


def missing() -> str | None:
    return None


def refusal(kernel: Kernel) -> str | None:
    """It runs everything."""
    return None


def bounds(kernel: Kernel) -> bool:
    """Whether `sum_tile` bounds in `mass_error` what the error of u² does."""
    return not kernel.facts.built_in or kernel.window_sensitivity > 0


def isa() -> str:
    return "numpy"


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
    step = max(PAIRS // max(len(queries), 1), 1)
    if keys.codes is not None:  # a row of totals is added for each part
        step = max(step, state.total.shape[1] // 4)
    # a user's formula may live on numbers that small
    quick = nullcontext() if not kernel.facts.built_in else flushed(inverse, keys.scale)
    with one_blas_thread, np.errstate(all="ignore"), quick:
        for first in range(0, keys.size, step):
            check_stop()
            part = keys.part(first, min(first + step, keys.size))
            u2 = score_tile(kernel, queries, part, inverse)
            present = np.ones(u2.shape, bool)
            if own is not None:
                mine = np.flatnonzero((own >= first) & (own < first + part.size))
                present[mine, own[mine] - first] = False
            sums = _sums(kernel, u2, present, part, error, state.total.shape[1])
            state.put(slice(None), state.merge(sums))


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
    for (kernel, factor), state in zip(profiles, states, strict=True):
        sum_tile(kernel, queries, keys, inverse * inverse.dtype.type(factor), own, state, error)


def _sums(
    kernel: Kernel,
    u2: NDArray[Any],
    present: NDArray[np.bool_],
    keys: KeyBlock,
    error: NDArray[np.float64],
    c: int,
) -> PoolState:
    if not kernel.facts.built_in:  # a user's formula is one of float64, in which its constants are what was written
        u2 = u2.astype(np.float64)
        beyond = ~(u2 <= LARGEST)
        u2 = np.fmin(u2, LARGEST)  # formulas such as u²/(1 + u²) are NaN where u² overflows
    w, values = keys.weights.astype(np.float64), keys.values.astype(np.float64)
    if not kernel.facts.built_in:  # a key without weight must not set the shift; built-in kernels go to `tails` then
        present = present & (w > 0)
    weights, shift = _weights(kernel, u2, present)
    if not kernel.facts.built_in:
        # what the profile does within the error of u², at a slope or at a cliff
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
    return PoolState(shift, weights @ w, total, mass_error, np.zeros(len(u2)))


def _between(
    kernel: Kernel, u2: NDArray[Any], steps: NDArray[Any], present: NDArray[np.bool_], weights: NDArray[Any]
) -> NDArray[np.float64]:
    """What κ does anywhere within the steps, where its formula's comparisons could hide a jump there and back."""
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
    inside = np.where(present, u2, u2.dtype.type(0))  # profiles are only asked for within the support
    if kernel.log_profile is None:
        weights = np.asarray(kernel.profile(inside))
        if not kernel.facts.built_in:  # below 0 by more than a rounding, it is no kernel: NaN, which is reported
            least = -NEGATIVE * float(kernel.profile(np.zeros(1))[0])
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
    """(m, B) u², or the scaled inner product; see `fastnw.backends`."""
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
    score_tile=score_tile,
    as_written=True,
)
