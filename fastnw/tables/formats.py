"""How each kind of file is read into named columns and written from them. `tables` is the way in."""

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

CSV_BLOCK_ROWS = 4_096  # rows held as lists at a time; with 65,536 reading takes twice as long (caches)
NPY_MAGIC = b"\x93NUMPY"
V1_HEADER_BYTES = 65_000  # of a type, in version 1.0 of the format, which has 65,535 for all of the header


class TableError(ValueError):
    """A table that cannot be read, used or written; the message names the file and, where there is one, the cell."""


def require(path: Path, there: Sequence[str], wanted: Sequence[str]) -> None:
    """Raise a `TableError` that lists what is there, unless every wanted column is."""
    known = set(there)
    missing = [name for name in wanted if name not in known]
    if not missing:
        return
    what = "column" if len(missing) == 1 else "columns"
    message = f"{path}: has no {what} {', '.join(map(repr, missing))}; it has {', '.join(map(repr, there))}."
    if len(there) == 1 and path.suffix.lower() == ".csv" and any(mark in there[0] for mark in ";\t|"):
        message += " Is it separated by something other than commas?"
    raise TableError(message)


def _kept(path: Path, names: Sequence[str], columns: Sequence[str] | None) -> list[int]:
    """Positions of the columns to keep, after the checks of the names that every format shares."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise TableError(f"{path}: has more than one column named {', '.join(map(repr, twice))}.")
    if columns is None:
        return list(range(len(names)))
    require(path, names, columns)
    wanted = set(columns)
    return [j for j, name in enumerate(names) if name in wanted]


# CSV: Python's reader for everything, 3 s for 10⁶ rows of 4. numpy.loadtxt takes half of that, but loses the text of
# what is only carried through, and does not name the column of a bad cell.


def _read_csv(path: Path, columns: Sequence[str] | None) -> Columns:
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            names = [name.strip() for name in next(rows, [])]
            if not names:
                raise TableError(f"{path}: has no header line.")
            kept = _kept(path, names, columns)
            pieces: list[list[np.ndarray]] = [[] for _ in kept]
            done = 0
            while block := list(islice(rows, CSV_BLOCK_ROWS)):
                if set(map(len, block)) != {len(names)}:
                    block = _without_blank_lines(path, block, len(names), done)
                done += len(block)
                transposed = list(zip(*block, strict=True))
                for piece, j in zip(pieces, kept, strict=True):
                    piece.append(np.array(transposed[j] if block else [], dtype=object))
        except csv.Error as error:
            raise TableError(f"{path}: line {rows.line_num}: {error}.") from error
        except UnicodeDecodeError as error:
            raise TableError(f"{path}: is not UTF-8 text (after line {rows.line_num}): {error.reason}.") from error
    empty = np.array([], dtype=object)
    return {names[j]: np.concatenate([empty, *piece]) for piece, j in zip(pieces, kept, strict=True)}


def _without_blank_lines(path: Path, block: list[list[str]], width: int, done: int) -> list[list[str]]:
    """The block without its blank lines; where there is one column, a blank line is an empty cell."""
    filled = [cells or [""] for cells in block] if width == 1 else [cells for cells in block if cells]
    for i, cells in enumerate(filled):
        if len(cells) != width:
            where = row_in_words(path, done + i)
            raise TableError(f"{path}: {where} has {len(cells)} cells, the header has {width}.")
    return filled


def row_in_words(path: Path, row: int) -> str:
    """Data row `row`, from 0, as a person counts, with the line of a CSV file."""
    line = f" (line {_csv_line(path, row)})" if path.suffix.lower() == ".csv" else ""
    return f"row {row + 1}{line}"


def _csv_line(path: Path, row: int) -> int:
    """The line, from 1, where data row `row`, from 0, begins: quoted cells may hold line ends, lines may be blank."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        width = len(next(rows))
        start, seen = rows.line_num + 1, -1
        for cells in rows:
            seen += bool(cells) or width == 1
            if seen == row:
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
    return {names[j]: named[names[j]] for j in _kept(path, names, columns)}


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
    if not len(array):  # a header may claim columns without end
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
        said = ", ".join(f"{name!r} {length}" for name, length in lengths.items())
        raise TableError(f"{path}: arrays of unequal length: {said}.")
    named = [(name, column) for block in blocks for name, column in block.items()]
    return {named[j][0]: named[j][1] for j in _kept(path, [name for name, _ in named], columns)}


def _write_npy(columns: Columns, file: IO[bytes]) -> None:
    arrays = {name: typed(column) for name, column in columns.items()}
    n = max(map(len, arrays.values()), default=0)
    table = np.empty(n, dtype=[(name, array.dtype) for name, array in arrays.items()])
    for name, array in arrays.items():
        table[name] = array
    np.lib.format.write_array(file, table, _npy_version(table.dtype), allow_pickle=False)


def _npy_version(dtype: np.dtype[Any]) -> tuple[int, int]:
    """The least version of the format that holds the header: NumPy finds it itself, and warns of it."""
    header = repr(np.lib.format.dtype_to_descr(dtype))
    try:
        header.encode("latin1")
    except UnicodeEncodeError:
        return (3, 0)
    return (1, 0) if len(header) < V1_HEADER_BYTES else (2, 0)


def _write_npz(columns: Columns, file: IO[bytes]) -> None:
    with zipfile.ZipFile(file, "w") as archive:  # np.savez cannot hold a column named "file"
        for name, column in columns.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, typed(column), allow_pickle=False)


def pyarrow(path: Path) -> ModuleType:
    """pyarrow with its Parquet part, or a `TableError` with the line that installs it."""
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError as error:
        raise TableError(f"{path}: Parquet files need pyarrow: pip install 'fastnw[io]'") from error
    return pa


def _read_parquet(path: Path, columns: Sequence[str] | None) -> Columns:
    pa = pyarrow(path)
    try:
        # not read_table, which adds columns that it finds in the folders' names
        with pa.parquet.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            kept = [names[j] for j in _kept(path, names, columns)]
            table = file.read(columns=kept)
        table.validate(full=True)
    except (pa.ArrowException, UnicodeError) as error:
        raise TableError(f"{path}: is not a Parquet file, or is damaged: {error}") from error
    return {name: table.column(name) for name in kept}


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
    """A kind of file: ``read(path, columns or None) -> {name: column}`` and ``write(columns, binary file)``."""

    read: Callable[[Path, Sequence[str] | None], Columns]
    write: Callable[[Columns, IO[bytes]], None]


FORMATS = {
    ".csv": Format(_read_csv, _write_csv),
    ".npy": Format(_read_npy, _write_npy),
    ".npz": Format(_read_npz, _write_npz),
    ".parquet": Format(_read_parquet, _write_parquet),
}


def format_of(path: Path) -> Format:
    """The format that the file's extension tells.

    Raises
    ------
    TableError
        Unknown extension, or one whose library is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise TableError(f"{path}: unknown extension {suffix!r}; known are {', '.join(FORMATS)}.")
    if suffix == ".parquet":
        pyarrow(path)
    return FORMATS[suffix]
