"""Threads change no bit, may be many and overlap, fail once and leave no thread behind."""

from __future__ import annotations

import _thread
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import fresh
import numpy as np
import pytest
from by_method import SIZES, WAYS, options
from by_method import cloud as cloud_of

import fastnw
from fastnw.runtime import hardware
from fastnw.runtime.threads import Meter, run

SILENT = Meter(False, 0, "")


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = _thread._count()
    yield
    deadline = time.monotonic() + 1  # those that are about to end may
    while _thread._count() > before and time.monotonic() < deadline:
        time.sleep(0.001)
    assert _thread._count() <= before


def cloud(m, n, columns=None, d=3, dtype="float64", far=0.0):
    """Queries, keys, values; of the queries, every third is moved by `far`."""
    rng = np.random.default_rng(m + n)
    queries, keys = rng.normal(size=(m, d)), rng.normal(size=(n, d))
    queries[::3] += far
    values = rng.normal(size=n if columns is None else (n, columns))
    return tuple(array.astype(dtype) for array in (queries, keys, values))


# Each has over 2^20 pairs, below which one thread does it all.
SHAPES = {
    "few queries, many keys": {"m": 5, "n": 300_000},
    "many queries, few keys": {"m": 120_000, "n": 20},
    "square": {"m": 1500, "n": 1500, "columns": 3},
    "tails": {"m": 600, "n": 3000, "far": 300.0},
    "far tails": {"m": 300, "n": 4000, "columns": 2, "far": 1e7},
}
KERNELS = ["gaussian", "laplacian", "epanechnikov", "cauchy", "dot"]


@pytest.mark.filterwarnings("ignore::fastnw.EmptyWindowWarning")
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_number_of_threads_changes_no_bit(shape, kernel, dtype):
    arrays = cloud(**SHAPES[shape], dtype=dtype)
    weights = np.random.default_rng(1).uniform(0.5, 2, size=len(arrays[1]))
    options = {"kernel": kernel, "bandwidth": [0.5, 0.7, 0.9], "sample_weight": weights}
    single = fastnw.pool(*arrays, **options, n_jobs=1, return_mass=True, return_error=True)
    for n_jobs in (2, 4):
        several = fastnw.pool(*arrays, **options, n_jobs=n_jobs, return_mass=True, return_error=True)
        for a, b in zip(single, several, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float64"])
def test_the_number_of_threads_changes_no_bit_of_the_rest(backend, dtype):
    """The reference backend, user kernels, whitened coordinates, left-out keys, weights and densities."""
    queries, keys, values = cloud(1100, 1100, 2)
    matrix = np.array([[0.5, 0.1, 0.0], [0.1, 0.4, 0.2], [0.0, 0.2, 0.9]])
    student = fastnw.Kernel("student", lambda u2: 1 / (1 + u2) ** 2)
    calls = [
        lambda **n: fastnw.pool(queries, keys, values, bandwidth=matrix, exclude_self=True, backend=backend, **n),
        lambda **n: fastnw.density(queries, keys, bandwidth=matrix, backend=backend, **n),
        lambda **n: fastnw.attention_weights(queries, keys, backend=backend, **n),
        lambda **n: np.stack(fastnw.attention_weights(queries, keys, top_k=4, backend=backend, **n)),
    ]
    if backend == "reference":
        calls.append(lambda **n: fastnw.pool(queries, keys, values, kernel=student, **n))
    for call in calls:
        single = call(n_jobs=1)
        for n_jobs in (2, 4):
            np.testing.assert_array_equal(single, call(n_jobs=n_jobs))


@pytest.mark.filterwarnings("ignore::fastnw.EmptyWindowWarning")
@pytest.mark.parametrize("runs", [1, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", WAYS)
def test_every_method_gives_the_same_bits_run_after_run(way, runs):
    arrays = cloud_of(way, *SIZES[way])
    asked = options(way) | {"return_mass": True, "return_error": True}
    expected = [part.tobytes() for part in fastnw.pool(*arrays, **asked, n_jobs=1)]
    for n_jobs in (2, 4, 1)[: 2 if runs == 1 else 3]:
        for _ in range(runs):
            assert [part.tobytes() for part in fastnw.pool(*arrays, **asked, n_jobs=n_jobs)] == expected


def test_concurrent_calls():
    """Eight Python threads, each with a problem, a backend and a number of threads of its own."""
    problems = [cloud(1100 + i, 1000, 1 + i % 3, far=(0.0, 300.0)[i % 2]) for i in range(8)]
    options = [{"backend": ("compiled", "reference")[i % 4 == 3]} for i in range(8)]
    alone = [fastnw.pool(*p, **o, n_jobs=1) for p, o in zip(problems, options, strict=True)]
    barrier = threading.Barrier(8)

    def work(i):
        barrier.wait(30)
        return [fastnw.pool(*problems[i], **options[i], n_jobs=1 + i % 4) for _ in range(3)]

    with ThreadPoolExecutor(8) as pool:
        for expected, repeated in zip(alone, pool.map(work, range(8)), strict=True):
            for got in repeated:
                np.testing.assert_array_equal(got, expected)


def test_first_transforms_at_once_leave_filters_of_warnings_alone():
    """Those belong to the process: a thread must not restore what it found while another one had changed them."""
    program = """
    import sys, threading, time, warnings
    import numpy as np
    import fastnw
    rng = np.random.default_rng(0)
    queries, keys, values = rng.normal(size=(500, 1)), rng.normal(size=(500, 1)), rng.normal(size=500)
    begun = threading.Event()

    class Slow:
        def find_spec(self, name, path=None, target=None):
            if name == "finufft":
                begun.set()
                time.sleep(1)

    def work():
        fastnw.pool(queries, keys, values, bandwidth=0.5, method="fourier")

    fastnw.pool(queries, keys, values, bandwidth=0.5, method="exact")
    sys.meta_path.insert(0, Slow())
    first, second = threading.Thread(target=work), threading.Thread(target=work)
    first.start()
    assert begun.wait(30)
    second.start()
    first.join()
    second.join()
    try:
        warnings.warn("an error, as this process was told to take it", DeprecationWarning)
    except DeprecationWarning:
        print("told")
    """
    assert fresh.run(program) == "told"


def test_transforms_at_once_leave_filters_of_warnings_alone():
    """finufft sets them aside whenever it plans one, and that takes long here."""
    program = """
    import itertools, time, warnings
    import numpy as np
    import fastnw
    from fastnw.methods.fourier import transforms

    transforms.library()  # old finuffts warn as they are loaded
    from finufft import _interfaces

    class Slow:
        catch_warnings, warn = warnings.catch_warnings, warnings.warn

        def simplefilter(*arguments):
            warnings.simplefilter(*arguments)
            time.sleep(next(seconds))

    seconds = itertools.count(0, 0.02)
    _interfaces.warnings = Slow
    rng = np.random.default_rng(0)
    points, values = rng.normal(size=(2_000_000, 1)), np.ones(2_000_000)
    fastnw.pool(points, points, values, bandwidth=0.5, method="fourier", n_jobs=4)
    try:
        warnings.warn("an error, as this process was told to take it", DeprecationWarning)
    except DeprecationWarning:
        print("told")
    """
    assert fresh.run(program) == "told"


def test_the_first_exception_surfaces_once_and_stops_the_rest():
    done = []

    def task(i):
        if i == 5:
            raise ZeroDivisionError("in task 5")
        done.append(i)
        return 1.0

    for n_threads in (1, 2, 4):
        done.clear()
        with pytest.raises(ZeroDivisionError, match="in task 5") as error:
            run(task, 100_000, n_threads, SILENT)
        assert error.value.__cause__ is None
        assert error.value.__context__ is None
        assert len(done) < 100_000


def test_every_task_runs_once():
    counts = [0] * 1000

    def task(i):
        counts[i] += 1
        return 0.0

    for n_threads in (1, 2, 7, 5000):
        run(task, 1000, n_threads, SILENT)
    assert counts == [4] * 1000
    run(task, 0, 3, SILENT)
    assert counts == [4] * 1000


@pytest.mark.parametrize("allowed", [0, 1])
def test_fewer_threads_than_asked_for(allowed, monkeypatch):
    """Where a limit on processes lets no more start, those that have do the work, or else the caller."""
    start, left = _thread.start_new_thread, []

    def limited(*arguments):
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()
        return start(*arguments)

    monkeypatch.setattr(_thread, "start_new_thread", limited)
    arrays = cloud(1500, 1500)
    expected = fastnw.pool(*arrays, n_jobs=1)
    for _ in range(2):
        left[:] = [None] * allowed
        np.testing.assert_array_equal(fastnw.pool(*arrays, n_jobs=4), expected)
        left[:] = [None] * allowed
        with pytest.raises(ZeroDivisionError):
            run(lambda i: 1 / (i - 5), 1000, 4, SILENT)


def test_an_exception_in_a_users_kernel():
    armed = threading.Event()

    def profile(u2):
        if armed.is_set():
            raise LookupError("the profile's own")
        return 1 / (1 + u2)

    kernel, arrays = fastnw.Kernel("fragile", profile), cloud(1100, 1000)
    before = fastnw.pool(*arrays, kernel=kernel, n_jobs=4)
    armed.set()
    with pytest.raises(LookupError, match="the profile's own"):
        fastnw.pool(*arrays, kernel=kernel, n_jobs=4)
    armed.clear()
    np.testing.assert_array_equal(fastnw.pool(*arrays, kernel=kernel, n_jobs=4), before)


@pytest.mark.parametrize(
    ("n_jobs", "expected"), [(-1, 6), (-2, 5), (-6, 1), (-7, 1), (-100, 1), (1, 1), (3, 3), (40, 40), (np.int64(2), 2)]
)
def test_n_jobs_as_in_joblib(monkeypatch, n_jobs, expected):
    monkeypatch.setattr(hardware, "_cores", lambda: 6)
    monkeypatch.setenv("FASTNW_NUM_THREADS", "5")  # an explicit number goes first
    assert hardware.n_threads(n_jobs) == expected
    assert fastnw.plan([[0.0]], [[0.0]], n_jobs=n_jobs).n_threads == expected


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, 6),
        ({"OMP_NUM_THREADS": "4"}, 4),
        ({"OMP_NUM_THREADS": "4,2"}, 4),  # OpenMP's form for nested teams
        ({"FASTNW_NUM_THREADS": "3", "OMP_NUM_THREADS": "4"}, 3),
        ({"FASTNW_NUM_THREADS": " ", "OMP_NUM_THREADS": "4"}, 4),
        ({"FASTNW_NUM_THREADS": "", "OMP_NUM_THREADS": ""}, 6),
        ({"FASTNW_NUM_THREADS": "12"}, 12),
    ],
)
def test_environment_variables_for_threads(monkeypatch, variables, expected):
    monkeypatch.setattr(hardware, "_cores", lambda: 6)
    for name in ("FASTNW_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    assert hardware.n_threads() == expected
    assert fastnw.plan([[0.0]], [[0.0]]).n_threads == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity to set")
def test_affinity_limits_the_threads():
    program = """
    import os
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import fastnw
    print([fastnw.plan([[0.0]], [[0.0]], n_jobs=n).n_threads for n in (None, -1, 3)])
    """
    assert fresh.run(program) == "[1, 1, 3]"
