"""How κ falls with the squared distance: what every gradient of a kernel-weighted mean is made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.kernels.kernel import Kernel

STEP = 1e-4  # of u², or of 1 below it: a user's profile is differentiated by differences of fourth order


def derivative(kernel: Kernel, u2: NDArray[Any]) -> NDArray[np.float64]:
    """−2 dκ/du² at u², elementwise; −2 d log κ/du² for kernels that work on logs.

    So ∂κ/∂q_j = −slope · (q_j − k_j)/h_j² and ∂κ/∂log h_j = slope · ((q_j − k_j)/h_j)². 0 beyond the support, and at
    u = 0 where κ has a kink: there both are taken as 0. A user's profile is differentiated numerically, to some 1e-9.
    Not for inner products, whose logarithm has slope 1 in the product.
    """
    u2 = np.asarray(u2, np.float64)
    formula = kernel.facts.derivative or _differences(kernel)
    assert formula is not None, f"{kernel} is no function of a distance"
    present = u2 > 0 if kernel.support is None else (u2 > 0) & (u2 <= kernel.support**2)
    with np.errstate(all="ignore"):
        found = formula(np.where(present, u2, 0.0))
        at_zero = formula(np.zeros(1))[0]
    return np.where(present, found, np.where((u2 == 0) & np.isfinite(at_zero), at_zero, 0.0))


def _differences(kernel: Kernel) -> Any:
    profile = kernel.log_profile or kernel.profile
    edge = np.inf if kernel.support is None else kernel.support**2

    def formula(u2: NDArray[np.float64]) -> NDArray[np.float64]:
        step = STEP * np.maximum(u2, 1.0)
        # five points within [0, edge], u² the middle one but for the ends
        middle = np.maximum(np.minimum(u2, edge - 2 * step), 2 * step)
        at = [profile(middle + k * step) for k in (-2, -1, 0, 1, 2)]
        x = (u2 - middle) / step
        # derivative at x of the polynomial through the five points
        first = (at[0] - 8 * at[1] + 8 * at[3] - at[4]) / 12
        second = (-at[0] + 16 * at[1] - 30 * at[2] + 16 * at[3] - at[4]) / 12
        third = (-at[0] + 2 * at[1] - 2 * at[3] + at[4]) / 2
        fourth = at[0] - 4 * at[1] + 6 * at[2] - 4 * at[3] + at[4]
        return -2.0 * (first + x * (second + x * (third / 2 + x * fourth / 6))) / step

    return formula
