"""What a descent moves, θ: logarithms of widths, or a triangle that stretches and shears the coordinates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastnw.bandwidth.criteria import Floats

NARROWEST, WIDEST = 1e-6, 1e4  # of where it starts: what is narrower has collapsed, what is wider does not count


class Widths:
    """θ = log-bandwidths."""

    outer = False

    def __init__(self, start: Floats, per_coordinate: bool) -> None:
        if start.ndim == 2:
            raise ValueError("A matrix to start from needs matrix=True.")
        self.single = start.ndim == 0 or not per_coordinate
        self.theta = np.atleast_1d(np.log(start).mean() if self.single else np.log(start))

    def bandwidth(self, theta: Floats) -> Any:
        return float(np.exp(theta[0])) if self.single else np.exp(theta)

    def recorded(self, theta: Floats, d: int) -> Floats:
        return np.broadcast_to(np.exp(theta), d).copy()

    def pulled_back(self, theta: Floats, squares: Floats) -> Floats:
        return np.atleast_1d(squares.sum()) if self.single else squares

    def bounded(self, theta: Floats) -> Floats:
        return np.clip(theta, self.theta + math.log(NARROWEST), self.theta + math.log(WIDEST))


class Matrix:
    """θ = a lower triangle T, its diagonal as logarithms: u = |T A₀ (q − k)|, with A₀ of the start."""

    outer = True

    def __init__(self, start: Floats, d: int) -> None:
        if start.ndim < 2:
            start = np.diag(np.square(np.broadcast_to(start, d)))
        self.first = np.linalg.inv(np.linalg.cholesky(start))
        self.places = np.tril_indices(d)
        self.theta = np.zeros(d * (d + 1) // 2)

    def _factor(self, theta: Floats) -> Floats:
        triangle = np.zeros_like(self.first)
        triangle[self.places] = theta
        np.fill_diagonal(triangle, np.exp(np.diag(triangle)))
        return triangle

    def bandwidth(self, theta: Floats) -> Floats:
        back = np.linalg.inv(self._factor(theta) @ self.first)
        found = back @ back.T
        return (found + found.T) / 2

    def recorded(self, theta: Floats, d: int) -> Floats:
        return self.bandwidth(theta)

    def pulled_back(self, theta: Floats, outer: Floats) -> Floats:
        """With u = |A δ|, A = T A₀, ∂L/∂A = −A Σ E δ δᵀ; sums come whitened, δ = L z."""
        triangle = self._factor(theta)
        a, whole = triangle @ self.first, np.linalg.cholesky(self.bandwidth(theta))
        by_triangle = -a @ whole @ outer @ whole.T @ self.first.T
        np.fill_diagonal(by_triangle, np.diag(by_triangle) * np.diag(triangle))
        found: Floats = by_triangle[self.places]
        return found

    def bounded(self, theta: Floats) -> Floats:
        diagonal = self.places[0] == self.places[1]
        within = np.clip(theta, -math.log(WIDEST), -math.log(NARROWEST))
        return np.where(diagonal, within, theta)
