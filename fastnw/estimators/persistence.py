"""Files of estimators that later versions can read: an .npz archive of plain arrays with a JSON header, and no pickles.

The header is an array, so that ``numpy.load(path)["header"].item()`` shows it. The header and the arrays are validated
like user input, because a file may be damaged or malicious.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from fastnw import kernels
from fastnw._version import __version__
from fastnw.bandwidth.adaptive import Abramson, NearestNeighbours
from fastnw.bandwidth.result import BandwidthSelection, SearchPath
from fastnw.core.validate import build
from fastnw.estimators.base import VERSION, KernelEstimator
from fastnw.estimators.regression import KernelDensity, NadarayaWatsonClassifier, NadarayaWatsonRegressor
from fastnw.kernels.kernel import Kernel
from fastnw.tables import atomically
from fastnw.tables.arrays import Archive

FORMAT, FORMAT_VERSION = "fastnw estimator", 1
HEADER = "header"

_ESTIMATORS = {cls.__name__: cls for cls in (NadarayaWatsonRegressor, NadarayaWatsonClassifier, KernelDensity)}
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_RECORDS: dict[str, Any] = {cls.__name__: cls for cls in (Abramson, NearestNeighbours, BandwidthSelection, SearchPath)}


def save(estimator: KernelEstimator, path: str | os.PathLike[str]) -> None:
    """Write an estimator, fitted or not, to a file that every later version of fastnw reads.

    The file is an uncompressed .npz archive of plain arrays and a JSON header. It contains the parameters and the
    attributes that `fit` sets (including ``selection_``), but no caches, and equal estimators give equal bytes. The
    write is atomic; an existing file is replaced.

    Parameters
    ----------
    estimator : NadarayaWatsonRegressor, NadarayaWatsonClassifier or KernelDensity
    path : path
        The file. No suffix is added to its name; ".npz" is customary.

    Raises
    ------
    TypeError
        The object is of another class, or a parameter or attribute cannot be stored as data, such as a user-defined
        kernel or metadata requests.
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
        "fastnw": __version__,
        "estimator": name,
        "state": {key: writer.coded(value, key) for key, value in state.items()},
    }
    text = np.array(json.dumps(header, allow_nan=False))
    with atomically(Path(path), force=True) as file, zipfile.ZipFile(file, "w") as archive:
        for entry, array in {HEADER: text, **writer.arrays}.items():
            with archive.open(zipfile.ZipInfo(f"{entry}.npy"), "w", force_zip64=True) as part:
                np.lib.format.write_array(part, array, version=(1, 0), allow_pickle=False)


def load(path: str | os.PathLike[str]) -> Any:
    """Read an estimator from a file of :func:`fastnw.save`; predictions are bitwise equal to those of the original.

    Parameters
    ----------
    path : path

    Returns
    -------
    estimator : NadarayaWatsonRegressor, NadarayaWatsonClassifier or KernelDensity

    Raises
    ------
    ValueError
        The file is of another kind, damaged, truncated, or has a format that is newer than this version of fastnw.
    OSError
        The file cannot be read.
    """
    path = Path(path)
    with open(path, "rb") as file:
        try:
            archive = Archive(file)
            if archive.compressed:
                raise ValueError(f"{archive.compressed[0]} is compressed")
        except ValueError as error:
            raise ValueError(f"{path}: is not a file of fastnw.save, or is truncated or damaged: {error}.") from error
        if f"{HEADER}.npy" not in archive.names:
            raise ValueError(f"{path}: is not a file of fastnw.save: it has no header.")
        header = _header(path, _array(path, archive, f"{HEADER}.npy"))
        read = [entry for entry in archive.names if entry != f"{HEADER}.npy"]
        arrays = {entry.removesuffix(".npy"): _array(path, archive, entry) for entry in read}
    try:
        return _rebuilt(header, arrays)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{path}: is damaged: {type(error).__name__}: {error}") from error


class _Writer:
    """Encodes Python values as JSON and collects their arrays by name."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}

    def coded(self, value: Any, name: str) -> Any:
        """Encode a value as JSON for `_decoded`; `name` is its attribute, for error messages."""
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
        if not kernel.facts.built_in:
            raise TypeError(
                f"fastnw.save cannot store kernel {kernel.name!r}, which is user-defined: files contain data, no code. "
                "Store the data and the source of the kernel, and fit again."
            )
        return {"Kernel": kernel.name}

    def _array(self, array: np.ndarray, name: str, scalar: bool) -> Any:
        if array.dtype == object:
            items = [self.coded(item, name) for item in array.ravel().tolist()]
            return {"objects": {"shape": list(array.shape), "items": items}}
        if array.dtype.kind not in "biufSUmM":
            raise TypeError(
                f"fastnw.save cannot store {name}, an array of {array.dtype}. Use booleans, numbers, strings or dates."
            )
        entry = f"{name}.{len(self.arrays)}"
        self.arrays[entry] = array
        return {"scalar" if scalar else "array": entry}


def _decoded(code: Any, arrays: _Named) -> Any:
    """Decode a value that `_Writer.coded` encoded."""
    if not isinstance(code, dict):
        if isinstance(code, list):
            raise ValueError("a list without a tag")
        return code
    ((tag, content),) = code.items()
    return _DECODERS[tag](content, arrays)


def _record(cls: Any) -> Callable[[Any, _Named], Any]:
    return lambda parts, arrays: cls(**{name: _decoded(part, arrays) for name, part in parts.items()})


def _objects(content: Any, arrays: _Named) -> np.ndarray:
    array = np.empty(len(content["items"]), dtype=object)
    for i, item in enumerate(content["items"]):
        array[i] = _decoded(item, arrays)
    return array.reshape(content["shape"])


def _random_state(content: Any, arrays: _Named) -> np.random.RandomState:
    state = _decoded(content, arrays)
    if not 0 <= state["state"]["pos"] <= 624:  # NumPy does not check this index
        raise ValueError("a random state out of range")
    generator = np.random.RandomState()
    generator.set_state(state)
    return generator


_DECODERS: dict[str, Callable[[Any, _Named], Any]] = {
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


def _header(path: Path, array: np.ndarray) -> dict[str, Any]:
    """Decode the header and check that this version can read the file."""
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
            f"{__version__} reads up to version {FORMAT_VERSION}. Upgrade fastnw to read it."
        )
    return header


def _array(path: Path, archive: Archive, entry: str) -> np.ndarray:
    try:
        return archive.array(entry)
    except ValueError as error:
        raise ValueError(f"{path}: is damaged: {entry}: {error}.") from error


def _rebuilt(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> KernelEstimator:
    cls = _ESTIMATORS[header["estimator"]]
    named = _Named(arrays)
    state = {key: _decoded(code, named) for key, code in header["state"].items()}
    parameters = set(cls().get_params(deep=False))
    missing = sorted(parameters - set(state))
    if missing:
        raise ValueError(f"parameters are missing: {', '.join(missing)}")
    for name in state:  # such an attribute of the instance would hide a method
        if hasattr(cls, name) or name == "_problem":
            raise ValueError(f"{name!r} is no attribute that an estimator keeps")
    if "_keys" in state:
        _check_fitted(cls, state)
    elif set(state) > parameters:
        raise ValueError("it is fitted, but has no keys")
    estimator = cls.__new__(cls)
    estimator.__setstate__({**state, VERSION: __version__})
    estimator._validate_params()
    if len(named.read) < len(arrays):
        raise ValueError(f"{min(set(arrays) - named.read)} is no part of the estimator")
    return estimator


class _Named:
    """The arrays of a file by name; records which of them were read."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays, self.read = arrays, set[str]()

    def __getitem__(self, name: str) -> np.ndarray:
        self.read.add(name)
        return self.arrays[name]


def _check_fitted(cls: type, state: dict[str, Any]) -> None:
    """Check the fitted attributes that compiled code relies on, as user input is checked."""
    keys, values = state["_keys"], None
    if cls is NadarayaWatsonRegressor:
        values = state["_values"]
    if cls is NadarayaWatsonClassifier:
        classes, codes = state["classes_"], state["_codes"]
        if any(labels.ndim != 1 for labels in (classes if isinstance(classes, list) else [classes])):
            raise ValueError("classes that are not one-dimensional")
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
    arrays = [keys, values] if cls is NadarayaWatsonRegressor else [keys]
    types = [array.dtype.newbyteorder("=") for array in arrays]
    if types[0] not in _FLOATS or types[0] != types[-1]:
        raise ValueError(f"keys and values of {' and '.join(map(str, types))}")
    if state["n_features_in_"] != keys.shape[1]:
        raise ValueError(f"{state['n_features_in_']} features, but keys of shape {keys.shape}")
    names = state.get("feature_names_in_")
    if names is not None and (names.shape != keys.shape[1:] or not all(isinstance(name, str) for name in names)):
        raise ValueError(f"feature names {names!r:.99} for keys of shape {keys.shape}")
