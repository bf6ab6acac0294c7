"""The classes of warnings, by which users can filter them."""

from __future__ import annotations

import sys


class EmptyWindowWarning(UserWarning):
    """Queries have no key with positive weight within the support of the kernel; `empty=` sets their results."""


class AccuracyWarning(UserWarning):
    """The error bounds of results exceed the tolerance (`return_error=True` returns them), or float64 rounds an input.

    The second case concerns integers beyond 2**53.
    """


class BandwidthWarning(UserWarning):
    """A selected bandwidth needs attention: a coordinate has no relation to the values, or the search hit a limit."""


class VersionWarning(UserWarning):
    """A pickle was written by another version of fastnw."""


def caller_level() -> int:
    """Return the `stacklevel` of the first frame outside fastnw, so that warnings show the line of the user's call."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "fastnw":
        level, frame = level + 1, frame.f_back
    return level
