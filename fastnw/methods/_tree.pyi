import numpy as np
from numpy.typing import NDArray

def split(
    points: NDArray[np.float64],
    inverse: NDArray[np.float64],
    order: NDArray[np.intp],
    leaf: int,
    all_the_way: bool,
) -> int: ...
