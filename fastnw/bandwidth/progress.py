"""The progress bar of a search: on a terminal, it counts the losses and shows the least."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from fastnw.runtime.threads import PROGRESS_SECONDS


class Progress:
    """A context whose calls report losses.

    Parameters
    ----------
    show : bool or None
        None: on a terminal, once the search has lasted PROGRESS_SECONDS seconds.
    """

    def __init__(self, show: bool | None) -> None:
        self.show, self.bar, self.least = show, None, math.inf

    def __enter__(self) -> Progress:
        self.start = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, loss: float) -> None:
        """Report a loss."""
        self.least = min(self.least, loss)
        if self.bar is None and (self.show or (self.show is None and self._is_long_on_terminal())):
            self.bar = _bar()
        if self.bar is not None:
            self.bar.set_postfix_str(f"least {self.least:.6g}")
            self.bar.update()

    def _is_long_on_terminal(self) -> bool:
        is_long = time.perf_counter() - self.start > PROGRESS_SECONDS
        return is_long and sys.stderr is not None and sys.stderr.isatty()


def _bar() -> Any:
    from tqdm import tqdm

    return tqdm(desc="fastnw bandwidth", unit=" losses")
