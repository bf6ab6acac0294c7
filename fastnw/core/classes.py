"""Classes of the keys as integers, in place of a matrix of indicators (n, c), and the most probable classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.runtime.cached import cached_property

Floats = NDArray[np.float64]

# From so many classes on they stay integers. By indicators a pair takes 0.03 (float32) or 0.06 ns (float64, v4) a
# class, by integers 0.6 ns whatever their number: less from 16 to 24 classes on. Few classes keep their bits.
LEAST_CLASSES = 33
MOST_DENSE_BYTES = 1 << 30  # of a method that needs indicators, or a sum over all keys for each class


@dataclass(frozen=True)
class OneHot:
    """Indicators (n, c) of the keys' classes, of which only the columns that hold a 1 are kept.

    It stands for an array of values: it has a shape and a type, and rows of it, made when they are asked for, are
    arrays. What sums over keys reads `codes` instead.

    Attributes
    ----------
    codes : (n, outputs) int32
        For each output the column of the key's class; the outputs' columns lie side by side.
    count : int
        Columns.
    dtype : dtype
        Of the rows.
    """

    codes: NDArray[np.int32]
    count: int
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, codes: NDArray[Any], sizes: Sequence[int], dtype: Any) -> OneHot:
        """From codes (n, outputs) that start at 0 for each output, whose numbers of classes are `sizes`."""
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        return cls(np.ascontiguousarray(codes + offsets[:-1], np.int32), int(offsets[-1]), np.dtype(dtype))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.codes), self.count

    @property
    def ndim(self) -> int:
        return 2

    @property
    def nbytes(self) -> int:
        """What all rows would take."""
        return len(self.codes) * self.count * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """Those rows as an array; ``[rows, :0]`` gives rows without a column."""
        if isinstance(rows, tuple):
            rows, columns = rows
            if columns != slice(0):
                raise IndexError(f"columns must be :0, got {columns}.")
            return np.empty((len(self.codes[rows]), 0), self.dtype)
        codes = self.codes[rows]
        dense = np.zeros((len(codes), self.count), self.dtype)
        dense[np.arange(len(codes))[:, None], codes] = 1
        return dense

    def taken(self, rows: Any) -> OneHot:
        """The classes of those rows alone."""
        return OneHot(np.ascontiguousarray(self.codes[rows]), self.count, self.dtype)

    def sums(self, rows: Any, weights: Floats | None) -> Floats:
        """(c,) Σ w over those rows of each class; counts without weights."""
        codes = self.codes[rows]
        each = None if weights is None else np.repeat(weights, codes.shape[1])
        return np.bincount(codes.ravel(), each, self.count).astype(np.float64)

    @cached_property
    def most_rows(self) -> int:
        """The number of rows of the most frequent class."""
        return int(np.bincount(self.codes.ravel()).max(initial=0))


class MostProbable:
    """Stands for the means (m, c) of a run: of each panel, once it is done, only the most probable classes stay.

    Parameters
    ----------
    m : int
        Queries.
    sizes : sequence of int
        Classes of each output.
    dtype : dtype
        Of the means.
    """

    def __init__(self, m: int, sizes: Sequence[int], dtype: np.dtype[Any]) -> None:
        self._codes = np.empty((m, len(sizes)), np.intp)
        self._sizes, self._dtype = sizes, dtype
        self._start, self._panel = 0, np.empty((0, sum(sizes)), dtype)

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Room for the means of the next panel."""
        self._settle()
        self._start, shape = rows.start, (rows.stop - rows.start, sum(self._sizes))
        if self._panel.shape != shape:
            self._panel = np.empty(shape, self._dtype)
        return self._panel

    def __setitem__(self, rows: NDArray[np.intp], means: Any) -> None:
        """Fill empty windows of the panel."""
        self._panel[rows - self._start] = means

    def _settle(self) -> None:
        rows = slice(self._start, self._start + len(self._panel))
        for k, share in enumerate(shares(self._panel, self._sizes)):
            self._codes[rows, k] = np.argmax(share, axis=1)

    def codes(self) -> NDArray[np.intp]:
        """(m, outputs) Of equally probable classes the first, after the run."""
        self._settle()
        return self._codes


def shares(means: NDArray[Any], sizes: Sequence[int]) -> list[NDArray[Any]]:
    """Probabilities of each output, of rows that sum to 1."""
    parts = np.split(means, np.cumsum(sizes)[:-1], axis=1)
    return [part / part.sum(axis=1, keepdims=True) for part in parts]
