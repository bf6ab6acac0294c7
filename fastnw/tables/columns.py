"""Converts columns of tables to numbers, labels and text.

A column is a NumPy array of shape (n,), which holds `str` objects if it comes from a CSV file, or an Arrow column if it
comes from a Parquet file.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Column = Any  # numpy.ndarray | pyarrow.ChunkedArray; pyarrow is not required


def as_floats(column: Column) -> np.ndarray | None:
    """Convert the column to float32 (from float16 and float32) or float64; None if it is not numeric.

    Missing cells become NaN. Text is parsed only in columns of a CSV file.
    """
    if not isinstance(column, np.ndarray):
        converted = _arrow_numbers(column)
        if converted is None:
            return None
        column = converted
    if column.dtype == object:
        return _parsed(column)
    if column.dtype.kind not in "biuf":
        return None
    return column.astype(np.float32 if column.dtype.kind == "f" and column.dtype.itemsize <= 4 else np.float64)


def _arrow_numbers(column: Column) -> np.ndarray | None:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_boolean(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind):
        column = column.cast(pa.float64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return None
    return column.to_numpy()


def _parsed(cells: np.ndarray) -> np.ndarray | None:
    try:
        values = np.fromiter(map(float, cells), np.float64, len(cells))
    except (TypeError, ValueError):
        return None
    return None if first_not_number(cells, only_underscores=True) is not None else values


def whole_numbers(column: Column) -> np.ndarray | None:
    """Convert the column to an integer type, or to text if int64 is too short; None if it has fractions.

    The caller has checked with `as_floats` that all cells are numbers.
    """
    if not isinstance(column, np.ndarray):
        column = column.to_numpy()
    if column.dtype.kind in "iu":
        return column
    if column.dtype != object:
        return None
    try:
        whole = [int(cell) for cell in column]
    except ValueError:  # fractions
        return None
    fits = all(-(2**63) <= number < 2**63 for number in whole)
    return np.array(whole, np.int64) if fits else np.array([str(number) for number in whole])


def is_rounded(column: Column, values: np.ndarray) -> bool:
    """Whether `values`, the column as floats, lost digits of integers beyond 2**53."""
    if not len(values) or np.abs(values).max() < 2.0**53:
        return False
    whole = whole_numbers(column)
    return whole is not None and any(int(a) != int(b) for a, b in zip(whole.tolist(), values.tolist(), strict=True))


def first_not_number(column: Column, *, only_underscores: bool = False) -> int | None:
    """Return the position of the first cell of a CSV column that is not a number; None for any other column.

    ``1_000`` is not a number here: Python reads it as one, but other programs do not.
    """
    if not isinstance(column, np.ndarray) or column.dtype != object:
        return None
    if only_underscores and "_" not in "".join(column.tolist()):
        return None
    for i, cell in enumerate(column):
        try:
            float(cell)
        except (TypeError, ValueError):
            return i
        if "_" in str(cell):
            return i
    return None


def first_not_finite(values: np.ndarray) -> int | None:
    """Return the position of the first NaN or infinity, or None."""
    finite = np.isfinite(values)
    return None if finite.all() else int(np.argmin(finite))


def item(column: Column, i: int) -> Any:
    """Return one cell as a Python object; None if it is missing."""
    return items(column[i : i + 1])[0]


def items(column: Column, *, shortest: bool = False) -> list[Any]:
    """Return the cells as Python objects: None for missing cells, text for dates.

    With `shortest`, float16 and float32 cells are the shortest text that determines them.
    """
    if isinstance(column, np.ndarray):
        kind = column.dtype.kind
        if kind == "S":
            return [cell.decode("utf-8", "replace") for cell in column.tolist()]
        as_text = kind in "mM" or (shortest and kind == "f" and column.dtype.itemsize < 8)
        return column.astype(str).tolist() if as_text else column.tolist()
    import pyarrow as pa

    if pa.types.is_temporal(column.type) or (shortest and pa.types.is_float32(column.type)):
        column = column.cast(pa.string())
    return column.to_pylist()


def type_name(column: Column) -> str:
    """Name the type of the column for error messages."""
    if not isinstance(column, np.ndarray):
        return str(column.type)
    return {"U": "text", "S": "text", "O": "text", "M": "dates"}.get(column.dtype.kind, str(column.dtype))


def typed(column: Column) -> np.ndarray:
    """Convert the column to a NumPy array without Python objects; CSV text becomes numbers if every cell is one."""
    if not isinstance(column, np.ndarray):
        column = _arrow_typed(column)
    if column.dtype == object:
        column = _typed_text(column)
    return column.astype(column.dtype.newbyteorder("="), copy=False)


def _arrow_typed(column: Column) -> np.ndarray:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or (pa.types.is_boolean(kind) and not column.null_count):
        return column.to_numpy()
    return _text(items(column))


def _typed_text(cells: np.ndarray) -> np.ndarray:
    """Convert text to int64 or float64; digits that are names (``007``, or too long for int64) stay text."""
    try:
        whole = list(map(int, cells))
    except (TypeError, ValueError):
        values = _parsed(cells)
        return _text(cells.tolist()) if values is None else values
    if [str(number) for number in whole] == [str(cell).strip() for cell in cells]:
        try:
            return np.array(whole, dtype=np.int64)
        except OverflowError:
            pass
    return _text(cells.tolist())


def _text(cells: list[Any]) -> np.ndarray:
    return np.array(["" if cell is None else str(cell) for cell in cells], dtype=str)
