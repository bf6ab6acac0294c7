"""The threads that run tiles: progress, Ctrl-C, and BLAS held to one thread."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PROGRESS_AFTER = 2.0  # seconds of expected work from which a terminal shows a bar


def run(task: Callable[[int], float], n_tasks: int, n_threads: int, meter: Meter) -> None:
    """Call ``task(0) … task(n_tasks − 1)``, each of some milliseconds; what a task returns is added to the meter.

    Which thread takes which task is left to chance, so tasks must write to places of their own. Threads live for one
    call: starting one takes 50 µs, and a pool that outlives the call would not survive a fork.

    Raises
    ------
    BaseException
        The first exception of a task, or KeyboardInterrupt in the caller; by then no task is running.
    """
    if n_threads == 1 or n_tasks == 1:
        for i in range(n_tasks):
            meter.add(task(i))
        return
    numbers, stop, failures = itertools.count(), threading.Event(), []

    def work() -> None:
        try:
            while not stop.is_set() and (i := next(numbers)) < n_tasks:
                meter.add(task(i))
        except BaseException as failure:  # handed to the caller, whatever it is
            failures.append(failure)
            stop.set()

    workers = [threading.Thread(target=work, name=f"fastnw-{i}", daemon=True) for i in range(min(n_threads, n_tasks))]
    started = []
    try:
        for worker in workers:
            worker.start()
            started.append(worker)
        for worker in workers:
            while worker.is_alive():
                worker.join(0.1)  # a bounded wait lets Ctrl-C through on every platform
    finally:
        stop.set()
        for worker in started:
            worker.join()
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
    the second, the last would leave the process at one.
    """

    def __init__(self) -> None:
        self._reset()
        if hasattr(os, "register_at_fork"):  # another thread may hold the lock while this one forks
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lock, self._depth, self._limits = threading.Lock(), 0, None

    def __enter__(self) -> None:
        from threadpoolctl import threadpool_limits

        with self._lock:
            if self._depth == 0:
                self._limits = threadpool_limits(1, user_api="blas")
            self._depth += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                assert self._limits is not None
                self._limits.restore_original_limits()
                self._limits = None


one_blas_thread = _BlasGuard()
