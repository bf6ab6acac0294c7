"""Gradient sums at any distance and for any weights, against differences of the loss itself in 130 digits."""

from __future__ import annotations

import mpmath
import numpy as np
import oracle
import pytest
from cases import COMPACT_KERNELS, LOG_KERNELS, spread_bandwidth

import fastnw
from fastnw.core.validate import build
from fastnw.gradients.sums import by_key, by_query
from fastnw.runtime.threads import Meter

FAR_KERNELS = [*LOG_KERNELS, "cauchy"]
MP_LOG_KAPPA = oracle.MP_LOG_KAPPA | oracle.MP_CAUCHY
# κ from u
MP_COMPACT = {
    "boxcar": lambda u: mpmath.mpf(1),
    "triangular": lambda u: 1 - u,
    "epanechnikov": lambda u: 1 - u**2,
    "biweight": lambda u: (1 - u**2) ** 2,
    "triweight": lambda u: (1 - u**2) ** 3,
    "tricube": lambda u: (1 - u**3) ** 3,
    "cosine": lambda u: mpmath.cos(mpmath.pi * u / 2),
}
STEP = mpmath.mpf(10) ** -40
LEAST = 1e-50  # what differences in 130 digits leave
UNSET = {"sample_weight": None, "key_scale": None}


def exact_loss(parts, kernel, alpha, beta):
    """Σ α·f + β·log mass, of numbers or mpf."""
    d = parts["keys"].shape[1]
    h, power = parts["bandwidth"], 1 if kernel == "dot" else 2
    if h.ndim == 2:
        form = mpmath.matrix(h.tolist()) ** -1
        form = np.array(form.tolist(), object)
    else:
        form = np.diag([mpmath.mpf(x) ** -power for x in np.broadcast_to(h, (d,))])
    loss = mpmath.mpf(0)
    for i, q in enumerate(parts["queries"]):
        left = np.broadcast_to(q, parts["keys"].shape) if kernel == "dot" else q - parts["keys"]
        right = parts["keys"] if kernel == "dot" else left
        scores = ((left @ form) * right).sum(axis=1) / parts["key_scale"] ** power
        us = scores if kernel == "dot" else [mpmath.sqrt(x) for x in scores]
        if kernel in MP_COMPACT:
            kappa = np.array([MP_COMPACT[kernel](u) if u < 1 else mpmath.mpf(0) for u in us], object)
            top = mpmath.mpf(0)
        else:
            logs = [MP_LOG_KAPPA[kernel](u) for u in us]
            top = max(logs)
            kappa = np.array([mpmath.exp(x - top) for x in logs], object)
        p = parts["sample_weight"] * kappa
        mass = p.sum()
        loss += (alpha[i] * (p @ parts["values"])).sum() / mass + beta[i] * (top + mpmath.log(mass))
    return loss


def exact_gradient(parts, kernel, alpha, beta, name, digits=130):
    """By differences, entry by entry."""
    with mpmath.workdps(digits):
        parts = {key: exactly(x) for key, x in parts.items()}
        alpha, beta, here = exactly(alpha), exactly(beta), parts[name]
        least = min(w for w in parts["sample_weight"] if w > 0) if name == "sample_weight" else abs(here).max()
        found = np.zeros(here.shape)
        for index in np.ndindex(found.shape):
            step, sides = STEP * (abs(here[index]) or least), []
            for sign in (1, -1):
                moved = here.copy()
                moved[index] += sign * step
                if name == "bandwidth" and len(set(index)) == 2:
                    moved[index[::-1]] += sign * step  # symmetric, as it must be: twice the derivative
                sides.append(exact_loss(parts | {name: moved}, kernel, alpha, beta))
            slope = (sides[0] - sides[1]) / (2 * step)
            found[index] = float(slope / 2 if name == "bandwidth" and len(set(index)) == 2 else slope)
        return found


def exactly(array):
    return np.array([mpmath.mpf(float(x)) for x in np.ravel(array)] + [None], object)[:-1].reshape(np.shape(array))


def gradients(parts, kernel, alpha, beta, backend="auto", absent=()):
    """What the sums come to, by the formulas in the docstring of `fastnw.gradients.sums`."""
    options = {name: x for name, x in parts.items() if name in UNSET and name not in absent}
    arrays = [parts[name] for name in ("queries", "keys", "values")]
    mean, log_mass = fastnw.pool(*arrays, kernel=kernel, bandwidth=parts["bandwidth"], return_mass=True, **options)
    problem = build(*arrays, kernel=kernel, bandwidth=parts["bandwidth"], **options)
    metric, full = problem.metric, parts["bandwidth"].ndim == 2
    arguments = (problem, np.arange(len(mean)), log_mass, alpha, (alpha * mean).sum(axis=1) - beta, 1)
    queries = by_query(*arguments, Meter(False, 0, ""), outer=full, backend=backend, by_log_mass=beta)
    keys = by_key(*arguments, Meter(False, 0, ""), backend=backend, by_log_mass=beta, by_weight=True)
    back = np.linalg.inv(metric.cholesky) if full else np.diag(metric.inverse)
    by_log = queries.squares.sum(axis=0) / parts["bandwidth"]
    return {
        "queries": -queries.moved @ back,
        "bandwidth": back.T @ queries.outer @ back / 2 if full else by_log,
        "keys": keys.moved @ back,
        "values": keys.values,
        "sample_weight": keys.weights,
        "key_scale": keys.squares / parts["key_scale"],
    }


def tail(kernel, u, shape, rng, d=2, n=6, m=2, decades=0.0, ties=1.0):
    """Keys a bandwidth apart, some nearly as far as others from queries at a distance of `u` bandwidths."""
    h = np.asarray(spread_bandwidth(shape, d, rng), float)
    root = np.linalg.cholesky(h) if shape == "matrix" else np.diag(np.broadcast_to(h, (d,)))
    towards = rng.normal(size=d)
    towards /= np.linalg.norm(towards)
    z = rng.normal(size=(n, d))
    z[::2] -= np.outer(z[::2] @ towards, towards) * (1 - ties / max(u, 1.0))
    z[1] = z[0]
    queries = u * towards + rng.normal(size=(m, d)) * ties / max(u, 1.0)
    weights = 10.0 ** rng.uniform(-decades, decades, size=n)
    weights[2] = 0.0
    return {
        "queries": queries @ root.T,
        "keys": z @ root.T,
        "values": rng.normal(size=(n, 2)),
        "bandwidth": h,
        "sample_weight": weights,
        "key_scale": 1 + rng.uniform(size=n) / max(u, 1.0) ** 2,
    }


def check(parts, kernel, rng, with_mass=False, u=0.0, rtol=1e-8, narrowest=1.0, backend="auto", names=None):
    """To `rtol` of the largest entry. Near keys, where one of them has nearly all the weight, a gradient may be smaller
    than the rounding of its terms, which are of the size of u over the least bandwidth."""
    alpha = rng.normal(size=(len(parts["queries"]), 2))
    beta = rng.normal(size=len(alpha)) * with_mass
    found = gradients(parts, kernel, alpha, beta, backend)
    for name in names or found:
        expected = exact_gradient(parts, kernel, alpha, beta, name)
        rounding = 1e-14 / narrowest * (1 + u) ** (2 if name == "bandwidth" else 1) if u < 1e4 else LEAST
        np.testing.assert_allclose(
            found[name], expected, rtol=0, atol=rtol * np.abs(expected).max() + rounding, err_msg=name
        )


@pytest.mark.parametrize("kernel", FAR_KERNELS)
@pytest.mark.parametrize("u", [0.0, 1.0, 30.0, 1e3, 1e5, 1e6, 1e8])
@pytest.mark.parametrize("with_mass", [False, True])
def test_at_any_distance(kernel, u, with_mass):
    rng = np.random.default_rng([FAR_KERNELS.index(kernel), int(u) % 1000, with_mass])
    for shape in ("vector", "matrix"):
        check(tail(kernel, u, shape, rng), kernel, rng, with_mass, u)


@pytest.mark.parametrize("kernel", FAR_KERNELS)
@pytest.mark.parametrize("u", [1.0, 1e3, 1e6])
def test_weights_over_all_that_float64_holds(kernel, u):
    rng = np.random.default_rng([FAR_KERNELS.index(kernel), int(u) % 1000])
    for decades in (150, 300):
        parts = tail(kernel, u, "vector", rng, decades=decades)
        check(parts, kernel, rng, u=u, names=("queries", "keys", "values", "bandwidth"))
        alpha, beta = rng.normal(size=(2, 2)), np.zeros(2)
        found = gradients(parts, kernel, alpha, beta)["sample_weight"]
        expected = exact_gradient(parts, kernel, alpha, beta, "sample_weight", digits=900)
        # that of a key which has all the weight is smaller than the rounding of its terms
        weights = parts["sample_weight"]
        rounding = np.where(weights > 0, 1e-14 / np.where(weights > 0, weights, 1.0), 0.0) if u < 1e4 else 0.0
        assert np.all(np.abs(found - expected) <= 1e-8 * np.abs(expected) + rounding), (found, expected)


@pytest.mark.parametrize("factor", [1e-300, 1e-150, 1e150, 1e300])
@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "cauchy", "biweight", "dot"])
def test_a_factor_of_all_weights(kernel, factor, backend):
    """Means do not depend on it, and gradients by weights are divided by it."""
    rng = np.random.default_rng(0)
    parts = {
        "queries": 0.2 * rng.normal(size=(4, 2)),
        "keys": 0.2 * rng.normal(size=(9, 2)),
        "values": rng.normal(size=(9, 2)),
        "bandwidth": np.asarray([1.0, 1.5]),
        "sample_weight": rng.gamma(1.0, size=9) * (np.arange(9) > 0),
        "key_scale": np.ones(9),
    }
    alpha, beta = rng.normal(size=(4, 2)), np.zeros(4)
    expected = gradients(parts, kernel, alpha, beta, backend)
    found = gradients(parts | {"sample_weight": factor * parts["sample_weight"]}, kernel, alpha, beta, backend)
    found["sample_weight"] = found["sample_weight"] * factor
    for name, right in expected.items():
        np.testing.assert_allclose(found[name], right, rtol=1e-9, atol=1e-11 * np.abs(right).max(), err_msg=name)


@pytest.mark.parametrize("kernel", ["gaussian", "matern32", "dot", "cauchy"])
@pytest.mark.parametrize("offset", [1e4, 1e10])
def test_values_far_from_zero(kernel, offset, backend):
    """Their rounding aside, which is that of the values themselves."""
    rng = np.random.default_rng(0)
    parts = tail(kernel, 2.0, "vector", rng)
    parts["values"] = np.round(parts["values"] * 1024) / 1024 + offset  # exactly what they are less the offset
    alpha, beta = rng.normal(size=(2, 2)), np.zeros(2)
    found = gradients(parts, kernel, alpha, beta, backend)
    right = gradients(parts | {"values": parts["values"] - offset}, kernel, alpha, beta, backend)
    for name, expected in right.items():
        atol = 1e-7 * np.abs(expected).max()  # means about 0 are promised to 1e-8 of their range
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("kernel", COMPACT_KERNELS)
@pytest.mark.parametrize("rim", [1e-3, 1e-7, 1e-11])
@pytest.mark.parametrize("d", [1, 3])
def test_at_the_rim_of_a_window(kernel, rim, d):
    """1 − u² has lost its digits there: five are left of eleven nines."""
    rng = np.random.default_rng([COMPACT_KERNELS.index(kernel), d])
    towards = rng.normal(size=(4, d))
    towards /= np.linalg.norm(towards, axis=1)[:, None]
    h = 0.7
    parts = {
        "queries": np.full((1, d), 0.3),
        "keys": 0.3 + h * towards * (1 - rim * np.array([[1.0], [2.0], [3.0], [-1.0]])),
        "values": rng.normal(size=(4, 2)),
        "bandwidth": np.asarray(h),
        "sample_weight": np.array([1.0, 2.0, 0.5, 1.0]),
        "key_scale": np.ones(4),
    }
    names = ("queries", "keys", "values", "sample_weight")
    check(parts, kernel, rng, names=names)


@pytest.mark.parametrize("kernel", [k for k in FAR_KERNELS if k != "dot"])
def test_ties_have_no_gradient_along_the_line(kernel):
    """Two keys as far from the query, on one side: no bandwidth and no move along their axis changes their weights."""
    for u in (1e2, 1e5, 1e9):
        keys, query = np.array([[0.0, 1.0], [0.0, -1.0]]), np.array([[u, 0.0]])
        parts = {
            "queries": query,
            "keys": keys,
            "values": np.array([[1.0, 0.0], [2.0, 5.0]]),
            "bandwidth": np.asarray(1.0),
            "sample_weight": np.ones(2),
            "key_scale": np.ones(2),
        }
        found = gradients(parts, kernel, np.ones((1, 2)), np.zeros(1))
        assert abs(found["queries"][0, 0]) <= 1e-15 * u
        np.testing.assert_allclose(found["values"], 0.5, rtol=1e-12)


def test_a_key_without_weight_may_outweigh_all_others():
    """Its derivative is more than float64 holds where all other keys are far: infinite, of its value's sign."""
    for distance in (30.0, 50.0, 1e4):
        parts = {
            "queries": np.zeros((1, 1)),
            "keys": np.array([[0.0], [distance], [-distance]]),
            "values": np.array([[1.0], [3.0], [3.0]]),
            "bandwidth": np.asarray(1.0),
            "sample_weight": np.array([0.0, 1.0, 1.0]),
            "key_scale": np.ones(3),
        }
        by_weight = gradients(parts, "gaussian", np.ones((1, 1)), np.zeros(1))["sample_weight"]
        with np.errstate(over="ignore"):
            np.testing.assert_allclose(by_weight[0], -np.exp(distance**2 / 2), rtol=1e-10)
        np.testing.assert_array_equal(by_weight[1:], 0.0)


def test_users_kernels_and_means_alone():
    """What works on logs without formulas of ours is summed once more in float64, as far as that goes."""
    mine = fastnw.Kernel("mine", lambda u2: np.exp(-0.5 * u2), log_profile=lambda u2: -0.5 * u2)
    rng = np.random.default_rng(1)
    parts = tail("gaussian", 30.0, "vector", rng)
    alpha, beta = rng.normal(size=(2, 2)), rng.normal(size=2)
    found, expected = (gradients(parts, kernel, alpha, beta) for kernel in (mine, "gaussian"))
    for name, right in expected.items():
        np.testing.assert_allclose(found[name], right, rtol=0, atol=1e-7 * np.abs(right).max() + 1e-12, err_msg=name)


def test_leave_one_out_in_tails():
    """Each query's own key takes no part, however near the others are to a tie."""
    rng = np.random.default_rng(2)
    keys = np.array([[0.0, 0.0], [1e6, 0.0], [1e6, 1e-6], [-1e6, 3e-6], [0.0, 1e6]])
    values, alpha = rng.normal(size=(5, 1)), rng.normal(size=(5, 1))
    problem = build(keys, keys, values, kernel="gaussian", bandwidth=1.0, exclude_self=True)
    mean, log_mass = fastnw.pool(keys, keys, values, exclude_self=True, return_mass=True)
    arguments = (np.arange(5), log_mass, alpha, (alpha * mean).sum(axis=1), 1, Meter(False, 0, ""))
    found = by_query(problem, *arguments, by_log_mass=np.zeros(5))
    for i in range(5):
        others = np.delete(np.arange(5), i)
        alone = build(keys[i : i + 1], keys[others], values[others], kernel="gaussian", bandwidth=1.0)
        one = (np.arange(1), log_mass[i : i + 1], alpha[i : i + 1], (alpha * mean).sum(axis=1)[i : i + 1])
        right = by_query(alone, *one, 1, Meter(False, 0, ""), by_log_mass=np.zeros(1))
        np.testing.assert_allclose(found.moved[i], right.moved[0], rtol=1e-12)
        np.testing.assert_allclose(found.squares[i], right.squares[0], rtol=1e-12)


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "cauchy", "dot"])
@pytest.mark.parametrize("condition", [1e4, 1e8, 1e12])
def test_matrices_of_any_condition(kernel, condition):
    """Near and far: u² of keys that nearly tie has lost √condition of its digits, and more."""
    for u in (1.0, 1e3, 1e6):
        rng = np.random.default_rng([int(np.log10(condition)), int(u) % 1000])
        parts = tail(kernel, u, "vector", rng, d=2)
        rotation, _ = np.linalg.qr(rng.normal(size=(2, 2)))
        h = (rotation * np.array([1.0, 1 / condition])) @ rotation.T
        root = np.linalg.cholesky((h + h.T) / 2)
        for name in ("queries", "keys"):
            parts[name] = (parts[name] / parts["bandwidth"]) @ root.T
        parts["bandwidth"] = (h + h.T) / 2
        check(
            parts,
            kernel,
            rng,
            u=u,
            rtol=1e-5,
            narrowest=condition**-0.5,
            names=("queries", "keys", "values", "sample_weight"),
        )
