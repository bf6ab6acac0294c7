"""Integrals of radial kernels over ℝ^d: normalisation, canonical bandwidths, radii of random samples.

All of them follow from the moments M_k = ∫ κ(u)^p u^(k−1) du. They are integrated over s = log u and divided by the
peak of the integrand: κ(e^s)^p e^(ks) decays at both ends even if the tail of κ is a power, and neither overflows nor
underflows for large k.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy import integrate

from fastnw.kernels.facts import Formula
from fastnw.kernels.kernel import Kernel
from fastnw.kernels.registry import get as get_kernel

# The integrand below e^−40 = 4e-18 of its peak does not change a sum in float64.
_DEPTH_NATS = 40.0
# The grid on which the peak is searched: s up to 350 keeps u² finite. A tail that needs more counts as divergent.
_MIN_S, _MAX_S, _GRID = -150.0, 350.0, 2**14
# The quadrature aims at 1e-13. A user's kernel with noise or kinks may cost digits, but density promises 1e-8.
_MAX_QUADRATURE_ERROR = 1e-10
_TINY = float(np.finfo(np.float64).tiny)


class _Window(NamedTuple):
    """The range u = peak·e^t, low ≤ t ≤ high, of an integrand; `log_peak` is log κ(peak)^p + k·log peak."""

    peak: float
    low: float
    high: float
    log_peak: float


@lru_cache(maxsize=512)
def log_integral(kernel: Kernel | str, d: int) -> float:
    """Logarithm of C_d = ∫ κ(|x|) dx over ℝ^d, to a relative error of 1e-12 in C_d.

    Raises
    ------
    ValueError
        The integral is infinite or does not converge.
    """
    kernel = get_kernel(kernel)
    if not kernel.normalisable(d):
        raise ValueError(f"Kernel {str(kernel)!r} cannot be normalised in d = {d}: its integral is infinite.")
    return math.fsum((*_log_sphere(d), *_log_moment(kernel, 1, d)))


@lru_cache(maxsize=512)
def canonical_bandwidth(kernel: Kernel | str, d: int) -> float | None:
    """(R(K)/μ₂(K)²)^(1/(d+4)) with K = κ/C_d, R = ∫K², μ₂ = ∫x₁²K; None if one of them does not exist.

    Two kernels smooth equally if the ratio of their bandwidths is that of their canonical bandwidths [1]_.

    References
    ----------
    .. [1] Marron & Nolan (1988), Canonical kernels for density estimation, Statistics & Probability Letters 7, 195-199.
    """
    kernel = get_kernel(kernel)
    if not kernel.normalisable(d):
        return None
    try:
        mass, second, square = (math.fsum(_log_moment(kernel, p, k)) for p, k in ((1, d), (1, d + 2), (2, d)))
    except ValueError:
        return None
    log_roughness = square - 2.0 * mass - math.fsum(_log_sphere(d))
    log_variance = second - mass - math.log(d)
    return math.exp((log_roughness - 2.0 * log_variance) / (d + 4))


def sample_radius(kernel: Kernel | str, d: int, uniform: np.ndarray) -> np.ndarray:
    """Radii u at which the distribution function of the density ∝ κ(u) u^(d−1) equals `uniform`, to 1e-9.

    Raises
    ------
    ValueError
        The kernel's integral over ℝ^d is infinite or does not converge.
    """
    kernel = get_kernel(kernel)
    log_integral(kernel, d)
    peak, t, cumulative, density = _radius_table(kernel, d)
    target = np.asarray(uniform, dtype=np.float64) * cumulative[-1]
    # The first cell that reaches the target has mass, unless the target is 0, even if κ is 0 in other cells.
    left = np.minimum(np.searchsorted(cumulative[1:], target), t.size - 2)
    f0, f1 = density[left], density[left + 1]
    share = (target - cumulative[left]) / (cumulative[left + 1] - cumulative[left])
    # The density is linear within a cell, so ∫ = f0·x + (f1 − f0)·x²/2, which is solved for x without cancellation.
    area = np.clip(share, 0.0, 1.0) * 0.5 * (f0 + f1)
    x = 2.0 * area / np.maximum(f0 + np.sqrt(np.maximum(f0 * f0 + 2.0 * (f1 - f0) * area, 0.0)), _TINY)
    u = peak * np.exp(t[left] + x * (t[1] - t[0]))
    return u if kernel.support is None else np.minimum(u, kernel.support)


def _log_sphere(d: int) -> tuple[float, float, float]:
    """Terms whose sum is log S_d = log 2π^(d/2)/Γ(d/2)."""
    return math.log(2.0), 0.5 * d * math.log(math.pi), -math.lgamma(0.5 * d)


def _log_kernel(kernel: Kernel, u: np.ndarray) -> np.ndarray:
    """log κ(u); −inf if κ is 0, if u is beyond the support, or if a user's formula overflows."""
    with np.errstate(all="ignore"):
        try:
            logs = np.asarray(kernel.log(u * u), dtype=np.float64)
        except OverflowError:
            logs = np.array([_or_nan(kernel.log, float(v) ** 2) for v in np.ravel(u)]).reshape(np.shape(u))
        if kernel.support is not None:
            logs = np.where(u <= kernel.support, logs, -np.inf)
        return np.where(np.isnan(logs), -np.inf, logs)


def _or_nan(formula: Formula, u2: float) -> float:
    try:
        return float(formula(u2))
    except OverflowError:
        return math.nan


@lru_cache(maxsize=512)
def _window(kernel: Kernel, power: int, k: int) -> _Window:
    """Finds the peak of the integrand, and by ever finer grids the range in which it is above e^−40 of the peak."""
    high = _MAX_S if kernel.support is None else math.log(kernel.support)
    low = min(_MIN_S, high + _MIN_S)
    for _ in range(4):
        s = np.linspace(low, high, _GRID + 1)
        log_kernel = _log_kernel(kernel, np.exp(s))
        log_f = power * log_kernel + k * s
        visible = np.flatnonzero(log_f > log_f.max() - _DEPTH_NATS)
        if kernel.support is None and visible[-1] == _GRID and high == _MAX_S:
            raise ValueError(f"Kernel {str(kernel)!r} cannot be normalised in d = {k}: its integral is infinite.")
        low, high = s[max(visible[0] - 1, 0)], s[min(visible[-1] + 1, _GRID)]
    if kernel.log_profile is None and log_kernel[visible[-1]] < -640.0:
        raise ValueError(
            f"Kernel {str(kernel)!r} cannot be normalised in d = {k}: its integral is infinite, or its profile "
            "underflows before the integral has converged. If so, give fastnw.Kernel a log_profile."
        )
    peak = float(np.exp(s[np.argmax(log_f)]))
    at_peak = power * float(_log_kernel(kernel, np.float64(peak)))
    end = high if kernel.support is None else math.log(kernel.support)
    log_u = math.log(peak)
    return _Window(peak, low - log_u, min(high, end) - log_u, math.fsum((at_peak, k * log_u)))


def _integrand(kernel: Kernel, power: int, k: int, window: _Window, t: np.ndarray) -> np.ndarray:
    """κ(u)^p u^k for u = peak·e^t, relative to its peak; its integral over t is the moment."""
    at_peak = _log_kernel(kernel, np.float64(window.peak))
    return np.exp(power * (_log_kernel(kernel, window.peak * np.exp(t)) - at_peak) + k * t)


@lru_cache(maxsize=512)
def _log_moment(kernel: Kernel, power: int, k: int) -> tuple[float, float]:
    """Two terms whose sum is log ∫ κ(u)^power u^(k−1) du."""
    window = _window(kernel, power, k)
    edges = np.unique(np.append(np.linspace(window.low, window.high, 17), 0.0))
    grid = np.linspace(window.low, window.high, 1025)
    tolerance = 1e-15 * float(np.sum(_integrand(kernel, power, k, window, grid))) * (grid[1] - grid[0])

    def f(t: float) -> float:
        return float(_integrand(kernel, power, k, window, np.float64(t)))

    parts = [
        integrate.quad(f, a, b, epsabs=tolerance, epsrel=1e-13, limit=200, full_output=True)[:2]
        for a, b in pairwise(edges)
    ]
    total = math.fsum(value for value, _ in parts)
    error = math.fsum(bound for _, bound in parts)
    if not error <= _MAX_QUADRATURE_ERROR * total:
        raise ValueError(
            f"Kernel {str(kernel)!r} cannot be normalised in d = {k}: the quadrature of its profile does not converge "
            f"(relative error {error / total:.1g})."
        )
    return window.log_peak, math.log(total)


@lru_cache(maxsize=32)
def _radius_table(kernel: Kernel, d: int) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """The peak, equidistant t, the integral up to each t (Simpson's rule per cell), and the density at each t."""
    window = _window(kernel, 1, d)
    fine = np.linspace(window.low, window.high, 2**16 + 1)
    density = _integrand(kernel, 1, d, window, fine)
    cells = density[:-2:2] + 4.0 * density[1:-1:2] + density[2::2]
    return window.peak, fine[::2], np.concatenate(([0.0], np.cumsum(cells))), density[::2]
