"""How fast a user's kernel changes, measured on a grid: what an error of u does to κ, for backends that sum κ once.

The built-ins' figures are facts in `kernels`. A kernel with a jump, or that oscillates, has none: its sums are bounded
key by key instead, from κ on both sides of u².
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fastnw.kernels import Kernel

SAFETY = 2.0  # a grid of 1 % steps sees the slope between its points to much better than that
STEEPEST = 16.0  # beyond it the bound is not worth having
PER_OCTAVE, LOWEST, HIGHEST = 64, -14, 14  # of u, in powers of 2
COMPACT_POINTS = 4096
VANISHED = 1e-280  # κ below it counts for nothing in any sum


@lru_cache(maxsize=256)
def of_logarithm(kernel: Kernel) -> tuple[float, float, float] | None:
    """(a, b, log κmax) with |d log κ| ≤ (a + b·(log κmax − log κ))·du/max(u, 1), or None if there are no such."""
    u = np.concatenate([[0.0], 2.0 ** (np.arange(LOWEST * PER_OCTAVE, HIGHEST * PER_OCTAVE + 1) / PER_OCTAVE)])
    kappa = _values(kernel, u)
    if kappa is None or not kappa.max() > 0:
        return None
    if np.any((kappa[1:] <= 0) & (kappa[:-1] > VANISHED)) or np.any((kappa[:-1] <= 0) & (kappa[1:] > VANISHED)):
        return None
    pairs = (kappa[1:] > VANISHED) & (kappa[:-1] > VANISHED)
    logs = np.log(np.maximum(kappa, VANISHED))
    slope = SAFETY * (np.abs(np.diff(logs)) / np.diff(u) * np.maximum(u[1:], 1.0))[pairs]
    peak = float(logs.max())
    depth = peak - np.minimum(logs[1:], logs[:-1])[pairs]
    a = float(slope[depth <= 2].max(initial=0.0))
    deep = depth > 2
    b = float((np.maximum(slope[deep] - a, 0) / depth[deep]).max(initial=0.0))
    return (a, b, peak) if a <= STEEPEST and b <= STEEPEST else None


@lru_cache(maxsize=256)
def within_support(kernel: Kernel) -> float | None:
    """Bound on |dκ|·max(u, 1)/du of a compact kernel, or None if it jumps, inside or at its edge."""
    assert kernel.support is not None
    u = np.linspace(0.0, kernel.support, COMPACT_POINTS + 1)
    kappa = _values(kernel, u)
    if kappa is None or kappa[-1] > 1e-6 * kappa.max():
        return None
    slope = SAFETY * float((np.abs(np.diff(kappa)) / np.diff(u) * np.maximum(u[1:], 1.0)).max())
    return slope if slope <= STEEPEST * kappa.max() else None


def _values(kernel: Kernel, u: NDArray[np.float64]) -> NDArray[np.float64] | None:
    with np.errstate(all="ignore"):
        try:
            values: Any = np.asarray(kernel.profile(u * u), np.float64)
        except Exception:  # a user's function may raise anything at points that its first check did not try
            return None
    return values if values.shape == u.shape and np.all(np.isfinite(values)) else None
