"""Squared distances of a few keys in decimal arithmetic, with as many digits as they need, from the original numbers.

They serve keys that nearly tie at 10²⁰ bandwidths, or lie near the rim of a window that a matrix makes very thin, where
the 32 digits of `leading_key` are too few. Each key and coordinate takes some microseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, localcontext
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.arithmetic import doubledouble as dd
from fastnw.arithmetic import factor
from fastnw.core.problem import Metric, Problem
from fastnw.runtime.threads import check_stop

Floats = NDArray[np.float64]
Positions = NDArray[np.intp]

# Digits of an exponent after the decimal point.
EXPONENT_DIGITS = 60
# A smaller |1 − u²| is the rounding of a key exactly on the rim.
MIN_EDGE_DISTANCE = Decimal("1e-50")


def whitening(metric: Metric) -> dd.Pair:
    """L⁻¹ in coordinates of unit diagonal, in double-double pairs."""
    assert metric.factor is not None
    if metric.factor.whitening is not None:
        return metric.factor.whitening.inverse
    if "whitening" not in metric.cache:
        metric.cache["whitening"] = factor.as_pair(_decimal_factor(metric, factor.DIGITS)[1])
    pair: dd.Pair = metric.cache["whitening"]
    return pair


def deltas(problem: Problem, row: int, leading: int, positions: Positions) -> tuple[Floats, Floats]:
    """u of keys minus u of the key at `leading`, and u itself (for inner products, scores). Rounded once."""
    with localcontext(factor.decimal_context(30)):
        # the terms of an inner product may be large where their sum is not
        term_sum = _scores(problem, row, 30, sizes=True)
        largest = [leading, *map(int, positions)] if problem.kernel.inner_product else [leading]
        precision = EXPONENT_DIGITS + max(max(map(term_sum, largest)).adjusted(), 0)
    with localcontext(factor.decimal_context(precision)):
        score = _scores(problem, row, precision)
        leading_score = score(leading)
        leading_distance = leading_score.sqrt() if not problem.kernel.inner_product else leading_score
        differences, distances = np.empty(len(positions)), np.empty(len(positions))
        for i, position in enumerate(positions):
            check_stop()
            key_score = score(int(position))
            difference, distance = key_score - leading_score, key_score
            if not problem.kernel.inner_product:
                distance = key_score.sqrt()
                difference = difference / (distance + leading_distance) if difference else difference
            differences[i], distances[i] = float(difference), float(distance)
        return differences, distances


def distance(problem: Problem, row: int, position: int) -> float:
    """u of one key, or its score for inner products."""
    with localcontext(factor.decimal_context(EXPONENT_DIGITS)):
        score = _scores(problem, row, EXPONENT_DIGITS)(position)
        return float(score if problem.kernel.inner_product else score.sqrt())


def edge_distances(problem: Problem, row: int, positions: Positions) -> tuple[Floats, Floats]:
    """1 − u² of keys (0 for keys exactly on the rim), and u²."""
    with localcontext(factor.decimal_context(EXPONENT_DIGITS + 20)):
        score = _scores(problem, row, EXPONENT_DIGITS + 20)
        edges, squares = np.empty(len(positions)), np.empty(len(positions))
        for i, position in enumerate(positions):
            check_stop()
            square = score(int(position))
            edge = 1 - square
            edges[i], squares[i] = float(edge) if abs(edge) > MIN_EDGE_DISTANCE else 0.0, float(square)
        return edges, squares


def _scores(problem: Problem, row: int, precision: int, sizes: bool = False) -> Callable[[int], Decimal]:
    """A function of a key's position that returns its u² or scaled inner product; with `sizes`, the sum of the absolute
    terms of the inner product. It must be called in a decimal context of that precision."""
    query = _decimals(problem.queries[row])
    inner, metric = problem.kernel.inner_product, problem.metric
    form = _whiten(metric, precision) if metric.factor is not None else _divide_by_bandwidth(metric)
    scaled_query = form(query) if inner else []

    def score(position: int) -> Decimal:
        key = _decimals(problem.keys[position])
        if inner:
            scaled_key = form(key) if metric.factor is not None else key
            terms = map(mul, scaled_query, scaled_key)
            total = sum(map(abs, terms) if sizes else terms, Decimal(0))
        else:
            differences = form([a - b for a, b in zip(query, key, strict=True)])
            total = sum(map(mul, differences, differences), Decimal(0))
        if problem.key_scale is not None:
            scale = Decimal(float(problem.key_scale[position]))
            total = total / scale if inner else total / scale / scale
        return total

    return score


def _divide_by_bandwidth(metric: Metric) -> Callable[[list[Decimal]], list[Decimal]]:
    h = _decimals(metric.bandwidth)
    return lambda point: [x / y for x, y in zip(point, h, strict=True)]


def _whiten(metric: Metric, precision: int) -> Callable[[list[Decimal]], list[Decimal]]:
    _, rows = _decimal_factor(metric, precision + 40)
    units = [Decimal(2) ** -int(e) for e in factor.exponents_of(metric.bandwidth)]

    def whitened(point: list[Decimal]) -> list[Decimal]:
        x = list(map(mul, point, units))
        return [sum(map(mul, row, x), Decimal(0)) for row in rows]

    return whitened


def _decimal_factor(metric: Metric, digits: int) -> Any:
    """L and L⁻¹ to at least that many digits, cached in steps of 100 digits."""
    digits = max(-(-digits // 100) * 100, factor.DIGITS)
    cache = metric.cache
    if digits not in cache:
        exponents = factor.exponents_of(metric.bandwidth)
        cache[digits] = factor.decimal_factor(factor.scaled(metric.bandwidth, exponents), digits)
    return cache[digits]


def _decimals(array: Any) -> list[Decimal]:
    return [Decimal(x) for x in np.asarray(array, np.float64).tolist()]
