"""Bands of weights, so that no weight underflows beside another weight that is e^700 times as large.

float64 holds weights down to 1e-308 of the largest, but users' weights may span 600 orders of magnitude. A key that
weighs 1e-400 of another key still determines the result where the other key is 50 bandwidths away. So keys are summed
band by band, with weights relative to the largest of the band, and the states are merged by their logarithmic shifts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastnw.core.problem import Problem

# Least weight of a band relative to its largest: products with κ do not lose digits.
LEAST_WEIGHT = 1e-200
# Nats from the largest to the least weight of a band, minus the rounding of logarithms.
SPAN_NATS = -math.log(LEAST_WEIGHT) - 1e-9
MAX_BANDS = 12


@dataclass(frozen=True)
class Band:
    """Keys whose weights differ by at most a factor of 1/LEAST_WEIGHT.

    Attributes
    ----------
    positions : (keys,) intp or None
        Positions of the keys; None for all keys.
    weights : (n,) float64 or None
        Weights of all keys relative to the band's largest, valid only at `positions`. None if all weights are 1.
    log_scale : float
        log of the band's largest weight relative to the largest weight of all bands.
    total, least : float
        Sum and minimum of the band's weights.
    """

    positions: NDArray[np.intp] | None
    weights: NDArray[np.float64] | None
    log_scale: float
    total: float
    least: float


def max_bands(problem: Problem) -> int:
    """Bound on the number of bands, computed without reading all weights."""
    return 1 + int(-problem.log_least_weight / SPAN_NATS)


def split(problem: Problem) -> Iterator[Band]:
    """Yield the bands, heaviest first; none if no key has a weight. Only one array of n weights exists at a time."""
    if not problem.weighted:
        yield Band(None, None, 0.0, problem.total_weight, problem.least_weight)
    elif max_bands(problem) == 1:
        weights = problem.weights_at(slice(None))
        assert weights is not None
        positions = np.flatnonzero(weights > 0)
        if len(positions):
            yield Band(positions, weights, 0.0, problem.total_weight, problem.least_weight)
    else:
        logs = problem.log_weights_at(slice(None))
        assert logs is not None
        yield from _split_logs(problem, logs)


def _split_logs(problem: Problem, logs: NDArray[np.float64]) -> Iterator[Band]:
    open_keys = logs > -np.inf
    while open_keys.any():
        largest = float(logs.max(where=open_keys, initial=-np.inf))
        positions = np.flatnonzero(open_keys & (logs >= largest - SPAN_NATS))
        open_keys[positions] = False
        weights = np.zeros(problem.n)
        if problem.by_volume:
            weights[positions] = np.exp(logs[positions] - largest)
        else:  # a quotient has one rounding, but logarithms of 1e±300 have hundreds
            assert problem.weights is not None
            chosen = problem.weights[positions].astype(np.float64)
            weights[positions] = chosen / chosen.max()
        band = weights[positions]
        yield Band(positions, weights, largest, float(band.sum()), float(band.min()))
