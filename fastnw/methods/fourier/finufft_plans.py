"""finufft with plans that survive forks. Import this module instead of finufft, when a transform is first needed.

Warning filters belong to the process: of two threads that change them at a time, one may restore what the other had
set. The lock of this module's import prevents that. Old versions of finufft find their binary with numpy.distutils, for
which old versions of NumPy issue a deprecation warning.
"""

from __future__ import annotations

import os
import threading
import warnings
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import finufft

# Limit on waiting for another thread: the longest step of a transform takes about one second.
MAX_WAIT_SECONDS = 5.0


class _ForkGate:
    """Makes forks wait for the steps of transforms in other threads, and steps wait for forks.

    Even on one thread, finufft adds up in an OpenMP critical section, and plans under a lock of its own. The child of a
    fork would find these locked forever.
    """

    def __init__(self) -> None:
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._close, after_in_parent=self._open, after_in_child=self._reset)

    def _reset(self) -> None:
        self.changed = threading.Condition()
        self.planning = threading.Lock()
        # sets of thread identifiers, not counters: an interrupted thread could leave a counter wrong
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
        """Wait for running steps before a fork. The lock stays taken until the fork is over."""
        thread = threading.get_ident()
        self.changed.acquire()
        self._forking.add(thread)
        self.changed.wait_for(lambda: not self._inside - {thread}, timeout=MAX_WAIT_SECONDS)

    def _open(self) -> None:
        thread = threading.get_ident()
        if thread in self._forking:
            self._forking.discard(thread)
            self.changed.notify_all()
            self.changed.release()


_gate = _ForkGate()


class Plan(finufft.Plan):
    """A finufft plan whose steps pass the gate; only one plan is made at a time, since that changes warning filters."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        with _gate, _gate.planning:  # takes 0.1 to 0.5 ms
            super().__init__(*arguments, **options)

    def setpts(self, *arguments: Any, **options: Any) -> Any:
        with _gate:
            return super().setpts(*arguments, **options)

    def execute(self, *arguments: Any, **options: Any) -> Any:
        with _gate:
            return super().execute(*arguments, **options)

    def __del__(self) -> None:
        # any thread may call this, even one that is about to fork: it can take the lock, but must not wait for others
        taken = _gate.changed.acquire(timeout=MAX_WAIT_SECONDS)
        super().__del__()
        if taken:
            _gate.changed.release()
