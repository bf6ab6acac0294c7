"""Arrays in NumPy's files, which may come from anywhere: what a header claims is held against the file's size before
memory is taken, and whatever is wrong with the contents is a ValueError that says so."""

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

LENGTHS = {(1, 0): "<H", (2, 0): "<I", (3, 0): "<I"}  # of headers, by the format's version
PART_BYTES = 1 << 20  # read at a time: zipfile makes a copy of it
MAX_HEADER_BYTES = 1 << 23  # a structured array of 200,000 columns; NumPy itself stops at 10,000 bytes by default
DEFLATE_RATIO = 1032  # the most that deflate can compress
# Literals without operators and with nothing to escape but what repr escapes: Python's parser stays within its limits,
# and has nothing to warn of.
_PLAIN = re.compile(r"""(?:[\s{}\[\](),:\dL]|True|False|'(?:[^'\\]|\\[\\'"nrtxuU])*'|"(?:[^"\\]|\\[\\'"nrtxuU])*")*""")


def read_array(file: IO[bytes], size: int) -> np.ndarray:
    """The array at the start of a file of `size` bytes, from the file's current position.

    Raises
    ------
    ValueError
        Not an array in NumPy's format, one of Python objects, or fewer bytes than it needs.
    """
    shape, fortran_order, dtype, header_bytes = _header(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, and pickles are not opened")
    if dtype.itemsize == 0 or dtype.subdtype is not None:
        raise ValueError(f"it has elements of type {dtype}")
    needed, there = math.prod(shape) * dtype.itemsize, size - header_bytes
    if needed > there:
        raise ValueError(f"it has {there} bytes for shape {shape} of {dtype}")
    content = np.empty(needed, np.uint8)
    done = 0
    while done < needed:
        count = file.readinto(content[done : done + PART_BYTES].data)  # type: ignore[attr-defined]
        if not count:
            raise ValueError(f"it ends after {done} of {needed} bytes")
        done += count
    array = content.view(dtype)
    _refuse_no_characters(array)
    try:
        return array.reshape(shape[::-1]).T if fortran_order else array.reshape(shape)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"it has shape {shape}: {error}") from error


def _refuse_no_characters(array: np.ndarray) -> None:
    """Raise over text that Python has no characters for: it would fail wherever they are first looked at."""
    for name in array.dtype.names or ():
        _refuse_no_characters(array[name])
    if array.dtype.kind == "U" and array.size:
        codes = np.ascontiguousarray(array).view(array.dtype.byteorder.replace("|", "=") + "u4")
        if codes.max() > sys.maxunicode:
            raise ValueError(f"it has a character of number {codes.max()}, beyond all that there are")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether columns come first, type, and how many bytes this took."""
    version = np.lib.format.read_magic(file)
    if version not in LENGTHS:
        raise ValueError(f"its .npy version is {'.'.join(map(str, version))}")
    field = struct.calcsize(LENGTHS[version])
    (length,) = struct.unpack(LENGTHS[version], _exactly(file, field))
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"its header of {length} bytes is longer than {MAX_HEADER_BYTES}")
    text = _exactly(file, length).decode("utf-8" if version == (3, 0) else "latin1")
    if not _PLAIN.fullmatch(text):
        raise ValueError("its header is none of NumPy's")
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


def _exactly(file: IO[bytes], count: int) -> bytes:
    content = file.read(count)
    if len(content) < count:
        raise ValueError("it ends within its header")
    return content


class Archive:
    """A zip file of arrays (.npz), open for reading.

    Parameters
    ----------
    file : binary file
        One that can seek. Its size bounds what the archive may claim to hold.

    Raises
    ------
    ValueError
        Not a zip file, or a damaged or forged one.
    """

    def __init__(self, file: IO[bytes]) -> None:
        size = file.seek(0, os.SEEK_END)
        with _faults():
            self._archive = zipfile.ZipFile(file)
        self._entries = {entry.filename: entry for entry in self._archive.infolist()}
        _refuse_claims(self._archive.infolist(), size)

    @property
    def names(self) -> list[str]:
        return list(self._entries)

    @property
    def compressed(self) -> list[str]:
        """The names of entries that are compressed."""
        return [name for name, entry in self._entries.items() if entry.compress_type != zipfile.ZIP_STORED]

    def array(self, name: str) -> np.ndarray:
        """The array of that entry, its checksum compared; raises ValueError."""
        entry = self._entries[name]
        with _faults(), self._archive.open(entry) as file:
            array = read_array(file, entry.file_size)
            if file.read(1):  # at the end the checksum is compared
                raise ValueError("it has more bytes than its array")
        return array


def _refuse_claims(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Raise if entries cannot be what they claim in a file of that size."""
    if len({entry.filename for entry in entries}) < len(entries):
        raise ValueError("two of its entries have the same name")
    for entry in entries:
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{entry.filename} is compressed in a way that NumPy does not use")
        ratio = DEFLATE_RATIO if entry.compress_type == zipfile.ZIP_DEFLATED else 1
        if entry.file_size > ratio * entry.compress_size:
            raise ValueError(f"{entry.filename} claims {entry.file_size} bytes in {entry.compress_size}")
    claimed = sum(entry.compress_size for entry in entries)
    if claimed > size:
        raise ValueError(f"its entries claim {claimed} bytes, and the file has {size}")


@contextmanager
def _faults() -> Iterator[None]:
    """What zipfile and zlib raise over damaged contents, as a ValueError."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise ValueError("it claims a position outside the file") from error  # zipfile goes there without a look
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        NotImplementedError,
        RuntimeError,  # encrypted
        LookupError,
        OverflowError,
    ) as error:
        raise ValueError(str(error)) from error
