"""Checks for losses in a conversion to float64 that NumPy does not report: masks, pandas.NA and large integers."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastnw.core.problem import row_blocks
from fastnw.core.warnings import AccuracyWarning, caller_level
from fastnw.interop import dataframes

# Every integer of at most this absolute value is exact in float64.
MAX_EXACT_INTEGER = 2**53


def check_losses(**arrays: Any) -> None:
    """Check a user's arrays before their conversion; the names of the arguments are used in messages.

    Raises
    ------
    ValueError
        An entry is masked (its hidden number would be used), pandas.NA, or an integer beyond the range of float64.

    Warns
    -----
    AccuracyWarning
        Integers beyond 2**53 are rounded. One warning names all arrays that contain such integers.
    """
    for name, array in arrays.items():
        if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
            raise ValueError(f"Input {name} has masked entries. Leave those rows out, or fill them with .filled().")
    rounded = [name for name, array in arrays.items() if any(_rounds_integers(part, name) for part in _columns(array))]
    if rounded:
        warnings.warn(
            f"Integers beyond 2**53 in {', '.join(rounded)} are rounded to float64. Subtract an offset from them first "
            "if their differences matter.",
            AccuracyWarning,
            stacklevel=caller_level(),
        )


def _columns(array: Any) -> Iterator[np.ndarray]:
    """Yield the parts that may be integers as NumPy arrays; a data frame by columns, because each has its own type."""
    if isinstance(array, np.ndarray):
        yield array
    elif isinstance(array, (int, list, tuple)):
        try:
            yield np.asarray(array)
        except ValueError:  # a ragged list; validation raises the error
            return
    elif dataframes.is_frame(array):
        for column in dataframes.columns(array):
            yield from _column(column)
    else:
        yield from _column(array)


def _column(series: Any) -> Iterator[np.ndarray]:
    """Yield a column of pandas, polars or Arrow as an array, if its type may hold large integers or pandas.NA."""
    kind = str(getattr(series, "dtype", getattr(series, "type", ""))).lower()
    if ("int64" in kind or kind == "object") and hasattr(series, "__array__"):
        yield np.asarray(series)


def _rounds_integers(array: np.ndarray, name: str) -> bool:
    """Return whether float64 rounds an integer of the array; raise ValueError for what cannot be converted."""
    if array.dtype.kind == "O":
        return _rounds_objects(array, name)
    if array.dtype.kind not in "iu" or array.dtype.itemsize < 8:
        return False
    if array.ndim == 0:
        return abs(int(array)) > MAX_EXACT_INTEGER
    blocks = (array[rows] for rows in row_blocks(array) if array[rows].size)
    return any(int(block.max()) > MAX_EXACT_INTEGER or int(block.min()) < -MAX_EXACT_INTEGER for block in blocks)


def _rounds_objects(array: np.ndarray, name: str) -> bool:
    """The same for an array of Python objects."""
    rounds = False
    for item in array.flat:
        if type(item).__name__ == "NAType":
            raise ValueError(f"Input {name} contains NaN (pandas.NA).")
        if isinstance(item, int) and abs(item) > MAX_EXACT_INTEGER:
            if abs(item) > sys.float_info.max:
                raise ValueError(f"Input {name} contains an integer too large for float64.")
            rounds = True
    return rounds
