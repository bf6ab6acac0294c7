from typing import Any

import numpy as np
from numpy.typing import NDArray

def merge_largest(new: NDArray[np.float64], start: int, best: NDArray[np.float64], at: NDArray[Any]) -> None: ...
