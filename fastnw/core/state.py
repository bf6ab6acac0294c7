"""PoolState: sums over a part of the keys. No other module merges sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.core.array import DeviceRows

Floats = NDArray[np.float64]
Rows = slice | NDArray[np.intp]


@dataclass(frozen=True)
class PoolState:
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
    """

    shift: Floats
    mass: Floats
    total: Any
    mass_error: Floats
    total_error: Floats

    @classmethod
    def empty(cls, m: int, c: int) -> PoolState:
        """Make the identity element of `merge`."""
        return cls(np.full(m, -np.inf), np.zeros(m), np.zeros((m, c)), np.zeros(m), np.zeros(m))

    @classmethod
    def stacked(cls, states: Sequence[PoolState]) -> PoolState:
        """Concatenate states of different queries; copies."""
        return cls(*(np.concatenate([getattr(state, name) for state in states]) for name in _NAMES))

    def rows(self, rows: Rows) -> PoolState:
        """Select rows (queries); a slice makes views."""
        return PoolState(*(getattr(self, name)[rows] for name in _NAMES))

    def put(self, rows: Rows, other: PoolState) -> None:
        """Replace the given rows by those of `other`."""
        for name in _NAMES:
            getattr(self, name)[rows] = getattr(other, name)

    def merge(self, other: PoolState) -> PoolState:
        """Return the state of the union of two sets of keys.

        Associative up to rounding only, so blocks must be merged in a fixed order.
        """
        shift = np.maximum(self.shift, other.shift)
        factor, other_factor = _factor(self.shift, shift), _factor(other.shift, shift)
        return PoolState(
            shift,
            self.mass * factor + other.mass * other_factor,
            self.total * factor[:, None] + other.total * other_factor[:, None],
            self.mass_error * factor + other.mass_error * other_factor,
            self.total_error * factor + other.total_error * other_factor,
        )

    @staticmethod
    def merged(states: list[PoolState]) -> PoolState:
        """Merge states in the order of the list."""
        return reduce(PoolState.merge, states)

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
        with np.errstate(divide="ignore", invalid="ignore"):
            bound = self.mass_error / (self.mass - self.mass_error)
        certified = (self.mass > self.mass_error) & np.isfinite(self.mass)
        return np.where(certified, bound, np.where(self.mass == 0, 0.0, np.inf))

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
        """Bound the error of the normalised means, (m,); NaN where empty.

        With D̂ and N̂ the computed mass and total, and |D̂ − D| ≤ e_D, |N̂ − N| ≤ e_N: t̂ − t is
        ((N̂ − N) − t̂ (D̂ − D))/D, so |t̂ − t| ≤ (|t̂| e_D + e_N)/(D̂ − e_D) if D̂ > e_D, and never more than 2, the
        range of t.
        """
        total = self.total
        largest = total.largest() if isinstance(total, DeviceRows) else np.abs(total).max(axis=1, initial=0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            bound = (largest / self.mass * self.mass_error + self.total_error) / (self.mass - self.mass_error)
        bound = np.where(self.mass > self.mass_error, np.minimum(bound, 2.0), 2.0)
        return np.where(self.is_empty, np.nan, bound)


_NAMES = tuple(field.name for field in fields(PoolState))  # a constant because `fields` takes microseconds


def _factor(shift: Floats, new: Floats) -> Floats:
    """Compute exp(shift − new), 0 for an empty state: np.where avoids −inf − (−inf), which is NaN."""
    lower = np.isfinite(shift)
    return np.where(lower, np.exp(np.where(lower, shift, 0.0) - np.where(lower, new, 0.0)), 0.0)
