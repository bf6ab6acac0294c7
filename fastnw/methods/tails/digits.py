"""Squared distances of a few keys in decimal arithmetic of as many digits as they need, from the numbers as given.

For keys that nearly tie 10²⁰ bandwidths away, or near the rim of a window that a matrix makes very thin: there the 32
digits of `ratios` are too few. It takes some microseconds a key and coordinate.
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

KEPT = 60  # digits of an exponent after the decimal point
ROUNDED = Decimal("1e-50")  # 1 − u² below it is the rounding of a key exactly on the rim


def whitening(metric: Metric) -> dd.Pair:
    """L⁻¹ in coordinates of unit diagonal, as pairs."""
    assert metric.factor is not None
    if metric.factor.whitening is not None:
        return metric.factor.whitening.inverse
    if "whitening" not in metric.cache:
        metric.cache["whitening"] = factor.as_pair(_decimal_factor(metric, factor.DIGITS)[1])
    pair: dd.Pair = metric.cache["whitening"]
    return pair


def deltas(problem: Problem, row: int, leading: int, positions: Positions) -> tuple[Floats, Floats]:
    """u of those keys less that of the key `leading`, and u; or the same of their scores. Rounded once."""
    with localcontext(factor.decimal_context(30)):
        # of an inner product the terms may be large where their sum is not
        of_size = _scores(problem, row, 30, sizes=True)
        sized = [leading, *map(int, positions)] if problem.kernel.inner_product else [leading]
        precision = KEPT + max(max(map(of_size, sized)).adjusted(), 0)
    with localcontext(factor.decimal_context(precision)):
        score = _scores(problem, row, precision)
        first = score(leading)
        root = first.sqrt() if not problem.kernel.inner_product else first
        found, places = np.empty(len(positions)), np.empty(len(positions))
        for i, position in enumerate(positions):
            check_stop()
            other = score(int(position))
            apart, place = other - first, other
            if not problem.kernel.inner_product:
                place = other.sqrt()
                apart = apart / (place + root) if apart else apart
            found[i], places[i] = float(apart), float(place)
        return found, places


def distance(problem: Problem, row: int, position: int) -> float:
    """u of that key, or its score."""
    with localcontext(factor.decimal_context(KEPT)):
        found = _scores(problem, row, KEPT)(position)
        return float(found if problem.kernel.inner_product else found.sqrt())


def edge_distances(problem: Problem, row: int, positions: Positions) -> tuple[Floats, Floats]:
    """1 − u² of those keys, 0 for those exactly on the rim, and u²."""
    with localcontext(factor.decimal_context(KEPT + 20)):
        score = _scores(problem, row, KEPT + 20)
        found, squares = np.empty(len(positions)), np.empty(len(positions))
        for i, position in enumerate(positions):
            check_stop()
            square = score(int(position))
            y = 1 - square
            found[i], squares[i] = float(y) if abs(y) > ROUNDED else 0.0, float(square)
        return found, squares


def _scores(problem: Problem, row: int, precision: int, sizes: bool = False) -> Callable[[int], Decimal]:
    """u², or the scaled inner product (with `sizes` the sum of its terms' sizes), of a key; to be called in a context
    of that precision."""
    query = _numbers(problem.queries[row])
    inner, metric = problem.kernel.inner_product, problem.metric
    form = _whitened(metric, precision) if metric.factor is not None else _divided(metric)
    start = form(query) if inner else []

    def score(position: int) -> Decimal:
        key = _numbers(problem.keys[position])
        if inner:
            other = form(key) if metric.factor is not None else key
            terms = map(mul, start, other)
            found = sum(map(abs, terms) if sizes else terms, Decimal(0))
        else:
            apart = form([a - b for a, b in zip(query, key, strict=True)])
            found = sum(map(mul, apart, apart), Decimal(0))
        if problem.key_scale is not None:
            scale = Decimal(float(problem.key_scale[position]))
            found = found / scale if inner else found / scale / scale
        return found

    return score


def _divided(metric: Metric) -> Callable[[list[Decimal]], list[Decimal]]:
    h = _numbers(metric.bandwidth)
    return lambda point: [x / y for x, y in zip(point, h, strict=True)]


def _whitened(metric: Metric, precision: int) -> Callable[[list[Decimal]], list[Decimal]]:
    _, rows = _decimal_factor(metric, precision + 40)
    units = [Decimal(2) ** -int(e) for e in factor.exponents_of(metric.bandwidth)]

    def whitened(point: list[Decimal]) -> list[Decimal]:
        x = list(map(mul, point, units))
        return [sum(map(mul, row, x), Decimal(0)) for row in rows]

    return whitened


def _decimal_factor(metric: Metric, digits: int) -> Any:
    """L and L⁻¹ to that many digits at least, in steps, kept."""
    digits = max(-(-digits // 100) * 100, factor.DIGITS)
    kept = metric.cache
    if digits not in kept:
        exponents = factor.exponents_of(metric.bandwidth)
        kept[digits] = factor.decimal_factor(factor.scaled(metric.bandwidth, exponents), digits)
    return kept[digits]


def _numbers(array: Any) -> list[Decimal]:
    return [Decimal(x) for x in np.asarray(array, np.float64).tolist()]
