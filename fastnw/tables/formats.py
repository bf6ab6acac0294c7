"""Readers and writers of each file format. `fastnw.tables` is the interface to them."""

from __future__ import annotations

import csv
import io
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import IO, Any, NamedTuple

import numpy as np

from fastnw.tables.arrays import Archive, read_array
from fastnw.tables.columns import Column, items, typed

Columns = dict[str, Column]

CSV_BLOCK_ROWS = 4_096  # Rows that are lists at one time. 65,536 leave the caches and take twice as long.
NPY_MAGIC = b"\x93NUMPY"
MAX_V1_DTYPE_BYTES = 65_000  # Longest description of a dtype in .npy version 1.0, whose whole header has 65,535 bytes.


class TableError(ValueError):
    """A table cannot be read, used or written; the message names the file and, if it concerns one, the cell."""


def require(path: Path, names: Sequence[str], wanted: Sequence[str]) -> None:
    """Raise a `TableError` that lists the column names of the file if a wanted one is not among them."""
    known = set(names)
    missing = [name for name in wanted if name not in known]
    if not missing:
        return
    noun = "column" if len(missing) == 1 else "columns"
    message = f"{path}: has no {noun} {', '.join(map(repr, missing))}; it has {', '.join(map(repr, names))}."
    if len(names) == 1 and path.suffix.lower() == ".csv" and any(mark in names[0] for mark in ";\t|"):
        message += " Is it separated by something other than commas?"
    raise TableError(message)


def _positions_to_read(path: Path, names: Sequence[str], columns: Sequence[str] | None) -> list[int]:
    """Check the names of columns and return the positions of those to read."""
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise TableError(f"{path}: has more than one column named {', '.join(map(repr, repeated))}.")
    if columns is None:
        return list(range(len(names)))
    require(path, names, columns)
    wanted = set(columns)
    return [j for j, name in enumerate(names) if name in wanted]


# Python's csv module reads 10⁶ rows of 4 cells in 3 s. numpy.loadtxt takes half of that, but it does not keep the text
# of cells that are only copied, and its errors do not name the column.


def _read_csv(path: Path, columns: Sequence[str] | None) -> Columns:
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            names = [name.strip() for name in next(rows, [])]
            if not names:
                raise TableError(f"{path}: has no header line.")
            positions = _positions_to_read(path, names, columns)
            pieces: list[list[np.ndarray]] = [[] for _ in positions]
            done = 0
            while block := list(islice(rows, CSV_BLOCK_ROWS)):
                if set(map(len, block)) != {len(names)}:
                    block = _without_blank_lines(path, block, len(names), done)
                done += len(block)
                transposed = list(zip(*block, strict=True))
                for piece, j in zip(pieces, positions, strict=True):
                    piece.append(np.array(transposed[j] if block else [], dtype=object))
        except csv.Error as error:
            raise TableError(f"{path}: line {rows.line_num}: {error}.") from error
        except UnicodeDecodeError as error:
            raise TableError(f"{path}: is not UTF-8 text (after line {rows.line_num}): {error.reason}.") from error
    empty = np.array([], dtype=object)
    return {names[j]: np.concatenate([empty, *piece]) for piece, j in zip(pieces, positions, strict=True)}


def _without_blank_lines(path: Path, block: list[list[str]], width: int, done: int) -> list[list[str]]:
    """Remove blank lines from the block; in a table of one column, a blank line is an empty cell instead."""
    filled = [cells or [""] for cells in block] if width == 1 else [cells for cells in block if cells]
    for i, cells in enumerate(filled):
        if len(cells) != width:
            position = row_in_words(path, done + i)
            raise TableError(f"{path}: {position} has {len(cells)} cells, the header has {width}.")
    return filled


def row_in_words(path: Path, row: int) -> str:
    """Describe data row `row`, counted from 0, by its number from 1 and, in a CSV file, by its line."""
    line = f" (line {_csv_line(path, row)})" if path.suffix.lower() == ".csv" else ""
    return f"row {row + 1}{line}"


def _csv_line(path: Path, row: int) -> int:
    """Return the line, from 1, where data row `row`, from 0, begins.

    The file is read again, because quoted cells may contain line breaks and lines may be blank.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        width = len(next(rows))
        start, current_row = rows.line_num + 1, -1
        for cells in rows:
            current_row += bool(cells) or width == 1
            if current_row == row:
                break
            start = rows.line_num + 1
    return start


def _write_csv(columns: Columns, file: IO[bytes]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    n = max(map(len, columns.values()), default=0)
    for start in range(0, n, CSV_BLOCK_ROWS):
        block = [items(column[start : start + CSV_BLOCK_ROWS], shortest=True) for column in columns.values()]
        writer.writerows(zip(*block, strict=True))
    text.detach()


def _read_npy(path: Path, columns: Sequence[str] | None) -> Columns:
    with open(path, "rb") as file:
        if file.read(len(NPY_MAGIC)) != NPY_MAGIC:
            raise TableError(f"{path}: is not a .npy file.")
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        array = _load_array(path, "it", lambda: read_array(file, size))
    if array.dtype.names is None:
        named = _columns_of_2d(path, "the array", array, "")
    elif array.ndim == 1:
        named = {name: array[name] for name in array.dtype.names}
        for name, column in named.items():
            if column.ndim != 1 or column.dtype.names is not None:
                raise TableError(f"{path}: field {name!r} is not one value a row ({array.dtype[name]}).")
    else:
        raise TableError(f"{path}: a structured array must be 1-D, got shape {array.shape}.")
    names = list(named)
    return {names[j]: named[names[j]] for j in _positions_to_read(path, names, columns)}


def _load_array(path: Path, what: str, read: Callable[[], np.ndarray]) -> np.ndarray:
    try:
        return read()
    except ValueError as error:
        if "pickles" in str(error):
            raise TableError(f"{path}: {what} holds Python objects, and pickles are not opened.") from error
        raise TableError(f"{path}: {what} is truncated or damaged: {error}.") from error


def _columns_of_2d(path: Path, what: str, array: np.ndarray, prefix: str) -> Columns:
    if array.ndim != 2:
        hint = " Reshape it with array.reshape(-1, 1)." if array.ndim == 1 else ""
        raise TableError(f"{path}: {what} must be 2-D (rows, columns), got shape {array.shape}.{hint}")
    if not len(array):  # with no rows, a header may claim any number of columns
        raise TableError(f"{path}: has no rows.")
    return {f"{prefix}{j}": array[:, j] for j in range(array.shape[1])}


def _read_npz(path: Path, columns: Sequence[str] | None) -> Columns:
    with open(path, "rb") as file:
        try:
            archive = Archive(file)
        except ValueError as error:
            raise TableError(f"{path}: is not a .npz file, or is truncated or damaged: {error}.") from error
        arrays = {}
        for entry in archive.names:
            name = entry.removesuffix(".npy")
            arrays[name] = _load_array(path, f"array {name!r}", partial(archive.array, entry))
    if len(arrays) == 1 and next(iter(arrays.values())).ndim == 2:
        blocks = [_columns_of_2d(path, "the array", array, "") for array in arrays.values()]
    else:
        blocks = [
            {name: array} if array.ndim == 1 else _columns_of_2d(path, f"array {name!r}", array, f"{name}_")
            for name, array in arrays.items()
        ]
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name!r} {length}" for name, length in lengths.items())
        raise TableError(f"{path}: arrays of unequal length: {listed}.")
    named = [(name, column) for block in blocks for name, column in block.items()]
    return {named[j][0]: named[j][1] for j in _positions_to_read(path, [name for name, _ in named], columns)}


def _write_npy(columns: Columns, file: IO[bytes]) -> None:
    arrays = {name: typed(column) for name, column in columns.items()}
    n = max(map(len, arrays.values()), default=0)
    table = np.empty(n, dtype=[(name, array.dtype) for name, array in arrays.items()])
    for name, array in arrays.items():
        table[name] = array
    np.lib.format.write_array(file, table, _npy_version(table.dtype), allow_pickle=False)


def _npy_version(dtype: np.dtype[Any]) -> tuple[int, int]:
    """Return the oldest version of the format that can hold the header. NumPy's own choice comes with a warning."""
    header = repr(np.lib.format.dtype_to_descr(dtype))
    try:
        header.encode("latin1")
    except UnicodeEncodeError:
        return (3, 0)
    return (1, 0) if len(header) < MAX_V1_DTYPE_BYTES else (2, 0)


def _write_npz(columns: Columns, file: IO[bytes]) -> None:
    with zipfile.ZipFile(file, "w") as archive:  # np.savez cannot hold a column named "file"
        for name, column in columns.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, typed(column), allow_pickle=False)


def pyarrow(path: Path) -> ModuleType:
    """Import pyarrow and its Parquet module, or raise a `TableError` that says how to install it."""
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError as error:
        raise TableError(f"{path}: Parquet files need pyarrow: pip install 'fastnw[io]'") from error
    return pa


def _read_parquet(path: Path, columns: Sequence[str] | None) -> Columns:
    pa = pyarrow(path)
    try:
        # pyarrow.parquet.read_table would add columns for names of folders such as "year=2020".
        with pa.parquet.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            names_read = [names[j] for j in _positions_to_read(path, names, columns)]
            table = file.read(columns=names_read)
        table.validate(full=True)
    except (pa.ArrowException, UnicodeError) as error:
        raise TableError(f"{path}: is not a Parquet file, or is damaged: {error}") from error
    return {name: table.column(name) for name in names_read}


def _write_parquet(columns: Columns, file: IO[bytes]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {}
    for name, column in columns.items():
        try:
            arrays[name] = column if not isinstance(column, np.ndarray) else pa.array(_for_arrow(column))
        except pa.ArrowException as error:
            raise TableError(f"column {name!r} cannot be written as Parquet: {error}") from error
    pq.write_table(pa.table(arrays), file)


def _for_arrow(column: np.ndarray) -> Any:
    array = typed(column)
    return items(array) if array.dtype.kind in "US" else array


class Format(NamedTuple):
    """A file format: ``read(path, columns or None) -> {name: column}`` and ``write(columns, binary file)``."""

    read: Callable[[Path, Sequence[str] | None], Columns]
    write: Callable[[Columns, IO[bytes]], None]


FORMATS = {
    ".csv": Format(_read_csv, _write_csv),
    ".npy": Format(_read_npy, _write_npy),
    ".npz": Format(_read_npz, _write_npz),
    ".parquet": Format(_read_parquet, _write_parquet),
}


def format_of(path: Path) -> Format:
    """Return the format for the file's extension.

    Raises
    ------
    TableError
        If the extension is unknown or the library that it needs is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise TableError(f"{path}: unknown extension {suffix!r}. Use one of {', '.join(FORMATS)}.")
    if suffix == ".parquet":
        pyarrow(path)
    return FORMATS[suffix]
