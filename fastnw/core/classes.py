"""Class labels of the keys as integer codes instead of an (n, c) indicator matrix, and the most probable classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.runtime.cached import cached_property

Floats = NDArray[np.float64]

# The number of classes from which values are stored as codes. With indicators a pair takes 0.03 (float32) or 0.06 ns
# (float64, v4) per class, with codes 0.6 ns for any number of classes, so codes are faster from 16 to 24 classes on.
# The minimum is higher so that results of problems with few classes keep the bits of versions without codes.
MIN_CODED_CLASSES = 33
# A method refuses a problem with codes if its indicators, or its sums over all keys for each class, need more memory.
MAX_INDICATOR_BYTES = 1 << 30


@dataclass(frozen=True)
class OneHot:
    """Sparse indicators (n, c) of the keys' classes: only the column of each 1 is stored.

    An instance takes the place of an array of values: it has a shape and a dtype, and indexing it makes dense rows.
    Sums over keys read `codes` instead.

    Attributes
    ----------
    codes : (n, outputs) int32
        For each output, the column of the key's class; the columns of the outputs follow each other.
    count : int
        Number of columns c.
    dtype : dtype
        Type of the dense rows.
    """

    codes: NDArray[np.int32]
    count: int
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, codes: NDArray[Any], sizes: Sequence[int], dtype: Any) -> OneHot:
        """Convert codes (n, outputs) that start at 0 for each output; `sizes` has each output's number of classes."""
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
        """The memory of all rows if they were dense."""
        return len(self.codes) * self.count * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """Make dense rows; ``[rows, :0]`` makes rows without columns."""
        if isinstance(rows, tuple):
            rows, columns = rows
            if columns != slice(0):
                raise IndexError(f"OneHot supports the column slice :0 only, got {columns}. Index rows alone.")
            return np.empty((len(self.codes[rows]), 0), self.dtype)
        codes = self.codes[rows]
        dense = np.zeros((len(codes), self.count), self.dtype)
        dense[np.arange(len(codes))[:, None], codes] = 1
        return dense

    def taken(self, rows: Any) -> OneHot:
        """Return a copy of the selected rows."""
        return OneHot(np.ascontiguousarray(self.codes[rows]), self.count, self.dtype)

    def sums(self, rows: Any, weights: Floats | None) -> Floats:
        """Sum the weights of the selected rows by class, (c,); without weights, count the rows."""
        codes = self.codes[rows]
        code_weights = None if weights is None else np.repeat(weights, codes.shape[1])
        return np.bincount(codes.ravel(), code_weights, self.count).astype(np.float64)

    @cached_property
    def most_rows(self) -> int:
        """The number of rows of the most frequent class."""
        return int(np.bincount(self.codes.ravel()).max(initial=0))


class MostProbable:
    """An output buffer in place of the means (m, c), which stores only the most probable class of each query.

    `core.driver.predict` writes the means of one panel at a time; the buffer of one panel is reused for the next.

    Parameters
    ----------
    m : int
        Number of queries.
    sizes : sequence of int
        Number of classes of each output.
    dtype : dtype
        Type of the means.
    """

    def __init__(self, m: int, sizes: Sequence[int], dtype: np.dtype[Any]) -> None:
        self._codes = np.empty((m, len(sizes)), np.intp)
        self._sizes, self._dtype = sizes, dtype
        self._start, self._panel = 0, np.empty((0, sum(sizes)), dtype)

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Return the buffer for the means of the next panel."""
        self._store_codes()
        self._start, shape = rows.start, (rows.stop - rows.start, sum(self._sizes))
        if self._panel.shape != shape:
            self._panel = np.empty(shape, self._dtype)
        return self._panel

    def __setitem__(self, rows: NDArray[np.intp], means: Any) -> None:
        """Assign the means of empty windows of the current panel."""
        self._panel[rows - self._start] = means

    def _store_codes(self) -> None:
        """Store the most probable classes of the current panel."""
        rows = slice(self._start, self._start + len(self._panel))
        for k, share in enumerate(shares(self._panel, self._sizes)):
            self._codes[rows, k] = np.argmax(share, axis=1)

    def codes(self) -> NDArray[np.intp]:
        """Return the most probable classes (m, outputs) of all queries; of equally probable classes, the first."""
        self._store_codes()
        return self._codes


def shares(means: NDArray[Any], sizes: Sequence[int]) -> list[NDArray[Any]]:
    """Split means (m, c) into one array of probabilities for each output, whose rows sum to 1."""
    parts = np.split(means, np.cumsum(sizes)[:-1], axis=1)
    return [part / part.sum(axis=1, keepdims=True) for part in parts]
