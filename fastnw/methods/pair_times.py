"""Measured times per pair, key and query, from which methods predict their costs."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnw.arithmetic.factor import MAX_EXACT_D
from fastnw.core.pack import VECTOR
from fastnw.core.problem import Problem
from fastnw.runtime.hardware import vendor

# Nanoseconds per pair and thread (kernels without exp, kernels with exp, per coordinate, per value), and nanoseconds
# to pack an element of keys and values; by instruction set and type. Measured with tiles of 64 queries on one Zen 4
# core (a shared one: ±30 %), fitted over d = 1 to 256, c = 1 to 64.
NANOSECONDS: dict[tuple[str, str], tuple[float, float, float, float, float]] = {
    ("v4", "float32"): (0.10, 0.14, 0.022, 0.032, 3.0),
    ("v4", "float64"): (0.20, 0.42, 0.046, 0.064, 3.0),
    ("v3", "float32"): (0.14, 0.25, 0.050, 0.045, 3.0),
    ("v3", "float64"): (0.30, 0.80, 0.120, 0.095, 3.0),
    ("v2", "float32"): (0.30, 0.70, 0.130, 0.120, 3.0),
    ("v2", "float64"): (0.60, 2.60, 0.300, 0.270, 3.0),
    ("plain", "float32"): (0.80, 1.20, 0.140, 0.200, 3.0),
    ("plain", "float64"): (1.40, 3.80, 0.300, 0.400, 3.0),
    ("numba", "float32"): (0.15, 0.20, 0.050, 0.060, 3.0),
    ("numba", "float64"): (0.30, 0.60, 0.100, 0.120, 3.0),
    ("numpy", "float32"): (5.0, 5.0, 0.6, 0.15, 3.0),
    ("numpy", "float64"): (5.0, 5.0, 1.2, 0.20, 3.0),
    # estimates from the throughput of a large device, not measurements
    ("cuda", "float32"): (1.2e-4, 2e-4, 5e-5, 2e-5, 3.0),
    ("cuda", "float64"): (4e-4, 9e-4, 1e-4, 4e-5, 3.0),
}

# The same times on one core of a Xeon (Sapphire Rapids, a shared one: ±30 %): processor time of calls with 500 to 4,000
# queries on 8,000 keys, minus that of a quarter of the queries; d = 1 to 100, c = 1 to 60.
NANOSECONDS_INTEL: dict[tuple[str, str], tuple[float, float, float, float, float]] = {
    ("v4", "float32"): (0.07, 0.15, 0.040, 0.030, 2.7),
    ("v4", "float64"): (0.12, 0.32, 0.080, 0.045, 4.5),
    ("numba", "float32"): (0.35, 0.35, 0.080, 0.400, 3.0),
    ("numba", "float64"): (0.50, 0.50, 0.160, 0.500, 4.5),
}
# Coordinates and values of inner products take so many times longer, since their loops are not fused.
INNER_PRODUCT_FACTORS = (2.0, 5.0)
# Pairs take so many times longer where each query leaves out its own key.
OWN_KEY_FACTOR = 1.3
# Extra time to pack a key with a weight.
WEIGHT_NS = 10.0
# Time to pack a row of several values, and each value of it.
ROW_NS = (60.0, 8.0)
# Time to whiten a point, and each coordinate of it: in float64, and by an exact factor (for ill-conditioned matrices
# and for kernels that jump). Making the exact factor takes EXACT_FACTOR_NS times d³.
WHITEN_NS, WHITEN_EXACTLY_NS, EXACT_FACTOR_NS = (80.0, 23.0), (150.0, 170.0), 150.0


# Time per pair of a class stored as an integer, whatever the type. The total of each query and class takes STATE_NS in
# each group of keys, and once more for the result.
CODE_NS, STATE_NS = 0.6, 8.0


def nanoseconds(problem: Problem, backend: Any, dtype: np.dtype[Any]) -> tuple[float, float, float, float]:
    """Nanoseconds per pair for the kernel, per coordinate and per value, and per element of keys and values to pack."""
    isa, kernel = backend.isa(), problem.kernel
    level = (isa, dtype.name)
    table = NANOSECONDS_INTEL.get(level, NANOSECONDS[level]) if vendor() == "intel" else NANOSECONDS[level]
    plain, with_exp, per_coordinate, per_value, per_element = table
    base = (with_exp if kernel.works_on_logs else plain) * kernel.facts.relative_cost
    if backend.name == "compiled" and kernel.facts.constant:
        per_coordinate = 0.0  # this kernel needs no distance
    elif backend.name == "compiled" and kernel.inner_product:
        per_coordinate, per_value = INNER_PRODUCT_FACTORS[0] * per_coordinate, INNER_PRODUCT_FACTORS[1] * per_value
    return base, per_coordinate, per_value, per_element


def values_ns(problem: Problem, backend: Any, dtype: np.dtype[Any]) -> float:
    """Nanoseconds per pair for its values, on one thread."""
    if problem.classes is None or backend.sweep is not None:
        return nanoseconds(problem, backend, dtype)[2] * summed_values(problem.c, backend)
    return CODE_NS * problem.classes.codes.shape[1]


def summed_values(c: int, backend: Any) -> int:
    """Number of values that a pair's time grows with: backends that pad values sum them in whole vectors."""
    return c if c < 2 or not backend.pads_values else -(-c // VECTOR) * VECTOR


def states_seconds(problem: Problem, groups: int) -> float:
    """Seconds for the totals of classes, beside those of the pairs, on one thread."""
    return 1e-9 * STATE_NS * (groups + 1) * problem.m * problem.c


def whitening_seconds(problem: Problem, points: int) -> float:
    """Seconds to whiten so many points; 0 without a bandwidth matrix."""
    factor, d = problem.metric.factor, problem.d
    if factor is None:
        return 0.0
    if factor.whitening is None and not (problem.kernel.facts.discontinuous and d <= MAX_EXACT_D):
        return 1e-9 * points * (WHITEN_NS[0] + WHITEN_NS[1] * d)
    once = 0.0 if problem.prepared else EXACT_FACTOR_NS * d**3
    return 1e-9 * (once + points * (WHITEN_EXACTLY_NS[0] + WHITEN_EXACTLY_NS[1] * d))
