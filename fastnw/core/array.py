"""Arrays that stay in the memory of a device, as validation, plans and methods see them.

A backend for a device implements both classes; `fastnw.backends.cuda.device_array` does so for CUDA.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class DeviceArray(ABC):
    """Numbers in one or two dimensions that lie in a device's memory and are read there.

    Indexing returns host arrays. They come from a copy of the whole array, which is made when it is first needed: by a
    method that runs on the host, never for queries that the device certifies.

    Attributes
    ----------
    array : object
        The device's own array.
    dtype : dtype
        A type of booleans, integers or floats.
    shape : tuple of int
    """

    array: Any
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Any:
        return self.host[rows]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.host, dtype)

    @property
    @abstractmethod
    def host(self) -> NDArray[Any]:
        """A copy of the array on the host. It is made once, whichever thread asks first."""

    @property
    @abstractmethod
    def rows(self) -> Any:
        """The device's own array with two dimensions; one dimension becomes one column."""

    @abstractmethod
    def as_rows(self) -> DeviceArray:
        """The array with two dimensions."""

    @property
    @abstractmethod
    def extremes(self) -> tuple[Floats, Floats]:
        """The least and the largest value of each column; NaN if the column contains one."""

    @abstractmethod
    def extremes_where(self, mask: DeviceArray) -> tuple[Floats, Floats]:
        """The extremes of each column over rows with a positive `mask`; inf and −inf if there are none."""

    @abstractmethod
    def sums(self) -> Floats:
        """The sum of each column, in float64."""

    def min(self) -> Any:
        return self.dtype.type(self.extremes[0].min())

    def max(self) -> Any:
        return self.dtype.type(self.extremes[1].max())

    @abstractmethod
    def taken(self, positions: NDArray[np.intp], dtype: Any) -> DeviceArray:
        """The rows at `positions` as a contiguous array of that type, on the device."""

    def astype(self, dtype: Any) -> DeviceArray:
        return self if self.dtype == dtype else self.taken(np.arange(len(self)), dtype)

    def every(self, step: int) -> DeviceArray:
        """Every `step`-th row, on the device."""
        return self.taken(np.arange(0, len(self), step), self.dtype)

    @abstractmethod
    def whitened(self, cholesky: Floats, origin: DeviceArray | None) -> DeviceArray:
        """L⁻¹(x − the first row of `origin`) of each row x, in float64, on the device."""

    @abstractmethod
    def norms(self, factors: Floats) -> Floats:
        """(n,) Σ_j (x_j f_j)² of each row x, on the host."""

    @abstractmethod
    def sizes(self, factors: Floats) -> Floats:
        """(n,) Σ_j |x_j| f_j of each row x, on the host."""

    @abstractmethod
    def empty_rows(self, m: int, c: int, dtype: Any) -> DeviceRows:
        """(m, c) Uninitialised rows on the same device."""

    @abstractmethod
    def relative_weights(
        self, weights: DeviceArray | None, key_scale: DeviceArray | None, power: int
    ) -> tuple[DeviceArray, float, float]:
        """The weights w λ^(−power) of the keys in this array, in units of the largest.

        Without `key_scale` (with which `power` is 0, too) weights are divided, as the host divides them.

        Returns
        -------
        relative : (n,) float64, on the device
        log_largest : float
            The logarithm of the largest weight.
        least : float
            The least positive relative weight.
        """


class DeviceRows(ABC):
    """(m, c) numbers that are written on a device: totals, and the means that are computed from them.

    Rows are read and replaced like those of an array. A slice of them is a view; any other selection is a copy on the
    device.
    """

    array: Any
    dtype: np.dtype[Any]
    shape: tuple[int, int]

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]: ...

    @abstractmethod
    def __getitem__(self, rows: slice | NDArray[Any]) -> DeviceRows: ...

    @abstractmethod
    def __setitem__(self, rows: slice | NDArray[Any], numbers: Any) -> None:
        """Replaces rows by rows on the device or the host, or by numbers that broadcast to them."""

    @abstractmethod
    def largest(self) -> Floats:
        """(m,) The largest absolute value of each row, on the host."""

    @abstractmethod
    def put_means(
        self, totals: DeviceRows, mass: Floats, low: Floats, high: Floats, centre: Floats, half: Floats
    ) -> None:
        """Writes centre + half · totals/mass, clipped to [low, high] (each (c,)); NaN where there is no mass."""

    @abstractmethod
    def finished(self, flat: bool) -> Any:
        """The device's own array, (m,) if `flat`, after all started writes have ended.

        The reader may use another stream.
        """
