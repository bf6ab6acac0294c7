from typing import Any

import numpy as np
from numpy.typing import NDArray

block: int

def find_cells(
    x: NDArray[np.float64], inverse: float, edge: float, first: int, starts: NDArray[np.int64]
) -> tuple[int, int]: ...

class SortedSums:
    def __init__(
        self,
        x: NDArray[np.float64],
        rows: NDArray[np.float64],
        cells: tuple[NDArray[np.int64], NDArray[np.float64]],
        moments: tuple[NDArray[np.float64], ...],
        factors: tuple[NDArray[np.float64], ...],
        profile: tuple[tuple[float, ...], tuple[int, int], bool],
        window: tuple[float, float],
    ) -> None: ...
    def fill_factors(self, first: int, stop: int) -> None: ...
    def fill_prefix(self, first: int, stop: int, k: int, sums: NDArray[np.float64]) -> int: ...
    def fill_suffix(self, first: int, stop: int, k: int, sums: NDArray[np.float64]) -> int: ...
    def windows(self, *args: Any) -> None: ...
    def decaying(self, *args: Any) -> None: ...
