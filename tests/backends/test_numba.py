"""The Numba backend: the built-ins against the oracle, users' kernels against the reference, and its cache."""

from __future__ import annotations

import math
import os
import re
import threading
import warnings
from pathlib import Path

import fresh
import numpy as np
import pytest
from cases import CASES, KERNELS
from oracle import naive_pool
from parity import PROMISE, check

import fastnw
from fastnw import backends
from fastnw.core.pack import pack_inverse, pack_keys, pack_queries
from fastnw.core.state import Sums
from fastnw.core.validate import build
from fastnw.kernels import sensitivity

pytest.importorskip("numba")
pytestmark = pytest.mark.filterwarnings("ignore::fastnw.EmptyWindowWarning")

BY_NAME = {case.name: case for case in CASES}
# Each module of tiles takes seconds to compile, so any number of coordinates for all kernels, and 1, 2, 3 in the loop
# that keeps all in registers for one kernel of each kind.
GENERAL = [
    "d2 matrix weights scale",
    "d8 vector without self",
    "d17 matrix weights scale",
    "d5 long weights columns",
    "d4 long vector",
    "d60 long",
]
FUSED = ["d3 long", "d3 long without self", "one key", "many keys"]
KINDS = ["gaussian", "matern52", "boxcar", "cosine", "cauchy"]


@pytest.mark.parametrize("case", GENERAL)
@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [(kernel, "float32") for kernel in KERNELS]
    + [(kernel, "float64") for kernel in KINDS]
    + [pytest.param(kernel, "float64", marks=pytest.mark.slow) for kernel in KERNELS if kernel not in KINDS],
)
def test_any_number_of_coordinates(kernel, case, dtype):
    check(kernel, BY_NAME[case], dtype, "numba", "exact")


@pytest.mark.parametrize("case", FUSED)
@pytest.mark.parametrize(("kernel", "dtype"), [*((kernel, "float32") for kernel in KINDS), ("gaussian", "float64")])
def test_three_coordinates(case, kernel, dtype):
    check(kernel, BY_NAME[case], dtype, "numba", "exact")


@pytest.mark.parametrize("case", ["d1", "d1 long", "d2", "d2 long"])
def test_one_and_two_coordinates(case):
    check("gaussian", BY_NAME[case], "float32", "numba", "exact")


def test_far_tails_go_through_the_shifted_sums(dtype):
    rng = np.random.default_rng(5)
    keys = rng.normal(size=(3000, 3)).astype(dtype)
    queries = (keys[:40] * 12).astype(dtype)
    values = np.sin(keys[:, 0])
    options = {"bandwidth": 0.4, "method": "exact"}
    expected = fastnw.pool(queries, keys, values, backend="compiled", **options)
    got, log_mass = fastnw.pool(queries, keys, values, backend="numba", return_mass=True, **options)
    assert np.abs(got - expected).max() <= 2 * PROMISE[dtype]
    assert np.isfinite(log_mass).all()
    assert log_mass.min() < -200


def test_density_has_no_values(dtype):
    keys = np.random.default_rng(6).normal(size=(2000, 3)).astype(dtype)
    expected = fastnw.density(keys[:50], keys, bandwidth=0.5, backend="reference")
    got = fastnw.density(keys[:50], keys, bandwidth=0.5, backend="numba")
    np.testing.assert_allclose(got, expected, rtol=PROMISE[dtype])


def test_the_same_bits_on_any_number_of_threads(dtype):
    queries, keys, values, options = BY_NAME["d3 long without self"].problem(dtype)
    runs = [
        fastnw.pool(queries, keys, values, backend="numba", n_jobs=jobs, method="exact", **options)
        for jobs in (1, 2, 4)
    ]
    assert runs[0].tobytes() == runs[1].tobytes() == runs[2].tobytes()


# What users write. The last two cannot be traced to a text, so Numba compiles the functions themselves.
def sharp(u2):
    return 1.0 if u2 < 0.5 else 0.25


def table(u2):
    total = 0.0
    for k in range(3):
        total += 0.5**k / (1 + u2) ** (k + 1)
    return total if total > 1e-3 else 1e-3


USERS = {
    "student": (lambda u2: 1 / (1 + u2) ** 2, {}),
    "gaussian": (lambda u2: math.exp(-u2 / 2), {"log_profile": lambda u2: -u2 / 2}),
    "gaussian without its logarithm": (lambda u2: np.exp(-u2 / 2), {}),
    "sech": (lambda u2: 2 / (np.exp(np.sqrt(u2)) + np.exp(-np.sqrt(u2))), {}),
    "bump": (lambda u2: (1 - u2 / 4) ** 2, {"support": 2.0}),
    "box": (lambda u2: 1.0, {"support": 1.5}),
    "cut off": (lambda u2: math.exp(-u2), {"support": 1.0, "log_profile": lambda u2: -u2}),
    "not monotone": (lambda u2: 0.2 + np.sin(u2) ** 2 / (1 + u2), {}),
    "sharp": (sharp, {}),
    "table": (table, {}),
}
FLOAT64_TOO = ("student", "cut off", "table")  # quickly: one without support, one with a jump, one that is not traced


@pytest.mark.parametrize(
    ("name", "case", "dtype"),
    [(name, "d3 long", "float32") for name in USERS]
    + [
        pytest.param(name, "d5 long weights columns", "float64", marks=() if name in FLOAT64_TOO else pytest.mark.slow)
        for name in USERS
    ],
)
def test_a_users_kernel(name, case, dtype):
    """Within the bound that it claims, and the promise; the oracle is the reference in float64."""
    profile, facts = USERS[name]
    kernel = fastnw.Kernel(name, profile, **facts)
    queries, keys, values, options = BY_NAME[case].problem(dtype)
    wide = [np.asarray(a, np.float64) for a in (queries, keys, values)]
    jumps = name in ("box", "sharp", "cut off")  # where a key at the jump may count or not, which is said
    with warnings.catch_warnings():
        if jumps:
            warnings.simplefilter("ignore", fastnw.AccuracyWarning)
        expected, log_mass = fastnw.pool(*wide, kernel=kernel, backend="reference", return_mass=True, **options)
        got, got_log_mass, bound = fastnw.pool(
            queries, keys, values, kernel=kernel, backend="numba", return_mass=True, return_error=True, **options
        )
    empty = np.isneginf(log_mass)
    assert np.array_equal(np.isneginf(got_log_mass), empty)
    error = np.abs(got - expected).reshape(len(got), -1).max(axis=1)[~empty]
    rounding = np.finfo(dtype).eps * np.abs(values).max()
    assert np.all(error <= bound[~empty] + rounding)
    if not jumps:
        assert np.all(error <= PROMISE[dtype] * np.ptp(values, axis=0).max() + rounding)
        np.testing.assert_allclose(got_log_mass[~empty], log_mass[~empty], rtol=PROMISE[dtype], atol=PROMISE[dtype])


def test_auto_takes_numba_for_a_users_kernel_on_many_pairs():
    student = fastnw.Kernel("student", lambda u2: 1 / (1 + u2) ** 2)
    few, many = np.zeros((10, 1)), np.zeros((6000, 1))
    assert fastnw.plan(few, few, few[:, 0], kernel=student).backend == "reference"
    assert fastnw.plan(many, many, many[:, 0], kernel=student).backend == "numba"
    assert fastnw.plan(many, many, many[:, 0]).backend == "compiled"


def test_in_estimators_and_weights():
    student = fastnw.Kernel("student", lambda u2: 1 / (1 + u2) ** 2)
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(300, 2)), rng.normal(size=300)
    model = fastnw.NadarayaWatsonRegressor(kernel=student, bandwidth=0.5, backend="numba").fit(x, y)
    weights = fastnw.attention_weights(x[:20], x, kernel=student, bandwidth=0.5, backend="numba")
    np.testing.assert_allclose(model.predict(x[:20]), weights @ y, rtol=1e-12)
    kappa = 1 / (1 + ((x[:20, None] - x) ** 2).sum(axis=2) / 0.25) ** 2
    np.testing.assert_allclose(weights, kappa / kappa.sum(axis=1, keepdims=True), rtol=1e-12)


def unknown_to_numba(u2):
    if u2 < 0:
        return 0.0
    return float(str(1.0)[:3]) / (1 + float(u2)) + len(os.environ) * 0


def test_what_numba_cannot_compile_names_the_users_line():
    kernel = fastnw.Kernel("odd", unknown_to_numba)
    with pytest.raises(ValueError, match="odd") as caught:
        fastnw.pool(np.zeros((2, 1)), np.zeros((3, 1)), np.ones(3), kernel=kernel, backend="numba")
    message = str(caught.value)
    assert "backend='numba' cannot run this" in message
    assert Path(__file__).name in message
    assert "os.environ" in message or "def unknown_to_numba" in message
    # and without being asked for Numba, it still runs
    got = fastnw.pool(np.zeros((2, 1)), np.zeros((3, 1)), np.ones(3), kernel=kernel)
    np.testing.assert_array_equal(got, 1.0)


@pytest.mark.parametrize("name", [*KERNELS, *USERS])
def test_log_sensitivity_bounds_small_changes(name):
    """Random steps of u², much smaller than the grid's, never change κ by more than is claimed."""
    kernel = fastnw.Kernel(name, USERS[name][0], **USERS[name][1]) if name in USERS else fastnw.kernels.get(name)
    if kernel.inner_product or kernel.needs_pair_bounds:
        assert name in ("dot", "box", "cut off", "sharp", "table", "not monotone")
        return
    rng = np.random.default_rng(9)
    u2 = rng.uniform(0, kernel.support, 5000) ** 2 if kernel.support else np.exp(rng.uniform(-10, 8, 5000))
    error = 1e-6
    moved = u2 * (1 + error * rng.uniform(-1, 1, 5000))
    if kernel.support:
        moved = np.minimum(moved, kernel.support**2)
    before, after = (np.asarray(kernel.profile(x), float) for x in (u2, moved))
    seen = before > 1e-250
    noise = 1e-15 * before[seen] * (1 + np.abs(np.log(before[seen])))
    change = np.abs(after - before)[seen]
    if kernel.support:
        assert np.all(change <= kernel.window_sensitivity * error + noise)
    else:
        a, b, log_peak = kernel.log_sensitivity
        depth = np.maximum(log_peak - np.log(before[seen]), 0)
        assert np.all(change <= before[seen] * error * (a + b * depth) + noise)


def test_kernels_that_jump_have_no_sensitivity():
    assert sensitivity.proof(fastnw.Kernel("sharp", sharp)) is None
    assert sensitivity.proof(fastnw.Kernel("box", lambda u2: 1.0, support=1.0)) is None
    assert fastnw.Kernel("step", lambda u2: np.where(u2 < 4, 1.0, 0.0)).needs_pair_bounds
    assert not fastnw.Kernel("student", lambda u2: 1 / (1 + u2) ** 2).needs_pair_bounds


def test_exp2_and_sin():
    from fastnw.backends.numba import functions as functions

    for dtype, most in ((np.float32, 2e-7), (np.float64, 1e-15)):
        name = np.dtype(dtype).name
        y = -np.random.default_rng(1).uniform(0, 120, 2000).astype(dtype)
        exact = np.exp2(y.astype(np.longdouble))
        for which in ("exp2_falling", "exp2"):
            got = np.array([getattr(functions, f"{which}_{name}")(x) for x in y], np.longdouble)
            assert np.abs(got / exact - 1).max() <= most
        x = np.random.default_rng(2).uniform(-50, 50, 2000).astype(dtype)
        for which in ("sin", "cos"):
            got = np.array([getattr(functions, f"{which}_{name}")(v) for v in x], np.longdouble)
            assert np.abs(got - getattr(np, which)(x.astype(np.longdouble))).max() <= 4 * np.finfo(dtype).eps
    assert functions.exp2_float32(np.float32(3)) == 8
    assert functions.exp2_float64(1000.0) == 2.0**1000
    assert np.nextafter(0, 1) > 0


PROGRAM = """
import sys
import numpy as np, fastnw
assert "numba" not in sys.modules
queries = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
kernel = fastnw.Kernel("student", lambda u2: 1 / (1 + u2) ** 2)
fastnw.pool(queries, queries, queries[:, 0])
assert "numba" not in sys.modules
print(fastnw.pool(queries, queries, queries[:, 0], kernel=kernel, backend="numba")[0])
from fastnw.backends.numba import build
module = build.tiles(kernel, "float32", 3)
print(sum(module.tile.stats.cache_hits.values()), sum(module.tile.stats.cache_misses.values()), module.__name__)
"""


def run_program(folder):
    return fresh.run(PROGRAM, NUMBA_CACHE_DIR=str(folder)).split()


def test_compiled_once_and_kept_on_disk(tmp_path):
    first = run_program(tmp_path)
    assert first[1:3] == ["0", "1"]
    kept = sorted((path, path.stat().st_size) for path in tmp_path.rglob("*") if path.is_file())
    second = run_program(tmp_path)
    assert second == [first[0], "1", "0", first[3]]
    assert sorted((path, path.stat().st_size) for path in tmp_path.rglob("*") if path.is_file()) == kept


def test_nothing_can_be_written(tmp_path):
    """Compiled in memory. A file stands where the folder would be, which stops the superuser, too."""
    (tmp_path / "fastnw").write_text("in the way")
    run = run_program(tmp_path)
    assert run[1:] == ["0", "1", "fastnw_tiles"]
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".py"] == []


def test_python_threads_call_at_once():
    rng = np.random.default_rng(3)
    keys = rng.normal(size=(2000, 3)).astype(np.float32)
    values = np.sin(keys[:, 0])
    kernel = fastnw.Kernel("quartic tail", lambda u2: 1 / (1 + u2 * u2))
    results, failures = [None] * 8, []

    def work(i):
        try:
            for _ in range(5):
                results[i] = fastnw.pool(keys[:200], keys, values, kernel=kernel, backend="numba", n_jobs=2)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len({result.tobytes() for result in results}) == 1
    f, _ = naive_pool(keys[:3], keys, values, "constant")
    assert np.abs(results[0][:3] - f).max() > 1e-3  # it did weigh


def test_loops_are_vectorised(tmp_path, monkeypatch):
    """What bounds the rounding of sums counts on at least four (two) lanes."""
    from fastnw.backends.numba import build

    for dtype, packed in (("float32", "ps"), ("float64", "pd")):
        kernel = fastnw.Kernel("fresh", lambda u2: 1 / (1 + u2) ** 2.75)  # from no cache, which keeps no assembly
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
        module = build.tiles(kernel, dtype, 3)
        (text,) = module.fused.inspect_asm().values()
        divisions = re.findall(r"\bv?div([ps][sd])\s", text)
        if not divisions:
            pytest.skip("not x86")
        assert divisions.count(packed) >= 4


def test_state_of_a_block_with_several_profiles(dtype):
    queries, keys, values, _ = BY_NAME["d3 long"].problem(dtype)
    options = {"sample_weight": None, "key_scale": None, "exclude_self": False, "tol": None}
    problem = build(queries, keys, values, kernel="gaussian", bandwidth=0.7, **options)
    tiles = backends.choose("numba", problem.kernel, 1e6)
    rows = slice(0, len(queries))
    block, inverse = pack_keys(problem, 0, len(keys), dtype), pack_inverse(problem, dtype)
    q, error = pack_queries(problem, rows, dtype), np.full(len(queries), 1e-6)
    profiles = [(problem.kernel, 1.0), (fastnw.kernels.get("epanechnikov"), 0.5)]
    states = [Sums.empty(len(queries), 1) for _ in profiles]
    states[1].shift[:] = 0
    tiles.sum_several(profiles, q, block, inverse, None, states, error)
    for (kernel, factor), state in zip(profiles, states, strict=True):
        alone = Sums.empty(len(queries), 1)
        alone.shift[:] = state.shift if kernel.support else -np.inf
        backends.choose("reference", kernel, 1e6).sum_tile(
            kernel, q, block, inverse * inverse.dtype.type(factor), None, alone, error
        )
        np.testing.assert_allclose(state.log_mass(), alone.log_mass(), rtol=1e-4 if dtype == "float32" else 1e-12)


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    with pytest.raises(ValueError, match="NUMBA_DISABLE_JIT"):
        fastnw.pool([[0.0]], [[0.0]], [1.0], backend="numba")
