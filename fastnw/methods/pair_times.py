"""What a pair, a key and a query take: measured times, of which methods' costs are made."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnw.arithmetic.factor import MAX_EXACT_D
from fastnw.core.pack import VECTOR
from fastnw.core.problem import Problem

ALONE = 1.3  # how much longer pairs take where own keys are left out
WEIGHT_NS = 10.0  # more to pack a key with a weight
SEVERAL_NS = (60.0, 8.0)  # to pack a row of several values, and each of them
# To whiten a point and more a coordinate: in float64, and by an exact factor (ill-conditioned matrices, kernels that
# jump); to make that factor, for each of d³.
WHITEN_NS, WHITEN_EXACTLY_NS, EXACT_FACTOR_NS = (80.0, 23.0), (150.0, 170.0), 150.0


# The same for a class kept as an integer, whatever the type; and what a query's total of a class takes beside the
# pairs, once in each group of keys and once to be finished.
CODE_NS, STATE_NS = 0.6, 8.0


def nanoseconds(problem: Problem, backend: Any, dtype: np.dtype[Any]) -> tuple[float, float, float, float]:
    """Of a pair: what its kernel takes, a coordinate and a value; and of an element of keys and values to pack it."""
    kernel, times = problem.kernel, backend.pair_times(dtype)
    base = (times.exponential if kernel.works_on_logs else times.plain) * kernel.facts.relative_cost
    per_coordinate, per_value = times.coordinate, times.value
    if kernel.inner_product:
        per_coordinate, per_value = times.inner_product[0] * per_coordinate, times.inner_product[1] * per_value
    elif kernel.facts.constant:
        per_coordinate *= times.constant_coordinate
    return base, per_coordinate, per_value, times.packed_element


def values_ns(problem: Problem, backend: Any, dtype: np.dtype[Any]) -> float:
    """Nanoseconds that a pair's values take, on one thread."""
    if problem.classes is None or backend.sweep is not None:
        return nanoseconds(problem, backend, dtype)[2] * summed_values(problem.c, backend)
    return CODE_NS * problem.classes.codes.shape[1]


def summed_values(c: int, backend: Any) -> int:
    """How many values a pair costs: several are summed in whole vectors."""
    return c if c < 2 or not backend.pads_values else -(-c // VECTOR) * VECTOR


def states_seconds(problem: Problem, groups: int) -> float:
    """What totals of classes take beside the pairs, on one thread."""
    return 1e-9 * STATE_NS * (groups + 1) * problem.m * problem.c


def whitening(problem: Problem, points: int) -> float:
    """Seconds to whiten so many points; 0 without a matrix."""
    factor, d = problem.metric.factor, problem.d
    if factor is None:
        return 0.0
    if factor.whitening is None and not (problem.kernel.facts.discontinuous and d <= MAX_EXACT_D):
        return 1e-9 * points * (WHITEN_NS[0] + WHITEN_NS[1] * d)
    once = 0.0 if problem.prepared else EXACT_FACTOR_NS * d**3
    return 1e-9 * (once + points * (WHITEN_EXACTLY_NS[0] + WHITEN_EXACTLY_NS[1] * d))
