"""The derivative of κ by the squared distance, from which all gradients of a kernel-weighted mean are computed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.kernels.kernel import Kernel

# The step of the fourth-order differences that differentiate a user's profile, relative to max(u², 1).
RELATIVE_STEP = 1e-4


def derivative(kernel: Kernel, u2: NDArray[Any]) -> NDArray[np.float64]:
    """Returns −2 dκ/du² at each u²; −2 d log κ/du² for a kernel that works on logs.

    With the result g, ∂κ/∂q_j = −g · (q_j − k_j)/h_j² and ∂κ/∂log h_j = g · ((q_j − k_j)/h_j)². The result is 0 beyond
    the support, and at u = 0 if κ has a kink there. A user's profile is differentiated numerically, to about 1e-9.
    Kernels of an inner product have no such derivative: their logarithm is the product itself.
    """
    u2 = np.asarray(u2, np.float64)
    formula = kernel.facts.derivative or _differences(kernel)
    assert formula is not None, f"{kernel} is not a function of a distance"
    present = u2 > 0 if kernel.support is None else (u2 > 0) & (u2 <= kernel.support**2)
    with np.errstate(all="ignore"):
        inside = formula(np.where(present, u2, 0.0))
        at_zero = formula(np.zeros(1))[0]
    return np.where(present, inside, np.where((u2 == 0) & np.isfinite(at_zero), at_zero, 0.0))


def _differences(kernel: Kernel) -> Any:
    profile = kernel.log_profile or kernel.profile
    edge = np.inf if kernel.support is None else kernel.support**2

    def formula(u2: NDArray[np.float64]) -> NDArray[np.float64]:
        step = RELATIVE_STEP * np.maximum(u2, 1.0)
        # Five points within [0, edge]: u² is the middle one, except near the ends.
        middle = np.maximum(np.minimum(u2, edge - 2 * step), 2 * step)
        samples = [profile(middle + k * step) for k in (-2, -1, 0, 1, 2)]
        x = (u2 - middle) / step
        # The derivatives of the polynomial through the five points, at the middle one.
        first = (samples[0] - 8 * samples[1] + 8 * samples[3] - samples[4]) / 12
        second = (-samples[0] + 16 * samples[1] - 30 * samples[2] + 16 * samples[3] - samples[4]) / 12
        third = (-samples[0] + 2 * samples[1] - 2 * samples[3] + samples[4]) / 2
        fourth = samples[0] - 4 * samples[1] + 6 * samples[2] - 4 * samples[3] + samples[4]
        return -2.0 * (first + x * (second + x * (third / 2 + x * fourth / 6))) / step

    return formula
