"""What a conversion to floating point would lose without a word, or fail at in Python's: masks, pandas.NA, integers."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastnw.core.problem import row_blocks
from fastnw.core.warnings import AccuracyWarning, caller_level
from fastnw.interop import dataframes

LARGEST = 2**53  # every whole number up to it is a float64


def check_losses(**arrays: Any) -> None:
    """Look at a user's arrays, by the names for messages, before they are converted.

    Raises
    ------
    ValueError
        An entry is masked (it would be taken for the number beneath), pandas.NA, or an integer beyond float64.

    Warns
    -----
    AccuracyWarning
        Once, with all names: integers beyond 2**53.
    """
    for name, array in arrays.items():
        if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
            raise ValueError(f"Input {name} has masked entries. Leave those rows out, or fill them with .filled().")
    rounded = [name for name, array in arrays.items() if any(_is_beyond(part, name) for part in _columns(array))]
    if rounded:
        warnings.warn(
            f"Integers beyond 2**53 in {', '.join(rounded)} are rounded to float64. Subtract an offset from them first "
            "if their differences matter.",
            AccuracyWarning,
            stacklevel=caller_level(),
        )


def _columns(array: Any) -> Iterator[np.ndarray]:
    """The parts that may be integers, as NumPy arrays; a data frame's columns one by one, since each has its type."""
    if isinstance(array, np.ndarray):
        yield array
    elif isinstance(array, (int, list, tuple)):
        try:
            yield np.asarray(array)
        except ValueError:  # ragged: refused elsewhere, in words
            return
    elif dataframes.is_frame(array):
        for column in dataframes.columns(array):
            yield from _column(column)
    else:
        yield from _column(array)


def _column(series: Any) -> Iterator[np.ndarray]:
    """One of pandas, polars or Arrow, if its type may hold what is looked for."""
    kind = str(getattr(series, "dtype", getattr(series, "type", ""))).lower()
    if ("int64" in kind or kind == "object") and hasattr(series, "__array__"):
        yield np.asarray(series)


def _is_beyond(array: np.ndarray, name: str) -> bool:
    """Whether there are integers that float64 rounds; raises what cannot be converted at all."""
    if array.dtype.kind == "O":
        return _objects_are_beyond(array, name)
    if array.dtype.kind not in "iu" or array.dtype.itemsize < 8:
        return False
    if array.ndim == 0:
        return abs(int(array)) > LARGEST
    blocks = (array[rows] for rows in row_blocks(array) if array[rows].size)
    return any(int(block.max()) > LARGEST or int(block.min()) < -LARGEST for block in blocks)


def _objects_are_beyond(array: np.ndarray, name: str) -> bool:
    beyond = False
    for item in array.flat:
        if type(item).__name__ == "NAType":
            raise ValueError(f"Input {name} contains NaN (pandas.NA).")
        if isinstance(item, int) and abs(item) > LARGEST:
            if abs(item) > sys.float_info.max:
                raise ValueError(f"Input {name} contains an integer too large for float64.")
            beyond = True
    return beyond
