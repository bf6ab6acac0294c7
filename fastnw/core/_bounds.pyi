from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

def certified(
    shift: Floats,
    mass: Floats,
    mass_error: Floats,
    total_error: Floats,
    error: Floats,
    lost: Floats,
    relative: float,
    clamped: float,
    absolute: float,
    of_totals: float,
) -> tuple[Floats, Floats]: ...
def errors(total: Any, mass: Floats, mass_error: Floats, total_error: Floats) -> tuple[Floats, Floats]: ...
def accurate(
    relative: Floats, bound: Floats, mass: Floats, mass_error: Floats, limit: Floats, compact: bool
) -> NDArray[np.bool_]: ...
