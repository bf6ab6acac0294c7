"""Bounds on the rounding of scores: squared scaled distances u², or scaled inner products."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.core import certify
from fastnw.core.array import DeviceArray
from fastnw.core.pack import Array, coordinates, keys_there
from fastnw.core.problem import Problem, row_blocks
from fastnw.runtime.cached import cached_property

Floats = NDArray[np.float64]
FLOAT64 = np.dtype(np.float64)


class ScoreErrors:
    """Bounds for the queries of one set of keys. What depends on the keys alone is found once.

    Parameters
    ----------
    problem : Problem
        Its keys, metric and kernel are read, never its queries.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._relative: dict[str, float] = {}  # by the compute type

    @cached_property
    def extent(self) -> tuple[Floats, float]:
        """Largest |k_j| (d,) of the (whitened) keys, and the largest factor that a key scale puts on a score."""
        problem = self.problem
        if problem.on_device:
            low, high = keys_there(problem).extremes
            return np.maximum(high, -low), 1.0 / problem.key_scale_range[0]
        largest = np.zeros(problem.d)
        for rows in row_blocks(problem.keys):
            block = coordinates(problem, problem.keys[rows])
            largest = np.maximum(largest, np.maximum(block.max(axis=0), -block.min(axis=0).astype(np.float64)))
        return largest, 1.0 / problem.key_scale_range[0]

    @cached_property
    def largest_norm(self) -> float:
        """The largest √(Σ_j k_j²/h_j) of the (whitened) keys."""
        problem, largest = self.problem, 0.0
        root = np.sqrt(problem.metric.inverse)
        for rows in row_blocks(problem.keys):
            block = coordinates(problem, problem.keys[rows]).astype(np.float64) * root
            with np.errstate(over="ignore"):
                largest = max(largest, float(np.square(block).sum(axis=1).max()))
        return math.sqrt(largest)

    def of(self, queries: Any, dtype: np.dtype[Any] = FLOAT64) -> Floats:
        """(m,) Bound on the relative error of u² (the absolute one for u < 1), or on that of an inner product.

        A difference costs one rounding, 1/h_j and the product with it two, squared: 6 units and one for the square;
        sums are made in parts of four or eight; turning u² into an exponent costs three. Whitened coordinates carry an
        absolute error e of their own, which changes u² by 2 u e + e². Infinite where squares leave float64's range.

        Parameters
        ----------
        queries : (m, d) array or DeviceArray
            Packed: raw coordinates, or whitened ones.
        dtype : dtype
            The compute type of the scores.
        """
        problem, unit, on_device = self.problem, float(np.finfo(dtype).eps) / 2, isinstance(queries, DeviceArray)
        scaled = 0 if problem.key_scale is None else 3
        if problem.kernel.facts.constant:
            return np.zeros(len(queries))  # κ does not depend on u²
        if not problem.squares_in_range:
            return np.full(len(queries), np.inf)
        square_error, point_error = problem.whitening_errors
        point_error += unit  # whitened in float64, rounded to `dtype`
        with np.errstate(over="ignore", invalid="ignore"):  # a bound that is not finite certifies nothing
            if problem.kernel.inner_product:
                extent, factor = self.extent
                extent = extent * problem.metric.inverse
                size = (queries.sizes(extent) if on_device else self._sizes(queries, extent)) * factor
                error = (problem.d + 4 + scaled) * unit * size
                if problem.metric.factor is None:
                    return error
                norms = np.sqrt(_squares(queries, problem.d)) * np.sqrt(np.square(extent).sum()) * factor
                return error + (square_error + 2.1 * point_error) * norms
            if dtype.char not in self._relative:
                self._relative[dtype.char] = certify.relative_error(problem, dtype)
            relative = self._relative[dtype.char]
            if problem.metric.factor is None:
                return np.full(len(queries), relative)
            extent, factor = self.extent
            norms = np.sqrt(_squares(queries, problem.d)) + np.sqrt(np.square(extent).sum())
            apart = point_error * norms * max(factor, 1.0)
            return relative + 2 * apart + apart**2

    def nats(self, queries: Any, depth: Floats) -> Floats:
        """(m,) Bound on the float64 error of log κ of each query's keys down to `depth` nats below the peak."""
        return certify.nats(self.problem, self.of(queries), depth)

    def _sizes(self, queries: Array, extent: Floats) -> Floats:
        """(m,) Bound on Σ_j |q_j k_j|/h_j over all keys: by each coordinate's largest, or by Cauchy and Schwarz."""
        root = np.sqrt(self.problem.metric.inverse)
        with np.errstate(over="ignore"):
            norms = np.sqrt(np.square(queries.astype(np.float64) * root).sum(axis=1))
            by_coordinate: Floats = np.abs(queries).astype(np.float64) @ extent
            return np.minimum(by_coordinate, (1 + 1e-12) * norms * self.largest_norm)


def _squares(queries: Any, d: int) -> Floats:
    """(m,) Squared norms of the packed queries."""
    if isinstance(queries, DeviceArray):
        return queries.norms(np.ones(d))
    return np.asarray(np.square(queries, dtype=np.float64).sum(axis=1))
