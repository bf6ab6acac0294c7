"""Messages to the terminal."""

from __future__ import annotations

import contextlib
import sys


def say(message: str) -> None:
    """Print a line to standard error, if it is open."""
    if sys.stderr is not None:  # print(file=None) would use standard output
        with contextlib.suppress(OSError):
            print(message, file=sys.stderr, flush=True)
