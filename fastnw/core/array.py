"""An array that stays in a GPU's memory, as validation, plans and methods see it: what they ask of one is found there.

Nothing of numba is imported before there is such an array; the kernels are in `fastnw.backends.cuda.arrays`.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.runtime.cached import cached_property

Floats = NDArray[np.float64]


class DeviceArray:
    """One or two dimensions of numbers on a CUDA device, read where they lie.

    Indexing gives host arrays. They come from a copy of everything that is made when it is first asked for: by the
    methods that some queries are handed on to, never on the way of those that the device certifies.

    Parameters
    ----------
    array : numba's device array
        Of booleans, integers or floats.
    """

    def __init__(self, array: Any) -> None:
        self.array = array
        self.dtype = np.dtype(array.dtype)
        self.shape: tuple[int, ...] = tuple(int(size) for size in array.shape)
        self._copy: NDArray[Any] | None = None
        self._copying = Lock()

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def host(self) -> NDArray[Any]:
        """All of it, copied once, whichever thread asks first."""
        with self._copying:
            if self._copy is None:
                self._copy = np.asarray(_kernels().on_host(self.array))
            return self._copy

    def __getitem__(self, rows: Any) -> Any:
        return self.host[rows]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.host, dtype)

    @cached_property
    def rows(self) -> Any:
        """numba's array, (n, d); of one dimension as one column."""
        return self.array if self.ndim == 2 else _kernels().as_column(self.array)

    def as_rows(self) -> DeviceArray:
        return self if self.ndim == 2 else DeviceArray(self.rows)

    @cached_property
    def extremes(self) -> tuple[Floats, Floats]:
        """Least and largest of each column, NaN if one is there."""
        low, high, _ = _kernels().reduced(self.rows)
        return low, high

    def extremes_where(self, mask: DeviceArray) -> tuple[Floats, Floats]:
        """Least and largest of each column among the rows whose `mask` is positive; inf and −inf without any."""
        low, high, _ = _kernels().reduced(self.rows, mask.rows)
        return low, high

    def sums(self) -> Floats:
        """Of each column, in float64."""
        return np.asarray(_kernels().reduced(self.rows)[2])

    def min(self) -> Any:
        return self.dtype.type(self.extremes[0].min())

    def max(self) -> Any:
        return self.dtype.type(self.extremes[1].max())

    def taken(self, positions: NDArray[np.intp], dtype: Any) -> DeviceArray:
        """Those rows, side by side and in that type, on the device."""
        return DeviceArray(_kernels().taken(self.rows, positions, np.dtype(dtype)))

    def astype(self, dtype: Any) -> DeviceArray:
        return self if self.dtype == dtype else self.taken(np.arange(len(self)), dtype)

    def whitened(self, cholesky: Floats, origin: DeviceArray | None) -> DeviceArray:
        """L⁻¹(x − the first row of `origin`), in float64, on the device."""
        return DeviceArray(_kernels().whitened(self.rows, cholesky, None if origin is None else origin.rows))

    def every(self, step: int) -> DeviceArray:
        """Every `step`-th row, on the device."""
        return self.taken(np.arange(0, len(self), step), self.dtype)

    def norms(self, factors: Floats) -> Floats:
        """(n,) Σ_j (x_j f_j)², on the host."""
        return np.asarray(_kernels().sizes(self.rows, factors, True))

    def sizes(self, factors: Floats) -> Floats:
        """(n,) Σ_j |x_j| f_j, on the host."""
        return np.asarray(_kernels().sizes(self.rows, factors, False))


class DeviceRows:
    """(m, c) numbers on a CUDA device that are written there: totals, and the means that are made of them.

    Rows are read and replaced as those of an array are; a slice of them is a view, any others are a copy on the device.
    """

    def __init__(self, array: Any) -> None:
        self.array = array
        self.dtype = np.dtype(array.dtype)
        self.shape: tuple[int, int] = (int(array.shape[0]), int(array.shape[1]))

    @classmethod
    def empty(cls, m: int, c: int, dtype: Any) -> DeviceRows:
        return cls(_kernels().room(m, c, np.dtype(dtype)))

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(_kernels().on_host(self.array), dtype)

    def __getitem__(self, rows: slice | NDArray[Any]) -> DeviceRows:
        if isinstance(rows, slice):
            return DeviceRows(self.array[rows])
        return DeviceRows(_kernels().taken(self.array, self._positions(rows), self.dtype))

    def __setitem__(self, rows: slice | NDArray[Any], numbers: Any) -> None:
        """`numbers`: rows as these, on the device or the host, or what broadcasts to them."""
        positions = self._positions(rows)
        if not isinstance(numbers, DeviceRows):
            numbers = np.broadcast_to(numbers, (len(positions), self.shape[1]))
        _kernels().put(self.array, positions, numbers.array if isinstance(numbers, DeviceRows) else numbers)

    def _positions(self, rows: slice | NDArray[Any]) -> NDArray[np.intp]:
        return np.arange(len(self))[rows]

    def largest(self) -> Floats:
        """(m,) Largest absolute value of each row, on the host."""
        return np.asarray(_kernels().largest(self.array))

    def put_means(
        self, totals: DeviceRows, mass: Floats, low: Floats, high: Floats, centre: Floats, half: Floats
    ) -> None:
        """Become centre + half · totals/mass within [low, high] (each (c,)); NaN without mass."""
        _kernels().put_means(self.array, totals.array, mass, np.array([low, high, centre, half], np.float64))

    def finished(self, flat: bool) -> Any:
        """The array, (m,) if `flat`, once all is written that has been started: who reads it may use another stream."""
        _kernels().synchronise()
        return self.array.reshape(self.shape[0]) if flat else self.array


def relative_weights(
    weights: DeviceArray | None, key_scale: DeviceArray | None, power: int
) -> tuple[DeviceArray, float, float]:
    """(n,) w λ^(−power) over the largest of them, in float64; the logarithm of the largest; the least positive ratio.

    Without `key_scale` (which comes with `power` 0 as well) weights are divided, as the host divides them.
    """
    kernels = _kernels()
    if power and key_scale is not None:
        logs = DeviceArray(kernels.log_weights(None if weights is None else weights.rows, key_scale.rows, power))
        log_largest = float(logs.max())
        log_largest = log_largest if log_largest > -np.inf else 0.0
        relative = DeviceArray(kernels.exponentials(logs.rows, log_largest))
    else:
        assert weights is not None
        largest = float(weights.max()) or 1.0
        log_largest = float(np.log(largest))
        relative = DeviceArray(kernels.quotients(weights.rows, largest))
    low = (relative.extremes if weights is None else relative.extremes_where(weights))[0]
    return relative, log_largest, min(float(low[0]), 1.0)


def _kernels() -> Any:
    from fastnw.backends.cuda import arrays

    return arrays
