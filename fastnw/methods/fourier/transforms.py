"""What every use of non-uniform transforms shares: the Fourier series of the Gaussian, strengths of keys, plans, times.

On a box of period P, κ is a Fourier series with the frequencies ω_k = 2πk/P and the coefficients
√(2π) h/P · exp(−(h ω_k)²/2), which fall below any tolerance after a few hundred. Strengths w + i·w·t carry a mass and a
total in one complex transform, because κ is even and its coefficients are real.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.core.pack import coordinates, normalised_values
from fastnw.core.problem import Problem, row_blocks

Floats = NDArray[np.float64]
Modes = NDArray[np.complex128]

MAX_D = 3  # the grid of a transform grows like the power d
# Low upsampling takes a quarter of the memory of high upsampling in three dimensions and is as fast. It reaches a
# tolerance of 2e-10.
LOW_UPSAMPLING, HIGH_UPSAMPLING = 1.25, 2.0

# Nanoseconds for a point; for a cell of the grid that a point is spread to or interpolated from, by dimension; and for
# a number of the grid times log2 of how many numbers it has. Measured on one Zen 4 core, ±30 %.
POINT_NS, CELL_NS, GRID_NS = 35.0, {1: 4.0, 2: 1.1, 3: 0.37}, 1.65


@dataclass(frozen=True)
class Box:
    """The box on which κ is periodic, and how finely κ is resolved.

    Attributes
    ----------
    centre : (d,) float64
        In raw, or whitened, coordinates.
    half : (d,) float64
        Half of the keys' extent, in bandwidths.
    period : (d,) float64
        In bandwidths.
    modes : tuple of int
        Number of frequencies of each coordinate.
    dropped : float
        Bound on what truncation and periodic images change in a sum, over Σ w.
    place : float
        Bound on how far rounding moves a query against a key, in bandwidths.
    epsilon, upsampling : float
        finufft's tolerance and the refinement of its grid.
    """

    centre: Floats
    half: Floats
    period: Floats
    modes: tuple[int, ...]
    dropped: float
    place: float
    epsilon: float
    upsampling: float

    @property
    def size(self) -> float:
        """Number of modes."""
        return math.prod(map(float, self.modes))

    @property
    def bytes(self) -> float:
        """Memory of one transform in flight: the grid and its modes."""
        return 16 * self.size * (self.upsampling ** len(self.modes) + 1)


def extent(problem: Problem) -> tuple[Floats, Floats]:
    """Smallest and largest coordinate (d,) of the keys."""
    if problem.of_keys.extent is None:
        low, high = np.full(problem.d, np.inf), np.full(problem.d, -np.inf)
        for rows in row_blocks(problem.keys):
            block = coordinates(problem, problem.keys[rows])
            low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
        problem.of_keys.extent = low.astype(np.float64), high.astype(np.float64)
    return problem.of_keys.extent


def image_distance(d: int, dropped: float) -> float:
    """How many bandwidths the nearest periodic image must keep from a query.

    The images in each direction then add at most 2 exp(−distance²/2), which is half of `dropped`, over Σ w.
    """
    return math.sqrt(2 * math.log(4 * d / dropped))


def library() -> Any:
    """The module that wraps finufft, loaded when it is first needed."""
    from fastnw.methods.fourier import finufft_plans

    return finufft_plans


def new_plan(kind: int, modes: tuple[int, ...], epsilon: float, upsampling: float, batch: int = 1) -> Any:
    """A plan of finufft for one thread: its own threads do not survive a fork, and ours share out blocks.

    Parameters
    ----------
    kind : {1, 2}
        From points to modes, or back.
    modes : tuple of int
    epsilon, upsampling : float
    batch : int
        Number of transforms of the same points in one call.
    """
    sign = -1 if kind == 1 else 1
    return library().Plan(kind, modes, batch, epsilon, sign, "complex128", nthreads=1, upsampfac=upsampling, showwarn=0)


def orders(count: int) -> NDArray[np.intp]:
    """The orders k of an odd number of modes, from −count//2 to count//2."""
    return np.arange(-(count // 2), count // 2 + 1)


def kernel_modes(period: float, omega: Floats, h: float = 1.0) -> Floats:
    """Coefficients of the Gaussian of bandwidth h at the frequencies omega."""
    return math.sqrt(2 * math.pi) * h / period * np.exp(-np.square(h * omega) / 2)


def along(factor: Floats, axis: int, d: int) -> Floats:
    """A factor of one coordinate, shaped to multiply an array of modes."""
    return factor.reshape([-1 if i == axis else 1 for i in range(d)])


def strengths(problem: Problem, rows: slice) -> list[Modes]:
    """w + i·w·t₁, then w·t₂ + i·w·t₃, …, with the normalised values t."""
    weights = problem.weights_at(rows)
    columns = np.ones((problem.c + 1, rows.stop - rows.start))
    if weights is not None:
        columns[0] = weights
    columns[1:] = normalised_values(problem, rows) * columns[0]
    return paired(columns)


def paired(columns: Floats) -> list[Modes]:
    """Rows (k, n) as complex numbers, two rows in each array; an odd last row has no imaginary part."""
    pairs = []
    for first in range(0, len(columns), 2):
        pair = columns[first].astype(np.complex128)
        if first + 1 < len(columns):
            pair.imag = columns[first + 1]
        pairs.append(pair)
    return pairs


def point_ns(d: int, epsilon: float, upsampling: float) -> float:
    """Nanoseconds to spread a point to the cells of the grid that it touches, or to interpolate there."""
    digits = -math.log10(epsilon)
    cells = (digits + 1 if upsampling == HIGH_UPSAMPLING else 1.5 * digits + 1) ** d
    return POINT_NS + CELL_NS[d] * cells


def grid_ns(size: float, d: int, upsampling: float) -> float:
    """Nanoseconds of the fast Fourier transform for `size` modes."""
    grid = size * upsampling**d
    return GRID_NS * grid * math.log2(grid + 2)
