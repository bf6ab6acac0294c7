from typing import Any

import numpy as np
from numpy.typing import NDArray

def merge_top_k(new: NDArray[np.float64], start: int, top: NDArray[np.float64], columns: NDArray[Any]) -> None: ...
