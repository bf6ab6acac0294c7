"""The plan: what it tells, and that neither threads nor timing change what is computed."""

import re

import numpy as np
import pytest

import fastnw
from fastnw import planner
from fastnw.backends.compiled import backend as compiled
from fastnw.core.plan import NOMINAL_THREADS, Refusal
from fastnw.core.validate import build
from fastnw.methods import exact, prefix_sums
from fastnw.methods.fourier import method as fourier
from fastnw.methods.tree import method as tree
from fastnw.planner import make_plan

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
    assert shape.panel * (4 + c + 3 * d) * 8 <= exact.PANEL_BYTES + exact.MAX_TILE_QUERIES * (4 + c + 3 * d) * 8
    assert 1 <= shape.groups <= 4 * exact.MAX_GROUPS


def test_it_says_why_and_what_happens_to_queries_it_cannot_certify():
    forced = fastnw.plan(QUERIES, KEYS, VALUES, method="exact")
    assert "method='exact' was asked for" in forced.reason
    assert forced.reason in str(forced)
    accuracy = str(forced).splitlines()[-1]
    assert accuracy.startswith("  accuracy  certified for each query: exact ")
    assert accuracy.endswith("tails (double-double), where needed")
    rungs = [str(rung) for rung in forced.ladder]
    assert [rung for rung in rungs if rung in accuracy] == rungs
    assert sorted(rungs, key=accuracy.index) == rungs
    narrow = fastnw.plan(*(a.astype(np.float32) for a in (QUERIES, KEYS, VALUES)))
    assert "(float32), then exact " in str(narrow)
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
    small, large, larger = (fastnw.plan(QUERIES, np.tile(KEYS, (k, 1)), n_jobs=1) for k in (1, 100, 1000))
    assert large.pairs == 100 * small.pairs
    assert larger.seconds == pytest.approx(10 * large.seconds, rel=0.3)  # but for what every call takes
    wide = fastnw.plan(QUERIES, KEYS, np.ones((900, 20)), n_jobs=1)
    assert wide.seconds > small.seconds
    slow = fastnw.plan(QUERIES, KEYS, backend="reference", n_jobs=1)
    assert slow.seconds > small.seconds


def any_problem(rng):
    """Arguments of `fastnw.plan` of any kind."""
    d = int(rng.choice([1, 1, 2, 2, 3, 3, 4, 8, 40]))
    m, n = (int(np.exp(rng.uniform(rng.choice([0, 8]), np.log(3e5 / d)))) for _ in range(2))
    dtype = rng.choice(["float32", "float64"])
    exclude_self = rng.random() < 0.1
    keys = rng.normal(size=(n, d)).astype(dtype)
    queries = keys if exclude_self else rng.normal(size=(m, d)).astype(dtype)
    c = int(rng.choice([0, 1, 1, 5]))
    h = float(np.exp(rng.uniform(np.log(1e-3), np.log(3))))
    options = {
        "kernel": str(rng.choice([*fastnw.kernels.names(), *["gaussian"] * 8])),
        "bandwidth": h * np.eye(d) if rng.random() < 0.2 else h,
        "tol": [None, None, 1e-3, 1e-10, 0.0][rng.integers(5)],
        "exclude_self": exclude_self,
        "sample_weight": rng.exponential(size=n) if rng.random() < 0.2 else None,
    }
    return (queries, keys, rng.normal(size=(n, c)).astype(dtype) if c else None), options


def test_the_choice_is_the_same_for_any_number_of_threads():
    rng, chosen = np.random.default_rng(1), set()
    for _ in range(200):
        arrays, options = any_problem(rng)
        plans = [fastnw.plan(*arrays, **options, n_jobs=n) for n in (1, 2, 7, 8, 64)]
        assert len({(plan.method, plan.backend, plan.isa, plan.dtype, plan.pairs) for plan in plans}) == 1
        seconds = [plan.seconds for plan in plans]
        assert seconds == sorted(seconds, reverse=True)
        chosen.add(plans[0].method)
    assert chosen == {"exact", "tree", "moments", "fourier"}


def test_threads_shorten_all_but_what_is_serial():
    rng, shared = np.random.default_rng(2), set()
    for _ in range(100):
        (queries, keys, values), options = any_problem(rng)
        problem = build(queries, keys, values, **options)
        dtype = np.dtype(np.float64)
        for steps in (exact, fourier, prefix_sums, tree):
            cost = steps.cost(problem, compiled.BACKEND, 1, dtype)
            if isinstance(cost, Refusal):
                continue
            alone = cost.seconds(1)
            assert alone == pytest.approx(cost.serial + cost.parallel, rel=1e-12)
            assert min(part.seconds for part in cost.work) >= 0
            last = alone
            for n_threads in range(2, 65):
                now = cost.seconds(n_threads)
                # rounding of sums aside
                assert max(cost.serial, alone / n_threads) * (1 - 1e-12) <= now <= last * (1 + 1e-12)
                last = now
            if last < alone / 4:
                shared.add(steps)
    assert shared >= {exact, tree}


def test_few_pairs_are_not_worth_a_comparison(monkeypatch):
    """Where none is made, it would have chosen `exact`, too."""
    rng, seen = np.random.default_rng(5), 0
    for _ in range(300):
        m, d = int(10 ** rng.uniform(0, 3)), int(rng.choice([1, 1, 2, 3, 8, 64]))
        n = max(int(planner.MAX_UNPLANNED_PAIRS / m * rng.uniform(0.05, 1)), 1)
        kernel = str(rng.choice(["gaussian", "epanechnikov", "laplacian", "tricube", "cauchy"]))
        problem = build(rng.normal(size=(m, d)), rng.normal(size=(n, d)), rng.normal(size=n), kernel=kernel,
                        bandwidth=10 ** rng.uniform(-3, 1))  # fmt: skip
        assert make_plan(problem, "auto", "auto", None).method == "exact"
        with monkeypatch.context() as patch:
            patch.setattr(planner, "MAX_UNPLANNED_PAIRS", 0)
            compared = make_plan(problem, "auto", "auto", None)
        assert compared.method == "exact"
        seen += "least time" in compared.reason
    assert seen > 100


def test_very_many_coordinates_have_a_plan():
    points = np.random.default_rng(0).normal(size=(50, 20_000)).astype(np.float32)
    assert 0 < fastnw.plan(points, points, kernel="epanechnikov", bandwidth=300.0).seconds < np.inf


def times_in(text):
    """Each method's seconds, as a reason states them."""
    return {name: float(seconds) for name, seconds in re.findall(r"(exact|tree|moments|fourier) ([-+.e\d]+) s\b", text)}


def test_the_reason_states_times_that_agree_with_the_choice():
    rng, reversals, compared = np.random.default_rng(3), 0, 0
    for i in range(200):
        arrays, options = any_problem(rng)
        n_jobs = (1, 2, 8, 16)[i % 4]
        plan = fastnw.plan(*arrays, **options, n_jobs=n_jobs)
        assert plan.reason in str(plan)
        if "no other method can do it" in plan.reason or "than a comparison of methods" in plan.reason:
            assert not times_in(plan.reason)
            continue
        compared += 1
        nominal, here = plan.reason, None
        if n_jobs != NOMINAL_THREADS:
            nominal, here = plan.reason.split(f"on {n_jobs} thread{'s' * (n_jobs > 1)}, as here: ")
        assert f"{plan.method} takes the least time on {NOMINAL_THREADS} threads" in nominal
        times = times_in(nominal)
        assert plan.method in times
        assert times[plan.method] == min(times.values())
        if here is None:
            assert f"{times[plan.method]:.2g}" == f"{plan.seconds:.2g}"
            continue
        times = times_in(here)
        assert f"{times[plan.method]:.2g}" == f"{plan.seconds:.2g}"  # as beside "expected"
        if times[plan.method] > min(times.values()):
            reversals += 1
            assert "results do not depend on n_jobs" in here
    assert compared > 50
    assert reversals > 0


def test_seconds_include_what_every_call_does_besides():
    """A look at all keys takes longer than the pairs of one query."""
    keys = np.broadcast_to(0.5, (10**7, 1))
    problem = build(keys[:1], keys, None, kernel="epanechnikov", bandwidth=1.0)
    alone = exact.cost(problem, compiled.BACKEND, 1, np.dtype(np.float64)).seconds(1)
    plan = fastnw.plan(keys[:1], keys, kernel="epanechnikov", method="exact", n_jobs=1)
    assert plan.seconds > alone + 0.25e-9 * keys.nbytes / 8
    fitted = make_plan(problem.prepared_for(frozenset({"exact"})), "exact", "auto", 1)
    assert fitted.seconds < plan.seconds


def test_times_are_stored_for_each_vendor(monkeypatch):
    """Every level has times, whoever made the processor; another vendor's times change seconds, not what is checked."""
    problem = build(QUERIES, KEYS, VALUES, kernel="gaussian", bandwidth=1.0)
    for vendor in ("amd", "intel", "other"):
        monkeypatch.setattr(compiled, "vendor", lambda vendor=vendor: vendor)
        for level in compiled.levels():
            with compiled.use_level(level):
                for name in ("float32", "float64"):
                    assert exact.cost(problem, compiled.BACKEND, 1, np.dtype(name)).seconds(1) > 0


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
    assert max(sizes) <= exact.MAX_TILE_QUERIES
    assert sizes == sorted(sizes, reverse=True)
