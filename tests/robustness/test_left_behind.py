"""What uses leave behind in the process: nothing around them is changed, and memory does not grow."""

from __future__ import annotations

import os
import sys

import fresh
import pytest
from by_method import WAYS

PREAMBLE = f"""
import os, sys, threading, time, warnings

def arithmetic():
    # denormals are numbers, and sums are rounded to the nearest: a matter of each thread's processor flags
    least, half = np.nextafter(np.float64(0), np.float64(1)), np.float64(2.0**-53)
    denormal = least > 0 and least * np.float64(1) > 0 and (np.full(64, least) * 1.0 > 0).all()
    small = np.full(64, np.float32(1e-40))
    rounded = 1 + half == 1 and 1 + 3 * half == 1 + 2.0**-51 and -1 - half == -1
    return bool(denormal and (small * np.float32(1) > 0).all() and rounded)

early, checked = threading.Event(), []  # a thread that was there before fastnw

def wait():
    early.wait(60)
    checked.append(arithmetic())

import numpy as np
before_all = threading.Thread(target=wait, daemon=True)
before_all.start()
import fastnw

WAYS = {WAYS!r}

def answer(way, m=1100, n=1000):
    options = dict(WAYS[way])
    rng, d = np.random.default_rng(3), options.pop("d")
    queries, keys, values = rng.normal(size=(m, d)), rng.normal(size=(n, d)), rng.normal(size=n)
    return fastnw.pool(queries, keys, values, empty=0.0, n_jobs=2, **options)
"""

STATE = """
import contextlib, decimal, gc, io, locale, logging, multiprocessing, random, signal
# what other libraries change when they are loaded is theirs
import joblib, numba, scipy.optimize, scipy.spatial, sklearn.neighbors, threadpoolctl, tqdm
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # an old one's own
    import finufft
    with contextlib.suppress(ImportError):
        import matplotlib.pyplot

def state():
    plots = sys.modules.get("matplotlib")
    return {
        "random numbers": repr((np.random.get_state(), random.getstate())),
        "signals": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "path": list(sys.path),
        "hooks": (sys.excepthook, sys.displayhook, threading.excepthook, sys.gettrace(), sys.getprofile()),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "locale": locale.setlocale(locale.LC_ALL),
        "errors": np.geterr(),
        "printing": repr(np.get_printoptions()),
        "warnings": list(warnings.filters),
        "logging": (list(logging.root.handlers), logging.root.level, logging.root.manager.disable),
        "limits": (sys.getswitchinterval(), sys.getrecursionlimit(), gc.isenabled(), gc.get_threshold()),
        "decimals": str(decimal.getcontext()),
        "way to start processes": multiprocessing.get_start_method(allow_none=True),
        "BLAS": [(x["filepath"], x["num_threads"]) for x in threadpoolctl.threadpool_info()],
        "plots": None if plots is None else (dict(plots.rcParams), matplotlib.pyplot.get_fignums()),
        # without what `threading` makes up, and before 3.12 keeps, of threads that were not started by itself
        "threads": [thread for thread in threading.enumerate() if not isinstance(thread, threading._DummyThread)],
    }
"""


def test_first_uses_leave_the_process_as_it_was():
    """Step by step; nothing is printed. Arithmetic is looked at in fastnw's own threads, too, as tasks end there."""
    program = f"""{PREAMBLE}{STATE}
from fastnw.runtime import threads

caller, add, workers = threading.get_ident(), threads.Meter.add, []

def looking(self, pairs):
    if threading.get_ident() != caller:
        workers.append(arithmetic())
    add(self, pairs)

threads.Meter.add = looking
before, steps = state(), []

def step(name, call, threads=False):
    global before
    workers.clear()
    call()
    after = state()
    steps.extend(f"{{name}}: {{what}}" for what in before if after[what] != before[what])
    if not (arithmetic() and all(workers)):
        steps.append(f"{{name}}: arithmetic")
    if threads and not workers:
        steps.append(f"{{name}}: no thread was looked at")
    before = after

for way in WAYS:
    sizes = {{"m": 70_000, "n": 70_000}} if "moments" in way else {{"m": 5000}} if "tree" in way else {{}}
    step(way, lambda: answer(way, **sizes), threads=True)
rng = np.random.default_rng(0)
X, y = rng.normal(size=(300, 2)), rng.normal(size=300)
step("regressor", lambda: fastnw.NadarayaWatsonRegressor().fit(X, y).predict(X))
step("classifier", lambda: fastnw.NadarayaWatsonClassifier().fit(X, y > 0).predict(X))
step("density", lambda: fastnw.KernelDensity(bandwidth=0.5).fit(X).score_samples(X))
step("samples", lambda: fastnw.KernelDensity(bandwidth=0.5).fit(X).sample(3, random_state=0))
step("bandwidths", lambda: fastnw.select_bandwidth(X, np.sin(3 * X).sum(axis=1), random_state=0))
step("learning", lambda: fastnw.learn_bandwidth(X, np.sin(3 * X).sum(axis=1), epochs=2, random_state=0))
step("a random search", lambda: fastnw.select_bandwidth(X, np.sin(3 * X).sum(axis=1)))
step("weights", lambda: fastnw.attention_weights(X, X, top_k=3))
step("chapter", lambda: fastnw.d2l.nadaraya_watson(X[:, 0], y, X[:, 1], fastnw.d2l.gaussian))
own = fastnw.Kernel("own", lambda u2: 1 / (1 + u2) ** 2)
step("a user's kernel", lambda: fastnw.pool(X, X, y, kernel=own))
with contextlib.redirect_stdout(io.StringIO()):
    before = state()
    step("config", fastnw.show_config)
before = state()
if "matplotlib" in sys.modules:
    from fastnw import plotting
    figure = matplotlib.pyplot.figure()  # the caller's own, to draw on
    before = state()
    step("pictures", lambda: plotting.KernelDisplay.from_kernels(ax=figure.subplots()))
early.set()
before_all.join()
late = threading.Thread(target=lambda: checked.append(arithmetic()))
late.start()
late.join()
print(checked, steps)
"""
    done = fresh.attempt(program, MPLBACKEND="Agg")
    assert done.stderr == ""
    assert done.stdout.strip() == "[True, True] []"


# 100 cycles are there before: modules, thread stacks and the allocator's arenas
MEASURED = """
def mebibytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

for _ in range(100):
    cycle()
before = mebibytes()
for _ in range(int(cycles)):
    cycle()
print(mebibytes() - before)
"""


GROWTH = f"""{PREAMBLE}
early.set()
warnings.simplefilter("ignore")
kind, way, cycles = sys.argv[1:]
make = {{"regressor": fastnw.NadarayaWatsonRegressor, "classifier": fastnw.NadarayaWatsonClassifier}}.get(kind)
make = make or fastnw.KernelDensity
options = dict(WAYS[way]) if way != "defaults" else {{"d": 2}}
rng, d = np.random.default_rng(0), options.pop("d")
X, y = rng.normal(size=(500, d)), rng.normal(size=500)
target = y > 0 if kind == "classifier" else y

def cycle():
    model = make(**options).fit(X, target)
    return model.score_samples(X[:50]) if kind == "density" else model.predict(X[:50])

{MEASURED}
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads Linux's /proc")
@pytest.mark.parametrize(
    ("kind", "way"),
    [
        pytest.param(kind, way, marks=[] if (kind, way) == ("regressor", "defaults") else pytest.mark.slow)
        for kind in ("regressor", "classifier", "density")
        for way in ("defaults", *WAYS)
    ],
)
def test_two_thousand_cycles_of_fit_and_predict(kind, way):
    grown = float(fresh.run(f"import sys; sys.argv = ['', {kind!r}, {way!r}, '2000']\n{GROWTH}", timeout=280))
    print(f"{kind}, {way}: {grown:.1f} MiB", file=sys.stderr)
    assert grown <= 20


CALLS = {
    "every method in turn": "answer(next(ways), m=60, n=500)",
    "a new kernel each time": """
    c = next(counts)
    kernel = fastnw.Kernel("new", lambda u2: 1 / (1 + u2 / c) ** 2)
    answer("exact", m=60, n=500)
    rng = np.random.default_rng(0)
    fastnw.pool(rng.normal(size=(60, 2)), rng.normal(size=(500, 2)), rng.normal(size=500), kernel=kernel)
    """,
    "an error each time": """
    try:
        fastnw.pool(np.full((60, 2), np.nan), np.zeros((50_000, 2)), np.zeros(50_000))
    except ValueError:
        pass
    """,
    "a warning each time": """
    fastnw.pool(np.full((60, 2), 9.0), np.zeros((5000, 2)), np.zeros(5000), kernel="boxcar")
    """,
}


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads Linux's /proc")
@pytest.mark.parametrize("call", CALLS)
def test_two_thousand_calls(call):
    program = f"""{PREAMBLE}
import itertools, warnings
early.set()
warnings.simplefilter("ignore")
ways, counts, cycles = itertools.cycle(WAYS), itertools.count(1), 2000

def cycle():
    {CALLS[call].strip()}

{MEASURED}
"""
    grown = float(fresh.run(program, timeout=280))
    print(f"{call}: {grown:.1f} MiB", file=sys.stderr)
    assert grown <= 20
