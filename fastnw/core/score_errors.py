"""Bounds on the rounding errors of scores: squared scaled distances u², or scaled inner products."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.core import certify
from fastnw.core.array import DeviceArray
from fastnw.core.pack import Array, coordinates, device_keys
from fastnw.core.problem import Problem, row_blocks
from fastnw.runtime.cached import cached_property

Floats = NDArray[np.float64]
FLOAT64 = np.dtype(np.float64)


class ScoreErrors:
    """Error bounds of the scores of queries against one set of keys. Facts about the keys are cached.

    Parameters
    ----------
    problem : Problem
        Its keys, metric and kernel are used, never its queries.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._relative: dict[str, float] = {}  # by the character code of the compute type

    @cached_property
    def extent(self) -> tuple[Floats, float]:
        """The largest |k_j| of the (whitened) keys, (d,), and the largest factor 1/λ."""
        problem = self.problem
        if problem.on_device:
            low, high = device_keys(problem).extremes
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
        """Bound the relative error of u² (the absolute error for u < 1), or the absolute error of an inner product.

        In units of ε/2: a difference has one rounding, 1/h_j and the product with it two more, so the square has six
        and one of its own; sums are made in parts of four or eight; the conversion of u² to an exponent has three.
        Whitened coordinates have an absolute error e besides, which changes u² by at most 2 u e + e².

        Parameters
        ----------
        queries : (m, d) array or DeviceArray
            Packed queries: coordinates, or whitened ones.
        dtype : dtype
            The compute type of the scores.

        Returns
        -------
        error : (m,) float64
            Infinite where squares overflow or underflow in float64.
        """
        problem, unit, on_device = self.problem, float(np.finfo(dtype).eps) / 2, isinstance(queries, DeviceArray)
        scale_roundings = 0 if problem.key_scale is None else 3
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
                size = (queries.sizes(extent) if on_device else self._product_sizes(queries, extent)) * factor
                error = (problem.d + 4 + scale_roundings) * unit * size
                if problem.metric.factor is None:
                    return error
                norms = np.sqrt(_squared_norms(queries, problem.d)) * np.sqrt(np.square(extent).sum()) * factor
                return error + (square_error + 2.1 * point_error) * norms
            if dtype.char not in self._relative:
                self._relative[dtype.char] = certify.relative_error(problem, dtype)
            relative = self._relative[dtype.char]
            if problem.metric.factor is None:
                return np.full(len(queries), relative)
            extent, factor = self.extent
            norms = np.sqrt(_squared_norms(queries, problem.d)) + np.sqrt(np.square(extent).sum())
            absolute = point_error * norms * max(factor, 1.0)
            return relative + 2 * absolute + absolute**2

    def nats(self, queries: Any, depth: Floats) -> Floats:
        """Bound the float64 error of log κ, (m,), for keys down to `depth` nats below the peak of the kernel."""
        return certify.nats(self.problem, self.of(queries), depth)

    def _product_sizes(self, queries: Array, extent: Floats) -> Floats:
        """Bound Σ_j |q_j k_j|/h_j over all keys, (m,): by the extent of each coordinate, or by Cauchy–Schwarz."""
        root = np.sqrt(self.problem.metric.inverse)
        with np.errstate(over="ignore"):
            norms = np.sqrt(np.square(queries.astype(np.float64) * root).sum(axis=1))
            by_coordinate: Floats = np.abs(queries).astype(np.float64) @ extent
            return np.minimum(by_coordinate, (1 + 1e-12) * norms * self.largest_norm)


def _squared_norms(queries: Any, d: int) -> Floats:
    """Compute the squared norms of packed queries, (m,)."""
    if isinstance(queries, DeviceArray):
        return queries.norms(np.ones(d))
    return np.asarray(np.square(queries, dtype=np.float64).sum(axis=1))
