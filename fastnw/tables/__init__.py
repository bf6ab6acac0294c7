"""Reads and writes tables: named columns of equal length in .csv, .npy, .npz and .parquet files.

Reading does not convert: a CSV cell stays text and a Parquet column stays an Arrow column, so that columns copied to
another file do not change. Only `Table.numbers`, `Table.matrix` and `Table.labels` convert cells; their errors name the
file, the row and the column.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from fastnw.tables import columns as _columns
from fastnw.tables import formats as _formats
from fastnw.tables.columns import Column
from fastnw.tables.formats import TableError

__all__ = ["Table", "TableError", "check_writable", "read_table", "write_table"]


@dataclass(frozen=True)
class Table:
    """Columns of equal length, in order.

    Parameters
    ----------
    columns : dict of str to array
        NumPy arrays of shape (n,) with numbers or, from a CSV file, with `str` objects; Arrow columns from a Parquet
        file.
    path : Path
        The file that error messages name.
    """

    columns: dict[str, Column]
    path: Path

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    @property
    def names(self) -> list[str]:
        return list(self.columns)

    def column(self, name: str) -> Column:
        """Return the column as it was read; raise a `TableError` with the existing names if it is missing."""
        if name not in self.columns:  # `require` looks through all names, so it is called only for an error
            _formats.require(self.path, self.names, [name])
        return self.columns[name]

    def numbers(self, name: str) -> np.ndarray:
        """Return the column as an array (n,) of finite numbers: float32 for float16 and float32, otherwise float64.

        Raises
        ------
        TableError
            If the column is missing, or a cell is empty, not a number, NaN or infinite. The message names the first
            such cell.
        """
        column = self.column(name)
        values = _columns.as_floats(column)
        bad = _columns.first_not_number(column) if values is None else _columns.first_not_finite(values)
        if bad is not None:
            raise TableError(f"{self.cell(bad, name)} {_complaint(_columns.item(column, bad))}.")
        if values is None:
            raise TableError(f"{self.path}: column {name!r} holds {_columns.type_name(column)}, not numbers.")
        return values

    def matrix(self, names: Sequence[str]) -> np.ndarray:
        """Return the columns as one C-ordered array (n, len(names)): float32 if all are float32, otherwise float64."""
        _formats.require(self.path, self.names, names)
        columns = [self.numbers(name) for name in names]
        matrix = np.empty((len(self), len(columns)), dtype=np.result_type(*columns))
        for j, column in enumerate(columns):
            matrix[:, j] = column
        return matrix

    def labels(self, name: str) -> np.ndarray:
        """Return the column as class labels (n,): integers if every cell is one, else float64 if possible, else text.

        Integers beyond 2**53 keep all their digits; those too long for int64 become text.

        Raises
        ------
        TableError
            If the column is missing, or a cell is empty, NaN or infinite. The message names the first such cell.
        """
        column = self.column(name)
        values = _columns.as_floats(column)
        if values is None:
            try:
                cells = _columns.items(column)
            except (ValueError, NotImplementedError) as error:
                raise TableError(f"{self.path}: column {name!r} cannot be read as labels: {error}") from error
            bad = next((i for i, cell in enumerate(cells) if cell is None or not str(cell).strip()), None)
        else:
            bad = _columns.first_not_finite(values)
        if bad is not None:
            raise TableError(f"{self.cell(bad, name)} {_complaint(_columns.item(column, bad))}.")
        if values is None:
            return np.array([str(cell) for cell in cells])
        if np.any(values != np.round(values)):
            return values.astype(np.float64)
        if np.all(np.abs(values) < 2.0**53):
            return values.astype(np.int64)
        whole = _columns.whole_numbers(column)
        return values.astype(np.float64) if whole is None else whole

    def rounded(self, names: Sequence[str]) -> list[str]:
        """Return the names of columns with integers beyond 2**53 that lose digits when converted to float64."""
        return [name for name in names if _columns.is_rounded(self.columns[name], self.numbers(name))]

    def cell(self, row: int, name: str) -> str:
        """Describe a cell's position: ``file: row 3 (line 4), column 'x'``. `row` counts from 0, the text from 1."""
        return f"{self.path}: {_formats.row_in_words(self.path, row)}, column {name!r}"


def _complaint(cell: Any) -> str:
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return "is empty"
    return f"is {cell!r}, not a finite number" if isinstance(cell, str) else f"is {cell}"


def read_table(path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> Table:
    """Read a table; the file's extension determines the format.

    * ``.csv``: UTF-8, comma-separated, with a header line. Cells stay text.
    * ``.npy``: a 2-D array, whose columns are named "0", "1", ..., or a structured array.
    * ``.npz``: one 2-D array as above, or several arrays of equal length. A 1-D array is a column of its name, a 2-D
      array is the columns ``name_0``, ``name_1``, ...
    * ``.parquet``: needs pyarrow.

    Parameters
    ----------
    path : path
        The file.
    columns : sequence of str, optional
        The columns to keep, in the file's order. Default: all.

    Raises
    ------
    TableError
        If the file is missing or unreadable, the extension is unknown, rows differ in length, column names are missing
        or repeated, or there are no rows.
    """
    path = Path(path)
    file_format = _formats.format_of(path)
    if not path.exists():
        raise TableError(f"{path}: no such file.")
    if path.is_dir():
        raise TableError(f"{path}: is a directory, not a file.")
    try:
        columns_read = file_format.read(path, columns)
    except TableError:
        raise
    except OSError as error:
        raise TableError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except (ValueError, NotImplementedError) as error:  # libraries raise these for damaged contents
        raise TableError(f"{path}: cannot be read: {error}.") from error
    table = Table(columns_read, path)
    if len(table) == 0:
        raise TableError(f"{path}: has no rows.")
    return table


def write_table(table: Table | Mapping[str, Column], path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write a table in the format of the file's extension. A failure leaves no partial file.

    ``.npy`` becomes a structured array and ``.npz`` one 1-D array per column, so that column names are stored. With
    hundreds of columns, numpy.load needs a larger `max_header_size` to read such a ``.npy``. In these formats and in
    Parquet, a text column of a CSV file becomes numbers if every cell is a number.

    Raises
    ------
    TableError
        If the extension is unknown, the folder is missing, the file exists and `force` is False, or columns differ in
        length.
    """
    path = Path(path)
    check_writable(path, force=force)
    columns = dict(table.columns if isinstance(table, Table) else table)
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise TableError(f"{path}: columns of unequal length: {lengths}.")
    try:
        with atomically(path, force=force) as file:
            _formats.format_of(path).write(columns, file)
    except TableError:
        raise
    except OSError as error:
        raise TableError(f"{path}: cannot be written: {error.strerror or error}.") from error
    except (ValueError, NotImplementedError) as error:  # lone surrogates, unknown time zones
        raise TableError(f"{path}: cannot be written: {error}.") from error


def check_writable(path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Raise the `TableError` that `write_table` would raise for this path; for use before a long computation."""
    path = Path(path)
    _formats.format_of(path)
    if not path.parent.is_dir():
        raise TableError(f"{path}: the folder {path.parent} does not exist.")
    if path.is_dir():
        raise TableError(f"{path}: is a directory, not a file.")
    if not force:
        _refuse_existing(path)


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise TableError(f"{path}: exists already. Use force=True to overwrite it.")


@contextmanager
def atomically(path: Path, *, force: bool) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path` that replaces `path` at the end, or is removed on any failure."""
    target = Path(os.path.realpath(path))  # replace the target of a symbolic link, not the link
    # The module tempfile creates files that only their owner can read, and renaming would keep those permissions.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if not force:
            _refuse_existing(path)  # another process may have created it meanwhile
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
