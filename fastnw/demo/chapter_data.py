"""The function and the kernels of the d2l.ai chapter."""

from __future__ import annotations

import numpy as np

# The four kernels of the chapter, each with the name that the chapter gives it if that differs.
CHAPTER_KERNELS = {"gaussian": "", "boxcar": "", "constant": "", "triangular": 'its "Epanechikov"'}


def chapter_truth(x: np.ndarray) -> np.ndarray:
    """The function without noise: 2 sin x + x."""
    return 2.0 * np.sin(x) + x
