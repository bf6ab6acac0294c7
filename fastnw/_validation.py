"""The only place that checks arrays: what the user passed -> a frozen `Problem`, or an error that says what to mend."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw import kernels
from fastnw.kernels import Kernel

Array = NDArray[Any]
Floats = NDArray[np.float64]
Empty = str | float

EMPTY_POLICIES = ("nan", "raise", "nearest", "mean")
DEFAULT_TOL = {np.dtype(np.float64): 1e-8, np.dtype(np.float32): 1e-4}
SCAN_BYTES = 1 << 20  # arrays are looked through in blocks of rows, so that no mask or copy of a whole one is made


@dataclass(frozen=True)
class Metric:
    """The bandwidth, taken apart: coordinates are whitened (a full matrix only), then multiplied by `inverse`.

    Attributes
    ----------
    bandwidth : (d,) or (d, d) float64
        h_j, or H.
    inverse : (d,) float64
        1/h_j; ones with a full matrix.
    cholesky : (d, d) float64 or None
        L with L Lᵀ = H: coordinates become L⁻¹(x − origin).
    log_volume : float
        log of h^d, Π h_j or √det H.
    """

    bandwidth: Floats
    inverse: Floats
    cholesky: Floats | None
    log_volume: float


@dataclass(frozen=True)
class Problem:
    """Checked arrays and choices; m queries, n keys, d coordinates, c values. Arrays are the user's, not copies."""

    queries: Array  # (m, d)
    keys: Array  # (n, d)
    values: Array  # (n, c); c = 0 for masses alone
    kernel: Kernel
    metric: Metric
    weights: Array | None  # (n,)
    key_scale: Array | None  # (n,)
    exclude_self: bool
    dtype: np.dtype[Any]  # of the result
    tol: float | None
    by_volume: bool = False  # weights are divided by λ^d, for densities

    @property
    def m(self) -> int:
        return len(self.queries)

    @property
    def n(self) -> int:
        return len(self.keys)

    @property
    def d(self) -> int:
        return self.keys.shape[1]

    @property
    def c(self) -> int:
        return self.values.shape[1]

    def asked(self, queries: Array, *, kernel: Kernel, tol: float | None) -> Problem:
        """The same keys, asked at other queries (checked ones); what was found out about them stays known."""
        dtype = _result_dtype(queries, self.keys, self.values)
        other = replace(self, queries=queries, kernel=kernel, tol=tol, dtype=dtype)
        known = (
            "_largest_weight",
            "log_largest_weight",
            "least_weight",
            "total_weight",
            "values_range",
            "values_centre",
        )
        other.__dict__.update({name: self.__dict__[name] for name in known if name in self.__dict__})
        other.__dict__["kept"] = self.kept
        return other

    @cached_property
    def kept(self) -> dict[Any, Any]:
        """What methods found out about the keys and may use again, for the same keys asked at other queries."""
        return {}

    @cached_property
    def seen(self) -> dict[str, Any]:
        """What methods found out about these queries."""
        return {}

    @property
    def promise(self) -> float:
        """The factor of range(V) that errors may reach."""
        return self.tol if self.tol else DEFAULT_TOL[self.dtype]

    @property
    def weighted(self) -> bool:
        return self.weights is not None or self.by_volume

    def weights_at(self, rows: slice | NDArray[np.intp]) -> Floats | None:
        """Those keys' weights relative to the largest, in float64, or None if all are 1. Made block by block, like
        everything of n rows. Those below 1e-308 vanish here; `log_weights_at` has them."""
        if self.by_volume:
            logs = self.log_weights_at(rows)
            return None if logs is None else np.exp(logs)
        return None if self.weights is None else self.weights[rows].astype(np.float64) / self._largest_weight

    def log_weights_at(self, rows: slice | NDArray[np.intp]) -> Floats | None:
        """log of those keys' weights relative to the largest, or None if all weights are 1."""
        return self._logs_at(rows) - self.log_largest_weight if self.weighted else None

    def _logs_at(self, rows: slice | NDArray[np.intp]) -> Floats:
        logs = np.zeros(len(self.keys[rows]))
        if self.weights is not None:
            with np.errstate(divide="ignore"):
                np.log(self.weights[rows].astype(np.float64), out=logs)
        if self.by_volume:
            assert self.key_scale is not None
            logs -= self.d * np.log(self.key_scale[rows].astype(np.float64))
        return logs

    @cached_property
    def _largest_weight(self) -> float:
        assert self.weights is not None
        return float(self.weights.max()) or 1.0

    @cached_property
    def log_largest_weight(self) -> float:
        """0 without any weight."""
        if not self.by_volume:
            return 0.0 if self.weights is None else math.log(self._largest_weight)
        largest = max(float(self._logs_at(rows).max()) for rows in row_blocks(self.keys))
        return largest if largest > -math.inf else 0.0

    @cached_property
    def least_weight(self) -> float:
        """Smallest positive weight, in units of the largest; 0 if it is too small for float64."""
        if not self.weighted:
            return 1.0
        blocks = (self.log_weights_at(rows) for rows in row_blocks(self.keys))
        return math.exp(min(float(b.min(initial=0.0, where=b > -np.inf)) for b in blocks if b is not None))

    @cached_property
    def total_weight(self) -> float:
        """Σ w, in units of the largest weight."""
        if not self.weighted:
            return float(self.n)
        blocks = (self.weights_at(rows) for rows in row_blocks(self.keys))
        return math.fsum(float(block.sum()) for block in blocks if block is not None)

    @cached_property
    def values_range(self) -> tuple[Floats, Floats]:
        """Least and largest value (c,) of the keys with positive weight; 0 if there are none."""
        low, high = np.full(self.c, np.inf), np.full(self.c, -np.inf)
        for rows in row_blocks(self.values):
            block = self.values[rows]
            if self.weights is not None:
                block = block[self.weights[rows] > 0]
            if block.size:
                low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
        return (low, high) if np.all(low <= high) else (np.zeros(self.c), np.zeros(self.c))

    @cached_property
    def values_centre(self) -> tuple[Floats, Floats]:
        """Middle and half of the range: values travel as (v − middle)/half, which lies in [−1, 1]."""
        low, high = self.values_range
        return low / 2 + high / 2, high / 2 - low / 2


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
    """Check everything that describes a problem.

    Raises
    ------
    ValueError, TypeError
        With scikit-learn's wording where it has one.
    """
    kernel = kernels.get(kernel)
    keys = _matrix(keys, "keys", minimum=1)
    queries = _matrix(queries, "queries", minimum=0)
    if queries.shape[1] != keys.shape[1]:
        raise ValueError(f"queries has {queries.shape[1]} features, but keys has {keys.shape[1]} features.")
    n, d = keys.shape
    if exclude_self and len(queries) != n:
        raise ValueError(
            f"exclude_self drops the pair i == j and needs as many queries as keys, got {len(queries)} and {n}."
        )
    values = np.empty((n, 0), np.float32) if values is None else _values(values, n)
    return Problem(
        queries,
        keys,
        values,
        kernel,
        metric(check_bandwidth(bandwidth, d), d),
        _weights(sample_weight, n),
        _key_scale(key_scale, n),
        bool(exclude_self),
        _result_dtype(queries, keys, values),
        check_tol(tol),
    )


def trusted(
    keys: Array, values: Array | None, kernel: Kernel, bandwidth: Any, weights: Array | None, tol: float | None
) -> Problem:
    """A problem of arrays that an estimator has checked, without queries yet."""
    values = np.empty((len(keys), 0), np.float32) if values is None else values.reshape(len(keys), -1)
    d, queries = keys.shape[1], keys[:0]
    shape = metric(check_bandwidth(bandwidth, d), d)
    dtype = _result_dtype(queries, keys, values)
    return Problem(queries, keys, values, kernel, shape, weights, None, False, dtype, check_tol(tol))


def check_bandwidth(bandwidth: Any, d: int) -> Floats:
    """The bandwidth as float64 of shape (), (d,) or (d, d).

    Raises
    ------
    ValueError
        Not positive and finite (the coordinate is named), of another shape, or not symmetric positive definite.
    """
    if isinstance(bandwidth, str):
        raise ValueError(f"bandwidth must be a number or an array here; rules such as {bandwidth!r} need an estimator.")
    try:
        h = _numeric(bandwidth, "bandwidth").astype(np.float64)
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
    if not np.allclose(h, h.T, rtol=1e-10, atol=0):
        j, k = np.unravel_index(np.argmax(np.abs(h - h.T)), h.shape)
        raise ValueError(f"bandwidth matrix must be symmetric, but entries ({j}, {k}) and ({k}, {j}) differ.")
    for j in range(d):  # the first leading minor that fails names the coordinate
        try:
            np.linalg.cholesky(h[: j + 1, : j + 1])
        except np.linalg.LinAlgError:
            raise ValueError(f"bandwidth matrix must be positive definite; it fails at coordinate {j}.") from None
    return h


def metric(h: Floats, d: int) -> Metric:
    """A checked bandwidth's parts."""
    if h.ndim == 2:
        cholesky = np.linalg.cholesky(h).astype(np.float64)
        return Metric(h, np.ones(len(h)), cholesky, float(np.log(np.diag(cholesky)).sum()))
    h = np.broadcast_to(h, d)
    with np.errstate(over="ignore"):
        return Metric(h, 1.0 / h, None, float(np.log(h).sum()))


def check_empty(empty: Any) -> Empty:
    """One of the policies, or a number to fill in.

    Raises
    ------
    ValueError
        Neither; the message lists the choices.
    """
    if isinstance(empty, str):
        if empty in EMPTY_POLICIES:
            return empty
    elif isinstance(empty, (int, float, np.number)) and not isinstance(empty, bool):
        return float(empty)
    raise ValueError(f"empty must be one of {', '.join(map(repr, EMPTY_POLICIES))} or a number, got {empty!r}.")


def check_tol(tol: Any) -> float | None:
    """None or a number ≥ 0; raises ValueError otherwise."""
    if tol is None:
        return None
    if isinstance(tol, (int, float, np.number)) and not isinstance(tol, bool) and math.isfinite(tol) and tol >= 0:
        return float(tol)
    raise ValueError(f"tol must be None or a finite number >= 0, got {tol!r}.")


def row_blocks(array: Array) -> Iterator[slice]:
    """Slices of rows of about SCAN_BYTES."""
    width = array.shape[1] if array.ndim > 1 else 1
    step = max(SCAN_BYTES // (8 * max(width, 1)), 1)
    return (slice(start, start + step) for start in range(0, len(array), step))


def _numeric(array: Any, name: str) -> Array:
    """Float32/64 (float16 too), integers and booleans as they are; anything else to float64 or an error."""
    if type(array).__module__.startswith("scipy.sparse"):
        raise TypeError(
            f"Sparse data was passed for {name}, but dense data is required. "
            "Use '.toarray()' to convert to a dense numpy array."
        )
    array = np.asarray(array)
    if array.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} is {array.dtype}.")
    # other byte orders are read block by block, like the rest
    if array.dtype.kind in "biu" or array.dtype.newbyteorder("=") in (np.float16, np.float32, np.float64):
        return array
    if array.dtype.kind in "SUMm":  # NumPy would read words and dates as numbers
        kind = "bytes/strings" if array.dtype.kind in "SU" else "dates or durations"
        raise ValueError(
            f"dtype='numeric' is not compatible with arrays of {kind} ({name}). "
            "Convert your data to numeric values explicitly instead."
        )
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numeric: {error}.") from error


def _check_finite(array: Array, name: str) -> None:
    if array.dtype.kind != "f":
        return
    for rows in row_blocks(array):
        block = array[rows]
        if block.size and not (np.isfinite(block.min()) and np.isfinite(block.max())):
            problem = "NaN" if np.isnan(block).any() else f"infinity or a value too large for {array.dtype!r}"
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


def _values(values: Any, n: int) -> Array:
    values = _numeric(values, "values")
    if values.ndim not in (1, 2):
        raise ValueError(f"values must have shape (n,) or (n, c), got {values.shape}.")
    if len(values) != n:
        raise ValueError(f"Found input variables with inconsistent numbers of samples: [{n}, {len(values)}]")
    _check_finite(values, "values")
    return values.reshape(n, -1)


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
        raise ValueError(f"key_scale must be positive, got {scale.min()} for key {scale.argmin()}.")
    return scale


def _result_dtype(queries: Array, keys: Array, values: Array) -> np.dtype[Any]:
    """float32 if queries, keys and floating values all are float32 or float16; otherwise float64."""
    narrow = (np.dtype(np.float16), np.dtype(np.float32))
    floating = [queries, keys] + ([values] if values.dtype.kind == "f" else [])
    return np.dtype(np.float32 if all(a.dtype.newbyteorder("=") in narrow for a in floating) else np.float64)
