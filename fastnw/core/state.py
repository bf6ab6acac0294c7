"""Sums: sums over a part of the keys. No other module merges sums."""

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


# The unit roundoff of float64.
UNIT = 2.0**-53


@dataclass(frozen=True, eq=False)
class Units:
    """The units of sums: values are t = (v − centre)/half, and weights are divided by exp(log_weight).

    Attributes
    ----------
    centre, half : (c,) float64
        Centre and half of the range of each value; a value with half 0 is constant.
    log_weight : float
        Logarithm of the reference weight.
    """

    centre: Floats
    half: Floats
    log_weight: float

    def same_as(self, other: Units) -> bool:
        """Return whether both units are equal."""
        return self is other or (
            self.log_weight == other.log_weight
            and np.array_equal(self.centre, other.centre)
            and np.array_equal(self.half, other.half)
        )


@dataclass(frozen=True)
class Sums:
    """Sums over a part of the keys, divided by exp(shift), with one row per query.

    The values are normalised to t_i ∈ [−1, 1] (`Problem.values_centre`); there are m queries and c values per key.

    Attributes
    ----------
    shift : (m,) float64
        log of the common factor of the sums; −inf where no key was summed.
    mass : (m,) float64
        Σ w κ / exp(shift).
    total : (m, c) float64
        Σ w κ t / exp(shift); a `DeviceRows` where keys and values are device arrays.
    mass_error, total_error : (m,) float64
        Bounds on the errors of `mass` and of each column of `total`.
    units : Units or None
        Methods leave None, because they sum the keys of one problem; the driver sets the units of that problem.
    """

    shift: Floats
    mass: Floats
    total: Any
    mass_error: Floats
    total_error: Floats
    units: Units | None = None

    @classmethod
    def empty(cls, m: int, c: int) -> Sums:
        """Make the identity element of `merge`."""
        return cls(np.full(m, -np.inf), np.zeros(m), np.zeros((m, c)), np.zeros(m), np.zeros(m))

    @classmethod
    def stacked(cls, states: Sequence[Sums]) -> Sums:
        """Concatenate states of different queries; copies."""
        shift, mass, total, mass_error, total_error = (
            np.concatenate([getattr(state, name) for state in states]) for name in _NAMES
        )
        return cls(shift, mass, total, mass_error, total_error, states[0].units)

    def rows(self, rows: Rows) -> Sums:
        """Select rows (queries); a slice makes views."""
        return Sums(
            self.shift[rows],
            self.mass[rows],
            self.total[rows],
            self.mass_error[rows],
            self.total_error[rows],
            self.units,
        )

    def with_units(self, units: Units) -> Sums:
        """Return the same sums labelled with the given units; no number changes."""
        return Sums(self.shift, self.mass, self.total, self.mass_error, self.total_error, units)

    def put(self, rows: Rows, other: Sums) -> None:
        """Replace the given rows by those of `other`."""
        for name in _NAMES:
            getattr(self, name)[rows] = getattr(other, name)

    def merge(self, other: Sums) -> Sums:
        """Return the state of the union of two sets of keys, in the units of this one.

        Associative up to rounding only, so blocks must be merged in a fixed order.

        Raises
        ------
        ValueError
            One of the units is None, or `to` cannot convert the other state.
        """
        if (self.units is None) != (other.units is None):
            raise ValueError("both states must have known units or neither, got one of each. Call with_units first.")
        if self.units is not None and other.units is not None and not self.units.same_as(other.units):
            other = other.to(self.units)
        shift = np.maximum(self.shift, other.shift)
        factor, other_factor = _factor(self.shift, shift), _factor(other.shift, shift)
        with np.errstate(over="ignore", invalid="ignore"):  # an infinite error times 0 is NaN, which certifies nothing
            return Sums(
                shift,
                self.mass * factor + other.mass * other_factor,
                self.total * factor[:, None] + other.total * other_factor[:, None],
                self.mass_error * factor + other.mass_error * other_factor,
                self.total_error * factor + other.total_error * other_factor,
                self.units,
            )

    def to(self, units: Units) -> Sums:
        """Convert the sums to other units; the bounds include the rounding of the conversion.

        Raises
        ------
        ValueError
            This state has no units, or a value that is constant in the new units has sums of other values.
        """
        if self.units is None:
            raise ValueError("sums must have known units to be converted, got unknown units. Call with_units first.")
        old, half = self.units, np.where(units.half > 0, units.half, 1.0)
        shifted_by = old.centre - units.centre
        constant = (units.half == 0) & np.any(self.mass > 0)
        if np.any(constant & ((old.half > 0) | (shifted_by != 0))):
            raise ValueError("units must contain the summed values, got a constant for a value that differs from it.")
        scale, offset = old.half / half, shifted_by / half
        scaled, added = self.total * scale, self.mass[:, None] * offset
        total_error = self.total_error[:, None] * scale + self.mass_error[:, None] * np.abs(offset)
        total_error += 4 * UNIT * (np.abs(scaled) + np.abs(added))
        log_ratio = old.log_weight - units.log_weight
        roundings = 2 * UNIT * (abs(old.log_weight) + abs(units.log_weight) + np.abs(self.shift))  # of exp(shift)
        shift_error = np.where(self.mass > 0, roundings * self.mass, 0.0)
        return Sums(
            self.shift + log_ratio,
            self.mass,
            scaled + added,
            self.mass_error + shift_error,
            total_error.max(axis=1, initial=0.0) + shift_error * (1 + np.abs(offset).max(initial=0.0)),
            units,
        )

    @staticmethod
    def merged(states: list[Sums]) -> Sums:
        """Merge states in the order of the list."""
        return reduce(Sums.merge, states)

    @property
    def is_empty(self) -> NDArray[np.bool_]:
        """(m,) Whether no key with positive weight is in the support. Methods prevent underflow of the mass to 0."""
        return ~(self.mass > 0)

    def log_mass(self) -> Floats:
        """Return log Σ w κ, (m,); −inf where empty."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.shift + np.log(np.maximum(self.mass, 0.0))

    def relative_mass_error(self) -> Floats:
        """Bound the relative error of the mass, (m,): 0 where empty, inf where `mass_error` is not below the mass."""
        return self.errors()[0]

    def finalise(self) -> tuple[Floats, Floats]:
        """Return the normalised means t̂ (m, c) and the bound (m,) on their errors; NaN where empty."""
        return self.means(), self.bound()

    def means(self) -> Floats:
        """Compute the normalised means t̂ (m, c) on the host; NaN where empty."""
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.asarray(self.total) / self.mass[:, None]
        mean[self.is_empty] = np.nan
        return mean

    def bound(self) -> Floats:
        """Bound the error of the normalised means, (m,); NaN where empty. See `errors`."""
        return self.errors()[1]

    def errors(self) -> tuple[Floats, Floats]:
        """Bound the relative error of the mass and the error of the normalised means, (m,) each.

        With D̂ and N̂ the computed mass and total, and |D̂ − D| ≤ e_D, |N̂ − N| ≤ e_N: t̂ − t is
        ((N̂ − N) − t̂ (D̂ − D))/D, so |t̂ − t| ≤ (|t̂| e_D + e_N)/(D̂ − e_D) if D̂ > e_D, and never more than 2, the
        range of t.
        """
        total = self.total.largest()[:, None] if isinstance(self.total, DeviceRows) else self.total
        return _bounds.errors(total, self.mass, self.mass_error, self.total_error)


_NAMES = tuple(field.name for field in fields(Sums) if field.name != "units")  # `fields` takes microseconds


def _factor(shift: Floats, new: Floats) -> Floats:
    """Compute exp(shift − new), 0 for an empty state: np.where avoids −inf − (−inf), which is NaN."""
    lower = np.isfinite(shift)
    return np.where(lower, np.exp(np.where(lower, shift, 0.0) - np.where(lower, new, 0.0)), 0.0)
