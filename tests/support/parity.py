"""What every backend's results are checked against: the naive loops of oracle.py, and the same in plain arithmetic."""

from __future__ import annotations

from functools import cache

import numpy as np
from oracle import COMPACT, LONGER, naive_pool, naive_scaled

import fastnw

PROMISE = {"float32": 1e-4, "float64": 1e-8}


@cache
def expected_and_plain(kernel, case, dtype):
    """f and log_mass in long double, the same in `dtype`, and the queries with a boxcar key next to u = 1."""
    queries, keys, values, options = case.problem(dtype)
    exact = naive_pool(queries, keys, values, kernel, **options)
    with np.errstate(all="ignore"):  # float32 may overflow where the formula is plain
        plain = naive_pool(queries, keys, values, kernel, dtype=np.dtype(dtype).type, **options)
    rim = np.zeros(len(queries), bool)
    if kernel == "boxcar":
        rim = near_rim(queries, keys, kernel, dtype, options["bandwidth"], options.get("key_scale"))
    return exact, plain, rim


def near_rim(queries, keys, kernel, dtype, bandwidth, key_scale=None):
    u = naive_scaled(queries, keys, kernel, bandwidth, key_scale)
    return (abs(u - 1) <= 16 * keys.shape[1] * np.finfo(dtype).eps).any(axis=1)


def worst(error):
    return np.nanmax(error, initial=0.0) if error.size else 0.0


def check(kernel, case, dtype, backend, method, pool=fastnw.pool):
    queries, keys, values, options = case.problem(dtype)
    (f, log_mass), (plain_f, plain_log_mass), rim = expected_and_plain(kernel, case, dtype)
    options = options | {"return_mass": True, "return_error": True}
    got, got_log_mass, bound = pool(queries, keys, values, kernel=kernel, method=method, backend=backend, **options)
    assert got.dtype == dtype
    assert got.shape == (len(queries), *values.shape[1:])
    assert got_log_mass.shape == bound.shape == (len(queries),)
    assert bound.dtype == np.float64
    got, got_log_mass, bound, f, log_mass = (a[~rim] for a in (got, got_log_mass, bound, f, log_mass))
    plain_f, plain_log_mass = plain_f[~rim], plain_log_mass[~rim]

    empty = np.isneginf(log_mass)
    np.testing.assert_array_equal(np.isneginf(got_log_mass), empty)
    np.testing.assert_array_equal(np.isnan(bound), empty)
    np.testing.assert_array_equal(np.isnan(got).reshape(len(got), -1).any(axis=1), empty)
    if empty.all():
        return
    got, got_log_mass, bound, f, log_mass = (a[~empty] for a in (got, got_log_mass, bound, f, log_mass))
    plain_f, plain_log_mass = plain_f[~empty], plain_log_mass[~empty]

    eps, low, high = np.finfo(dtype).eps, values.min(axis=0), values.max(axis=0)
    assert np.all((got >= low) & (got <= high))
    # twice the plain computation's error, and a few roundings where that one is lucky; the result's own rounding on top
    scale, rounding = high - low, eps * abs(f)
    error = abs(got - f)
    assert np.all(error <= PROMISE[dtype] * scale + rounding)
    if dtype == "float64" and kernel in COMPACT and not LONGER:
        return  # a compact kernel's edge magnifies the oracle's own roundings
    # 12 roundings; whitening by a matrix's factor is one of cond(L) more, which shows near a compact kernel's edge
    roundings = 48 if np.ndim(options.get("bandwidth", 1.0)) == 2 else 12
    assert worst(error / (scale + eps)) <= 2 * worst(abs(plain_f - f) / (scale + eps)) + roundings * eps
    by_query = (error - rounding).reshape(len(f), -1).max(axis=1)
    assert np.all(by_query <= bound)

    mass_error = abs(got_log_mass - log_mass)
    size = np.maximum(1, abs(log_mass))  # of a log far from 0 the last digits are worth more than eps
    assert np.all(mass_error <= PROMISE[dtype] * size)
    assert worst(mass_error / size) <= 2 * worst(abs(plain_log_mass - log_mass) / size) + roundings * eps
