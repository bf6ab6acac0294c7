"""How far Fourier sums may be off at each query: a bound from the weight of the keys around it.

finufft is linear in the strengths and goes coordinate by coordinate. So the sums at q differ from Σ w κ(q − k) by
Σ w (T − κ) with T = Π T_j(q_j, k_j), whatever the data, and |Π T_j − Π κ_j| ≤ Σ_j |T_j − κ_j| Π (κ_i + |T_i − κ_i|),
the product over i ≠ j. T_j − κ_j is a matter of one key in one coordinate, and is measured, for keys and queries at
many places between the points of finufft's grid. It is local: an aliased κ, spread by the width of finufft's own
kernel, and gone within REACH. So keys are counted in cells, and the weights of the cells around a query, times an
envelope, bound what it is off by: a light region beside a heavy cluster pays for the cluster as far as that reaches.

Rounding is local, too, where keys are spread and sums are interpolated. That of the fast Fourier transforms in between
is the same at every query; it goes with the norm ‖·‖₂ of the grid (Higham, 2002, Accuracy and stability of numerical
algorithms, chapter 24).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fastnw.methods.fourier.method import Box

Floats = NDArray[np.float64]

UNIT = 2.0**-53
CELL = 1.0  # bandwidths
REACH = 10  # cells beyond which finufft's error is the same everywhere
SAFETY = 2.0  # on the largest error among the places that are tried
PLACES = 24  # of a key between two points of the grid
TARGETS = 501  # queries around it
# Modes of the trial, by upsampling: times the upsampling it is nearly a length that the library takes for its grid. It
# rounds others up, to a finer grid with smaller errors.
TRIAL_MODES = {1.25: 307, 2.0: 375}
FFT_NORM = 1.5  # per coordinate, what a change of norm 1 of the grid changes in a sum at most, over that of one key
FFT_UNITS = 2.0  # roundings for each √log₂ of a transform's length, of the norm; 0.3 to 0.6 are usual
# To weigh the cells around a cell, by dimension: measured for 3, the others by their number of passes.
CELL_NS = {1: 50.0, 2: 125.0, 3: 200.0}
POINT_UNITS = 64.0  # roundings of a key or query apart from additions: weights, kernel values, products


@dataclass(frozen=True)
class Envelope:
    """Of one key and a query k cells away in one coordinate: |T − κ| ≤ aliased[k] and |T| ≤ smooth[k]."""

    aliased: Floats  # (REACH + 1,)
    smooth: Floats  # (REACH + 1,) exp(−u²/4) bounds κ, what it is made of when a key is spread, and the overlap of two
    far: float  # |T − κ| for every query further away


@dataclass(frozen=True)
class Surroundings:
    """Bounds on the errors of sums at queries: one for each cell, flat, and one that all share."""

    local: Floats
    everywhere: float

    def bound(self, cells: NDArray[np.intp]) -> Floats:
        """(rows,) For queries in those cells."""
        return self.local[cells] + self.everywhere


def measure(transforms: Any, box: Box) -> Envelope:
    """finufft's error for single keys in one coordinate, at the box's resolution and tolerance."""
    count = TRIAL_MODES[box.upsampling]
    resolved = max(p / (m - 1) for p, m in zip(box.period, box.modes, strict=True))
    period = (count - 1) * resolved
    turn = 2 * math.pi / period
    omega = turn * np.arange(-(count // 2), count // 2 + 1)
    kappa = math.sqrt(2 * math.pi) / period * np.exp(-np.square(omega) / 2)
    keys = (np.arange(PLACES) + 0.37) / PLACES * period / (box.upsampling * count)
    reach = min((REACH + 1) * CELL, period / 2 - 1)
    queries = np.linspace(-reach, reach, TARGETS)
    options = {"nthreads": 1, "upsampfac": box.upsampling, "showwarn": 0}
    spread = transforms.Plan(1, (count,), 1, box.epsilon, -1, "complex128", **options)
    modes = np.empty((PLACES, count), np.complex128)
    for found, key in zip(modes, keys, strict=True):
        spread.setpts(np.array([key * turn]))
        found[:] = spread.execute(np.ones(1, np.complex128)) * kappa
    interpolate = transforms.Plan(2, (count,), PLACES, box.epsilon, 1, "complex128", **options)
    interpolate.setpts(queries * turn)
    apart = np.abs(queries - keys[:, None])
    error = np.abs(interpolate.execute(modes) - np.exp(-np.square(apart) / 2))
    # a query k cells away is at least k − 1 away
    within = np.array([error[apart >= CELL * max(k - 1, 0)].max(initial=0.0) for k in range(REACH + 2)])
    least = CELL * np.maximum(np.arange(REACH + 1) - 1, 0)
    smooth = np.exp(-np.square(least) / 4) + SAFETY * within[:-1]
    return Envelope(SAFETY * within[:-1], smooth, SAFETY * float(within[-1]))


def shape(box: Box, margin: float) -> tuple[int, ...]:
    """Cells along each coordinate."""
    return tuple(int(2 * (half + margin) / CELL) + 2 for half in box.half)


def cells_of(box: Box, margin: float, angles: list[Floats]) -> NDArray[np.intp]:
    """The cell of each point, counted flat."""
    found = np.zeros(len(angles[0]), np.intp)
    for angle, period, half, count in zip(angles, box.period, box.half, shape(box, margin), strict=True):
        place = angle * (period / (2 * math.pi * CELL))
        place += (half + margin) / CELL
        found *= count
        found += np.clip(place, 0, count - 1).astype(np.intp)
    return found


def surroundings(
    box: Box, envelope: Envelope, weights: Floats, absolute: float, blocks: int, longest: int
) -> Surroundings:
    """What keys of these `weights`, cell by cell, bound. `absolute`: the sum of the modes' sizes; `blocks` of keys, the
    `longest` of so many, are transformed by themselves."""
    d, total = len(box.modes), float(weights.sum())
    smooth, aliased = weights, np.zeros_like(weights)
    for axis in range(d):
        aliased = _spread(aliased, envelope.smooth, axis) + _spread(smooth, envelope.aliased, axis)
        smooth = _spread(smooth, envelope.smooth, axis)
    norm = math.sqrt(float((weights * smooth).sum()))
    units = FFT_UNITS * math.sqrt(math.log2(box.size * box.upsampling**d)) * (1 + math.sqrt(blocks)) + blocks
    rounding = math.sqrt(2) * FFT_NORM**d * units * norm + 16 * d * absolute
    local = aliased + (longest + POINT_UNITS) * UNIT * smooth
    return Surroundings(local.ravel(), rounding * UNIT + (box.dropped + d * envelope.far) * total)


def _spread(cells: Floats, taps: Floats, axis: int) -> Floats:
    """Each cell's sum of all cells along that axis, times taps (REACH + 1,) by their distance."""
    here = np.moveaxis(cells, axis, 0)
    total = taps[0] * here
    for k in range(1, min(REACH, len(here) - 1) + 1):
        total[k:] += taps[k] * here[:-k]
        total[:-k] += taps[k] * here[k:]
    return np.moveaxis(total, 0, axis)
