"""Validation of users' arguments: conversion to a frozen `Problem`, or an error. No other module checks arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastnw import kernels
from fastnw.arithmetic.factor import factor, lower_factor
from fastnw.core.array import DeviceArray
from fastnw.core.classes import OneHot
from fastnw.core.precision import check_losses
from fastnw.core.problem import Array, Floats, Metric, Problem, result_dtype, row_blocks
from fastnw.interop import dataframes, frameworks
from fastnw.kernels.kernel import Kernel

Empty = str | float

# Arrays of at most this number of elements are checked by one mask instead of block by block.
MAX_ONE_MASK_SIZE = 1 << 13
EMPTY_POLICIES = ("nan", "raise", "nearest", "mean")


def build(
    queries: Any,
    keys: Any,
    values: Any,
    *,
    kernel: str | Kernel,
    bandwidth: Any,
    sample_weight: Any = None,
    key_scale: Any = None,
    exclude_self: bool = False,
    tol: float | None = None,
) -> Problem:
    """Check the arguments of a public function; they have its names and defaults.

    Raises
    ------
    ValueError, TypeError
        An argument is invalid. The wording is scikit-learn's where it has the same check.
    """
    kernel = kernels.get(kernel)
    check_losses(queries=queries, keys=keys, values=values, sample_weight=sample_weight, key_scale=key_scale)
    keys = _matrix(keys, "keys", minimum=1)
    queries = _matrix(queries, "queries", minimum=0)
    if queries.shape[1] != keys.shape[1]:
        raise ValueError(f"queries has {queries.shape[1]} features, but keys has {keys.shape[1]} features.")
    n, d = keys.shape
    if exclude_self and len(queries) != n:
        raise ValueError(
            f"exclude_self=True needs as many queries as keys, got {len(queries)} and {n}. Pass the same array as both."
        )
    values = np.empty((n, 0), np.float32) if values is None else _values(values, n)
    shape = metric(check_bandwidth(bandwidth, d), d)
    weights, scale = _weights(sample_weight, n), _key_scale(key_scale, n)
    dtype = result_dtype(queries, keys, values)
    return Problem(queries, keys, values, kernel, shape, weights, scale, bool(exclude_self), dtype, check_tol(tol))


def trusted(
    keys: Array,
    values: Array | OneHot | None,
    kernel: Kernel,
    bandwidth: Any,
    weights: Array | None,
    tol: float | None,
    *,
    key_scale: Array | None = None,
    by_volume: bool = False,
) -> Problem:
    """Make a problem without queries from arrays that an estimator has checked."""
    if values is None:
        values = np.empty((len(keys), 0), np.float32)
    elif not isinstance(values, OneHot):
        values = values.reshape(len(keys), -1)
    d, queries = keys.shape[1], keys[:0]
    shape = metric(check_bandwidth(bandwidth, d), d)
    dtype = result_dtype(queries, keys, values)
    return Problem(queries, keys, values, kernel, shape, weights, key_scale, False, dtype, check_tol(tol), by_volume)


def check_bandwidth(bandwidth: Any, d: int) -> Floats:
    """Convert the bandwidth to float64 of shape (), (d,) or (d, d).

    Raises
    ------
    ValueError
        An entry is not positive and finite (the message has its coordinate), the shape is another one, or a matrix is
        not symmetric positive definite.
    """
    if isinstance(bandwidth, str):
        raise ValueError(f"bandwidth must be a number or an array here; rules such as {bandwidth!r} need an estimator.")
    if hasattr(bandwidth, "key_scale"):
        raise ValueError(
            f"bandwidth must be a number or an array here; adaptive widths such as {bandwidth!r} need an estimator. "
            "Or pass the result of their key_scale method as key_scale=."
        )
    try:
        h = _numeric(frameworks.to_numpy(bandwidth), "bandwidth")
        unit = float(np.finfo(h.dtype if h.dtype.kind == "f" else np.float64).eps)  # rounding unit of the user's type
        h = h.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"bandwidth must be a number or an array of numbers, got {bandwidth!r}: {error}") from error
    if h.shape not in ((), (d,), (d, d)):
        raise ValueError(
            f"bandwidth must be a number, an array of shape ({d},) or a matrix of shape ({d}, {d}), "
            f"got shape {h.shape}."
        )
    if h.ndim < 2:
        bad = np.flatnonzero(~(np.isfinite(h) & (h > 0)))
        if len(bad):
            where = "" if h.ndim == 0 else f" for coordinate {bad[0]}"
            raise ValueError(f"bandwidth must be positive and finite, got {h.flat[bad[0]]}{where}.")
        return h
    if not np.all(np.isfinite(h)):
        j, k = np.argwhere(~np.isfinite(h))[0]
        raise ValueError(f"bandwidth must be finite, got {h[j, k]} at coordinates ({j}, {k}).")
    h = _symmetric(h, unit)
    lower_factor(h)  # raises for the first leading minor that is not positive
    return h


def _symmetric(h: Floats, unit: float) -> Floats:
    """Return the matrix, or its mean with its transpose if they differ by a few roundings of the largest entry."""
    if np.array_equal(h, h.T):
        return h
    mean = h / 2 + h.T / 2
    asymmetry = np.abs(h - mean)
    if not np.all((asymmetry <= 4 * len(h) * unit * np.abs(h).max()) | (asymmetry <= 1e-10 * np.abs(mean))):
        j, k = np.unravel_index(np.argmax(asymmetry), h.shape)
        raise ValueError(
            f"bandwidth matrix must be symmetric, but entries ({j}, {k}) and ({k}, {j}) differ. "
            "Use (H + H.T) / 2 if that is an error of rounding."
        )
    return mean


def metric(h: Floats, d: int) -> Metric:
    """Make the metric of a checked bandwidth."""
    if h.ndim == 2:
        whitening = factor(h)
        return Metric(h, np.ones(len(h)), whitening.lower, whitening.log_volume, whitening)
    h = np.broadcast_to(h, d)
    with np.errstate(over="ignore"):
        return Metric(h, 1.0 / h, None, float(np.log(h).sum()))


def check_empty(empty: Any) -> Empty:
    """Return a policy for empty windows: one of EMPTY_POLICIES, or a float as their value.

    Raises
    ------
    ValueError
        `empty` is neither.
    """
    if isinstance(empty, str):
        if empty in EMPTY_POLICIES:
            return empty
    elif (number := _as_float(empty)) is not None:
        return number
    raise ValueError(f"empty must be one of {', '.join(map(repr, EMPTY_POLICIES))} or a number, got {empty!r}.")


def check_tol(tol: Any) -> float | None:
    """Return `tol` as a float ≥ 0, or None; raise ValueError for anything else."""
    if tol is None:
        return None
    number = _as_float(tol)
    if number is not None and math.isfinite(number) and number >= 0:
        return number
    raise ValueError(f"tol must be None or a finite number >= 0, got {tol!r}.")


def _as_float(number: Any) -> float | None:
    """Convert a real number to float; None for other objects, and for integers beyond the range of float64."""
    if isinstance(number, (bool, np.complexfloating)) or not isinstance(number, (int, float, np.number)):
        return None
    try:
        return float(number)
    except OverflowError:
        return None


def _numeric(array: Any, name: str) -> Any:
    """Return booleans, integers and floats of 16, 32 or 64 bits unchanged; convert the rest to float64 or raise."""
    if type(array).__module__.startswith("scipy.sparse"):
        raise TypeError(
            f"Sparse data was passed for {name}, but dense data is required. "
            "Use '.toarray()' to convert to a dense numpy array."
        )
    if isinstance(array, DeviceArray):
        return array  # interop has refused other types
    if hasattr(array, "collect"):
        raise TypeError(f"{name} is a lazy {type(array).__name__}. Call its .collect() first.")
    if (
        dataframes.is_frame(array) and (column := dataframes.dates(array)) is not None
    ):  # polars would convert them to numbers of days
        raise ValueError(
            f"dtype='numeric' is not compatible with dates or durations ({name}, column {column!r}). "
            "Convert your data to numeric values explicitly instead."
        )
    array = np.asarray(array)
    if array.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} is {array.dtype}.")
    # Other byte orders are converted block by block, like other types.
    if array.dtype.kind in "biu" or array.dtype.newbyteorder("=") in (np.float16, np.float32, np.float64):
        return array
    if array.dtype.kind in "SUMm":  # NumPy would convert strings and dates to numbers
        kind = "bytes/strings" if array.dtype.kind in "SU" else "dates or durations"
        raise ValueError(
            f"dtype='numeric' is not compatible with arrays of {kind} ({name}). "
            "Convert your data to numeric values explicitly instead."
        )
    try:
        numbers = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        if "NAType" in str(error):
            raise ValueError(f"Input {name} contains NaN (pandas.NA).") from error
        raise ValueError(f"{name} must be numeric: {error}.") from error
    if array.dtype == object and any(isinstance(item, (str, bytes)) for item in array.flat):
        raise ValueError(
            f"dtype='numeric' is not compatible with arrays of bytes/strings ({name}). "
            "Convert your data to numeric values explicitly instead."
        )
    return numbers


def _check_finite(array: Array, name: str) -> None:
    if array.dtype.kind != "f":
        return
    if isinstance(array, np.ndarray) and array.size <= MAX_ONE_MASK_SIZE and np.isfinite(array).all():
        return
    if isinstance(array, DeviceArray):
        extremes = [array.extremes] if len(array) else []
    else:
        extremes = ((array[rows].min(), array[rows].max()) for rows in row_blocks(array) if array[rows].size)
    for low, high in extremes:
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            problem = "NaN" if np.isnan(low).any() else f"infinity or a value too large for {array.dtype!r}"
            raise ValueError(f"Input {name} contains {problem}.")


def _matrix(array: Any, name: str, minimum: int) -> Array:
    array = _numeric(array, name)
    if array.ndim != 2:
        kind = "scalar" if array.ndim == 0 else f"{array.ndim}D"
        raise ValueError(
            f"Expected 2D array, got {kind} array instead for {name}. Reshape your data either using "
            "array.reshape(-1, 1) if your data has a single feature or array.reshape(1, -1) if it contains a single "
            "sample."
        )
    if len(array) < minimum:
        raise ValueError(
            f"Found array with 0 sample(s) (shape={array.shape}) while a minimum of {minimum} is required for {name}."
        )
    if array.shape[1] == 0:
        raise ValueError(
            f"Found array with 0 feature(s) (shape={array.shape}) while a minimum of 1 is required for {name}."
        )
    _check_finite(array, name)
    return array


def _values(values: Any, n: int) -> Any:
    values = _numeric(values, "values")
    if values.ndim not in (1, 2):
        raise ValueError(f"values must have shape (n,) or (n, c), got {values.shape}.")
    if len(values) != n:
        raise ValueError(f"Found input variables with inconsistent numbers of samples: [{n}, {len(values)}]")
    _check_finite(values, "values")
    return values.as_rows() if isinstance(values, DeviceArray) else values.reshape(n, -1)


def _weights(sample_weight: Any, n: int) -> Array | None:
    if sample_weight is None:
        return None
    weights = _numeric(sample_weight, "sample_weight")
    if weights.ndim == 0:
        weights = np.full(n, weights)
    if weights.shape != (n,):
        raise ValueError(f"sample_weight.shape == {weights.shape}, expected {(n,)}!")
    _check_finite(weights, "sample_weight")
    if weights.min() < 0:
        raise ValueError("Negative values in data passed to `sample_weight`.")
    return weights


def _key_scale(key_scale: Any, n: int) -> Array | None:
    if key_scale is None:
        return None
    scale = _numeric(key_scale, "key_scale")
    if scale.shape != (n,):
        raise ValueError(f"key_scale.shape == {scale.shape}, expected {(n,)}!")
    _check_finite(scale, "key_scale")
    if scale.min() <= 0:
        scale = np.asarray(scale)
        raise ValueError(f"key_scale must be positive, got {scale.min()} for key {scale.argmin()}.")
    return scale
