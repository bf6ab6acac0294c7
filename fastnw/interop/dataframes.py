"""Data frames in place of arrays: their column names, and the matching of columns by name.

A frame is recognised by its attributes, not by narwhals, which accepts neither Arrow record batches nor frames with
duplicate column names. NumPy reads pandas, polars and Arrow tables by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

MAX_NAMES_SHOWN = 5  # as in scikit-learn's messages


def is_frame(table: Any) -> bool:
    """Whether this is a data frame of pandas, polars or a similar library, an Arrow table or a record batch."""
    # `shape` first: a lazy frame has none, and it warns when its columns are read
    if _is_arrow(table) and type(table).__name__ == "RecordBatch":  # without `shape` before Arrow 15
        return True
    return not isinstance(table, np.ndarray) and hasattr(table, "shape") and hasattr(table, "columns")


def as_known(table: Any) -> Any:
    """The frame in a form whose column names scikit-learn reads; it would read an Arrow record batch as an array."""
    if _is_arrow(table) and type(table).__name__ == "RecordBatch":
        import pyarrow

        return pyarrow.Table.from_batches([table])
    return table


def column_names(table: Any) -> list[Any] | None:
    """The names of a frame's columns; None if no name is a string, or if the table is not a frame."""
    if not is_frame(table):
        return None
    names = list(table.schema.names if _is_arrow(table) else table.columns)
    return names if any(isinstance(name, str) for name in names) else None


def columns(table: Any) -> Iterator[Any]:
    """The columns of a frame by position, since names may occur twice."""
    if _is_arrow(table):
        yield from table.columns
    elif hasattr(table, "iloc"):
        yield from (table.iloc[:, j] for j in range(table.shape[1]))
    else:
        yield from (table[name] for name in table.columns)


def dates(table: Any) -> Any:
    """The name of the first column of dates, times or durations, or None."""
    if _is_arrow(table):
        from pyarrow import types

        kinds = zip(table.schema.names, map(types.is_temporal, table.schema.types), strict=True)
    else:
        kinds = zip(table.columns, map(_is_temporal, table.dtypes), strict=True)
    return next((name for name, is_temporal in kinds if is_temporal), None)


def matched(queries: Any, keys: Any, names: tuple[str, str] = ("queries", "keys")) -> Any:
    """Returns `queries` with its columns in the order of those of `keys`, if both are frames with names.

    If only one of them has names, columns are matched by position, as in scikit-learn.

    Parameters
    ----------
    queries, keys : array or data frame
    names : pair of str
        Their names in error messages.

    Raises
    ------
    ValueError
        The frames have different columns, or different orders of columns and a duplicate name.
    TypeError
        Only some of the names of a frame are strings.
    """
    if isinstance(queries, np.ndarray) and isinstance(keys, np.ndarray):
        return queries
    query_names, key_names = column_names(queries), column_names(keys)
    if query_names == key_names:
        return queries
    if query_names is None or key_names is None:
        return queries
    for table, columns_of_table in zip(names, (query_names, key_names), strict=True):
        _check_unique_strings(table, columns_of_table)
    if set(query_names) != set(key_names):
        unexpected, missing = set(query_names) - set(key_names), set(key_names) - set(query_names)
        raise ValueError(_difference(names, unexpected, missing))
    return queries.select(key_names) if _is_arrow(queries) else queries[key_names]


def _check_unique_strings(table: str, names: list[Any]) -> None:
    """Raises an error unless the names identify the columns."""
    types = sorted({type(name).__qualname__ for name in names})
    if not all(isinstance(name, str) for name in names):
        raise TypeError(
            "Feature names are only supported if all input features have string names, but "
            f"{table} has {types} as feature name / column name types. Convert them all to strings, by using "
            f"{table}.columns = {table}.columns.astype(str) for example, or pass arrays."
        )
    duplicates = [name for name, count in Counter(names).items() if count > 1]
    if duplicates:
        shown = ", ".join(map(repr, duplicates[:MAX_NAMES_SHOWN]))
        raise ValueError(
            f"{table} has more than one column named {shown}: columns cannot be matched by name. Rename them, or pass "
            "arrays to match by position."
        )


def _difference(names: tuple[str, str], unexpected: set[str], missing: set[str]) -> str:
    """The message on different columns, worded as in scikit-learn."""
    queries, keys = names
    message = f"The feature names of {queries} should match those of {keys}.\n"
    if unexpected:
        message += f"Feature names unseen in {keys}:\n{_listed(unexpected)}"
    if missing:
        message += f"Feature names seen in {keys}, yet missing in {queries}:\n{_listed(missing)}"
    return message


def _listed(names: Iterable[str]) -> str:
    lines = [f"- {name}\n" for name in sorted(names)]
    return "".join(lines[:MAX_NAMES_SHOWN] + ["- ...\n"] * (len(lines) > MAX_NAMES_SHOWN))


def _is_arrow(table: Any) -> bool:
    return type(table).__module__.partition(".")[0] == "pyarrow"


def _is_temporal(dtype: Any) -> bool:
    """Whether a type of pandas (which has a kind, as in NumPy) or of polars holds dates, times or durations."""
    return bool(dtype.is_temporal()) if hasattr(dtype, "is_temporal") else getattr(dtype, "kind", None) in ("M", "m")
