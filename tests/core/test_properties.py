"""What holds for every problem, tried on problems that hypothesis makes up."""

from __future__ import annotations

import numpy as np
import pytest
from cases import COMPACT_KERNELS, KERNELS
from hypothesis import given
from hypothesis import strategies as st
from oracle import naive_pool, naive_scaled

import fastnw
from fastnw.core.state import Sums

pytestmark = pytest.mark.filterwarnings("ignore::fastnw.EmptyWindowWarning")

PROMISE = 1e-8
EPS = np.finfo(np.float64).eps
# Multiples of 1/256: sums and differences of a few of them are exact, and ties and keys on a window's rim are common.
coordinates = st.integers(-1024, 1024).map(lambda i: i / 256)
reals = st.floats(-1e6, 1e6, allow_nan=False, allow_subnormal=False)


@st.composite
def problems(draw, kernels=KERNELS):
    """Keyword arguments of `fastnw.pool`, with weights that are whole numbers."""
    d, n, m = draw(st.integers(1, 3)), draw(st.integers(1, 30)), draw(st.integers(1, 5))
    points = np.array(draw(st.lists(coordinates, min_size=(n + m) * d, max_size=(n + m) * d))).reshape(n + m, d)
    return {
        "queries": points[n:],
        "keys": points[:n],
        "values": np.array(draw(st.lists(reals, min_size=n, max_size=n))),
        "kernel": draw(st.sampled_from(kernels)),
        "bandwidth": draw(st.sampled_from([0.25, 0.7, 1.0, 3.0])),
        "sample_weight": np.array(draw(st.lists(st.integers(0, 4), min_size=n, max_size=n).filter(any)), dtype=float),
        "method": "exact",
    }


def off_rim(problem):
    """(m,) Queries without a key where rounding may move it across the rim of a compact kernel."""
    if problem["kernel"] not in COMPACT_KERNELS:
        return np.ones(len(problem["queries"]), bool)
    u = naive_scaled(problem["queries"], problem["keys"], problem["kernel"], problem["bandwidth"])
    return ~(abs(u - 1) <= 16 * problem["keys"].shape[1] * EPS).any(axis=1)


def assert_same(problem, got, expected, tolerance):
    rows = off_rim(problem)
    np.testing.assert_array_equal(np.isnan(got[rows]), np.isnan(expected[rows]))
    rows &= ~np.isnan(expected)
    size = EPS * abs(problem["values"]).max()  # results are rounded, and so are inputs that cannot be exact
    assert np.all(abs(got - expected)[rows] <= tolerance * np.ptp(problem["values"]) + 4 * size)


@given(problem=problems())
def test_against_the_oracle(backend, problem):
    options = {key: value for key, value in problem.items() if key != "method"}
    assert_same(problem, fastnw.pool(**problem, backend=backend), naive_pool(**options)[0].astype(float), PROMISE)


@given(problem=problems())
def test_results_lie_between_the_values(backend, problem):
    f = fastnw.pool(**problem, backend=backend)
    f = f[~np.isnan(f)]
    assert np.all((f >= problem["values"].min()) & (f <= problem["values"].max()))


@given(problem=problems(), single=st.booleans())
def test_results_lie_between_the_values_in_float32(backend, problem, single):
    for name in ("queries", "keys", "values"):
        problem[name] = problem[name].astype("float32")
    f = fastnw.pool(**problem, backend=backend, tol=0 if single else None)
    assert f.dtype == np.float32
    f = f[~np.isnan(f)]
    assert np.all((f >= problem["values"].min()) & (f <= problem["values"].max()))


@given(problem=problems(), slope=st.floats(-1e3, 1e3), intercept=reals)
def test_affine_in_the_values(backend, problem, slope, intercept):
    expected = slope * fastnw.pool(**problem, backend=backend) + intercept
    size = EPS * (abs(slope) * abs(problem["values"]).max() + abs(intercept))
    moved = fastnw.pool(**problem | {"values": slope * problem["values"] + intercept}, backend=backend)
    np.testing.assert_array_equal(np.isnan(moved), np.isnan(expected))
    # the weights are the same: what remains is the rounding of at most 30 sums on each side
    assert np.all(np.isnan(expected) | (abs(moved - expected) <= 64 * size))


@given(problem=problems(), seed=st.integers(0, 100))
def test_the_order_of_the_keys_does_not_matter(backend, problem, seed):
    order = np.random.default_rng(seed).permutation(len(problem["keys"]))
    shuffled = problem | {name: problem[name][order] for name in ("keys", "values", "sample_weight")}
    expected, got = (fastnw.pool(**p, backend=backend) for p in (problem, shuffled))
    assert_same(problem, got, expected, 2 * PROMISE)  # each of them keeps to the promise


@given(problem=problems())
def test_weights_are_repetitions(backend, problem):
    weights = problem["sample_weight"].astype(int)
    repeated = problem | {name: np.repeat(problem[name], weights, axis=0) for name in ("keys", "values")}
    repeated["sample_weight"] = None
    expected, got = (fastnw.pool(**p, backend=backend) for p in (problem, repeated))
    assert_same(problem, got, expected, 2 * PROMISE)


@given(problem=problems(), shift=st.integers(-(2**30), 2**30).map(lambda i: i / 256))
def test_translations_change_nothing(backend, problem, shift):
    moved = problem | {"keys": problem["keys"] + shift}  # exact: multiples of 1/256 below 2^23
    if problem["kernel"] != "dot":  # exp(q·shift) is a common factor for `dot`
        moved["queries"] = problem["queries"] + shift
    expected, got = (fastnw.pool(**p, backend=backend) for p in (problem, moved))
    assert_same(problem, got, expected, 2 * PROMISE)


@given(problem=problems(), repeats=st.integers(1, 40))
def test_a_query_alone_agrees_with_the_batch(backend, problem, repeats):
    problem["queries"] = np.repeat(problem["queries"], repeats, axis=0)
    batch = fastnw.pool(**problem, backend=backend)
    alone = fastnw.pool(**problem | {"queries": problem["queries"][-1:]}, backend=backend)
    # the same arithmetic on the same numbers, up to the order of at most 30 terms
    assert_same(problem | {"queries": problem["queries"][-1:]}, alone, batch[-1:], 64 * EPS)


@given(problem=problems(), constant=st.floats(-1e300, 1e300), single=st.booleans())
def test_a_constant_comes_out_exactly(backend, problem, constant, single):
    dtype = np.float32 if single else np.float64
    constant = dtype(np.clip(constant, -1e38, 1e38) if single else constant)
    for name in ("queries", "keys"):
        problem[name] = problem[name].astype(dtype)
    problem["values"] = np.full(len(problem["keys"]), constant)
    f, bound = fastnw.pool(**problem, backend=backend, return_error=True)
    assert f.dtype == dtype
    assert np.all(np.isnan(f) | (f == constant))
    assert np.all(np.isnan(bound) | (bound == 0))


@given(problem=problems(), extra=reals)
def test_an_extra_key_pulls_towards_its_value(backend, problem, extra):
    query = problem["queries"][:1]
    more = problem | {
        "queries": query,
        "keys": np.concatenate([problem["keys"], query]),
        "values": np.append(problem["values"], extra),
        "sample_weight": np.append(problem["sample_weight"], 1.0),
    }
    before = fastnw.pool(**problem | {"queries": query}, backend=backend)[0]
    after = fastnw.pool(**more, backend=backend)[0]
    if np.isnan(before) or not off_rim(more).all():
        return
    slack = 2 * PROMISE * np.ptp(more["values"]) + 4 * EPS * abs(more["values"]).max()
    assert min(before, extra) - slack <= after <= max(before, extra) + slack


logs = st.one_of(st.just(-np.inf), st.floats(-800, 800), st.floats(-1e18, -1e6))
parts = st.lists(st.tuples(logs, st.floats(0.01, 10), st.floats(-1, 1)), min_size=1, max_size=8)


def state_of(log, mass, mean):
    """One query's state; its sums are empty where log is -inf."""
    if log == -np.inf:
        return Sums.empty(1, 1)
    shift, mass = np.array([log]), np.array([mass])
    return Sums(shift, mass, mass[:, None] * mean, mass * 1e-9, mass * 1e-10)


@given(parts=parts, split=st.integers(0, 8))
def test_merging_is_associative_and_equals_the_sum(parts, split):
    states = [state_of(*part) for part in parts]
    split = min(split, len(states))
    left = right = Sums.empty(1, 1)
    for state in states[:split]:
        left = left.merge(state)
    for state in reversed(states[split:]):
        right = state.merge(right)
    merged = left.merge(right)
    finite = [part for part in parts if part[0] > -np.inf]
    mean, bound = merged.finalise()
    if not finite:
        assert np.isnan(mean).all()
        assert np.isnan(bound).all()
        assert merged.log_mass()[0] == -np.inf
        return
    top = max(log for log, _, _ in finite)
    terms = [(np.exp(np.longdouble(log - top)) * mass, value) for log, mass, value in finite]
    total = sum(term for term, _ in terms)
    assert abs(mean[0, 0] - sum(term * value for term, value in terms) / total) <= 64 * EPS
    assert abs(merged.log_mass()[0] - (top + np.log(total))) <= 64 * EPS * max(1, abs(top))
    # relative errors 1e-9 and 1e-10 of every part are those of their sum
    assert bound[0] == pytest.approx((abs(mean[0, 0]) * 1e-9 + 1e-10) / (1 - 1e-9), rel=1e-6)


@given(part=st.tuples(logs, st.floats(0.01, 10), st.floats(-1, 1)))
def test_empty_is_the_identity_of_merge(part):
    state = state_of(*part)
    for merged in (state.merge(Sums.empty(1, 1)), Sums.empty(1, 1).merge(state)):
        for field in ("shift", "mass", "total", "mass_error", "total_error"):
            np.testing.assert_array_equal(getattr(merged, field), getattr(state, field))


@given(problem=problems(kernels=["gaussian", "laplacian", "triangular", "cauchy"]), split=st.integers(1, 29))
def test_the_parts_of_the_keys_merge_to_the_whole(backend, problem, split):
    """States rebuilt from pooled parts, with nothing but the public results, merge to the pooled whole."""
    low, high = problem["values"].min(), problem["values"].max()
    middle, half = (low + high) / 2, max((high - low) / 2, 1e-300)
    whole = Sums.empty(len(problem["queries"]), 1)
    for rows in (slice(0, split), slice(split, None)):
        part = problem | {name: problem[name][rows] for name in ("keys", "values", "sample_weight")}
        if not part["sample_weight"].any():
            continue
        f, log_mass = fastnw.pool(**part, backend=backend, return_mass=True)
        empty = np.isneginf(log_mass)
        total = np.where(empty, 0, (f - middle) / half)[:, None]
        nothing = np.zeros(len(f))
        whole = whole.merge(Sums(log_mass, np.where(empty, 0.0, 1.0), total, nothing, nothing))
    expected = fastnw.pool(**problem, backend=backend)
    assert_same(problem, whole.finalise()[0][:, 0] * half + middle, expected, 4 * PROMISE)
