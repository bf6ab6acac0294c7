"""Reads arrays from NumPy files of untrusted origin.

The sizes that a header claims are compared with the file's size before memory is allocated, and every fault in the
contents raises a ValueError that describes it.
"""

from __future__ import annotations

import ast
import errno
import math
import os
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

HEADER_LENGTH_FORMATS = {(1, 0): "<H", (2, 0): "<I", (3, 0): "<I"}  # struct format by version of the .npy format
CHUNK_BYTES = 1 << 20  # Bytes that one read takes: zipfile copies them.
MAX_HEADER_BYTES = 1 << 23  # Enough for a structured array of 200,000 columns. NumPy's default limit is 10,000 bytes.
MAX_DEFLATE_RATIO = 1032  # The deflate format cannot compress more.
# Matches Python literals without operators whose strings contain only escapes that repr writes, so that the parser
# neither exceeds its limits nor warns.
_SAFE_LITERAL = re.compile(
    r"""(?:[\s{}\[\](),:\dL]|True|False"""
    r"""|'(?:[^'\\]|\\[\\'"nrtxuU])*'|"(?:[^"\\]|\\[\\'"nrtxuU])*")*"""
)


def read_array(file: IO[bytes], size: int) -> np.ndarray:
    """Read the array that begins at the current position of a file of `size` bytes.

    Raises
    ------
    ValueError
        If this is not an array in NumPy's format, it holds Python objects, or the file has too few bytes.
    """
    shape, fortran_order, dtype, header_bytes = _header(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, and pickles are not opened")
    if dtype.itemsize == 0 or dtype.subdtype is not None:
        raise ValueError(f"it has elements of type {dtype}")
    needed, available = math.prod(shape) * dtype.itemsize, size - header_bytes
    if needed > available:
        raise ValueError(f"it has {available} bytes for shape {shape} of {dtype}")
    content = np.empty(needed, np.uint8)
    done = 0
    while done < needed:
        count = file.readinto(content[done : done + CHUNK_BYTES].data)  # type: ignore[attr-defined]
        if not count:
            raise ValueError(f"it ends after {done} of {needed} bytes")
        done += count
    array = content.view(dtype)
    _refuse_codes_beyond_unicode(array)
    try:
        return array.reshape(shape[::-1]).T if fortran_order else array.reshape(shape)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"it has shape {shape}: {error}") from error


def _refuse_codes_beyond_unicode(array: np.ndarray) -> None:
    """Raise a ValueError if text has codes beyond Unicode: otherwise its first use would raise, far from here."""
    for name in array.dtype.names or ():
        _refuse_codes_beyond_unicode(array[name])
    if array.dtype.kind == "U" and array.size:
        codes = np.ascontiguousarray(array).view(array.dtype.byteorder.replace("|", "=") + "u4")
        if codes.max() > sys.maxunicode:
            raise ValueError(f"it has the character code {codes.max()}, which is beyond Unicode")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Read the shape, whether the order is Fortran's, the dtype, and the number of bytes before the data."""
    version = np.lib.format.read_magic(file)
    if version not in HEADER_LENGTH_FORMATS:
        raise ValueError(f"its .npy version is {'.'.join(map(str, version))}")
    field = struct.calcsize(HEADER_LENGTH_FORMATS[version])
    (length,) = struct.unpack(HEADER_LENGTH_FORMATS[version], _read_exactly(file, field))
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"its header of {length} bytes is longer than {MAX_HEADER_BYTES}")
    text = _read_exactly(file, length).decode("utf-8" if version == (3, 0) else "latin1")
    if not _SAFE_LITERAL.fullmatch(text):
        raise ValueError("its header is not one that NumPy writes")
    try:
        header = _literal(text)
        shape, fortran_order = header["shape"], header["fortran_order"]
        dtype = np.lib.format.descr_to_dtype(header["descr"])
    except (ValueError, TypeError, LookupError, SyntaxError, ArithmeticError, RecursionError, MemoryError) as error:
        raise ValueError(f"its header cannot be read: {error}") from error
    if not isinstance(shape, tuple) or not all(type(n) is int and 0 <= n < 2**63 for n in shape):
        raise ValueError(f"its header claims the shape {shape!r:.99}")
    return shape, bool(fortran_order), dtype, np.lib.format.MAGIC_LEN + field + length


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except SyntaxError:  # Python 2 wrote long integers as 3L
        return ast.literal_eval(re.sub(r"(?<=\d)L(?=[,)])", "", text.strip()))


def _read_exactly(file: IO[bytes], count: int) -> bytes:
    content = file.read(count)
    if len(content) < count:
        raise ValueError("it ends within its header")
    return content


class Archive:
    """A zip file of arrays (.npz) that is open for reading.

    Parameters
    ----------
    file : binary file
        Must be seekable. Entries that claim more bytes than the file can hold are rejected.

    Raises
    ------
    ValueError
        If the file is not a zip file, or is damaged or forged.
    """

    def __init__(self, file: IO[bytes]) -> None:
        size = file.seek(0, os.SEEK_END)
        with _as_value_error():
            self._archive = zipfile.ZipFile(file)
        self._entries = {entry.filename: entry for entry in self._archive.infolist()}
        _check_entry_sizes(self._archive.infolist(), size)

    @property
    def names(self) -> list[str]:
        return list(self._entries)

    @property
    def compressed(self) -> list[str]:
        """The names of entries that are compressed."""
        return [name for name, entry in self._entries.items() if entry.compress_type != zipfile.ZIP_STORED]

    def array(self, name: str) -> np.ndarray:
        """Read the array of one entry and verify its checksum; raise a ValueError if either fails."""
        entry = self._entries[name]
        with _as_value_error(), self._archive.open(entry) as file:
            array = read_array(file, entry.file_size)
            if file.read(1):  # zipfile verifies the checksum at the end
                raise ValueError("it has more bytes than its array")
        return array


def _check_entry_sizes(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Raise a ValueError if a file of `size` bytes cannot hold what the entries claim."""
    if len({entry.filename for entry in entries}) < len(entries):
        raise ValueError("two of its entries have the same name")
    for entry in entries:
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{entry.filename} is compressed in a way that NumPy does not use")
        ratio = MAX_DEFLATE_RATIO if entry.compress_type == zipfile.ZIP_DEFLATED else 1
        if entry.file_size > ratio * entry.compress_size:
            raise ValueError(f"{entry.filename} claims {entry.file_size} bytes in {entry.compress_size}")
    claimed = sum(entry.compress_size for entry in entries)
    if claimed > size:
        raise ValueError(f"its entries claim {claimed} bytes, and the file has {size}")


@contextmanager
def _as_value_error() -> Iterator[None]:
    """Turn the exceptions of zipfile and zlib for damaged contents into a ValueError."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise ValueError("it claims a position outside the file") from error  # zipfile seeks unchecked
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        NotImplementedError,
        RuntimeError,  # an encrypted entry
        LookupError,
        OverflowError,
    ) as error:
        raise ValueError(str(error)) from error
