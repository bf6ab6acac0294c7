"""Data frames in place of arrays: which columns they have, and which of those belong together.

A frame is told by what it offers, not by narwhals, which takes neither Arrow's record batches nor frames in which a
column's name comes twice. NumPy reads pandas, polars and Arrow tables by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

NAMES_SHOWN = 5  # as in scikit-learn's messages


def is_frame(table: Any) -> bool:
    """Whether this is a data frame: pandas, polars and their kin, Arrow tables and record batches."""
    # `shape` first: a lazy frame has none, and warns when its columns are asked for
    if _is_arrow(table) and type(table).__name__ == "RecordBatch":  # has no shape before Arrow 15
        return True
    return not isinstance(table, np.ndarray) and hasattr(table, "shape") and hasattr(table, "columns")


def as_known(table: Any) -> Any:
    """A frame whose names scikit-learn knows: it takes an Arrow record batch for an array without names."""
    if _is_arrow(table) and type(table).__name__ == "RecordBatch":
        import pyarrow

        return pyarrow.Table.from_batches([table])
    return table


def column_names(table: Any) -> list[Any] | None:
    """The names of a frame's columns; None for anything else, and where no name is a string."""
    if not is_frame(table):
        return None
    names = list(table.schema.names if _is_arrow(table) else table.columns)
    return names if any(isinstance(name, str) for name in names) else None


def columns(table: Any) -> Iterator[Any]:
    """A frame's columns, by position: names may come twice."""
    if _is_arrow(table):
        yield from table.columns
    elif hasattr(table, "iloc"):
        yield from (table.iloc[:, j] for j in range(table.shape[1]))
    else:
        yield from (table[name] for name in table.columns)


def dates(table: Any) -> Any:
    """The name of the first column of dates, times or durations; None if there is none."""
    if _is_arrow(table):
        from pyarrow import types

        found = zip(table.schema.names, map(types.is_temporal, table.schema.types), strict=True)
    else:
        found = zip(table.columns, map(_is_temporal, table.dtypes), strict=True)
    return next((name for name, is_temporal in found if is_temporal), None)


def matched(queries: Any, keys: Any, names: tuple[str, str] = ("queries", "keys")) -> Any:
    """`queries`, with its columns in the order of those of `keys` where both are frames with names.

    Where only one of them has names, columns are matched by position, as scikit-learn does.

    Parameters
    ----------
    queries, keys : array or data frame
    names : pair of str
        What messages call them.

    Raises
    ------
    ValueError
        One frame has columns that the other has not, or a name comes twice in frames that differ.
    TypeError
        Some names of a frame are strings and some are not.
    """
    if isinstance(queries, np.ndarray) and isinstance(keys, np.ndarray):
        return queries
    asked, there = column_names(queries), column_names(keys)
    if asked == there:
        return queries
    if asked is None or there is None:
        return queries
    for name, found in zip(names, (asked, there), strict=True):
        _refuse_unclear(name, found)
    if set(asked) != set(there):
        raise ValueError(_difference(names, set(asked) - set(there), set(there) - set(asked)))
    return queries.select(there) if _is_arrow(queries) else queries[there]


def _refuse_unclear(table: str, names: list[Any]) -> None:
    """Raise unless columns can be told by these names."""
    types = sorted({type(name).__qualname__ for name in names})
    if not all(isinstance(name, str) for name in names):
        raise TypeError(
            "Feature names are only supported if all input features have string names, but "
            f"{table} has {types} as feature name / column name types. Convert them all to strings, by using "
            f"{table}.columns = {table}.columns.astype(str) for example, or pass arrays."
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"{table} has more than one column named {', '.join(map(repr, twice[:NAMES_SHOWN]))}: columns cannot be "
            "matched by name. Rename them, or pass arrays to match by position."
        )


def _difference(names: tuple[str, str], unexpected: set[str], missing: set[str]) -> str:
    """What differs, in the manner of scikit-learn."""
    queries, keys = names
    message = f"The feature names of {queries} should match those of {keys}.\n"
    if unexpected:
        message += f"Feature names unseen in {keys}:\n{_listed(unexpected)}"
    if missing:
        message += f"Feature names seen in {keys}, yet missing in {queries}:\n{_listed(missing)}"
    return message


def _listed(names: Iterable[str]) -> str:
    lines = [f"- {name}\n" for name in sorted(names)]
    return "".join(lines[:NAMES_SHOWN] + ["- ...\n"] * (len(lines) > NAMES_SHOWN))


def _is_arrow(table: Any) -> bool:
    return type(table).__module__.partition(".")[0] == "pyarrow"


def _is_temporal(dtype: Any) -> bool:
    """Of a type of pandas, which says its kind as NumPy does, or of polars."""
    return bool(dtype.is_temporal()) if hasattr(dtype, "is_temporal") else getattr(dtype, "kind", None) in ("M", "m")
