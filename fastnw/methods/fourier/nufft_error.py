"""Bounds on the errors of Fourier sums at each query, from the weight of the keys around it.

finufft is linear in the strengths and works coordinate by coordinate. So the sums at q differ from Σ w κ(q − k) by
Σ w (T − κ) with T = Π T_j(q_j, k_j), whatever the data, and |Π T_j − Π κ_j| ≤ Σ_j |T_j − κ_j| Π (κ_i + |T_i − κ_i|),
where the product runs over i ≠ j. T_j − κ_j concerns one key in one coordinate. It is measured for keys and queries at
many positions between the points of finufft's grid. It is local: an aliased κ, widened by finufft's own kernel, which
vanishes within MAX_CELLS. So keys are counted in cells. The weights of the cells around a query, times an envelope,
bound its error: a light region beside a heavy cluster has a larger bound as far as that envelope extends.

Rounding is local as well where keys are spread and sums are interpolated. The rounding of the fast Fourier transforms
in between is the same at every query and proportional to the norm ‖·‖₂ of the grid (Higham, 2002, Accuracy and
stability of numerical algorithms, chapter 24).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastnw.methods.fourier import transforms
from fastnw.methods.fourier.transforms import Box, Floats

# Unit roundoff of float64.
UNIT = 2.0**-53
# Width of a cell.
CELL_BANDWIDTHS = 1.0
# Beyond so many cells, finufft's error is the same everywhere.
MAX_CELLS = 10
# Factor on the largest error that was measured.
SAFETY_FACTOR = 2.0
# Errors are measured for so many positions of a key between two points of the grid, and so many queries around it.
TRIAL_KEYS, TRIAL_QUERIES = 24, 501
# Modes of the measurement, by upsampling. Times the upsampling they are just below a length that the library uses for
# its grid; it rounds others up to a finer grid, whose errors are smaller.
TRIAL_MODES = {1.25: 307, 2.0: 375}
# Bound, per coordinate, on how much a change of norm 1 of the grid changes a sum, relative to the sum of one key.
FFT_NORM = 1.5
# Roundings of the norm for each √log₂ of a transform's length; 0.3 to 0.6 are usual.
FFT_ROUNDINGS = 2.0
# Nanoseconds to weight the cells around a cell, by dimension: measured for 3, the others follow from their passes.
CELL_NS = {1: 50.0, 2: 125.0, 3: 200.0}
# Roundings of a key or query other than those of additions: weights, kernel values and products.
POINT_ROUNDINGS = 64.0


@dataclass(frozen=True)
class Envelope:
    """Bounds for one key and a query that is k cells away in one coordinate.

    Attributes
    ----------
    aliased : (MAX_CELLS + 1,) float64
        |T − κ| ≤ aliased[k].
    smooth : (MAX_CELLS + 1,) float64
        |T| ≤ smooth[k]. exp(−u²/4) bounds κ, its parts when a key is spread, and the overlap of two of them.
    far : float
        |T − κ| for every query further away.
    """

    aliased: Floats
    smooth: Floats
    far: float


@dataclass(frozen=True)
class Surroundings:
    """Bounds on the errors of sums at queries: one for each cell (flattened), and one for all cells together."""

    local: Floats
    everywhere: float

    def bound(self, cells: NDArray[np.intp]) -> Floats:
        """The bounds (rows,) for queries in those cells."""
        return self.local[cells] + self.everywhere


def measure(box: Box) -> Envelope:
    """Measure finufft's error for single keys in one coordinate, at the resolution and tolerance of the box."""
    count = TRIAL_MODES[box.upsampling]
    resolved = max(p / (m - 1) for p, m in zip(box.period, box.modes, strict=True))
    period = (count - 1) * resolved
    turn = 2 * math.pi / period
    kappa = transforms.kernel_modes(period, turn * transforms.orders(count))
    keys = (np.arange(TRIAL_KEYS) + 0.37) / TRIAL_KEYS * period / (box.upsampling * count)
    reach = min((MAX_CELLS + 1) * CELL_BANDWIDTHS, period / 2 - 1)
    queries = np.linspace(-reach, reach, TRIAL_QUERIES)
    spread = transforms.new_plan(1, (count,), box.epsilon, box.upsampling)
    modes = np.empty((TRIAL_KEYS, count), np.complex128)
    for found, key in zip(modes, keys, strict=True):
        spread.setpts(np.array([key * turn]))
        found[:] = spread.execute(np.ones(1, np.complex128)) * kappa
    interpolate = transforms.new_plan(2, (count,), box.epsilon, box.upsampling, batch=TRIAL_KEYS)
    interpolate.setpts(queries * turn)
    apart = np.abs(queries - keys[:, None])
    error = np.abs(interpolate.execute(modes) - np.exp(-np.square(apart) / 2))
    # a query k cells away is at least k − 1 away
    within = np.array([error[apart >= CELL_BANDWIDTHS * max(k - 1, 0)].max(initial=0.0) for k in range(MAX_CELLS + 2)])
    least = CELL_BANDWIDTHS * np.maximum(np.arange(MAX_CELLS + 1) - 1, 0)
    smooth = np.exp(-np.square(least) / 4) + SAFETY_FACTOR * within[:-1]
    return Envelope(SAFETY_FACTOR * within[:-1], smooth, SAFETY_FACTOR * float(within[-1]))


def shape(box: Box, margin: float) -> tuple[int, ...]:
    """Number of cells along each coordinate."""
    return tuple(int(2 * (half + margin) / CELL_BANDWIDTHS) + 2 for half in box.half)


def cells_of(box: Box, margin: float, angles: list[Floats]) -> NDArray[np.intp]:
    """The flat index of the cell of each point."""
    found = np.zeros(len(angles[0]), np.intp)
    for angle, period, half, count in zip(angles, box.period, box.half, shape(box, margin), strict=True):
        place = angle * (period / (2 * math.pi * CELL_BANDWIDTHS))
        place += (half + margin) / CELL_BANDWIDTHS
        found *= count
        found += np.clip(place, 0, count - 1).astype(np.intp)
    return found


def surroundings(
    box: Box, envelope: Envelope, weights: Floats, absolute: float, blocks: int, longest: int
) -> Surroundings:
    """The bounds that follow from the weights of the keys in each cell.

    Parameters
    ----------
    box : Box
    envelope : Envelope
    weights : float64 array of the shape of the cells
    absolute : float
        Sum of the absolute values of the modes.
    blocks, longest : int
        Number of blocks of keys that are transformed separately, and the number of keys in the longest.
    """
    d, total = len(box.modes), float(weights.sum())
    smooth, aliased = weights, np.zeros_like(weights)
    for axis in range(d):
        aliased = _spread(aliased, envelope.smooth, axis) + _spread(smooth, envelope.aliased, axis)
        smooth = _spread(smooth, envelope.smooth, axis)
    norm = math.sqrt(float((weights * smooth).sum()))
    units = FFT_ROUNDINGS * math.sqrt(math.log2(box.size * box.upsampling**d)) * (1 + math.sqrt(blocks)) + blocks
    rounding = math.sqrt(2) * FFT_NORM**d * units * norm + 16 * d * absolute
    local = aliased + (longest + POINT_ROUNDINGS) * UNIT * smooth
    return Surroundings(local.ravel(), rounding * UNIT + (box.dropped + d * envelope.far) * total)


def _spread(cells: Floats, taps: Floats, axis: int) -> Floats:
    """For each cell the sum of the cells along one axis, weighted by taps (MAX_CELLS + 1,) for their distance."""
    here = np.moveaxis(cells, axis, 0)
    total = taps[0] * here
    for k in range(1, min(MAX_CELLS, len(here) - 1) + 1):
        total[k:] += taps[k] * here[:-k]
        total[:-k] += taps[k] * here[k:]
    return np.moveaxis(total, 0, axis)
