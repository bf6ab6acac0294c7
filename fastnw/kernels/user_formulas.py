"""A user's formulas: functions of arrays are made from them, they are checked on a grid, and changes are noticed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.kernels.facts import Formula
from fastnw.kernels.fingerprint import Opaque, fingerprint


class OneByOne:
    """Applies a function of one number to each element of an array.

    The elements are passed as float64 scalars: next to a Python float, a float32 constant of the formula would make
    NumPy compute in float32.
    """

    def __init__(self, pyfunc: Formula) -> None:
        self.pyfunc = pyfunc

    def __call__(self, u2: Any) -> NDArray[np.float64]:
        u2 = np.asarray(u2, np.float64)
        with np.errstate(all="ignore"):
            values = [float(self.pyfunc(x)) for x in u2.ravel()]
        return np.array(values, np.float64).reshape(u2.shape)


def scalar(formula: Formula) -> Formula:
    """The user's original function, which takes one number."""
    return formula.pyfunc if isinstance(formula, OneByOne) else formula


def mark(profile: Formula, log_profile: Formula | None) -> str | None:
    """A digest of the formulas and of everything that they refer to; None if some state cannot be read."""
    try:
        return fingerprint(scalar(profile), None if log_profile is None else scalar(log_profile))
    except Opaque:
        return None


def checked(
    name: str, profile: Formula, support: float | None, log_profile: Formula | None
) -> tuple[Formula, Formula | None]:
    """Checks a user's formulas on a grid of u² within the support and returns them as functions of arrays."""
    if support is not None and not (np.isfinite(support) and support > 0):
        raise ValueError(f"support of kernel {name!r} must be a positive number or None, got {support!r}.")
    u2 = np.linspace(0.0, 8.0 if support is None else float(support), 65)[:-1] ** 2
    with np.errstate(all="ignore"):
        on_arrays = _on_arrays(name, "profile", profile, u2)
        values = np.asarray(on_arrays(u2), np.float64)
    if not np.all(np.isfinite(values)) or np.any(values < 0):
        bad = np.flatnonzero(~np.isfinite(values) | (values < 0))[0]
        raise ValueError(
            f"profile of kernel {name!r} must be finite and non-negative within its support, got {values[bad]:.6g} at "
            f"u² = {u2[bad]:.6g}. Correct the formula, or pass support=."
        )
    if not values[0] > 0:
        raise ValueError(f"profile of kernel {name!r} must be positive at 0, got {values[0]!r}.")
    if log_profile is None:
        return on_arrays, None
    with np.errstate(all="ignore"):
        log_on_arrays = _on_arrays(name, "log_profile", log_profile, u2)
        agrees = np.allclose(np.exp(log_on_arrays(u2)), values, rtol=1e-6, atol=1e-12)
    if not agrees:
        raise ValueError(f"log_profile of kernel {name!r} is not the logarithm of its profile.")
    return on_arrays, log_on_arrays


def _on_arrays(name: str, what: str, formula: Formula, u2: NDArray[np.float64]) -> Formula:
    """`formula` if it gives the same result for an array as for its elements, otherwise a loop over elements."""
    if not callable(formula):
        raise TypeError(f"{what} of kernel {name!r} must be callable, got {type(formula).__name__}.")
    one_by_one = OneByOne(scalar(formula))
    expected = one_by_one(u2)
    try:
        values = np.asarray(formula(u2), dtype=np.float64)
    except Exception:  # the function need not accept arrays, so it may raise anything here
        return one_by_one
    same = values.shape == u2.shape and np.allclose(values, expected, rtol=1e-12, atol=0, equal_nan=True)
    return formula if same else one_by_one
