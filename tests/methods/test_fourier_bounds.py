"""method="fourier": its bounds hold where transforms lose most, and no query is needed at such a place to know it."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import fresh
import numpy as np
import pytest
from oracle import LONG, naive_log_density, naive_pool, naive_scaled

import fastnw
from fastnw.bandwidth.fits.spectral import SpectralFitter
from fastnw.core.model import Queries
from fastnw.core.validate import build, metric
from fastnw.methods.fourier import method as fourier
from fastnw.planner import make_model
from fastnw.runtime.threads import Meter

QUIET = Meter(False, 0, "")
TOLERANCES = [1e-2, 1e-4, 1e-6, None, 1e-10]


def rim(d, seed, heavy=500_000, columns=1, dtype="float64"):
    """Queries, keys, values, weights, and the positions of some queries: a cluster of `heavy` keys at one place or two,
    a light line of keys at 4 to 8 bandwidths from it, and a light region far away, where nearly all queries are.

    Values are 1 in the cluster and 0 around it. Masses at the rim are no smaller than far away, so neither queries at
    random nor those of least mass show what the transforms do there.
    """
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=d)
    direction /= np.sqrt(np.square(direction).sum())
    direction = direction if seed % 2 else np.eye(d)[0]
    radii = np.arange(4, 8, 0.5)
    far = np.arange(15, 20, 0.5) if d == 3 else np.arange(40, 90, 0.5)
    far = far + rng.uniform(-0.05, 0.05, len(far))
    keys = np.concatenate([np.zeros(heavy), radii, far])[:, None] * direction
    keys[: heavy // 3] += (seed % 3) * 0.05 * direction  # clusters between finufft's grid points
    weights = np.concatenate([np.ones(heavy), np.full(len(radii), 0.07), np.full(len(far), 0.05)])
    values = np.concatenate([np.ones(heavy), np.zeros(len(radii)), rng.uniform(size=len(far))])[:, None]
    values = np.concatenate([values, *(rng.uniform(size=(1, len(values), 1)).repeat(columns - 1, axis=0))], axis=1)
    m, at_rim = 20_000, np.arange(4, 7.5, 0.04)
    where = np.concatenate([rng.uniform(far.min(), far.max(), m), at_rim])
    queries = where[:, None] * direction
    order = rng.permutation(len(queries)) if seed % 4 < 2 else np.arange(len(queries))
    looked_at = np.flatnonzero(order >= m)
    arrays = (a.astype(dtype) for a in (queries[order], keys, values))
    return *arrays, weights, looked_at


def folded(keys, values, weights):
    """The same sums from fewer keys: those at one place with one value as one."""
    rows = np.concatenate([keys, values], axis=1)
    kept, group = np.unique(rows, axis=0, return_inverse=True)
    d = keys.shape[1]
    return kept[:, :d], kept[:, d:], np.bincount(group.ravel(), weights)


@pytest.mark.parametrize("tol", TOLERANCES)
@pytest.mark.parametrize("d", [1, 2, 3])
def test_the_rim_of_a_heavy_cluster(d, tol):
    for seed in range(2 if tol in (1e-4, 1e-6, None) else 1):
        queries, keys, values, weights, rows = rim(d, seed, columns=1 + seed % 2)
        values[:, 1:] = np.where(weights[:, None] == 1, 0.5, values[:, 1:])
        options = {"sample_weight": weights, "tol": tol, "method": "fourier"}
        got, log_mass, bound = fastnw.pool(queries, keys, values, return_mass=True, return_error=True, **options)
        density = fastnw.density(queries, keys, log=True, **options)
        few_keys, few_values, few_weights = folded(keys, values, weights)
        f, right = naive_pool(queries[rows], few_keys, few_values, "gaussian", sample_weight=few_weights)
        error = np.abs(got[rows] - f).max(axis=1)
        promise = tol or 1e-8
        assert np.all(error <= bound[rows] + 1e-15)
        assert np.all(bound <= promise * (1 + 1e-9))
        assert np.all(np.abs(np.expm1((log_mass[rows] - right).astype(float))) <= promise + 1e-14)
        logs = naive_log_density(queries[rows], few_keys, sample_weight=few_weights)
        assert np.all(np.abs(np.expm1((density[rows] - logs).astype(float))) <= promise + 1e-13)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_the_rim_in_float32(d):
    for seed in range(2):
        queries, keys, values, weights, rows = rim(d, seed, dtype="float32")
        got, bound = fastnw.pool(queries, keys, values, sample_weight=weights, method="fourier", return_error=True)
        few = folded(keys, values, weights)
        f, _ = naive_pool(queries[rows], few[0], few[1], "gaussian", sample_weight=few[2])
        assert np.all(np.abs(got[rows] - f).max(axis=1) <= bound[rows] + 6e-8)


def test_a_cluster_of_few_keys_with_large_weights():
    """The same from weights: in units of the largest, the others vanish beside what truncation leaves."""
    for seed in range(6):
        queries, keys, values, weights, rows = rim(1 + seed % 3, seed, heavy=30)
        weights[:30] = 10.0 ** (2 + seed)
        got, bound = fastnw.pool(queries, keys, values, sample_weight=weights, method="fourier", return_error=True)
        f, _ = naive_pool(queries[rows], keys, values, "gaussian", sample_weight=weights)
        assert np.all(np.abs(got[rows] - f).max(axis=1) <= bound[rows] + 1e-15)


def strengths_of(shape, n, d, rng):
    """Keys (n, d), weights and values; what finufft's error adds up of is most where all keys lie alike on its grid."""
    keys = {
        "normal": lambda: 3 * rng.normal(size=(n, d)),
        "one place": lambda: np.zeros((n, d)) + rng.normal(size=d),
        "lattice": lambda: rng.integers(-20, 20, size=(n, d)) * 0.25,
        "coarse": lambda: rng.integers(-8, 8, size=(n, d)).astype(float),
    }[shape]()
    keys[:2] = [[-8.0], [8.0]]
    return keys, 10.0 ** rng.uniform(-3, 0, n), rng.choice([-1.0, 1.0], n)


@pytest.mark.parametrize("shape", ["normal", "one place", "lattice", "coarse"])
@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-6, 1e-8, 1e-9, 1e-11])
def test_the_bound_of_every_sum(shape, d, tol):
    """Of sums themselves, at queries that would be handed on, too, and before any is summed directly."""
    rng = np.random.default_rng(d)
    keys, weights, values = strengths_of(shape, 1500, d, rng)
    queries = keys[:100] + rng.normal(size=(100, d)) * rng.choice([0, 0.1, 2, 4], (100, 1))
    problem = build(queries, keys, values, kernel="gaussian", bandwidth=1.0, sample_weight=weights, tol=tol)
    model = make_model(problem, "fourier", "auto", 1)
    summary = model.summary(model.plan.ladder[0])
    rows = np.flatnonzero(fourier._inside(summary.box, Queries(problem, np.arange(100))))
    sums, bound = fourier._sums(summary, Queries(problem, rows), QUIET)
    kappa = np.exp(-np.square(naive_scaled(queries[rows], keys, "gaussian", 1.0)) / 2)
    right = kappa @ (weights[:, None] * np.stack([np.ones(1500), values], axis=1)).astype(LONG) / weights.max()
    error = np.abs(sums - right).max(axis=1)
    assert np.all(error <= bound)
    assert len(rows) > 30
    assert np.median(bound) <= 3 * 30**d * tol * np.median(np.abs(right[:, 0]))  # it still says something


@pytest.mark.parametrize("d", [1, 2, 3])
def test_what_sums_show_beyond_their_bounds_widens_all(d, monkeypatch):
    """Should finufft be worse in more coordinates than it is in one, queries that are summed directly tell."""
    rng = np.random.default_rng(d)
    keys = rng.normal(size=(3000, d))
    transform = fourier._transform

    def worse(kind, box):
        return transform(kind, replace(box, epsilon=1e-4))

    monkeypatch.setattr(fourier, "_transform", worse)
    got, bound = fastnw.pool(keys, keys, keys[:, 0], bandwidth=0.5, method="fourier", return_error=True)
    f, _ = naive_pool(keys[::20], keys, keys[:, 0], "gaussian", bandwidth=0.5)
    assert np.all(np.abs(got[::20] - f) <= bound[::20] + 1e-15)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("moved", [0.0, 0.3, 3.0])
@pytest.mark.parametrize(
    "kernel", ["gaussian", "laplacian", "matern32", "matern52", "epanechnikov", "tricube", "boxcar"]
)
def test_a_heavy_key_left_out_of_its_own_sum(kernel, d, moved):
    """What is left of a sum is small against what was subtracted; queries may be elsewhere than their keys."""
    method = "fourier" if kernel == "gaussian" else "moments"
    if method == "moments" and d > 1:
        return
    for seed in range(8):
        rng = np.random.default_rng(seed)
        n = 600
        keys = rng.normal(size=(n, d))
        keys[:200] = keys[0] + 1e-3 * rng.normal(size=(200, d))
        queries = keys + moved * rng.normal(size=(n, d)) / np.sqrt(d)
        values = rng.normal(size=(n, 2)) + 10.0 * (np.arange(n) % 2)[:, None]
        weights = rng.uniform(0.5, 2.0, n)
        weights[rng.integers(0, n, 5)] *= 10.0 ** rng.uniform(0, 3 + 2 * seed)
        options = {"bandwidth": 0.4, "sample_weight": weights, "exclude_self": True}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fastnw.EmptyWindowWarning)
            got, log_mass, bound = fastnw.pool(
                queries, keys, values, kernel=kernel, method=method, return_mass=True, return_error=True, **options
            )
        f, right = naive_pool(queries, keys, values, kernel, **options)
        full = np.isfinite(right)
        assert np.array_equal(full, np.isfinite(log_mass))
        error = np.abs(got - f).max(axis=1)[full]
        assert np.all(error <= bound[full] + 4e-15 * np.abs(f[full]).max(axis=1))
        assert np.all(bound[full] <= 1e-8 * np.ptp(values, axis=0).max())
        assert np.all(np.abs(log_mass[full] - right[full]) <= 1e-8 + 1e-14 * np.abs(right[full]))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_a_few_queries_that_are_not_where_their_keys_are(d):
    """What is left out is the pair i == j, wherever query and key are."""
    rng = np.random.default_rng(d)
    keys = rng.normal(size=(4000, d))
    queries, moved = keys.copy(), np.flatnonzero(np.square(keys).sum(axis=1) < 1)[5:200:13]
    queries[moved] += 0.2
    options = {"bandwidth": 0.5, "exclude_self": True}
    values = np.sin(5 * keys[:, 0])
    got, bound = fastnw.pool(queries, keys, values, method="fourier", return_error=True, **options)
    rows = np.concatenate([moved, np.arange(20)])
    kappa = np.exp(-np.square(naive_scaled(queries[rows], keys, "gaussian", 0.5)) / 2)
    kappa[np.arange(len(rows)), rows] = 0
    f = kappa @ values.astype(LONG) / kappa.sum(axis=1)
    assert np.all(np.abs(got[rows] - f) <= bound[rows] + 1e-15)


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("wider", [1.0, 0.2])
def test_the_bound_of_a_search(d, wider):
    """Of sums at keys around a heavy cluster, at the bandwidth a level is made for and at another of it."""
    rng = np.random.default_rng(d)
    keys = np.concatenate([np.zeros((20_000, d)), 3 * rng.normal(size=(300, d))])
    h = np.full(d, 0.5)
    problem = build(keys, keys, np.sin(keys[:, 0]), kernel="gaussian", bandwidth=h, exclude_self=True)
    spectrum = SpectralFitter(problem, "auto", 1, QUIET)
    spectrum.at(h)
    h = h * (wider if d == 1 else 1.0)
    level = spectrum.levels[-1]
    sums = level.to_keys(h, QUIET)[0, 20_000:] - 1
    kappa = np.exp(
        -np.square(naive_scaled(keys[20_000:], np.append(keys[20_000:], [[0.0] * d], axis=0), "gaussian", h)) / 2
    )
    right = kappa[:, :-1].sum(axis=1) - 1 + 20_000 * kappa[:, -1]
    assert np.abs(sums - right).max() <= spectrum._error(level, problem.with_metric(metric(h, d)), sums[None] + 20_000)


PEAK = """
import ctypes
from pathlib import Path
import numpy as np, fastnw
d, n, m, c, jobs, h = {arguments}
rng = np.random.default_rng(0)
keys, queries, values = rng.normal(size=(n, d)), rng.normal(size=(m, d)), rng.normal(size=(n, c))
options = dict(bandwidth=h, method="fourier", n_jobs=jobs)
fastnw.pool(queries[:300], keys[:300], values[:300], **options | dict(bandwidth=0.5))
out = np.zeros((m, c))
ctypes.CDLL("libc.so.6").malloc_trim(0)
with open("/proc/self/clear_refs", "w") as reset:
    reset.write("5")  # VmHWM starts anew
def now(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024
before = now("VmRSS")
predicted = fastnw.plan(queries, keys, values, **options).bytes
fastnw.pool(queries, keys, values, out=out, **options)
print(now("VmHWM") - before, predicted)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="this kernel cannot reset peak memory")
@pytest.mark.parametrize(
    ("d", "n", "m", "c", "jobs", "h"),
    [
        (1, 600_000, 600_000, 1, 1, 0.05),
        (1, 200_000, 200_000, 6, 1, 0.05),
        (1, 1_500_000, 1000, 1, 1, 0.05),
        (1, 50_000, 50_000, 1, 1, 1e-5),
        (2, 300_000, 300_000, 1, 1, 0.1),
        (2, 20_000, 500_000, 2, 1, 0.05),
        (3, 100_000, 100_000, 1, 1, 0.2),
        (3, 60_000, 60_000, 5, 2, 0.25),
    ],
)
def test_the_predicted_bytes_are_the_peak(d, n, m, c, jobs, h):
    peak, predicted = map(float, fresh.run(PEAK.format(arguments=(d, n, m, c, jobs, h))).split())
    assert peak / 2 <= predicted <= 2 * peak
