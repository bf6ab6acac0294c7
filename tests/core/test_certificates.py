"""No certificate is violated: every method but `exact`, forced, on any problem that hypothesis makes up.

The queries that are looked at are those where the method differs most from `exact`, and a few at random; what is true
there is the word of `truth` alone.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from clouds import WORK, Cloud, anything, ordinary, refused
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from oracle import normalising_constant
from truth import truth

import fastnw
from fastnw import planner
from fastnw.methods import exact, prefix_sums
from fastnw.methods.fourier import method as fourier
from fastnw.methods.tails import method as tails

METHODS = [name for name in WORK if name in planner._METHODS]
LENGTHS = [
    pytest.param(1, id="short"),
    pytest.param(10, id="long", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
]
MOST = {1: 1500, 10: 100_000}  # keys
EPS = {"float32": float(np.finfo(np.float32).eps), "float64": float(np.finfo(np.float64).eps)}
PROMISE = {"float32": 1e-4, "float64": 1e-8}
CHECKED = 6  # queries: as many that look worst, and as many more

for_each_method = pytest.mark.parametrize("method", METHODS)
at_length = pytest.mark.parametrize("length", LENGTHS)


def quietly(call, *arrays, **options):
    """The results, and whether an `AccuracyWarning` was given. `reject` if the method refuses."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        warnings.simplefilter("always", fastnw.AccuracyWarning)
        warnings.simplefilter("ignore", fastnw.EmptyWindowWarning)
        try:
            results = call(*arrays, **options)
        except ValueError as error:
            if not str(error).endswith("Use method='auto'."):
                raise
            reject()
    return results, bool(caught)


def pooled(method: str, cloud: Cloud, **more):
    """f (m, c), log_mass and error (m,), and whether results were not certified to the promise."""
    arrays = cloud.queries, cloud.keys, cloud.values
    options = {"method": method, "return_mass": True, "return_error": True} | cloud.options | more
    (f, log_mass, error), warned = quietly(fastnw.pool, *arrays, **options)
    return f.reshape(len(f), -1), log_mass, error, warned


def promise(cloud: Cloud) -> float:
    return cloud.options.get("tol") or PROMISE[cloud.queries.dtype.name]


def suspects(cloud: Cloud, f, log_mass, error) -> np.ndarray:
    """Rows to look at: where sums of every pair say something else, by the most, and some others."""
    options = {key: value for key, value in cloud.options.items() if key != "tol"}
    other, other_log_mass, _, _ = pooled("exact", replace(cloud, options=options))
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = np.nan_to_num(abs(f.astype(float) - other).max(axis=1) - error, nan=-np.inf)
        masses = np.nan_to_num(abs(log_mass - other_log_mass), nan=-np.inf)
    differ = np.flatnonzero(np.isneginf(log_mass) != np.isneginf(other_log_mass))[:CHECKED]
    some = np.linspace(0, len(f) - 1, CHECKED).astype(int)
    return np.unique(np.concatenate([some, differ, np.argsort(apart)[-CHECKED:], np.argsort(masses)[-2:]]))


def certificate_holds(method: str, cloud: Cloud) -> None:
    f, log_mass, error, warned = pooled(method, cloud)
    rows = suspects(cloud, f, log_mass, error)
    f, log_mass, error, right = f[rows].astype(float), log_mass[rows].astype(float), error[rows], truth(cloud, rows)
    eps, values = EPS[cloud.queries.dtype.name], cloud.values[cloud.present].astype(float)
    sure = right.log_mass == right.most  # no key on a boxcar's rim
    known = np.isneginf(right.log_mass) == np.isneginf(right.most)  # not emptied by what is on the rim
    known &= ~np.isinf(right.doubt)

    empty = np.isneginf(log_mass)
    np.testing.assert_array_equal(empty[known], np.isneginf(right.log_mass)[known])
    np.testing.assert_array_equal(np.isnan(error), empty)
    np.testing.assert_array_equal(np.isnan(f).all(axis=1), empty)

    kept = ~empty & ~np.isinf(right.doubt)
    slack = promise(cloud) + np.where(kept, right.doubt + 4 * eps * np.maximum(1, abs(right.most)), 0)
    assert np.all((log_mass >= right.log_mass - slack)[kept]), (log_mass - right.log_mass)[kept]
    assert np.all((log_mass <= right.most + slack)[kept]), (log_mass - right.most)[kept]

    kept &= sure
    off = abs(f - right.f)[kept].max(axis=1, initial=0.0)
    rounding = 4 * eps * abs(values).max(initial=0.0)
    error = error[kept]
    assert np.all(off <= error + right.doubt[kept] * cloud.spread + rounding), (off, error)
    if not warned:
        assert np.all(error <= promise(cloud) * cloud.spread * (1 + 1e-8)), error / cloud.spread


def density_holds(method: str, cloud: Cloud) -> None:
    options = {"method": method, "log": True} | cloud.options
    got, warned = quietly(fastnw.density, cloud.queries, cloud.keys, **options)
    if warned:
        return
    rows = np.unique(np.linspace(0, len(got) - 1, 2 * CHECKED).astype(int))
    n, d = cloud.keys.shape
    weights = np.asarray(cloud.options.get("sample_weight", np.ones(n))).astype(np.longdouble)
    total = np.full(len(rows), weights.sum())
    if cloud.options.get("exclude_self"):
        total = np.array([np.delete(weights, row).sum() for row in rows])
    right, h = truth(cloud, rows, by_volume=True), np.asarray(cloud.options["bandwidth"])
    log_volume = np.linalg.slogdet(h)[1] / 2 if h.ndim == 2 else np.log(np.broadcast_to(h, d)).sum()
    kept = ~np.isinf(right.doubt) & (total > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        constant = float(np.log(normalising_constant(cloud.options["kernel"], d))) + log_volume + np.log(total)
        low, high, got = (right.log_mass - constant)[kept], (right.most - constant)[kept], got[rows][kept].astype(float)
    eps = EPS[cloud.queries.dtype.name]
    slack = promise(cloud) + right.doubt[kept] + 4 * eps * np.where(np.isfinite(high), np.maximum(1, abs(high)), 1)
    slack += 1e-12 + 16 * eps * abs(log_volume)  # of the constant and the volume, which add up
    assert np.all((got >= low - slack) | (got == low)), got - low
    assert np.all((got <= high + slack) | (got == high)), got - high


def rows_handed_on(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The queries that `exact` or `tails` are asked for, while the patch lasts."""
    handed: set[int] = set()
    for summary in (exact.Differences, exact.Products, tails.Summary):

        def counted(self, queries, meter, sums=summary.sums):
            handed.update(queries.rows.tolist())
            return sums(self, queries, meter)

        monkeypatch.setattr(summary, "sums", counted)
    return handed


@for_each_method
@at_length
def test_ordinary_problems(method, length):
    """Most queries the method answers itself: it is not `exact` that is tested."""

    @settings(max_examples=60 * length)
    @given(cloud=ordinary(method, MOST[length]))
    def holds(cloud):
        with pytest.MonkeyPatch.context() as patch:
            handed = rows_handed_on(patch)
            pooled(method, cloud)
        assert len(handed) <= len(cloud.queries) / 2
        certificate_holds(method, cloud)

    holds()


@for_each_method
@at_length
def test_any_problem(method, length):
    settings(max_examples=120 * length)(
        given(cloud=anything(method, MOST[length]))(lambda cloud: certificate_holds(method, cloud))
    )()


@for_each_method
@at_length
def test_float32(method, length):
    settings(max_examples=40 * length)(
        given(cloud=anything(method, MOST[length], single=True))(lambda cloud: certificate_holds(method, cloud))
    )()


@for_each_method
@at_length
def test_density(method, length):
    settings(max_examples=40 * length)(
        given(cloud=anything(method, MOST[length]))(lambda cloud: density_holds(method, cloud))
    )()


# What is cut into tasks goes in many of them here.
SMALL = {
    "fourier": (fourier, {"BLOCK": dict.fromkeys((1, 2, 3), 97)}),
    "moments": (prefix_sums, {"TASK_QUERIES": 50, "TASK_KEYS": 64, "MIN_BUCKET_KEYS": 128}),
}


@for_each_method
@at_length
def test_the_number_of_threads_changes_no_bit(method, length):
    @settings(max_examples=10 * length)
    @given(cloud=st.one_of(ordinary(method, MOST[1]), anything(method, MOST[1])))
    def holds(cloud):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exact, "SERIAL_PAIRS", 0)
            steps, constants = SMALL.get(method, (exact, {}))
            for name, value in constants.items():
                patch.setattr(steps, name, value)
            one, *others = (pooled(method, cloud, n_jobs=n)[:3] for n in (1, 2, 3))
        for other in others:
            for a, b in zip(one, other, strict=True):
                assert a.tobytes() == b.tobytes()

    holds()


@for_each_method
@given(data=st.data())
def test_what_it_refuses_it_explains(method, data):
    cloud = data.draw(refused(method))
    with pytest.raises(
        ValueError, match=f"method='{method}' (supports|needs|certifies) .*got .+\\. Use method='auto'\\.$"
    ):
        fastnw.pool(cloud.queries, cloud.keys, cloud.values, method=method, **cloud.options)
