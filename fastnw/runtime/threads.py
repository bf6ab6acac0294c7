"""Threads that run tiles, with progress bars and Ctrl-C; and a guard that limits BLAS to one thread."""

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

PROGRESS_SECONDS = 2.0  # expected duration from which a terminal shows a progress bar


_current = threading.local()


class _Stopped(Exception):
    """The run has been stopped; the error that stopped it is raised elsewhere."""


def check_stop() -> None:
    """Ends a task if its run has been interrupted. Long tasks call it, so that Ctrl-C does not wait for them."""
    stop = getattr(_current, "stop", None)
    if stop is not None and stop.is_set():
        raise _Stopped


def run(task: Callable[[int], float], n_tasks: int, n_threads: int, meter: Meter, *, detachable: bool = False) -> None:
    """Calls ``task(0) … task(n_tasks − 1)``, each of a few milliseconds, and adds what they return to the meter.

    A task may take a second if it is `detachable`: then Ctrl-C does not wait for it, and it ends on its own. It must
    only write to memory that nobody reads after an exception.

    The assignment of tasks to threads is not deterministic, so tasks must not write to the same memory. Threads live
    for one call: starting one takes 50 µs, and a pool that outlives the call would not survive a fork.

    Raises
    ------
    BaseException
        The first exception of a task, or KeyboardInterrupt in the caller. By then no task runs, unless it is
        `detachable`.
    """
    if (n_threads == 1 or n_tasks == 1) and not detachable:
        for i in range(n_tasks):
            meter.add(task(i))
        return
    numbers, stop, failures = itertools.count(), threading.Event(), []
    # Lists count the threads that have started and finished, not semaphores or joins: Ctrl-C may raise between any two
    # steps here, and the count must stay right. The queue only wakes the caller; a lost wake-up costs 0.1 s.
    started: list[None] = []
    finished: list[None] = []
    wake: queue.SimpleQueue[None] = queue.SimpleQueue()

    def work() -> None:
        started.append(None)
        _current.stop = stop
        try:
            while not stop.is_set() and (i := next(numbers)) < n_tasks:
                meter.add(task(i))
        except _Stopped:
            pass
        except BaseException as failure:  # the caller raises it, whatever it is
            failures.append(failure)
            stop.set()
        finally:
            finished.append(None)
            wake.put(None)

    def wait(expected: Callable[[], int]) -> None:
        while len(finished) < expected():
            with suppress(queue.Empty):
                wake.get(timeout=0.1)  # on every platform, Ctrl-C interrupts a wait with a timeout

    outer, n_workers = getattr(_current, "stop", None), 0
    try:
        while n_workers < min(n_threads, n_tasks):
            try:
                _thread.start_new_thread(work, ())
            except RuntimeError:  # the process may start no more threads; results do not depend on their number
                break
            n_workers += 1
        if n_workers == 0:
            work()
        wait(lambda: n_workers)
    finally:
        _current.stop = outer
        stop.set()
        if not detachable:
            wait(lambda: len(started))  # a thread that starts later finds the run stopped
    if failures:
        raise failures[0]


class Meter:
    """Counts pairs for a tqdm bar, which is created at the first pair and closed by `close`."""

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
    """A meter for work that should take `seconds`; ``show=None`` shows a bar for long work on a terminal."""
    if show is None:
        show = seconds > PROGRESS_SECONDS and sys.stderr is not None and sys.stderr.isatty()
    meter = Meter(bool(show), pairs, description)
    done = False
    try:
        yield meter
        done = True
    finally:
        meter.close(done)


class _BlasGuard:
    """Limits BLAS to one thread while at least one caller is inside the context.

    Callers are counted, because two overlapping limits would restore each other's numbers: the first caller to leave
    would lift the limit of the second, and the last would leave the process with one thread. Libraries are set one by
    one, because newer versions of `threadpool_limits` have no effect in a thread other than the one that set the last
    limit.
    """

    def __init__(self) -> None:
        self._before: list[tuple[Any, int]] = []
        self._reset()
        if hasattr(os, "register_at_fork"):  # another thread may hold the lock during a fork
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        """Resets the count in a forked child, where nobody is inside. The next caller to leave restores the numbers."""
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
    """The BLAS libraries of NumPy and, once it is loaded, of SciPy.

    They are searched for once: the search takes a lock of the C library, which a thread may hold during a fork.
    """
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
