"""Tables in files: named columns of equal length, read from and written to .csv, .npy, .npz and .parquet.

A file is read as it stands: a CSV cell stays text and a Parquet column stays an Arrow column, so that what is carried
through to another file is carried unchanged. Only `Table.numbers`, `Table.matrix` and `Table.labels` convert, and only
they complain about cells, by file, row and column.
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
        NumPy arrays of shape (n,): numbers, or objects that are all `str` (the cells of a CSV file). From Parquet:
        Arrow columns.
    path : Path
        The file, for messages.
    """

    columns: dict[str, Column]
    path: Path

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    @property
    def names(self) -> list[str]:
        return list(self.columns)

    def column(self, name: str) -> Column:
        """The column as it was read; `TableError` lists what is there if it is missing."""
        if name not in self.columns:  # only then are all names looked through
            _formats.require(self.path, self.names, [name])
        return self.columns[name]

    def numbers(self, name: str) -> np.ndarray:
        """The column as finite float32 (if it is stored as float16 or float32) or float64, shape (n,).

        Raises
        ------
        TableError
            Missing column, or the first cell that is empty, not a number, NaN or infinite.
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
        """The columns as one C-ordered array (n, len(names)): float32 if each of them is, otherwise float64."""
        _formats.require(self.path, self.names, names)
        columns = [self.numbers(name) for name in names]
        matrix = np.empty((len(self), len(columns)), dtype=np.result_type(*columns))
        for j, column in enumerate(columns):
            matrix[:, j] = column
        return matrix

    def labels(self, name: str) -> np.ndarray:
        """The column as class labels (n,): whole if every cell is a whole number, float64 if a number, otherwise text.

        Whole numbers beyond 2**53 keep their digits, as text where they are too long for int64.

        Raises
        ------
        TableError
            Missing column, or the first cell that is empty, NaN or infinite.
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
        """Those of the columns whose whole numbers, beyond 2**53, lose digits as floats."""
        return [name for name in names if _columns.is_rounded(self.columns[name], self.numbers(name))]

    def cell(self, row: int, name: str) -> str:
        """Where a cell is, in words: ``file: row 3 (line 4), column 'x'``; `row` counts from 0, the words from 1."""
        return f"{self.path}: {_formats.row_in_words(self.path, row)}, column {name!r}"


def _complaint(cell: Any) -> str:
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return "is empty"
    return f"is {cell!r}, not a finite number" if isinstance(cell, str) else f"is {cell}"


def read_table(path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> Table:
    """Read a table; its format is told by the file's extension.

    * ``.csv``: UTF-8, comma-separated, a header line. Cells stay text.
    * ``.npy``: a 2-D array, its columns named "0", "1", ...; or a structured array.
    * ``.npz``: one 2-D array as above; or several of equal length, 1-D by their name, 2-D as ``name_0``, ``name_1``...
    * ``.parquet``: needs pyarrow.

    Parameters
    ----------
    path : path
        The file.
    columns : sequence of str, optional
        Keep only these, in the file's order. Default: all.

    Raises
    ------
    TableError
        Missing or unreadable file, unknown extension, ragged rows, duplicate or missing columns, zero rows.
    """
    path = Path(path)
    file_format = _formats.format_of(path)
    if not path.exists():
        raise TableError(f"{path}: no such file.")
    if path.is_dir():
        raise TableError(f"{path}: is a directory, not a file.")
    try:
        found = file_format.read(path, columns)
    except TableError:
        raise
    except OSError as error:
        raise TableError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except (ValueError, NotImplementedError) as error:  # of a library, over contents that it did not expect
        raise TableError(f"{path}: cannot be read: {error}.") from error
    table = Table(found, path)
    if len(table) == 0:
        raise TableError(f"{path}: has no rows.")
    return table


def write_table(table: Table | Mapping[str, Column], path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write a table in the format of the file's extension; the file appears whole or not at all.

    ``.npy`` becomes a structured array and ``.npz`` one 1-D array per column, so that names are kept; of hundreds of
    columns, numpy.load reads such a ``.npy`` with a larger `max_header_size` only. Text columns of a CSV file become
    numbers there and in Parquet where every cell is one.

    Raises
    ------
    TableError
        Unknown extension, missing folder, an existing file without `force`, columns of unequal length.
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
    except (ValueError, NotImplementedError) as error:  # halves of characters, a time zone that is unknown here
        raise TableError(f"{path}: cannot be written: {error}.") from error


def check_writable(path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Raise the `TableError` that `write_table` would raise for this path, before the work is done."""
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
        raise TableError(f"{path}: exists already, and is only overwritten by force.")


@contextmanager
def atomically(path: Path, *, force: bool) -> Iterator[IO[bytes]]:
    """A temporary file beside `path` that takes its place at the end, or is removed on any failure."""
    target = Path(os.path.realpath(path))  # a link stays a link
    # not tempfile: its files are private to the user, and stay so after the renaming
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if not force:
            _refuse_existing(path)  # it may have come while this was written
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
