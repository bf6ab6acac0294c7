"""The plan: what it tells, and that neither threads nor timing change what is computed."""

import numpy as np
import pytest

import fastnw
from fastnw._validation import build
from fastnw.methods import exact

RNG = np.random.default_rng(0)
QUERIES, KEYS, VALUES = RNG.normal(size=(70, 3)), RNG.normal(size=(900, 3)), RNG.normal(size=900)


def test_what_it_tells():
    plan = fastnw.plan(QUERIES, KEYS, VALUES, n_jobs=2)
    assert (plan.method, plan.backend, plan.n_threads, plan.pairs) == ("exact", "compiled", 2, 70 * 900)
    assert plan.seconds > 0
    assert plan.bytes > 900 * 4 * 8
    text = str(plan)
    for needed in ("exact", "compiled", plan.isa, "2 thread", "6.3e+04 pairs", " s,", "MiB", plan.reason):
        assert needed in text


def test_threads_change_nothing_but_their_number():
    many = np.tile(QUERIES, (40, 1))  # several tiles: one alone is one thread's work
    one, four = (fastnw.plan(many, KEYS, VALUES, n_jobs=n) for n in (1, 4))
    assert (one.method, one.backend, one.isa, one.dtype) == (four.method, four.backend, four.isa, four.dtype)
    assert four.seconds < one.seconds
    assert fastnw.plan(many, KEYS, VALUES, n_jobs=1) == one


def test_float32_gives_way_where_it_cannot_keep_the_promise():
    narrow = [a.astype(np.float32) for a in (QUERIES, KEYS, VALUES)]
    assert fastnw.plan(*narrow).dtype == np.float32
    assert fastnw.plan(*narrow, tol=1e-7).dtype == np.float64
    assert fastnw.plan(*narrow, bandwidth=1e-25).dtype == np.float64
    assert fastnw.plan(QUERIES, *narrow[1:]).dtype == np.float64


@pytest.mark.parametrize(("m", "n", "d", "c"), [(1, 10**6, 3, 1), (10**6, 5, 1, 1), (3000, 10**5, 200, 50)])
def test_the_layout_keeps_memory_bounded(m, n, d, c):
    points = np.broadcast_to(np.float32(0), (max(m, n), d))
    problem = build(points[:m], points[:n], np.broadcast_to(np.float32(0), (n, c)), kernel="gaussian", bandwidth=1.0)
    shape = exact.layout(problem, m, np.dtype(np.float64))
    assert shape.block * shape.span * (d + 1 + c) * 8 <= exact.SPAN_BYTES + shape.block * (d + 1 + c) * 8
    assert shape.panel * (4 + c + 3 * d) * 8 <= exact.PANEL_BYTES + exact.TILE * (4 + c + 3 * d) * 8
    assert 1 <= shape.groups <= 4 * exact.MAX_GROUPS


def test_it_says_why_and_what_happens_to_queries_it_cannot_certify():
    forced = fastnw.plan(QUERIES, KEYS, VALUES, method="exact")
    assert "method='exact' was asked for" in forced.reason
    assert forced.reason in str(forced)
    assert "far tails" in str(forced)
    narrow = fastnw.plan(*(a.astype(np.float32) for a in (QUERIES, KEYS, VALUES)))
    assert "float32, float64, then" in str(narrow)
    assert "float32" not in str(forced)


def test_it_names_the_backend_that_runs():
    student = fastnw.Kernel("student", lambda u2: 1 / (1 + u2) ** 2)
    for options in ({"kernel": student}, {"backend": "reference"}):
        plan = fastnw.plan(QUERIES, KEYS, VALUES, **options)
        assert (plan.backend, plan.isa) == ("reference", "numpy")
        assert "reference (numpy)" in str(plan)
    assert "student" in str(fastnw.plan(QUERIES, KEYS, kernel=student))


def test_more_work_is_expected_to_take_longer():
    """Seconds and pairs of a pure function: no clock, so the same at every call."""
    small, large = (fastnw.plan(QUERIES, np.tile(KEYS, (k, 1)), n_jobs=1) for k in (1, 100))
    assert large.pairs == 100 * small.pairs
    assert large.seconds == pytest.approx(100 * small.seconds, rel=1e-12)
    wide = fastnw.plan(QUERIES, KEYS, np.ones((900, 20)), n_jobs=1)
    assert wide.seconds > small.seconds
    slow = fastnw.plan(QUERIES, KEYS, backend="reference", n_jobs=1)
    assert slow.seconds > small.seconds


def test_it_cannot_be_changed():
    plan = fastnw.plan(QUERIES, KEYS)
    assert isinstance(plan, fastnw.Plan)
    with pytest.raises(AttributeError):
        plan.method = "tree"


@pytest.mark.parametrize("m", [1, 31, 32, 33, 255, 256, 4_096, 10_001, 1_000_000])
def test_tiles_hold_each_query_once_and_shrink(m):
    tiles = exact._tiles(m)
    assert np.array_equal(np.concatenate([np.arange(t.start, t.stop) for t in tiles]), np.arange(m))
    sizes = [t.stop - t.start for t in tiles]
    assert max(sizes) <= exact.TILE
    assert sizes == sorted(sizes, reverse=True)
