"""PoolState: sums of a part of the keys, and the only code that merges them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.core import _bounds
from fastnw.core.array import DeviceRows

Floats = NDArray[np.float64]
Rows = slice | NDArray[np.intp]


UNIT = 2.0**-53


@dataclass(frozen=True, eq=False)
class Units:
    """What sums are measured in: values t = (v − centre)/half, and weights over exp(log_weight).

    Attributes
    ----------
    centre, half : (c,) float64
        Middle and half of the range of the values; a column with half 0 is constant.
    log_weight : float
        Logarithm of the weight that counts as 1.
    """

    centre: Floats
    half: Floats
    log_weight: float

    def same_as(self, other: Units) -> bool:
        """Whether sums in both mean the same."""
        return self is other or (
            self.log_weight == other.log_weight
            and np.array_equal(self.centre, other.centre)
            and np.array_equal(self.half, other.half)
        )


@dataclass(frozen=True)
class PoolState:
    """Sums over some keys, one row a query, divided by exp(shift).

    With values normalised to t_i ∈ [−1, 1] (`Problem.values_range`), for m queries and c values a key:

    Attributes
    ----------
    shift : (m,) float64
        log of the factor taken out; −inf where nothing was summed.
    mass : (m,) float64
        Σ w κ / exp(shift).
    total : (m, c) float64
        Σ w κ t / exp(shift). As `DeviceRows` where a device holds keys and values.
    mass_error, total_error : (m,) float64
        Bounds on the errors of `mass` and of each column of `total`.
    units : Units or None
        None within a method, which sums the keys of one problem; the driver says which problem's units they are.
    """

    shift: Floats
    mass: Floats
    total: Any
    mass_error: Floats
    total_error: Floats
    units: Units | None = None

    @classmethod
    def empty(cls, m: int, c: int) -> PoolState:
        """The identity of `merge`."""
        return cls(np.full(m, -np.inf), np.zeros(m), np.zeros((m, c)), np.zeros(m), np.zeros(m))

    @classmethod
    def stacked(cls, states: Sequence[PoolState]) -> PoolState:
        """One below the other, copied."""
        shift, mass, total, mass_error, total_error = (
            np.concatenate([getattr(state, name) for state in states]) for name in _NAMES
        )
        return cls(shift, mass, total, mass_error, total_error, states[0].units)

    def rows(self, rows: Rows) -> PoolState:
        """Those queries' rows; views for a slice."""
        return PoolState(
            self.shift[rows],
            self.mass[rows],
            self.total[rows],
            self.mass_error[rows],
            self.total_error[rows],
            self.units,
        )

    def put(self, rows: Rows, other: PoolState) -> None:
        """Replace those queries' rows."""
        for name in _NAMES:
            getattr(self, name)[rows] = getattr(other, name)

    def merge(self, other: PoolState) -> PoolState:
        """The state of both sets of keys, in this one's units. Associative up to rounding: keep to the order of blocks.

        Raises
        ------
        ValueError
            The units of one are not known, or it has a value that the units of the other cannot express.
        """
        if (self.units is None) != (other.units is None):
            raise ValueError("sums in known units cannot be merged with sums in unknown ones.")
        if self.units is not None and other.units is not None and not self.units.same_as(other.units):
            other = other.to(self.units)
        shift = np.maximum(self.shift, other.shift)
        mine, theirs = _factor(self.shift, shift), _factor(other.shift, shift)
        return PoolState(
            shift,
            self.mass * mine + other.mass * theirs,
            self.total * mine[:, None] + other.total * theirs[:, None],
            self.mass_error * mine + other.mass_error * theirs,
            self.total_error * mine + other.total_error * theirs,
            self.units,
        )

    def to(self, units: Units) -> PoolState:
        """The same sums in other units, with bounds that contain the rounding of the conversion.

        Raises
        ------
        ValueError
            The units of this state are not known, or a column that is constant in the new units differs from that
            constant.
        """
        if self.units is None:
            raise ValueError("sums in unknown units cannot be converted.")
        old, half = self.units, np.where(units.half > 0, units.half, 1.0)
        apart = old.centre - units.centre
        constant = (units.half == 0) & np.any(self.mass > 0)
        if np.any(constant & ((old.half > 0) | (apart != 0))):
            raise ValueError("a column of values is constant in the new units, but its sums are of other values.")
        scale, offset = old.half / half, apart / half
        moved, added = self.total * scale, self.mass[:, None] * offset
        total_error = self.total_error[:, None] * scale + self.mass_error[:, None] * np.abs(offset)
        total_error += 4 * UNIT * (np.abs(moved) + np.abs(added))
        by_log = old.log_weight - units.log_weight
        roundings = 2 * UNIT * (abs(old.log_weight) + abs(units.log_weight) + np.abs(self.shift))  # of exp(shift)
        lost = np.where(self.mass > 0, roundings * self.mass, 0.0)
        return PoolState(
            self.shift + by_log,
            self.mass,
            moved + added,
            self.mass_error + lost,
            total_error.max(axis=1, initial=0.0) + lost * (1 + np.abs(offset).max(initial=0.0)),
            units,
        )

    @staticmethod
    def merged(states: list[PoolState]) -> PoolState:
        """All of them, in their order."""
        return reduce(PoolState.merge, states)

    @property
    def is_empty(self) -> NDArray[np.bool_]:
        """(m,) No key with positive weight in reach. Methods make sure that no mass underflows to 0."""
        return ~(self.mass > 0)

    def log_mass(self) -> Floats:
        """(m,) log Σ w κ; −inf where empty."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.shift + np.log(np.maximum(self.mass, 0.0))

    def relative_mass_error(self) -> Floats:
        """(m,) Bound on the relative error of the mass: 0 where empty, inf where the bound says nothing."""
        return self.errors()[0]

    def finalise(self) -> tuple[Floats, Floats]:
        """Normalised means t̂ (m, c) and the bound (m,) on their error; NaN where empty."""
        return self.means(), self.bound()

    def means(self) -> Floats:
        """(m, c) t̂ on the host; NaN where empty."""
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.asarray(self.total) / self.mass[:, None]
        mean[self.is_empty] = np.nan
        return mean

    def bound(self) -> Floats:
        """(m,) On the error of the means; NaN where empty. See `errors`."""
        return self.errors()[1]

    def errors(self) -> tuple[Floats, Floats]:
        """Bounds (m,) on the relative error of the mass, and on the error of the means.

        With e_D, e_N the errors of mass D and total N: |t̂ − t| ≤ (|t̂| e_D + e_N)/(D − e_D) if D > e_D, and never
        more than 2, the range of t.
        """
        total = self.total.largest()[:, None] if isinstance(self.total, DeviceRows) else self.total
        return _bounds.errors(total, self.mass, self.mass_error, self.total_error)


_NAMES = tuple(field.name for field in fields(PoolState) if field.name != "units")  # `fields` takes microseconds


def _factor(shift: Floats, new: Floats) -> Floats:
    """exp(shift − new), 0 for an empty state: −inf − (−inf) is branched on, not computed."""
    lower = np.isfinite(shift)
    return np.where(lower, np.exp(np.where(lower, shift, 0.0) - np.where(lower, new, 0.0)), 0.0)
