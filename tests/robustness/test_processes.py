"""Beside other processes and libraries: children of every kind, forks at any moment, imports in any order."""

from __future__ import annotations

import itertools
import os

import frameworks
import fresh
import pytest
from by_method import WAYS

PREAMBLE = f"""
import os, sys, threading, time, warnings
import numpy as np
import fastnw

WAYS = {WAYS!r}

def answer(way, n_jobs=2, m=1100, n=1000):
    options = dict(WAYS[way])
    rng, d = np.random.default_rng(3), options.pop("d")
    queries, keys, values = rng.normal(size=(m, d)), rng.normal(size=(n, d)), rng.normal(size=n)
    return fastnw.pool(queries, keys, values, empty=0.0, n_jobs=n_jobs, **options)
"""

CHILDREN = f"""{PREAMBLE}
import contextlib, multiprocessing

def answers(_=None):
    return [answer(way) for way in WAYS]

def busy(stop):
    while not stop.is_set():
        answers()

if __name__ == "__main__":
    expected = answers()  # every method and backend, with threads and the BLAS guard, has been used
    with contextlib.suppress(ValueError):  # says that there is no GPU
        fastnw.pool([[0.0]], [[0.0]], [1.0], backend="cuda")
    stop = threading.Event()
    background = threading.Thread(target=busy, args=(stop,), daemon=True)
    if sys.argv[2] == "busy":  # and may be in use, locks held, at the very moment of a fork
        background.start()
    if sys.argv[1] == "loky":
        import joblib
        got = joblib.Parallel(n_jobs=2)(joblib.delayed(answers)() for _ in range(3))
    else:
        with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
            got = [job.get(60) for job in [pool.apply_async(answers) for _ in range(4)]]
    stop.set()
    assert all(np.array_equal(a, b) for child in got for a, b in zip(child, expected))
    print("done", len(got))
"""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.mark.parametrize("state", ["idle", "busy"])
@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn", "loky"])
def test_children(start, state, tmp_path):
    if start in ("fork", "forkserver") and not hasattr(os, "fork"):
        pytest.skip(f"this system has no {start}")
    if state == "busy" and start != "fork":
        pytest.skip("only a fork copies what its parent is doing")
    program = tmp_path / "program.py"  # children by spawn import the main module
    program.write_text(CHILDREN, encoding="utf-8")
    # Python warns of forks beside threads; that they work all the same is what is tested
    call = f"import runpy, sys, warnings; warnings.simplefilter('ignore'); sys.argv = ['', {start!r}, {state!r}]"
    assert fresh.run(f"{call}\nrunpy.run_path({str(program)!r}, run_name='__main__')").startswith("done")


FORK = """
def in_child(call):
    # whether a child that is forked now can do that, and does not fail, within 30 s
    warnings.simplefilter("ignore")  # of forks beside threads
    child = os.fork()
    if child == 0:
        try:
            call()
            os._exit(0)
        finally:
            os._exit(1)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return False
"""


@needs_fork
def test_a_fork_while_another_thread_makes_what_is_kept():
    """In the child nobody would ever finish it, nor release a lock that is held meanwhile."""
    program = f"""{PREAMBLE}{FORK}
from fastnw.runtime.cached import cached_property

entered, release = threading.Event(), threading.Event()

class Kept:
    def __init__(self, slow):
        self.slow = slow

    @cached_property
    def summary(self):
        if self.slow:
            entered.set()
            release.wait(60)
        return object()

maker = threading.Thread(target=lambda: Kept(True).summary)
maker.start()
entered.wait(30)
print(in_child(lambda: Kept(False).summary))
release.set()
maker.join()
kept = Kept(False)
print(kept.summary is kept.summary)
"""
    assert fresh.run(program).split() == ["True", "True"]


@needs_fork
def test_a_fork_while_another_thread_compiles():
    program = f"""{PREAMBLE}{FORK}
from fastnw.backends.numba import build

entered = threading.Event()

def compile():
    with build._lock:  # as whoever compiles holds it
        entered.set()
        time.sleep(1)

threading.Thread(target=compile).start()
entered.wait(30)
print(in_child(lambda: answer("numba")))
"""
    assert fresh.run(program) == "True"


@needs_fork
@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=() if way in ("tree", "fourier", "numba") else pytest.mark.slow) for way in WAYS]
)
def test_forks_while_another_thread_sums(way):
    """At 60 moments: what another thread holds then, a lock of a library's own included, the child never gets."""
    program = f"""{PREAMBLE}{FORK}
sizes = {{"m": 1500, "n": 4000}} if {way!r} != "reference" else {{}}
expected = answer({way!r}, **sizes)
stop, wrong = threading.Event(), []

def busy():
    while not stop.is_set():
        answer({way!r}, **sizes)

def check():
    if not np.array_equal(answer({way!r}, **sizes), expected):
        os._exit(1)

background = threading.Thread(target=busy)
background.start()
for k in range(60):
    time.sleep(0.002 + 0.0007 * (k % 13))
    if not in_child(check):
        wrong.append(k)
        break
stop.set()
background.join()
print(wrong)
"""
    assert fresh.run(program) == "[]"


USES = {
    "fastnw": "assert np.array_equal(answer('exact'), answer('exact', 1)); answer('numba'); answer('fourier')",
    "sklearn": "from sklearn.ensemble import HistGradientBoostingRegressor as Model; Model(max_iter=5).fit(A, A[:, 0])",
    "torch": "T = torch.from_numpy(A); torch.set_num_threads(2); assert torch.allclose(T @ T, torch.from_numpy(A @ A))",
}


@pytest.mark.parametrize("order", list(itertools.permutations(USES)), ids="-".join)
def test_with_torch_and_scikit_learn_in_every_order(order):
    """Each is used when it has been imported and again at the end, in a forked child, too."""
    frameworks.module("torch")
    program = [
        "import warnings; warnings.simplefilter('ignore')",
        "import numpy as np",
        "A = np.ones((400, 400)) / 400",
    ]
    for name in order:
        program += [PREAMBLE if name == "fastnw" else f"import {name}", USES[name]]
    program += [USES[name] for name in USES]
    if hasattr(os, "fork"):
        program += [FORK, "assert in_child(lambda: [answer(way) for way in WAYS])"]
    assert fresh.run("\n".join([*program, "print('done')"])) == "done"
