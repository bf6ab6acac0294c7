"""Abstract classes for arrays in device memory, as validation, plans and methods use them.

A device backend implements both classes; `fastnw.backends.cuda.device_array` implements them for CUDA.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class DeviceArray(ABC):
    """A read-only array of one or two dimensions in device memory.

    Indexing returns host arrays. They are slices of a host copy of the whole array, which is made on first use: by a
    method that runs on the host, never for queries that the device certifies.

    Attributes
    ----------
    array : object
        The device's own array.
    dtype : dtype
        Boolean, integer or floating.
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
        """The host copy of the array. It is made once, by the first thread that reads this property."""

    @property
    @abstractmethod
    def rows(self) -> Any:
        """The device's own array, reshaped to two dimensions; a one-dimensional array becomes one column."""

    @abstractmethod
    def as_rows(self) -> DeviceArray:
        """Reshape the array to two dimensions; a one-dimensional array becomes one column."""

    @property
    @abstractmethod
    def extremes(self) -> tuple[Floats, Floats]:
        """The minimum and the maximum of each column; NaN for a column that contains NaN."""

    @abstractmethod
    def extremes_where(self, mask: DeviceArray) -> tuple[Floats, Floats]:
        """Compute the extremes of each column over the rows with a positive `mask`; inf and −inf without such rows."""

    @abstractmethod
    def sums(self) -> Floats:
        """Sum each column in float64."""

    def min(self) -> Any:
        return self.dtype.type(self.extremes[0].min())

    def max(self) -> Any:
        return self.dtype.type(self.extremes[1].max())

    @abstractmethod
    def taken(self, positions: NDArray[np.intp], dtype: Any) -> DeviceArray:
        """Copy the rows at `positions` to a contiguous device array of type `dtype`."""

    def astype(self, dtype: Any) -> DeviceArray:
        return self if self.dtype == dtype else self.taken(np.arange(len(self)), dtype)

    def every(self, step: int) -> DeviceArray:
        """Copy every `step`-th row to a device array."""
        return self.taken(np.arange(0, len(self), step), self.dtype)

    @abstractmethod
    def whitened(self, cholesky: Floats, origin: DeviceArray | None) -> DeviceArray:
        """Compute L⁻¹(x − o) of each row x in float64 on the device; o is the first row of `origin`, or 0."""

    @abstractmethod
    def norms(self, factors: Floats) -> Floats:
        """Compute Σ_j (x_j f_j)² for each row x; returns an (n,) host array."""

    @abstractmethod
    def sizes(self, factors: Floats) -> Floats:
        """Compute Σ_j |x_j| f_j for each row x; returns an (n,) host array."""

    @abstractmethod
    def empty_rows(self, m: int, c: int, dtype: Any) -> DeviceRows:
        """Allocate (m, c) uninitialised rows on the same device."""

    @abstractmethod
    def relative_weights(
        self, weights: DeviceArray | None, key_scale: DeviceArray | None, power: int
    ) -> tuple[DeviceArray, float, float]:
        """Compute the weights w λ^(−power) of the keys in this array, relative to the largest one.

        Without `key_scale`, `power` is 0 and the weights are divided by the largest, as on the host.

        Returns
        -------
        relative : (n,) float64 DeviceArray
        log_largest : float
            The logarithm of the largest weight.
        least : float
            The smallest positive relative weight.
        """


class DeviceRows(ABC):
    """A writable (m, c) array in device memory, for totals and for the means that are computed from them.

    Rows are indexed and assigned as those of a NumPy array. A slice is a view; any other index makes a copy on the
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
        """Assign rows from the device or the host, or numbers that broadcast to them."""

    @abstractmethod
    def largest(self) -> Floats:
        """Compute the largest absolute value of each row; returns an (m,) host array."""

    @abstractmethod
    def put_means(
        self, totals: DeviceRows, mass: Floats, low: Floats, high: Floats, centre: Floats, half: Floats
    ) -> None:
        """Write centre + half · totals/mass, clipped to [low, high] (each (c,)); NaN where the mass is 0."""

    @abstractmethod
    def finished(self, flat: bool) -> Any:
        """Wait for all pending writes and return the device's own array, of shape (m,) if `flat`.

        The wait is needed because the reader may use another stream.
        """
