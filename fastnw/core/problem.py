"""The checked problem (arrays, kernel, metric, options) and cached facts about its keys and queries."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.arithmetic.factor import MAX_EXACT_D, Factor, exact_factor
from fastnw.core.array import DeviceArray
from fastnw.core.classes import OneHot
from fastnw.core.state import Units
from fastnw.kernels.kernel import Kernel
from fastnw.runtime.cached import cached_property

Array = NDArray[Any]
Floats = NDArray[np.float64]

DEFAULT_TOL = {np.dtype(np.float64): 1e-8, np.dtype(np.float32): 1e-4}
# The smallest tolerance. It is far below all rounding errors, so nothing is certified, and 1/tol stays finite.
MIN_TOL = 1e-200
# Ranges of 1/h and λ for sums of u² in float64. Outside them (x/h)² and λ² may leave float64's range although κ counts.
MIN_INVERSE, MAX_INVERSE, MIN_SCALE, MAX_SCALE = 1e-150, 1e150, 1e-70, 1e70
# Arrays are scanned in blocks of rows of this size, so that no mask or copy of a whole array is made.
SCAN_BYTES = 1 << 20


@dataclass(frozen=True)
class Metric:
    """The bandwidth as a transformation: coordinates are whitened (full matrix only), then multiplied by `inverse`.

    Attributes
    ----------
    bandwidth : (d,) or (d, d) float64
        h_j, or H.
    inverse : (d,) float64
        1/h_j; ones for a full matrix.
    cholesky : (d, d) float64 or None
        L with L Lᵀ = H; whitened coordinates are L⁻¹(x − origin).
    log_volume : float
        log of h^d, Π h_j or √det H.
    factor : Factor or None
        The whitening transformation with bounds on its rounding.
    """

    bandwidth: Floats
    inverse: Floats
    cholesky: Floats | None
    log_volume: float
    factor: Factor | None = None

    @cached_property
    def cache(self) -> dict[Any, Any]:
        """Cached facts about the bandwidth."""
        return {}


@dataclass
class KeyFacts:
    """Cached facts about keys, values and weights, valid for every bandwidth.

    Attributes
    ----------
    extent : pair of (d,) float64, optional
        Smallest and largest value of each coordinate.
    trees : tuple, optional
        The trees of `method="tree"`, one for each band of weights.
    """

    extent: tuple[Floats, Floats] | None = None
    trees: tuple[Any, ...] | None = None


@dataclass
class MetricFacts:
    """Cached facts about the keys, valid for one bandwidth.

    Attributes
    ----------
    whitened : DeviceArray, optional
        Whitened coordinates of all keys, for keys on a device.
    selectivity : dict
        For each kernel and tolerance, the shares of pairs that a tree visits if the queries are distributed as the
        keys.
    """

    whitened: DeviceArray | None = None
    selectivity: dict[Any, Any] = field(default_factory=dict)


@dataclass
class QueryFacts:
    """Cached facts about one set of queries: the shares of pairs that a tree visits for them."""

    selectivity: Any = None


@dataclass(frozen=True)
class Problem:
    """Checked arrays and options: m queries, n keys, d coordinates, c values. Arrays are the user's, not copies.

    Either all arrays are device arrays (`DeviceArray`), except values without columns, or none is.
    """

    queries: Array  # (m, d)
    keys: Array  # (n, d)
    values: Any  # (n, c) array or `OneHot`; c = 0 if only masses are computed
    kernel: Kernel
    metric: Metric
    weights: Array | None  # (n,)
    key_scale: Array | None  # (n,)
    exclude_self: bool
    dtype: np.dtype[Any]  # type of the result
    tol: float | None
    by_volume: bool = False  # whether weights are divided by λ^d, for densities
    prepared: frozenset[str] = frozenset()  # methods whose summaries of these keys exist, as after `fit`

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
        return int(self.values.shape[1])

    @property
    def classes(self) -> OneHot | None:
        """The values, if they are class codes."""
        return self.values if isinstance(self.values, OneHot) else None

    def asked(self, queries: Array, *, kernel: Kernel, tol: float | None) -> Problem:
        """Return the same keys with other (checked) queries; facts about the keys stay cached."""
        dtype = result_dtype(queries, self.keys, self.values)
        return self._copied(_CACHED_BY_KEYS, queries=queries, kernel=kernel, tol=tol, dtype=dtype)

    def prepared_for(self, methods: frozenset[str]) -> Problem:
        """Return the same problem, planned as if summaries of those methods cost nothing; the cache stays."""
        return self._copied(_CACHED_BY_KEYS, prepared=methods)

    def with_metric(self, metric: Metric) -> Problem:
        """Return the same problem at another bandwidth, neither a matrix; facts about keys and values stay cached."""
        return self._copied(_CACHED_BY_VALUES, metric=metric, prepared=frozenset())

    def _copied(self, cached: tuple[str, ...], **changes: Any) -> Problem:
        """Copy the problem with changed fields and the `cached` properties: 3 µs; `dataclasses.replace` takes 10."""
        _ = self.of_keys, self.of_metric
        copy, attributes = object.__new__(Problem), self.__dict__
        names = [name for name in (*_FIELDS, *cached) if name in attributes]
        copy.__dict__.update({name: attributes[name] for name in names} | changes)
        return copy

    @cached_property
    def of_keys(self) -> KeyFacts:
        """Cached facts about the keys, valid for every bandwidth."""
        return KeyFacts()

    @cached_property
    def of_metric(self) -> MetricFacts:
        """Cached facts about the keys at this bandwidth, valid for all queries."""
        return MetricFacts()

    @cached_property
    def of_queries(self) -> QueryFacts:
        """Cached facts about these queries."""
        return QueryFacts()

    @cached_property
    def squares_in_range(self) -> bool:
        """Whether bandwidths and key scales keep squares of ordinary distances within the range of float64."""
        smallest, largest = float(self.metric.inverse.min()), float(self.metric.inverse.max())  # 1 for a matrix
        return smallest >= MIN_INVERSE and largest <= MAX_INVERSE and self.scales_in_range

    @cached_property
    def scales_in_range(self) -> bool:
        """Whether key scales keep squares of ordinary distances within the range of float64."""
        scale = self.key_scale
        return scale is None or (float(scale.min()) >= MIN_SCALE and float(scale.max()) <= MAX_SCALE)

    @property
    def factor(self) -> Factor | None:
        """The whitening transformation; for a discontinuous kernel the exact factor, whatever the condition number."""
        factor, cache = self.metric.factor, self.metric.cache
        if (
            factor is None
            or factor.whitening is not None
            or not self.kernel.facts.discontinuous
            or self.d > MAX_EXACT_D
        ):
            return factor
        if "exact" not in cache:
            cache["exact"] = exact_factor(self.metric.bandwidth)
        exact: Factor = cache["exact"]
        return exact

    @property
    def whitening_errors(self) -> tuple[float, float]:
        """Bounds on the relative error of u² and on a whitened point's error over its norm; zeros without a matrix."""
        factor = self.factor
        if factor is None:
            return 0.0, 0.0
        return factor.plain_errors if self.on_device else (factor.square_error, factor.point_error)

    @property
    def promise(self) -> float:
        """The tolerance: the largest allowed error as a fraction of the values' range."""
        return max(self.tol, MIN_TOL) if self.tol else DEFAULT_TOL[self.dtype]

    @property
    def weighted(self) -> bool:
        return self.weights is not None or self.by_volume

    @property
    def on_device(self) -> bool:
        return isinstance(self.keys, DeviceArray)

    @cached_property
    def _device_weights(self) -> tuple[DeviceArray, float, float]:
        keys: Any = self.keys
        return keys.relative_weights(self.weights, self.key_scale, self.d if self.by_volume else 0)

    @property
    def weights_on_device(self) -> DeviceArray:
        """The weights of all keys relative to the largest, for a weighted problem on a device."""
        return self._device_weights[0]

    def weights_at(self, rows: slice | NDArray[np.intp]) -> Floats | None:
        """Compute the weights of the keys at `rows` relative to the largest, in float64; None if all weights are 1.

        Weights below 1e-308 underflow here, and slightly larger ones lose digits: sums of them add an error bound
        (`exact`) or use bands of weights (`tree`). `log_weights_at` returns them without underflow.
        """
        if self.by_volume:
            logs = self.log_weights_at(rows)
            return None if logs is None else np.exp(logs)
        return None if self.weights is None else self.weights[rows].astype(np.float64) / self._largest_weight

    def log_weights_at(self, rows: slice | NDArray[np.intp], reference: int | None = None) -> Floats | None:
        """Compute log weights of the keys at `rows` relative to the largest weight, or to that of the key `reference`.

        None if all weights are 1. Each is the logarithm of a quotient, because a difference of logarithms of weights
        near 1e300 would have the rounding error of a number near 690.
        """
        if not self.weighted:
            return None
        if reference is None:
            return self._logs_at(rows, *self._weight_unit) - self._largest_log
        row = slice(reference, reference + 1)
        weight = 1.0 if self.weights is None else float(self.weights[row].astype(np.float64)[0])
        scale = float(self.key_scale[row].astype(np.float64)[0]) if self.by_volume else 1.0  # type: ignore[index]
        return self._logs_at(rows, weight, scale)

    def _logs_at(self, rows: slice | NDArray[np.intp], weight: float, scale: float) -> Floats:
        """Compute the logarithm of w/weight (λ/scale)^(−d)."""
        logs = np.zeros(len(self.keys[rows]))
        if self.weights is not None:
            logs = log_quotients(self.weights[rows].astype(np.float64), weight)
        if self.by_volume:
            assert self.key_scale is not None
            logs -= self.d * log_quotients(self.key_scale[rows].astype(np.float64), scale)
        return logs

    @cached_property
    def _weight_unit(self) -> tuple[float, float]:
        """The reference weight and, for densities, the reference scale of log weights."""
        weight = 1.0 if self.weights is None else self._largest_weight
        return weight, float(self.key_scale.min()) if self.by_volume else 1.0  # type: ignore[union-attr]

    @cached_property
    def _largest_log(self) -> float:
        """The largest log weight relative to `_weight_unit`."""
        if not self.by_volume:
            return 0.0
        if self.on_device:
            return self._device_weights[1] - self._log_unit
        largest = max(float(self._logs_at(rows, *self._weight_unit).max()) for rows in row_blocks(self.keys))
        return largest if largest > -math.inf else 0.0

    @property
    def _log_unit(self) -> float:
        weight, scale = self._weight_unit
        return math.log(weight) - self.d * math.log(scale)

    @cached_property
    def _largest_weight(self) -> float:
        assert self.weights is not None
        return float(self.weights.max()) or 1.0

    @cached_property
    def log_largest_weight(self) -> float:
        """The logarithm of the largest weight; 0 without weights."""
        if not self.by_volume:
            return 0.0 if self.weights is None else math.log(self._largest_weight)
        return self._device_weights[1] if self.on_device else self._log_unit + self._largest_log

    @cached_property
    def log_least_weight(self) -> float:
        """The logarithm of the smallest positive weight relative to the largest."""
        if not self.weighted:
            return 0.0
        if self.on_device:
            return math.log(max(self._device_weights[2], math.ulp(0.0)))
        blocks = (self.log_weights_at(rows) for rows in row_blocks(self.keys))
        return min(float(b.min(initial=0.0, where=b > -np.inf)) for b in blocks if b is not None)

    @cached_property
    def least_weight(self) -> float:
        """The smallest positive weight relative to the largest; 0 if it underflows."""
        return self._device_weights[2] if self.weighted and self.on_device else math.exp(self.log_least_weight)

    @cached_property
    def total_weight(self) -> float:
        """Σ w relative to the largest weight."""
        if not self.weighted:
            return float(self.n)
        if self.on_device:
            return float(self.weights_on_device.sums()[0])
        blocks = (self.weights_at(rows) for rows in row_blocks(self.keys))
        return math.fsum(float(block.sum()) for block in blocks if block is not None)

    @cached_property
    def key_scale_range(self) -> tuple[float, float]:
        """The smallest and the largest λ; ones without a key scale."""
        return (1.0, 1.0) if self.key_scale is None else (float(self.key_scale.min()), float(self.key_scale.max()))

    @cached_property
    def values_range(self) -> tuple[Floats, Floats]:
        """The smallest and the largest of each value, (c,), over the keys with positive weight; 0 without such keys."""
        if not self.c:  # densities: weights that lie on a device stay there
            return np.zeros(0), np.zeros(0)
        if isinstance(self.values, DeviceArray):
            values: DeviceArray = self.values
            weights: Any = self.weights
            low, high = values.extremes if weights is None else values.extremes_where(weights)
        elif self.classes is not None:  # also for a class of all keys, or of no weighted key
            low, high = np.zeros(self.c), np.ones(self.c)
        else:
            low, high = self._values_extremes()
        return (low, high) if np.all(low <= high) else (np.zeros(self.c), np.zeros(self.c))

    def _values_extremes(self) -> tuple[Floats, Floats]:
        """Compute `values_range` of host arrays; (inf, −inf) without keys of positive weight."""
        low, high = np.full(self.c, np.inf), np.full(self.c, -np.inf)
        for rows in row_blocks(self.values):
            block = self.values[rows]
            if self.weights is not None:
                block = block[self.weights[rows] > 0]
            if block.size:
                low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
        return low, high

    @cached_property
    def values_centre(self) -> tuple[Floats, Floats]:
        """Centre and half of the range, (c,): normalised values (v − centre)/half are in [−1, 1]."""
        low, high = self.values_range
        return low / 2 + high / 2, high / 2 - low / 2

    @cached_property
    def units(self) -> Units:
        """What the sums of this problem are measured in."""
        return Units(*self.values_centre, self.log_largest_weight)

    @cached_property
    def largest_half(self) -> float:
        """Half of the widest of the values' ranges; 0 without values."""
        return float(self.values_centre[1].max(initial=0.0))


_FIELDS = tuple(field.name for field in fields(Problem))
# Cached properties that depend on keys, values and weights alone; and those that also depend on the bandwidth.
_CACHED_BY_VALUES = (
    *("_largest_weight", "log_largest_weight", "log_least_weight", "least_weight", "total_weight"),
    *("values_range", "values_centre", "largest_half", "units", "key_scale_range", "of_keys"),
)
_CACHED_BY_KEYS = (*_CACHED_BY_VALUES, "of_metric", "squares_in_range")


def log_quotients(numbers: Floats, unit: float) -> Floats:
    """Compute log(x/unit) with a relative error of a few roundings, even if the quotient overflows; −inf for 0."""
    mantissas, exponents = np.frexp(numbers)
    mantissa, exponent = math.frexp(unit)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(mantissas / mantissa) + (exponents - exponent) * math.log(2.0))


def row_blocks(array: Array) -> Iterator[slice]:
    """Yield slices of rows whose float64 copies have about SCAN_BYTES."""
    width = array.shape[1] if array.ndim > 1 else 1
    step = max(SCAN_BYTES // (8 * max(width, 1)), 1)
    return (slice(start, start + step) for start in range(0, len(array), step))


def result_dtype(queries: Array, keys: Array, values: Array | OneHot) -> np.dtype[Any]:
    """Return float32 if queries, keys and floating values all are float32 or float16; otherwise float64."""
    narrow = (np.dtype(np.float16), np.dtype(np.float32))
    floating = [queries, keys] + ([values] if values.dtype.kind == "f" else [])
    return np.dtype(np.float32 if all(a.dtype.newbyteorder("=") in narrow for a in floating) else np.float64)
