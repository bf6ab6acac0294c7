"""The threads that run tiles: progress, Ctrl-C, and BLAS held to one thread."""

from __future__ import annotations

import _thread
import itertools
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

PROGRESS_AFTER = 2.0  # seconds of expected work from which a terminal shows a bar


_current = threading.local()


class _Stopped(Exception):
    """The run is over; whoever ended it reports."""


def check_stop() -> None:
    """Leave a task whose run has been interrupted: for tasks that may last longer than Ctrl-C should wait."""
    stop = getattr(_current, "stop", None)
    if stop is not None and stop.is_set():
        raise _Stopped


def run(task: Callable[[int], float], n_tasks: int, n_threads: int, meter: Meter, *, detachable: bool = False) -> None:
    """Call ``task(0) … task(n_tasks − 1)``, each of some milliseconds; what a task returns is added to the meter.

    A task may take a second if it is `detachable`: then Ctrl-C does not wait for it, and it ends alone. It must only
    write to what nobody reads any more after an exception.

    Which thread takes which task is left to chance, so tasks must write to places of their own. Threads live for one
    call: starting one takes 50 µs, and a pool that outlives the call would not survive a fork.

    Raises
    ------
    BaseException
        The first exception of a task, or KeyboardInterrupt in the caller; by then no task is running that is not
        `detachable`.
    """
    if (n_threads == 1 or n_tasks == 1) and not detachable:
        for i in range(n_tasks):
            meter.add(task(i))
        return
    numbers, stop, failures = itertools.count(), threading.Event(), []
    # Lists, not semaphores or joins, say who has begun and who is done: an exception from Ctrl-C may strike between any
    # two steps here, and must not lose count. The queue only wakes the caller; a lost wake-up costs 0.1 s.
    begun: list[None] = []
    finished: list[None] = []
    wake: queue.SimpleQueue[None] = queue.SimpleQueue()

    def work() -> None:
        begun.append(None)
        _current.stop = stop
        try:
            while not stop.is_set() and (i := next(numbers)) < n_tasks:
                meter.add(task(i))
        except _Stopped:
            pass
        except BaseException as failure:  # handed to the caller, whatever it is
            failures.append(failure)
            stop.set()
        finally:
            finished.append(None)
            wake.put(None)

    def wait(expected: Callable[[], int]) -> None:
        while len(finished) < expected():
            with suppress(queue.Empty):
                wake.get(timeout=0.1)  # a bounded wait lets Ctrl-C through on every platform

    outer, n_workers = getattr(_current, "stop", None), 0
    try:
        while n_workers < min(n_threads, n_tasks):
            try:
                _thread.start_new_thread(work, ())
            except RuntimeError:  # no more of them are allowed here: fewer change no bit
                break
            n_workers += 1
        if n_workers == 0:
            work()
        wait(lambda: n_workers)
    finally:
        _current.stop = outer
        stop.set()
        if not detachable:
            wait(lambda: len(begun))  # whoever begins later finds the run stopped
    if failures:
        raise failures[0]


class Meter:
    """Counts pairs for a tqdm bar. The bar is made at the first pair, closed by `close`."""

    def __init__(self, show: bool, pairs: float, description: str) -> None:
        self._show, self._pairs, self._description = show, pairs, description
        self._bar: Any = None
        self._lock = threading.Lock()

    def add(self, pairs: float) -> None:
        if not self._show:
            return
        with self._lock:
            if self._bar is None:
                from tqdm import tqdm

                self._bar = tqdm(total=self._pairs, desc=self._description, unit="pair", unit_scale=True)
            self._bar.update(min(pairs, self._pairs - self._bar.n))

    def close(self, done: bool) -> None:
        if self._bar is not None:
            if done:
                self._bar.update(self._pairs - self._bar.n)
            self._bar.close()


@contextmanager
def progress(show: bool | None, seconds: float, pairs: float, description: str) -> Iterator[Meter]:
    """A meter for work expected to last `seconds`; ``show=None`` shows it on a terminal if that is long."""
    if show is None:
        show = seconds > PROGRESS_AFTER and sys.stderr is not None and sys.stderr.isatty()
    meter = Meter(bool(show), pairs, description)
    done = False
    try:
        yield meter
        done = True
    finally:
        meter.close(done)


class _BlasGuard:
    """Holds BLAS to one thread while any caller is inside.

    Counted, because two overlapping limits restore each other's: the first to leave would give the threads back under
    the second, the last would leave the process at one. Libraries are set one by one: in newer versions
    `threadpool_limits` does nothing in a thread other than the one that set a limit last.
    """

    def __init__(self) -> None:
        self._before: list[tuple[Any, int]] = []
        self._reset()
        if hasattr(os, "register_at_fork"):  # another thread may hold the lock while this one forks
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        """In a forked child nobody is inside; what to go back to is kept for the next to leave."""
        self._lock, self._depth = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if self._depth == 0:
                libraries = _blas_libraries("scipy.linalg" in sys.modules)
                if not self._before:
                    self._before = [(library, library.num_threads) for library in libraries]
                for library in libraries:
                    _set_threads(library, 1)
            self._depth += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                for library, n in self._before:
                    _set_threads(library, n)
                self._before = []


@lru_cache(maxsize=2)
def _blas_libraries(with_scipy: bool) -> list[Any]:
    """The BLAS of NumPy and, once it is loaded, of SciPy. Found once each: looking through the loaded libraries takes
    a lock of the C library, which a thread may hold while another forks."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas").lib_controllers


def _set_threads(library: Any, n: int) -> None:
    release = getattr(library, "clear_controlling_thread", None)
    if release is not None:
        release(force=True)
    library.set_num_threads(n)
    if release is not None:
        release(force=True)


one_blas_thread = _BlasGuard()
