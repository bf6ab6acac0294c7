"""What a checked problem consists of, and what can be found out about it."""

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
LEAST_TOL = 1e-200  # far below all rounding, so that nothing is certified; quotients by it stay finite
# 1/h and λ beyond which u² is not summed in float64: (x/h)² and λ² overflow or vanish where κ may still count.
LEAST_INVERSE, MOST_INVERSE, LEAST_SCALE, MOST_SCALE = 1e-150, 1e150, 1e-70, 1e70
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
    factor : Factor or None
        What whitens, and bounds on its rounding.
    """

    bandwidth: Floats
    inverse: Floats
    cholesky: Floats | None
    log_volume: float
    factor: Factor | None = None

    @cached_property
    def kept(self) -> dict[Any, Any]:
        """What was found out about the bandwidth."""
        return {}


@dataclass
class KeyFacts:
    """What planning and methods found out about keys, values and weights; it serves every bandwidth.

    Attributes
    ----------
    extent : pair of (d,) float64, optional
        Least and largest coordinate.
    trees : tuple, optional
        Of `method="tree"`, one for each band of weights.
    """

    extent: tuple[Floats, Floats] | None = None
    trees: tuple[Any, ...] | None = None


@dataclass
class MetricFacts:
    """The same for one bandwidth.

    Attributes
    ----------
    whitened : DeviceArray, optional
        All keys' whitened coordinates, where they lie on a device.
    selectivity : dict
        By kernel and tolerance, the shares of pairs that a tree of these keys leaves for queries like them.
    """

    whitened: DeviceArray | None = None
    selectivity: dict[Any, Any] = field(default_factory=dict)


@dataclass
class QueryFacts:
    """The same for one set of queries: the shares of pairs that a tree leaves for them."""

    selectivity: Any = None


@dataclass(frozen=True)
class Problem:
    """Checked arrays and choices; m queries, n keys, d coordinates, c values. Arrays are the user's, not copies.

    All arrays lie on a device (`DeviceArray`, but for values of no column) or none does.
    """

    queries: Array  # (m, d)
    keys: Array  # (n, d)
    values: Any  # (n, c) array, c = 0 for masses alone; or `OneHot`
    kernel: Kernel
    metric: Metric
    weights: Array | None  # (n,)
    key_scale: Array | None  # (n,)
    exclude_self: bool
    dtype: np.dtype[Any]  # of the result
    tol: float | None
    by_volume: bool = False  # weights are divided by λ^d, for densities
    prepared: frozenset[str] = frozenset()  # methods for whose summaries these keys were made ready, as by a `fit`

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
        """The values, if they are classes kept as integers."""
        return self.values if isinstance(self.values, OneHot) else None

    def asked(self, queries: Array, *, kernel: Kernel, tol: float | None) -> Problem:
        """The same keys, asked at other queries (checked ones); what was found out about them stays known."""
        dtype = result_dtype(queries, self.keys, self.values)
        return self._copied(_OF_KEYS, queries=queries, kernel=kernel, tol=tol, dtype=dtype)

    def prepared_for(self, methods: frozenset[str]) -> Problem:
        """The same, planned as if summaries for those methods cost nothing; what was kept stays."""
        return self._copied(_OF_KEYS, prepared=methods)

    def with_metric(self, metric: Metric) -> Problem:
        """The same at another bandwidth, none a matrix; what does not depend on it stays known."""
        return self._copied(_OF_VALUES, metric=metric, prepared=frozenset())

    def _copied(self, known: tuple[str, ...], **changes: Any) -> Problem:
        """A copy with some fields changed and what is `known`; `dataclasses.replace` takes 10 µs, this takes 3."""
        _ = self.of_keys, self.of_metric
        other, mine = object.__new__(Problem), self.__dict__
        other.__dict__.update({name: mine[name] for name in (*_FIELDS, *known) if name in mine} | changes)
        return other

    @cached_property
    def of_keys(self) -> KeyFacts:
        """What was found out about the keys, whatever the bandwidth."""
        return KeyFacts()

    @cached_property
    def of_metric(self) -> MetricFacts:
        """What was found out about the keys at this bandwidth, whatever the queries."""
        return MetricFacts()

    @cached_property
    def of_queries(self) -> QueryFacts:
        """What was found out about these queries at these keys."""
        return QueryFacts()

    @cached_property
    def squares_in_range(self) -> bool:
        """Whether bandwidths and key scales leave squares of ordinary distances within float64's range."""
        least, most = float(self.metric.inverse.min()), float(self.metric.inverse.max())  # 1 with a matrix
        return least >= LEAST_INVERSE and most <= MOST_INVERSE and self.scales_in_range

    @cached_property
    def scales_in_range(self) -> bool:
        """The same of key scales alone."""
        scale = self.key_scale
        return scale is None or (float(scale.min()) >= LEAST_SCALE and float(scale.max()) <= MOST_SCALE)

    @property
    def factor(self) -> Factor | None:
        """What whitens: for a kernel that jumps at its rim the most accurate factor, whatever the condition."""
        factor, kept = self.metric.factor, self.metric.kept
        if (
            factor is None
            or factor.whitening is not None
            or not self.kernel.facts.discontinuous
            or self.d > MAX_EXACT_D
        ):
            return factor
        if "exact" not in kept:
            kept["exact"] = exact_factor(self.metric.bandwidth)
        exact: Factor = kept["exact"]
        return exact

    @property
    def whitening_errors(self) -> tuple[float, float]:
        """Of `Factor`: relative, of u²; and of a whitened point, over its norm. Zeros without a matrix."""
        factor = self.factor
        if factor is None:
            return 0.0, 0.0
        return factor.plain_errors if self.on_device else (factor.square_error, factor.point_error)

    @property
    def promise(self) -> float:
        """The factor of range(V) that errors may reach."""
        return max(self.tol, LEAST_TOL) if self.tol else DEFAULT_TOL[self.dtype]

    @property
    def weighted(self) -> bool:
        return self.weights is not None or self.by_volume

    @property
    def on_device(self) -> bool:
        return isinstance(self.keys, DeviceArray)

    @cached_property
    def _weights_there(self) -> tuple[DeviceArray, float, float]:
        keys: Any = self.keys
        return keys.relative_weights(self.weights, self.key_scale, self.d if self.by_volume else 0)

    @property
    def weights_on_device(self) -> DeviceArray:
        """What `weights_at` gives of all rows, if there are weights and they are on a device."""
        return self._weights_there[0]

    def weights_at(self, rows: slice | NDArray[np.intp]) -> Floats | None:
        """Those keys' weights relative to the largest, in float64, or None if all are 1. Made block by block, like
        everything of n rows. Those below 1e-308 vanish here, and lose digits first: what sums them adds a bound on
        that (`exact`), or sums by `bands`; `log_weights_at` has them."""
        if self.by_volume:
            logs = self.log_weights_at(rows)
            return None if logs is None else np.exp(logs)
        return None if self.weights is None else self.weights[rows].astype(np.float64) / self._largest_weight

    def log_weights_at(self, rows: slice | NDArray[np.intp], reference: int | None = None) -> Floats | None:
        """log of those keys' weights relative to the largest, or to that of the key `reference`; None if all weights
        are 1. Logarithms of quotients: as differences, those of 1e300 would differ by a rounding of 690."""
        if not self.weighted:
            return None
        if reference is None:
            return self._logs_at(rows, *self._weight_unit) - self._largest_log
        at = slice(reference, reference + 1)
        weight = 1.0 if self.weights is None else float(self.weights[at].astype(np.float64)[0])
        scale = float(self.key_scale[at].astype(np.float64)[0]) if self.by_volume else 1.0  # type: ignore[index]
        return self._logs_at(rows, weight, scale)

    def _logs_at(self, rows: slice | NDArray[np.intp], weight: float, scale: float) -> Floats:
        """log of w/weight (λ/scale)^(−d)."""
        logs = np.zeros(len(self.keys[rows]))
        if self.weights is not None:
            logs = log_quotients(self.weights[rows].astype(np.float64), weight)
        if self.by_volume:
            assert self.key_scale is not None
            logs -= self.d * log_quotients(self.key_scale[rows].astype(np.float64), scale)
        return logs

    @cached_property
    def _weight_unit(self) -> tuple[float, float]:
        """A weight and, by volume, a scale that logarithms are taken relative to."""
        weight = 1.0 if self.weights is None else self._largest_weight
        return weight, float(self.key_scale.min()) if self.by_volume else 1.0  # type: ignore[union-attr]

    @cached_property
    def _largest_log(self) -> float:
        """Of all keys, in that unit."""
        if not self.by_volume:
            return 0.0
        if self.on_device:
            return self._weights_there[1] - self._log_unit
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
        """0 without any weight."""
        if not self.by_volume:
            return 0.0 if self.weights is None else math.log(self._largest_weight)
        return self._weights_there[1] if self.on_device else self._log_unit + self._largest_log

    @cached_property
    def log_least_weight(self) -> float:
        """log of the smallest positive weight, in units of the largest."""
        if not self.weighted:
            return 0.0
        if self.on_device:
            return math.log(max(self._weights_there[2], math.ulp(0.0)))
        blocks = (self.log_weights_at(rows) for rows in row_blocks(self.keys))
        return min(float(b.min(initial=0.0, where=b > -np.inf)) for b in blocks if b is not None)

    @cached_property
    def least_weight(self) -> float:
        """Smallest positive weight, in units of the largest; 0 if it is too small for float64."""
        return self._weights_there[2] if self.weighted and self.on_device else math.exp(self.log_least_weight)

    @cached_property
    def total_weight(self) -> float:
        """Σ w, in units of the largest weight."""
        if not self.weighted:
            return float(self.n)
        if self.on_device:
            return float(self.weights_on_device.sums()[0])
        blocks = (self.weights_at(rows) for rows in row_blocks(self.keys))
        return math.fsum(float(block.sum()) for block in blocks if block is not None)

    @cached_property
    def key_scale_range(self) -> tuple[float, float]:
        """Least and largest λ; ones without any."""
        return (1.0, 1.0) if self.key_scale is None else (float(self.key_scale.min()), float(self.key_scale.max()))

    @cached_property
    def values_range(self) -> tuple[Floats, Floats]:
        """Least and largest value (c,) of the keys with positive weight; 0 if there are none."""
        if isinstance(self.values, DeviceArray):
            values: DeviceArray = self.values
            weights: Any = self.weights
            low, high = values.extremes if weights is None else values.extremes_where(weights)
        elif self.classes is not None:  # also of a class that all keys have, or none with a weight
            low, high = np.zeros(self.c), np.ones(self.c)
        else:
            low, high = self._values_extremes()
        return (low, high) if np.all(low <= high) else (np.zeros(self.c), np.zeros(self.c))

    def _values_extremes(self) -> tuple[Floats, Floats]:
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
        """Middle and half of the range: values travel as (v − middle)/half, which lies in [−1, 1]."""
        low, high = self.values_range
        return low / 2 + high / 2, high / 2 - low / 2

    @cached_property
    def units(self) -> Units:
        """What the sums of this problem are measured in."""
        return Units(*self.values_centre, self.log_largest_weight)

    @cached_property
    def largest_half(self) -> float:
        """Half of the widest range of a value; 0 without values."""
        return float(self.values_centre[1].max(initial=0.0))


_FIELDS = tuple(field.name for field in fields(Problem))
# What is known of the values and weights, whatever the bandwidth; and what else is known at the same bandwidth.
_OF_VALUES = (
    *("_largest_weight", "log_largest_weight", "log_least_weight", "least_weight", "total_weight"),
    *("values_range", "values_centre", "largest_half", "units", "key_scale_range", "of_keys"),
)
_OF_KEYS = (*_OF_VALUES, "of_metric", "squares_in_range")


def log_quotients(numbers: Floats, unit: float) -> Floats:
    """log(x/unit), to a few roundings of itself; the quotient may leave float64's range. −inf for 0."""
    mantissas, exponents = np.frexp(numbers)
    mantissa, exponent = math.frexp(unit)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(mantissas / mantissa) + (exponents - exponent) * math.log(2.0))


def row_blocks(array: Array) -> Iterator[slice]:
    """Slices of rows of about SCAN_BYTES."""
    width = array.shape[1] if array.ndim > 1 else 1
    step = max(SCAN_BYTES // (8 * max(width, 1)), 1)
    return (slice(start, start + step) for start in range(0, len(array), step))


def result_dtype(queries: Array, keys: Array, values: Array | OneHot) -> np.dtype[Any]:
    """float32 if queries, keys and floating values all are float32 or float16; otherwise float64."""
    narrow = (np.dtype(np.float16), np.dtype(np.float32))
    floating = [queries, keys] + ([values] if values.dtype.kind == "f" else [])
    return np.dtype(np.float32 if all(a.dtype.newbyteorder("=") in narrow for a in floating) else np.float64)
