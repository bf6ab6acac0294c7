"""The warnings that users can filter by class."""

from __future__ import annotations

import sys


class EmptyWindowWarning(UserWarning):
    """Some queries have no key with positive weight in reach; `empty=` says what stands in their rows."""


class AccuracyWarning(UserWarning):
    """Some results could not be certified to the promised accuracy; `return_error=True` gives their bounds.

    Or integers of the input are too large to keep all their digits.
    """


class BandwidthWarning(UserWarning):
    """What to know about a chosen bandwidth: a coordinate without relation to the values, an end of the search."""


class VersionWarning(UserWarning):
    """A pickle was written by another version of fastnw."""


def caller_level() -> int:
    """The `stacklevel` with which a warning points at the first frame outside fastnw: the line of the user's call."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "fastnw":
        level, frame = level + 1, frame.f_back
    return level
