"""Arrays in a GPU's memory: `DeviceArray` and `DeviceRows` for CUDA.

The first such array imports numba. The device functions are in `fastnw.backends.cuda.arrays`.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.core.array import DeviceArray, DeviceRows
from fastnw.runtime.cached import cached_property

Floats = NDArray[np.float64]


class CudaArray(DeviceArray):
    """A numba array of booleans, integers or floats.

    Parameters
    ----------
    array : numba's device array
    """

    def __init__(self, array: Any) -> None:
        self.array = array
        self.dtype = np.dtype(array.dtype)
        self.shape = tuple(int(size) for size in array.shape)
        self._copy: NDArray[Any] | None = None
        self._copying = Lock()

    @property
    def host(self) -> NDArray[Any]:
        with self._copying:
            if self._copy is None:
                self._copy = np.asarray(_kernels().on_host(self.array))
            return self._copy

    @cached_property
    def rows(self) -> Any:
        return self.array if self.ndim == 2 else _kernels().as_column(self.array)

    def as_rows(self) -> CudaArray:
        return self if self.ndim == 2 else CudaArray(self.rows)

    @cached_property
    def extremes(self) -> tuple[Floats, Floats]:
        low, high, _ = _kernels().reduced(self.rows)
        return low, high

    def extremes_where(self, mask: DeviceArray) -> tuple[Floats, Floats]:
        low, high, _ = _kernels().reduced(self.rows, mask.rows)
        return low, high

    def sums(self) -> Floats:
        return np.asarray(_kernels().reduced(self.rows)[2])

    def taken(self, positions: NDArray[np.intp], dtype: Any) -> CudaArray:
        return CudaArray(_kernels().taken(self.rows, positions, np.dtype(dtype)))

    def whitened(self, cholesky: Floats, origin: DeviceArray | None) -> CudaArray:
        return CudaArray(_kernels().whitened(self.rows, cholesky, None if origin is None else origin.rows))

    def norms(self, factors: Floats) -> Floats:
        return np.asarray(_kernels().sizes(self.rows, factors, True))

    def sizes(self, factors: Floats) -> Floats:
        return np.asarray(_kernels().sizes(self.rows, factors, False))

    def empty_rows(self, m: int, c: int, dtype: Any) -> CudaRows:
        return CudaRows(_kernels().uninitialised(m, c, np.dtype(dtype)))

    def relative_weights(
        self, weights: DeviceArray | None, key_scale: DeviceArray | None, power: int
    ) -> tuple[DeviceArray, float, float]:
        kernels = _kernels()
        if power and key_scale is not None:
            logs = CudaArray(kernels.log_weights(None if weights is None else weights.rows, key_scale.rows, power))
            log_largest = float(logs.max())
            log_largest = log_largest if log_largest > -np.inf else 0.0
            relative = CudaArray(kernels.exponentials(logs.rows, log_largest))
        else:
            assert weights is not None
            largest = float(weights.max()) or 1.0
            log_largest = float(np.log(largest))
            relative = CudaArray(kernels.quotients(weights.rows, largest))
        low = (relative.extremes if weights is None else relative.extremes_where(weights))[0]
        return relative, log_largest, min(float(low[0]), 1.0)


class CudaRows(DeviceRows):
    """Rows of a numba array.

    Parameters
    ----------
    array : numba's device array, (m, c)
    """

    def __init__(self, array: Any) -> None:
        self.array = array
        self.dtype = np.dtype(array.dtype)
        self.shape = (int(array.shape[0]), int(array.shape[1]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(_kernels().on_host(self.array), dtype)

    def __getitem__(self, rows: slice | NDArray[Any]) -> CudaRows:
        if isinstance(rows, slice):
            return CudaRows(self.array[rows])
        return CudaRows(_kernels().taken(self.array, self._positions(rows), self.dtype))

    def __setitem__(self, rows: slice | NDArray[Any], numbers: Any) -> None:
        positions = self._positions(rows)
        if not isinstance(numbers, DeviceRows):
            numbers = np.broadcast_to(numbers, (len(positions), self.shape[1]))
        _kernels().put(self.array, positions, numbers.array if isinstance(numbers, DeviceRows) else numbers)

    def _positions(self, rows: slice | NDArray[Any]) -> NDArray[np.intp]:
        return np.arange(len(self))[rows]

    def largest(self) -> Floats:
        return np.asarray(_kernels().largest(self.array))

    def put_means(
        self, totals: DeviceRows, mass: Floats, low: Floats, high: Floats, centre: Floats, half: Floats
    ) -> None:
        _kernels().put_means(self.array, totals.array, mass, np.array([low, high, centre, half], np.float64))

    def finished(self, flat: bool) -> Any:
        _kernels().synchronise()
        return self.array.reshape(self.shape[0]) if flat else self.array


def _kernels() -> Any:
    from fastnw.backends.cuda import arrays

    return arrays
