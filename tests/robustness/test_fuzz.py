"""Problems of every shape, type and layout that hypothesis thinks of: an answer within the promise, or a plain error.

``FASTNW_FUZZ=100 pytest tests/robustness/test_fuzz.py`` looks at 100 times as many, ``-m slow`` at 20 times.
"""

from __future__ import annotations

import datetime
import math
import os
import warnings
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from cases import COMPACT_KERNELS, KERNELS
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import LONGER, naive_log_density, naive_pool, naive_scaled, naive_weights
from scipy import sparse

import fastnw

MORE = int(os.environ.get("FASTNW_FUZZ", "1"))
TIMES = pytest.mark.parametrize("times", [MORE, pytest.param(20 * MORE, marks=pytest.mark.slow)], ids=["quick", "long"])
pytestmark = [
    pytest.mark.timeout(300 * 20 * MORE),
    pytest.mark.skipif(not LONGER, reason="long double has no more digits, nor a longer range, than double here"),
]

DEFAULT_TOL = {"f8": 1e-8, "f4": 1e-4}
# Each is the exponential of a logarithm that is off by eps: a thousand times as much for exponents of a thousand.
SUM_TO_ONE = {"f8": 1e-11, "f4": 1e-4}
LONG = np.longdouble


def fuzz(examples, strategy, check):
    """Run `check` on that many examples; how often it came to each outcome that it returned."""
    outcomes = Counter()

    @settings(max_examples=examples)
    @given(strategy)
    def one(example):
        outcomes[check(example)] += 1

    one.hypothesis.inner_test.__qualname__ = check.__qualname__  # the database's name for its failures
    one()
    return outcomes


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def every_third(array):
    wide = np.full([3 * size for size in array.shape], 7, array.dtype)  # a number: wrong strides would be silent
    view = wide[tuple(slice(1, None, 3) for _ in array.shape)]
    view[...] = array
    return view


def unaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)[1:]
    raw[:] = np.ascontiguousarray(array).ravel().view(np.uint8)
    return raw.view(array.dtype).reshape(array.shape)


def backwards(array):
    turn = tuple(slice(None, None, -1) for _ in array.shape)
    return array[turn].copy()[turn]


LAYOUTS = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "read-only": read_only,
    "every third": every_third,
    "backwards": backwards,
    "unaligned": unaligned,
    "big-endian": lambda array: array.astype(array.dtype.newbyteorder(">")),
    "broadcast": lambda array: np.broadcast_to(array[:1], array.shape),
}
TYPES = ["f8", "f8", "f8", "f4", "f4", "f2", "i8", "u1", "g", "?"]


def cast(array, kind):
    if kind in ("i8", "u1"):
        array = np.round(array)
        array = np.clip(array, 0, 255) if kind == "u1" else array
    return (array > 0).astype("?") if kind == "?" else array.astype(kind)


def chosen(draw, options):
    return draw(st.sampled_from(options))


def laid_out(draw, array, kind):
    return LAYOUTS[chosen(draw, list(LAYOUTS))](cast(array, kind))


def bandwidths(draw, rng, d, h):
    shape = chosen(draw, ["number", "vector", "matrix"])
    if shape == "number":
        return h
    if shape == "vector":
        return h * rng.uniform(0.5, 2.0, d)
    mixing = np.linalg.qr(rng.normal(size=(d, d)))[0]
    matrix = h * h * (mixing * rng.uniform(0.3, 3.0, d)) @ mixing.T
    return (matrix + matrix.T) / 2


@st.composite
def problems(draw, values=True, methods=("auto", "auto", "auto", "exact", "tree", "moments", "fourier")):
    """Keyword arguments of `fastnw.pool`, or without values of what needs none."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kernel, exclude_self = chosen(draw, KERNELS), chosen(draw, [False, False, True])
    d, n = chosen(draw, [1, 1, 2, 3, 5, 9]), draw(st.integers(1, 40))
    m = n if exclude_self else chosen(draw, [0, 1, 2, 3, 4, 5, 6])
    kinds = [chosen(draw, TYPES)] * 2 if draw(st.booleans()) else [chosen(draw, TYPES), chosen(draw, TYPES)]
    centre = 0.0 if kernel == "dot" or "u1" in kinds else chosen(draw, [0.0, 0.0, -300.0, 2.0**14])
    spread = chosen(draw, [1.0, 1.0, 8.0, 30.0])  # of the queries, in bandwidths about
    if kernel == "dot":
        spread = 1.0
    keys = laid_out(draw, centre + rng.normal(size=(n, d)) * chosen(draw, [0.0, 1.0, 1.0, 4.0]), kinds[0])
    queries = keys if exclude_self else laid_out(draw, centre + rng.normal(size=(m, d)) * spread, kinds[1])
    problem = {
        "queries": queries,
        "keys": keys,
        "kernel": kernel,
        "bandwidth": bandwidths(draw, rng, d, chosen(draw, [0.3, 1.0, 2.5])),
        "exclude_self": exclude_self,
        "method": chosen(draw, methods),
        "backend": chosen(draw, ["auto", "compiled", "reference"]),
        "n_jobs": chosen(draw, [None, 1, 2]),
    }
    if values:
        columns = chosen(draw, [None, None, 0, 1, 2, 3])
        shape = (n,) if columns is None else (n, columns)
        kind = chosen(draw, [*kinds, "f8", "f4", "i8"])
        size = chosen(draw, {"f8": [1.0, 1e-290, 1e300], "f4": [1.0, 1e-30, 1e30]}.get(kind, [1.0, 40.0]))
        problem["values"] = laid_out(draw, (rng.normal(size=shape) + chosen(draw, [0.0, 50.0])) * size, kind)
        problem["tol"] = chosen(draw, [None, None, 0, 1e-3, 1e-12, 5e-324])
    if draw(st.booleans()):
        weights = rng.gamma(1.0, size=n) * (rng.random(n) > chosen(draw, [0.0, 0.0, 0.4, 0.4, 1.0])) * 10.0
        problem["sample_weight"] = laid_out(draw, weights, chosen(draw, ["f8", "f4", "i8", "u1"]))
    if chosen(draw, [False, False, True]):
        problem["key_scale"] = laid_out(draw, rng.uniform(0.5, 2.0, n), chosen(draw, ["f8", "f4", "f2"]))
    return problem


def plain(problem, *left_out):
    """What the oracle takes: the same numbers, in native order."""
    dropped = {"method", "backend", "n_jobs", "tol", *left_out}
    return {name: value for name, value in problem.items() if name not in dropped}


def kind_of(problem):
    arrays = [problem[name] for name in ("queries", "keys", "values") if name in problem]
    floating = arrays[:2] + [array for array in arrays[2:] if array.dtype.kind == "f"]
    return "f4" if all(array.dtype.kind == "f" and array.dtype.itemsize <= 4 for array in floating) else "f8"


def columns_of(array):
    return array.astype(LONG)[:, None] if array.ndim == 1 else array.astype(LONG)


def scaled(problem):
    return naive_scaled(*(problem[x] for x in ("queries", "keys", "kernel", "bandwidth")), problem.get("key_scale"))


def off_rim(problem, eps):
    """(m,) Queries without a key where rounding may move it across the rim of a compact kernel."""
    if problem["kernel"] not in COMPACT_KERNELS:
        return np.ones(len(problem["queries"]), bool)
    return ~(abs(scaled(problem) - 1) <= 16 * problem["keys"].shape[1] * eps).any(axis=1)


def asked(function, problem, **options):
    """Its results, and whether an `AccuracyWarning` came; None where a forced choice is refused by its name."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results = function(**problem, **options)
    except ValueError as refusal:
        forced = [f"{name}={problem[name]!r}" for name in ("method", "backend") if problem[name] != "auto"]
        if any(choice in str(refusal) for choice in forced):
            return None
        raise
    assert {w.category for w in caught} <= {fastnw.EmptyWindowWarning, fastnw.AccuracyWarning}, caught
    return results, any(w.category is fastnw.AccuracyWarning for w in caught)


def check_pool(problem):
    kind = kind_of(problem)
    eps = float(np.finfo(kind).eps)
    answer = asked(fastnw.pool, problem, return_mass=True, return_error=True)
    if answer is None:
        return "refused"
    (got, log_mass, bound), warned = answer
    exact, exact_log_mass = naive_pool(**plain(problem))
    assert got.shape == exact.shape
    assert (got.dtype, log_mass.dtype, bound.dtype) == (kind, kind, np.float64)
    values = columns_of(problem["values"])
    got, exact = columns_of(got), columns_of(exact)
    counted = values[np.asarray(problem.get("sample_weight", np.ones(len(values)))) > 0]
    rows = off_rim(problem, eps)
    empty = np.isneginf(exact_log_mass)
    np.testing.assert_array_equal(np.isneginf(log_mass[rows]), empty[rows])
    np.testing.assert_array_equal(np.isnan(bound), np.isneginf(log_mass))
    np.testing.assert_array_equal(np.isnan(got), np.isneginf(log_mass)[:, None] & np.ones(got.shape, bool))
    rows &= ~empty
    if not rows.any():
        return "empty"
    promise = problem["tol"] or DEFAULT_TOL[kind]
    # the result's rounding, and that of the sum, which `tol` below it cannot change
    slack = 2 * eps * abs(log_mass[rows]) + (4 + len(problem["keys"])) * np.finfo("f8").eps
    if not warned:
        assert np.all(abs(log_mass[rows] - exact_log_mass[rows]) <= promise + slack)
    if not values.shape[1]:
        return "compared"
    low, high = (edge.astype(kind).astype(LONG) for edge in (counted.min(axis=0), counted.max(axis=0)))
    assert np.all((got[~np.isnan(got[:, 0])] >= low) & (got[~np.isnan(got[:, 0])] <= high))
    rounding = eps * abs(counted).max(axis=0) + np.finfo(kind).tiny
    error = abs(got - exact)[rows]
    spread = np.ptp(counted, axis=0)
    assert np.all(error <= bound[rows, None] + 2 * rounding)
    if not warned:
        assert np.all(error <= promise * spread * (1 + 1e-6) + 2 * rounding)
    return "compared"


def check_density(problem):
    kind = kind_of(problem)
    eps = float(np.finfo(kind).eps)
    d = problem["keys"].shape[1]
    if problem["kernel"] in ("constant", "dot") or (problem["kernel"] == "cauchy" and d > 1):
        with pytest.raises(ValueError, match=problem["kernel"]):
            fastnw.density(**problem)
        return "refused"
    answer = asked(fastnw.density, problem, log=True)
    if answer is None:
        return "refused"
    got, warned = answer
    assert (got.shape, got.dtype) == ((len(problem["queries"]),), kind)
    density = asked(fastnw.density, problem)[0]
    assert np.all(density >= 0)
    if not np.any(problem.get("sample_weight", 1)):
        exact = np.full(len(got), -np.inf)
    elif problem["exclude_self"]:  # each query has keys of its own
        options = plain(problem, "exclude_self", "queries")
        exact = np.array([of_others(options, i) for i in range(len(got))], LONG)
    else:
        exact = naive_log_density(**plain(problem, "exclude_self"))
    rows = off_rim(problem, eps)
    np.testing.assert_array_equal(np.isneginf(got[rows]), np.isneginf(exact[rows]))
    rows &= ~np.isneginf(exact)
    if not rows.any():
        return "empty"
    if not warned:
        assert np.all(abs(got[rows] - exact[rows]) <= DEFAULT_TOL[kind] + 4 * eps * abs(exact[rows]))
    with np.errstate(over="ignore", under="ignore"):
        expected = np.exp(got.astype("f8")).astype(kind)
    np.testing.assert_allclose(density, expected, rtol=64 * eps + 2 * eps * abs(got[np.isfinite(got)]).max(), atol=0)
    return "compared"


def of_others(options, i):
    """log density at key i by the others; -inf where they have no weight."""
    others = dict(options)
    for name in ("keys", "sample_weight", "key_scale"):
        if name in others:
            others[name] = np.delete(np.asarray(others[name]), i, axis=0)
    if not len(others["keys"]) or not np.any(others.get("sample_weight", [1])):
        return -np.inf
    return naive_log_density(options["keys"][i : i + 1], **others)[0]


def check_weights(problem):
    kind = kind_of(problem)
    eps = float(np.finfo(kind).eps)
    answer = asked(fastnw.attention_weights, problem)
    if answer is None:
        return "refused"
    got, _ = answer
    exact, _ = naive_weights(**plain(problem))
    assert (got.shape, got.dtype) == (exact.shape, kind)
    rows = off_rim(problem, eps)
    np.testing.assert_array_equal(np.isnan(got[rows]), np.isnan(exact[rows]))
    some = ~np.isnan(got[:, 0])
    assert np.all(got[some] >= 0)
    assert np.all(abs(got[some].sum(axis=1, dtype="f8") - 1) <= SUM_TO_ONE[kind])
    rows &= ~np.isnan(exact[:, 0])
    assert np.all(abs(got - exact)[rows] <= DEFAULT_TOL[kind])
    k = min(3, len(problem["keys"]))
    indices, top = asked(fastnw.attention_weights, problem, top_k=k)[0]
    if rows.any():
        largest = -np.sort(-exact[rows], axis=1)[:, :k]
        assert np.all(abs(top[rows] - largest) <= DEFAULT_TOL[kind])
        # weights of keys in reach may be too small for a float
        assert np.all((indices[rows] >= 0) | (top[rows] == 0))
        reached = np.take_along_axis(exact[rows], np.maximum(indices[rows], 0), axis=1)
        assert np.all(np.where(indices[rows] < 0, 0, abs(top[rows] - reached)) <= DEFAULT_TOL[kind])
    return "compared" if rows.any() else "empty"


@TIMES
def test_pool(times):
    outcomes = fuzz(1000 * times, problems(), check_pool)
    assert outcomes["compared"] > 0.3 * outcomes.total()


@TIMES
def test_density(times):
    outcomes = fuzz(400 * times, problems(values=False), check_density)
    assert outcomes["compared"] > 0.2 * outcomes.total()


@TIMES
def test_weights(times):
    outcomes = fuzz(300 * times, problems(values=False, methods=("auto", "exact")), check_weights)
    assert outcomes["compared"] > 0.3 * outcomes.total()


class Hostile:
    """An array that fails when it is looked at."""

    def __array__(self, *_, **__):
        raise ValueError("no array today")


# What may come in the place of any argument; sizes fit n = 3, d = 2 now and then.
JUNK = [
    None, True, 0, -1, 2, 0.5, -0.0, math.nan, math.inf, -math.inf, 5e-324, 1e308, 2**53 + 1, 10**400, 1 + 2j,
    "x", "1", b"1", "", [], [[]], [[], []], (), {}, {1: 2}, {1, 2}, range(3), object(), len, Hostile(),
    [1, 2, 3], [1, 2], [1.0, math.nan, 2.0], [1, None, 2], ["1", "2", "3"], [[1, 2], [3]], [[1, 2], [3, 4], [5, 6]],
    [[1, 0], [0, 1]], [[1, 2], [2, 1]], [[1, 10**400]] * 3, [[Fraction(1, 3), Fraction(2)]] * 3, [[[1.0]]],
    np.zeros((3, 0)), np.zeros((0, 2)), np.zeros((0, 0)), np.zeros(3), np.ones(3), -np.ones(3), np.ones(2), np.ones(4),
    np.ones((3, 2), complex), np.ones((3, 2), "U1"), np.ones((3, 2), object), np.full((3, 2), None),
    np.zeros((3, 2), "M8[s]"), np.zeros((3, 2), "m8[s]"), np.zeros(3, [("a", "f8"), ("b", "f8")]), np.zeros(3, "V4"),
    np.full((3, 2), 1e39), np.full((3, 2), 1e38, "f4"), np.full((3, 2), 2**62), np.full((3, 2), 2**64 - 1, "u8"),
    np.ma.masked_array(np.ones((3, 2)), [[0, 1]] * 3), np.ma.masked_array(np.ones(3), [0, 1, 0]),
    np.matrix("1 2; 3 4; 5 6"), np.ones((3, 2), "f2"), np.ones((1, 1, 1, 1)), np.float32(1), np.array(1.0),
    np.array(None), sparse.csr_array(np.eye(3)[:, :2]), datetime.date(2020, 1, 1),
    iter([1, 2]), memoryview(b"abc"), bytearray(b"abc"),
    slice(3), ..., type, 1e-320, [5e-324, 1.0], [1e308, 1e308], [[1e-320, 0], [0, 1e-320]],
]  # fmt: skip
GOOD = {
    "queries": [[0.0, 0.5], [1.0, 2.0], [3.0, 3.0]],
    "keys": [[0.0, 1.0], [2.0, 2.0], [4.0, 3.0]],
    "values": [1.0, 2.0, 4.0],
}
PLACES = [
    *GOOD, "bandwidth", "sample_weight", "key_scale", "kernel", "method", "backend", "tol", "empty", "exclude_self",
    "n_jobs", "out", "progress", "return_mass", "return_error",
]  # fmt: skip


@st.composite
def calls(draw):
    places = draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=3, unique=True))
    junk = [JUNK[draw(st.integers(0, len(JUNK) - 1))] for _ in places]  # not sampled_from, which shows its choices
    # `out` is written to
    return GOOD | {p: j.copy() if isinstance(j, np.ndarray) else j for p, j in zip(places, junk, strict=True)}


def check_call(call):
    """An error of the documented kinds in words, or what the oracle makes of the same numbers."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fastnw.EmptyWindowWarning)
            warnings.simplefilter("ignore", fastnw.AccuracyWarning)
            got = fastnw.pool(**call)
    except (ValueError, TypeError) as error:
        return "refused" if len(str(error).split()) > 2 else f"refused without a reason: {error!r}"
    got = got[0] if isinstance(got, tuple) else got
    if not isinstance(call.get("empty", "nan"), str):
        return "compared"
    options = {name: call.get(name) for name in ("sample_weight", "key_scale") if call.get(name) is not None}
    if "sample_weight" in options:
        options["sample_weight"] = np.broadcast_to(np.asarray(options["sample_weight"], "f8"), 3)
    numbers = [np.asarray(call[name], "f8") for name in GOOD]
    bandwidth = np.asarray(call.get("bandwidth", 1.0), "f8")
    exact, log_mass = naive_pool(*numbers, bandwidth=bandwidth, exclude_self=bool(call.get("exclude_self")), **options)
    assert got.shape == exact.shape
    kept = np.isfinite(log_mass) & (abs(log_mass) < 1e9)  # further out the oracle's digits end
    spread = np.ptp(numbers[2], axis=0) if numbers[2].size else 0.0
    promise = call.get("tol") or DEFAULT_TOL[got.dtype.str[1:]]
    slack = 4 * np.finfo(got.dtype).eps * abs(numbers[2]).max(initial=0)
    with np.errstate(over="ignore"):  # any tol is allowed
        allowed = promise * spread + slack
    assert np.all(abs(got[kept] - exact[kept]) <= allowed)
    return "compared"


# an empty array as `progress`: an error in newer versions of NumPy
@pytest.mark.filterwarnings("ignore:The truth value of an empty array:DeprecationWarning")
@TIMES
def test_calls_of_any_kind(times):
    outcomes = fuzz(600 * times, calls(), check_call)
    assert set(outcomes) == {"compared", "refused"}
    assert outcomes["compared"] > 10
    assert outcomes["refused"] > 0.5 * outcomes.total()
