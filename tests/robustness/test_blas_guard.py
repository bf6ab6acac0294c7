"""BLAS is held to one thread inside a tile run, by whichever threads, and has its own number again afterwards.

Each program runs in a fresh interpreter: threadpoolctl remembers which thread set a limit last, and what ran before may
have left BLAS at any number.
"""

from __future__ import annotations

import os

import fresh
import pytest

PREAMBLE = """
import os, threading
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import scipy.linalg, threadpoolctl
import fastnw
from fastnw.runtime.threads import one_blas_thread

def blas():
    info = threadpoolctl.threadpool_info()
    return sorted({library["num_threads"] for library in info if library["user_api"] == "blas"})

# More than the guard's, on a machine of one core, too. Set by a thread that then ends, it is nobody's.
def set_two():
    threadpoolctl.threadpool_limits(2, user_api="blas")

setting = threading.Thread(target=set_two)
setting.start()
setting.join()
print(blas())
rng = np.random.default_rng(0)
queries, values = rng.normal(size=(1100, 2)), rng.normal(size=1100)
"""


def after(program):
    """The lines that `program` prints; skipped where BLAS cannot be limited."""
    lines = fresh.run(PREAMBLE + program).splitlines()
    if lines[0] != "[2]":
        pytest.skip(f"threadpoolctl sets no BLAS threads here: {lines[0]}")
    return lines[1:]


def test_one_guard():
    program = """
with one_blas_thread:
    print(blas())
    with one_blas_thread:
        print(blas())
    print(blas())
print(blas())
try:
    with one_blas_thread:
        raise KeyError
except KeyError:
    print(blas())
"""
    assert after(program) == ["[1]", "[1]", "[1]", "[2]", "[2]"]


def test_overlapping_guards_of_two_threads():
    """The first to come is the first to leave and lives on: the second must still be guarded, and then give back."""
    program = """
came, second, left, seen = (threading.Event() for _ in range(4))

def first_work():
    with one_blas_thread:
        came.set()
        assert second.wait(30)
    left.set()
    assert seen.wait(30)

def second_work():
    assert came.wait(30)
    with one_blas_thread:
        second.set()
        assert left.wait(30)
        print(blas())
    print(blas())
    seen.set()

threads = [threading.Thread(target=work) for work in (first_work, second_work)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(blas())
with one_blas_thread:
    print(blas())
print(blas())
"""
    assert after(program) == ["[1]", "[2]", "[2]", "[1]", "[2]"]


def test_a_guard_beside_a_limit_of_the_main_thread():
    """As in a task of scikit-learn, which limits BLAS in the main thread."""
    program = """
def work():
    with one_blas_thread:
        print(blas())

with threadpoolctl.threadpool_limits(2, user_api="blas"):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    print(blas())
"""
    assert after(program) == ["[1]", "[2]"]


@pytest.mark.parametrize("callers", [1, 4])
def test_calls_give_back_what_they_took(callers):
    program = f"""
with ThreadPoolExecutor({callers}) as pool:
    def call(_):
        return fastnw.pool(queries, queries, values, backend="reference", n_jobs=2)
    list(pool.map(call, range(12)))
    print(blas())
print(blas())
"""
    assert after(program) == ["[2]", "[2]"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_forked_under_the_guard_gets_its_threads_back():
    program = """
with one_blas_thread:  # as another thread of the parent might be
    child = os.fork()
    if child == 0:
        with one_blas_thread:
            pass
        os._exit(blas() != [2])
print(blas(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert after(program) == ["[2] 0"]
