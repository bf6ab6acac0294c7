"""The regression function and the kernels of the d2l.ai chapter."""

from __future__ import annotations

import numpy as np

# The four kernels of the chapter. A text names the kernel as the chapter does, if its name differs.
CHAPTER_KERNELS = {"gaussian": "", "boxcar": "", "constant": "", "triangular": 'its "Epanechikov"'}


def chapter_truth(x: np.ndarray) -> np.ndarray:
    """Return the regression function without noise: 2 sin x + x."""
    return 2.0 * np.sin(x) + x
