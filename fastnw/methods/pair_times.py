"""Measured times per pair, key and query, from which methods predict their costs."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnw.arithmetic.factor import MAX_EXACT_D
from fastnw.core.pack import VECTOR
from fastnw.core.problem import Problem

# How much longer pairs take where each query leaves out its own key.
OWN_KEY_FACTOR = 1.3
# Extra nanoseconds to pack the weight of a key.
WEIGHT_NS = 10.0
# Nanoseconds to pack a row of several values: constant, and per value.
ROW_NS = (60.0, 8.0)
# Nanoseconds to whiten a point (constant, per coordinate) in float64, and by an exact factor (for ill-conditioned
# matrices and kernels that jump); and per d³ to make that factor.
WHITEN_NS, WHITEN_EXACTLY_NS, EXACT_FACTOR_NS = (80.0, 23.0), (150.0, 170.0), 150.0

# Time per pair of a class stored as an integer, whatever the type. The total of each query and class takes STATE_NS in
# each group of keys, and once more for the result.
CODE_NS, STATE_NS = 0.6, 8.0


def nanoseconds(problem: Problem, backend: Any, dtype: np.dtype[Any]) -> tuple[float, float, float, float]:
    """Nanoseconds per pair, per coordinate and per value of a pair; and per packed element of keys and values."""
    kernel, times = problem.kernel, backend.pair_times(dtype)
    base = (times.exponential if kernel.works_on_logs else times.plain) * kernel.facts.relative_cost
    per_coordinate, per_value = times.coordinate, times.value
    if kernel.inner_product:
        per_coordinate, per_value = times.inner_product[0] * per_coordinate, times.inner_product[1] * per_value
    elif kernel.facts.constant:
        per_coordinate *= times.constant_coordinate
    return base, per_coordinate, per_value, times.packed_element


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
