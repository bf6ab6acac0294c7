"""finufft, imported when it is first needed, and once: filters of warnings are the process's, and of two threads that
change them side by side, one restores what the other had set. A module's import is the lock.

Old ones find their binary with the help of numpy.distutils, which old versions of NumPy warn of.
"""

from __future__ import annotations

import os
import threading
import warnings
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import finufft

LONGEST = 5.0  # seconds; the longest step of a transform takes one


class _Gate:
    """Forks wait for steps of transforms that other threads are in; steps wait for forks.

    Even on one thread, finufft adds up in a critical section of OpenMP, and plans under a lock of its own: a child of a
    fork would find them held for good.
    """

    def __init__(self) -> None:
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._close, after_in_parent=self._open, after_in_child=self._reset)

    def _reset(self) -> None:
        self.changed = threading.Condition()
        self.planning = threading.Lock()
        # threads, not their numbers, of which Ctrl-C could lose count
        self._inside: set[int] = set()
        self._forking: set[int] = set()

    def __enter__(self) -> None:
        with self.changed:
            self.changed.wait_for(lambda: not self._forking)
            self._inside.add(threading.get_ident())

    def __exit__(self, *exception: object) -> None:
        with self.changed:
            self._inside.discard(threading.get_ident())
            self.changed.notify_all()

    def _close(self) -> None:
        """Leaves the lock taken until the fork is over."""
        me = threading.get_ident()
        self.changed.acquire()
        self._forking.add(me)
        self.changed.wait_for(lambda: not self._inside - {me}, timeout=LONGEST)

    def _open(self) -> None:
        me = threading.get_ident()
        if me in self._forking:
            self._forking.discard(me)
            self.changed.notify_all()
            self.changed.release()


_gate = _Gate()


class Plan(finufft.Plan):
    """finufft's, step by step through the gate; one is made at a time, since that sets filters of warnings aside."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        with _gate, _gate.planning:  # 0.1 to 0.5 ms
            super().__init__(*arguments, **options)

    def setpts(self, *arguments: Any, **options: Any) -> Any:
        with _gate:
            return super().setpts(*arguments, **options)

    def execute(self, *arguments: Any, **options: Any) -> Any:
        with _gate:
            return super().execute(*arguments, **options)

    def __del__(self) -> None:
        # may be called anywhere, by a thread that is about to fork, too: it can take the lock, but must not wait
        taken = _gate.changed.acquire(timeout=LONGEST)
        super().__del__()
        if taken:
            _gate.changed.release()
