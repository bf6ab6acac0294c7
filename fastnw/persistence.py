"""Estimators in files that outlive versions: an .npz of plain arrays, and a JSON header. Nothing is ever unpickled.

The header is an array of its own, so that ``numpy.load(path)["header"].item()`` shows it. What it says, and what arrays
hold, is checked as a user's input is: a file may come from anywhere.
"""

from __future__ import annotations

import json
import math
import os
import tokenize
import zipfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import IO, Any

import numpy as np

import fastnw
from fastnw import kernels
from fastnw._estimator import VERSION, KernelEstimator
from fastnw._validation import build
from fastnw.estimators import KernelDensity, NadarayaWatsonClassifier, NadarayaWatsonRegressor
from fastnw.kernels import Kernel
from fastnw.selection.result import BandwidthSelection, SearchPath
from fastnw.tables import atomically
from fastnw.widths import Abramson, NearestNeighbours

FORMAT, FORMAT_VERSION = "fastnw estimator", 1
HEADER = "header"

_ESTIMATORS = {cls.__name__: cls for cls in (NadarayaWatsonRegressor, NadarayaWatsonClassifier, KernelDensity)}
_RECORDS: dict[str, Any] = {cls.__name__: cls for cls in (Abramson, NearestNeighbours, BandwidthSelection, SearchPath)}


def save(estimator: KernelEstimator, path: str | os.PathLike[str]) -> None:
    """Write an estimator, fitted or not, to a file that every later version of fastnw reads.

    The file is an uncompressed .npz of plain arrays and a JSON header. It holds parameters and what `fit` learned
    (``selection_`` included), no caches, and the same estimator gives the same bytes. It appears whole or not at all;
    an existing file is replaced.

    Parameters
    ----------
    estimator : NadarayaWatsonRegressor, NadarayaWatsonClassifier or KernelDensity
    path : path
        The file; its name is taken as it is, ".npz" is customary.

    Raises
    ------
    TypeError
        Another class, or a parameter or attribute that is code: a `fastnw.Kernel` of your own, metadata requests.
    OSError
        The file cannot be written.

    Examples
    --------
    >>> import os, tempfile, fastnw
    >>> model = fastnw.NadarayaWatsonRegressor(bandwidth=1.0).fit([[0.0], [1.0]], [1.0, 3.0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fastnw.save(model, os.path.join(folder, "model.npz"))
    ...     fastnw.load(os.path.join(folder, "model.npz")).predict([[0.5]])
    array([2.])
    """
    name = type(estimator).__name__
    if _ESTIMATORS.get(name) is not type(estimator):
        raise TypeError(f"fastnw.save stores {', '.join(_ESTIMATORS)}, got {name}. Pickle can store other objects.")
    writer = _Writer()
    state = estimator.__getstate__()
    state.pop(VERSION)
    header = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "fastnw": fastnw.__version__,
        "estimator": name,
        "state": {key: writer.coded(value, key) for key, value in state.items()},
    }
    text = np.array(json.dumps(header, allow_nan=False))
    with atomically(Path(path), force=True) as file, zipfile.ZipFile(file, "w") as archive:
        for entry, array in {HEADER: text, **writer.arrays}.items():
            with archive.open(zipfile.ZipInfo(f"{entry}.npy"), "w", force_zip64=True) as part:
                np.lib.format.write_array(part, array, version=(1, 0), allow_pickle=False)


def load(path: str | os.PathLike[str]) -> Any:
    """Read an estimator that :func:`fastnw.save` wrote; its predictions are bitwise those of the one saved.

    Parameters
    ----------
    path : path

    Returns
    -------
    estimator : NadarayaWatsonRegressor, NadarayaWatsonClassifier or KernelDensity

    Raises
    ------
    ValueError
        Not such a file, a damaged or truncated one, or one in a format newer than this version of fastnw.
    OSError
        The file cannot be read.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            entries = archive.namelist()
            if f"{HEADER}.npy" not in entries:
                raise ValueError(f"{path}: is not a file of fastnw.save: it has no header.")
            _refuse_damage(archive)
            header = _header(path, archive)
            read = [entry for entry in entries if entry != f"{HEADER}.npy"]
            arrays = {entry.removesuffix(".npy"): _array(path, archive, entry) for entry in read}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path}: is not a file of fastnw.save, or is truncated or damaged: {error}.") from error
    try:
        return _rebuilt(header, arrays)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{path}: is damaged: {type(error).__name__}: {error}") from error


class _Writer:
    """Python values as JSON; arrays are put aside under a name."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}

    def coded(self, value: Any, name: str) -> Any:
        """`value` as JSON that `_decoded` takes back; `name` is the attribute, for errors."""
        if value is None or type(value) in (bool, int, str):
            return value
        if isinstance(value, str):  # numpy.str_
            return str(value)
        if type(value) is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if type(value) in (list, tuple):
            return {type(value).__name__: [self.coded(item, name) for item in value]}
        if type(value) is dict and all(type(key) is str for key in value):
            return {"dict": {key: self.coded(item, name) for key, item in value.items()}}
        if isinstance(value, np.random.RandomState):
            return {"RandomState": self.coded(value.get_state(legacy=False), name)}
        if isinstance(value, Kernel):
            return self._kernel(value)
        if type(value) in _RECORDS.values():
            parts = {field.name: self.coded(getattr(value, field.name), name) for field in fields(value)}
            return {type(value).__name__: parts}
        if isinstance(value, (np.ndarray, np.generic)):
            return self._array(np.asarray(value), name, scalar=isinstance(value, np.generic))
        raise TypeError(f"fastnw.save cannot store {name}, of type {type(value).__name__}: files hold data, no code.")

    def _kernel(self, kernel: Kernel) -> Any:
        if kernel.facts is None:
            raise TypeError(
                f"fastnw.save cannot store kernel {kernel.name!r}, which is a function of your own: files hold data, "
                "no code. Keep the data and the kernel's source, and fit again."
            )
        return {"Kernel": kernel.name}

    def _array(self, array: np.ndarray, name: str, scalar: bool) -> Any:
        if array.dtype == object:
            items = [self.coded(item, name) for item in array.ravel().tolist()]
            return {"objects": {"shape": list(array.shape), "items": items}}
        if array.dtype.kind not in "biufSUmM":
            raise TypeError(f"fastnw.save cannot store {name}, an array of {array.dtype}.")
        entry = f"{name}.{len(self.arrays)}"
        self.arrays[entry] = array
        return {"scalar" if scalar else "array": entry}


def _decoded(code: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The value of a `_Writer.coded`."""
    if not isinstance(code, dict):
        if isinstance(code, list):
            raise ValueError("a list without a tag")
        return code
    ((tag, content),) = code.items()
    return _DECODERS[tag](content, arrays)


def _record(cls: Any) -> Callable[[Any, dict[str, np.ndarray]], Any]:
    return lambda parts, arrays: cls(**{name: _decoded(part, arrays) for name, part in parts.items()})


def _objects(content: Any, arrays: dict[str, np.ndarray]) -> np.ndarray:
    array = np.empty(len(content["items"]), dtype=object)
    for i, item in enumerate(content["items"]):
        array[i] = _decoded(item, arrays)
    return array.reshape(content["shape"])


def _random_state(content: Any, arrays: dict[str, np.ndarray]) -> np.random.RandomState:
    state = _decoded(content, arrays)
    if not 0 <= state["state"]["pos"] <= 624:  # NumPy reads there without a look
        raise ValueError("a random state out of range")
    generator = np.random.RandomState()
    generator.set_state(state)
    return generator


_DECODERS: dict[str, Callable[[Any, dict[str, np.ndarray]], Any]] = {
    "float": lambda text, arrays: float(text),
    "list": lambda items, arrays: [_decoded(item, arrays) for item in items],
    "tuple": lambda items, arrays: tuple(_decoded(item, arrays) for item in items),
    "dict": lambda items, arrays: {key: _decoded(item, arrays) for key, item in items.items()},
    "array": lambda entry, arrays: arrays[entry],
    "scalar": lambda entry, arrays: arrays[entry][()],
    "objects": _objects,
    "Kernel": lambda name, arrays: kernels.get(name),
    "RandomState": _random_state,
    **{name: _record(cls) for name, cls in _RECORDS.items()},
}


def _header(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    """The header of a file that this version can read."""
    array = _array(path, archive, f"{HEADER}.npy")
    try:
        header = json.loads(array.item()) if array.shape == () and array.dtype.kind == "U" else None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is damaged: its header is not JSON: {error}.") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{path}: is not a file of fastnw.save: its header is another program's.")
    version = header.get("version")
    if type(version) is not int or version < 1:
        raise ValueError(f"{path}: is damaged: its format's version is {version!r}.")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path}: was written by fastnw {header.get('fastnw')} in version {version} of the format; fastnw "
            f"{fastnw.__version__} reads up to version {FORMAT_VERSION}. Upgrade fastnw to read it."
        )
    return header


def _refuse_damage(archive: zipfile.ZipFile) -> None:
    """Compare all checksums, before anything that was read is looked at."""
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED:
            raise zipfile.BadZipFile(f"{entry.filename} is compressed")
    if (bad := archive.testzip()) is not None:
        raise zipfile.BadZipFile(f"the checksum of {bad} is wrong")


def _array(path: Path, archive: zipfile.ZipFile, entry: str) -> np.ndarray:
    try:
        with archive.open(entry) as file:
            _refuse_wrong_size(file, archive.getinfo(entry).file_size)
            file.seek(0)
            array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, tokenize.TokenError) as error:
        raise ValueError(f"{path}: is damaged: {entry}: {error}.") from error
    return array


def _refuse_wrong_size(file: IO[bytes], size: int) -> None:
    """Before an array is made as large as its header claims."""
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("its .npy version is not 1.0")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, and pickles are not opened")
    if math.prod(shape) * dtype.itemsize != size - file.tell():
        raise ValueError(f"it has {size - file.tell()} bytes for shape {shape} of {dtype}")


def _rebuilt(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> KernelEstimator:
    cls = _ESTIMATORS[header["estimator"]]
    state = {key: _decoded(code, arrays) for key, code in header["state"].items()}
    missing = sorted(set(cls().get_params(deep=False)) - set(state))
    if missing:
        raise ValueError(f"parameters are missing: {', '.join(missing)}")
    if "_keys" in state:
        _check_fitted(cls, state)
    estimator = cls.__new__(cls)
    estimator.__setstate__({**state, VERSION: fastnw.__version__})
    estimator._validate_params()
    return estimator


def _check_fitted(cls: type, state: dict[str, Any]) -> None:
    """What the compiled loops trust an estimator to hold, checked as input is."""
    keys, values = state["_keys"], None
    if cls is NadarayaWatsonRegressor:
        values = state["_values"]
    if cls is NadarayaWatsonClassifier:
        classes, codes = state["classes_"], state["_codes"]
        sizes = [len(labels) for labels in (classes if isinstance(classes, list) else [classes])]
        if codes.dtype.kind != "i" or codes.shape != (len(keys), len(sizes)):
            raise ValueError(f"class codes of {codes.dtype} and shape {codes.shape}")
        if codes.min() < 0 or np.any(codes.max(axis=0) >= sizes):
            raise ValueError("class codes beyond the classes")
    build(
        keys[:0],
        keys,
        values,
        kernel=state["kernel"],
        bandwidth=state["bandwidth_"],
        sample_weight=state["_weights"],
        key_scale=state["key_scale_"],
    )
    if state["n_features_in_"] != keys.shape[1]:
        raise ValueError(f"{state['n_features_in_']} features, but keys of shape {keys.shape}")
