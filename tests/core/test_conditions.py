"""Full-matrix bandwidths of any condition number, and other ends of float64's range, against mpmath: means, masses and
densities lie within their certificates, whatever the kernel, the method, the weights and the distance."""

from __future__ import annotations

import math
import warnings

import mpmath
import numpy as np
import pytest
from cases import COMPACT_KERNELS, LOG_KERNELS
from oracle import MP_CAUCHY, MP_LOG_KAPPA, normalising_constant

import fastnw
from fastnw.arithmetic import factor

EPS = np.finfo(np.float64).eps
PROMISE = 1e-8
MP_COMPACT = {
    "boxcar": lambda u: mpmath.mpf(1),
    "triangular": lambda u: 1 - u,
    "epanechnikov": lambda u: 1 - u**2,
    "biweight": lambda u: (1 - u**2) ** 2,
    "triweight": lambda u: (1 - u**2) ** 3,
    "tricube": lambda u: (1 - u**3) ** 3,
    "cosine": lambda u: mpmath.cos(mpmath.pi * u / 2),
}
KERNELS = [*LOG_KERNELS, "cauchy", *COMPACT_KERNELS]


def mp_matrix(array):
    return mpmath.matrix(np.asarray(array, np.float64).tolist())


def mp_scores(query, keys, kernel, bandwidth, key_scale=None):
    """u of each key, or its inner product, from the numbers as given."""
    d, h = len(query), np.asarray(bandwidth, np.float64)
    h = h if h.ndim == 2 else None
    power = 1 if kernel == "dot" else 2
    diagonal = [mpmath.mpf(float(x)) ** -power for x in np.broadcast_to(bandwidth, d)] if h is None else None
    inverse = mpmath.diag(diagonal) if h is None else mp_matrix(h) ** -1
    q, found = mp_matrix(query[:, None]), []
    for i, key in enumerate(keys):
        k = mp_matrix(key[:, None])
        scale = mpmath.mpf(1) if key_scale is None else mpmath.mpf(float(key_scale[i]))
        left, right = (q, k) if kernel == "dot" else (q - k, q - k)
        score = (left.T * inverse * right)[0]
        found.append(score / scale if kernel == "dot" else mpmath.sqrt(score) / scale)
    return found


def mp_answer(query, keys, values, kernel, bandwidth, weights, key_scale=None, digits=120):
    """The mean and log Σ w κ; None and −inf where the window is empty."""
    with mpmath.workdps(digits):
        scores = mp_scores(query, keys, kernel, bandwidth, key_scale)
        w = [mpmath.mpf(float(x)) for x in weights]
        kept = [i for i in range(len(keys)) if w[i] > 0 and (kernel not in MP_COMPACT or scores[i] < 1)]
        if not kept:
            return None, -math.inf
        if kernel in MP_COMPACT:
            logs = {i: mpmath.log(w[i] * MP_COMPACT[kernel](scores[i])) for i in kept}
        else:
            logs = {i: mpmath.log(w[i]) + (MP_LOG_KAPPA | MP_CAUCHY)[kernel](scores[i]) for i in kept}
        top = max(logs.values())
        terms = {i: mpmath.exp(log - top) for i, log in logs.items()}
        mass = mpmath.fsum(terms.values())
        mean = mpmath.fsum(terms[i] * mpmath.mpf(float(values[i])) for i in kept) / mass
        return mean, top + mpmath.log(mass)


def matrix_of(rng, d, log_condition, unit=1.0):
    """(H, L): symmetric, positive definite in exact arithmetic."""
    while True:
        rotation, _ = np.linalg.qr(rng.normal(size=(d, d)))
        spectrum = 10.0 ** -np.concatenate([[0, log_condition], log_condition * rng.random(d - 2)])[:d]
        h = (rotation * spectrum) @ rotation.T * unit
        h = (h + h.T) / 2
        with mpmath.workdps(60):
            try:
                lower = mpmath.cholesky(mp_matrix(h) / mpmath.mpf(float(h[0, 0])))
            except ValueError:  # rounding took the least eigenvalue below 0
                continue
        return h, np.array(lower.tolist(), np.float64) * math.sqrt(h[0, 0])


def clouds(rng, kernel, d, lower, n=9):
    """Queries among the keys, at the rim of a window, and in tails where keys nearly tie."""
    z = rng.normal(size=(n, d)) * 0.6
    direction = rng.normal(size=d)
    direction /= np.linalg.norm(direction)
    far = 10.0 ** rng.uniform(2, 9)
    flat = z - np.outer(z @ direction, direction) * (1 - 1 / far)
    rim = z[0] + direction * (1 - 10.0 ** rng.uniform(-14, -2))
    near = np.stack([z[0] * 0.9, 0.3 * direction, rim])
    tails = np.stack([far * direction, 30 * direction])
    origin = lower @ rng.normal(size=d) * rng.choice([0, 3])
    for points, queries in ((z, near), (flat, tails)) if kernel not in MP_COMPACT else ((z, near),):
        yield queries @ lower.T + origin, points @ lower.T + origin


def weights_of(rng, n):
    kind = rng.integers(4)
    if kind == 0:
        return None
    if kind == 1:
        return np.exp(rng.normal(size=n))
    if kind == 2:
        return 10.0 ** rng.choice([-300, 300]) * rng.uniform(0.2, 1, n)
    return 10.0 ** rng.uniform(-300, 300, n)


def check(queries, keys, values, kernel, bandwidth, weights=None, key_scale=None, digits=120, **options):
    """Each result within its certificate, each certificate within the promise unless a warning says otherwise."""
    given = dict(kernel=kernel, bandwidth=bandwidth, sample_weight=weights, key_scale=key_scale, empty=0.0, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        f, log_mass, bound = fastnw.pool(queries, keys, values, return_mass=True, return_error=True, **given)
    warned = any(issubclass(w.category, fastnw.AccuracyWarning) for w in caught)
    w, spread = np.ones(len(keys)) if weights is None else weights, np.ptp(values)
    for i, query in enumerate(queries):
        mean, log = mp_answer(query, keys, values, kernel, bandwidth, w, key_scale, digits)
        if mean is None:
            assert log_mass[i] == -np.inf
            continue
        told = (kernel, i, f[i], float(mean), bound[i], log_mass[i], float(log))
        error = float(abs(mean - mpmath.mpf(float(f[i]))))
        assert error <= bound[i] + EPS * abs(float(mean)), told
        assert bound[i] <= PROMISE * spread or warned, told
        log_error = abs(float(log - mpmath.mpf(float(log_mass[i]))))
        assert log_error <= PROMISE + 8 * EPS * max(abs(float(log)), 700) or warned, told
    return warned, log_mass


def some_of(values, quick):
    """All values, those that are not quick under the mark `slow`."""
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("log_condition", some_of(range(0, 17, 2), quick=(0, 8, 14)))
def test_any_condition(kernel, log_condition, backend):
    rng = np.random.default_rng([log_condition, KERNELS.index(kernel)])
    for d in (2, 3, 6):
        h, lower = matrix_of(rng, d, min(log_condition, 15.5), 10.0 ** rng.choice([-200, 0, 0, 180]))
        for queries, keys in clouds(rng, kernel, d, lower):
            values, weights = rng.normal(size=len(keys)), weights_of(rng, len(keys))
            warned, log_mass = check(queries, keys, values, kernel, h, weights, backend=backend)
            assert not warned or log_condition > 14
            if kernel in ("dot", "cauchy") or weights is not None:
                continue
            got = fastnw.density(queries, keys, kernel=kernel, bandwidth=h, log=True, backend=backend)
            with mpmath.workdps(60):
                volume = float(mpmath.log(mpmath.det(mp_matrix(h))) / 2)
            expected = log_mass - math.log(len(keys)) - math.log(normalising_constant(kernel, d)) - volume
            finite = np.isfinite(expected)
            np.testing.assert_allclose(got[finite], expected[finite], rtol=1e-13, atol=1e-11)


@pytest.mark.parametrize(
    ("method", "kernel"),
    [
        *(("tree", kernel) for kernel in KERNELS if kernel not in ("dot", "cauchy")),
        ("fourier", "gaussian"),
        *(("moments", kernel) for kernel in ("laplacian", "matern52", "epanechnikov", "tricube")),
    ],
)
@pytest.mark.parametrize("log_condition", some_of([0, 5, 9, 12, 14], quick=(9, 14)))
def test_any_condition_by_every_method(method, kernel, log_condition):
    rng = np.random.default_rng([log_condition, KERNELS.index(kernel), len(method)])
    d = 1 if method == "moments" else 3
    h, lower = matrix_of(rng, d, log_condition) if d > 1 else (np.array([[0.3]]), np.array([[0.3**0.5]]))
    for queries, keys in clouds(rng, kernel, d, lower, n=80):
        check(queries[:3], keys, rng.normal(size=len(keys)), kernel, h, method=method)


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov"])
@pytest.mark.parametrize("log_condition", [3, 10, 14])
def test_any_condition_by_numba(kernel, log_condition):
    rng = np.random.default_rng(log_condition)
    h, lower = matrix_of(rng, 2, log_condition)
    for queries, keys in clouds(rng, kernel, 2, lower):
        check(queries, keys, rng.normal(size=len(keys)), kernel, h, backend="numba")


@pytest.mark.parametrize("kernel", [*LOG_KERNELS])
@pytest.mark.parametrize("power", [50, 66, 80, 94, 110, 300])
@pytest.mark.parametrize("shape", ["vector", "matrix"])
def test_ties_far_beyond_32_digits(kernel, power, shape):
    """Keys apart across the direction to a query, 1e15 to 1e90 bandwidths away."""
    h = np.array([[9.0, 1.0], [1.0, 2.0]]) if shape == "matrix" else np.array([3.0, 1.0])
    towards = h @ [1.0, 1.0] if shape == "matrix" else np.array([9.0, 1.0])
    keys, scale = np.array([[0.0, 0.0], [1.0, -1.0], [2.0, -2.0], [1.0, -1.0]]), 2.0**power
    if kernel == "dot":
        towards = np.array([3.0, 1.0]) if shape == "vector" else towards
        keys = keys / 4
    values, weights = np.array([0.0, 1.0, 3.0, -2.0]), np.array([1.0, 0.5, 2.0, 1.0])
    queries = scale * np.array([towards, [1.0, 0.3], [-0.2, 1.0]])
    warned, _ = check(queries, keys, values, kernel, h, weights, digits=450)
    assert not warned


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "matern32", "cauchy", "epanechnikov", "triangular"])
@pytest.mark.parametrize("h", [1e-320, 1e-310, 4e-309, 1e-300, 1e300, 1e307, 1e308])
def test_bandwidths_whose_reciprocals_leave_the_range(kernel, h, backend):
    at = np.array([0.0, 3.0, 1.5, -0.7]) if h < 1 else np.array([-1.0, 1.5, 0.2, 0.9])
    keys, queries = h * at[:, None], h * np.array([[0.9], [0.1], [-0.4]])
    check(queries, keys, np.array([1.0, 2.0, 4.0, -1.0]), kernel, h, digits=800, backend=backend)
    check(queries, keys, np.array([1.0, 2.0, 4.0, -1.0]), kernel, np.array([h]), digits=800, backend=backend)


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "logistic", "cauchy", "epanechnikov", "cosine", "dot"])
@pytest.mark.parametrize("unit", [1e-160, 1e-155, 1e-100, 1e100, 1e155, 1e160])
def test_key_scales_whose_squares_leave_the_range(kernel, unit, backend):
    keys, scale = unit * np.array([[0.0], [3.0], [1.1]]), unit * np.array([1.0, 2.5, 1.0])
    queries = np.array([[0.9], [2.0]]) * (unit if kernel != "dot" else 1.0)
    check(queries, keys, np.array([1.0, 2.0, 4.0]), kernel, 1.0, key_scale=scale, digits=500, backend=backend)


@pytest.mark.parametrize("power", [-300, -100, 0, 100, 300])
@pytest.mark.parametrize(
    ("kernel", "apart", "query"),
    [("gaussian", 1e-4, 1e4), ("laplacian", 1.0, 1e13), ("epanechnikov", 3e-16, 1 - 1e-15), ("dot", 1e-6, 1e6)],
)
def test_logarithms_of_weights_are_taken_of_quotients(kernel, apart, query, power):
    """Two keys that nearly tie where sums go to 32 digits: log w must not be rounded by 1e-16 of 690."""
    rng = np.random.default_rng(abs(power))
    for _ in range(20):
        keys, weights = np.array([[0.0], [apart]]), 10.0**power * rng.uniform(0.2, 1, 2)
        check(np.array([[query]]), keys, np.array([0.0, 1.0]), kernel, 1.0, weights)


def test_a_matrix_that_float64_cannot_tell_from_a_singular_one():
    """The one whose determinant is 0 is refused; its neighbour, 1e16 times longer than wide, is not."""
    a = 1.0 - EPS / 2
    with pytest.raises(ValueError, match="positive definite; it fails at coordinate 1"):
        fastnw.pool(np.zeros((1, 2)), np.eye(2), [1.0, 2.0], bandwidth=np.ones((2, 2)))
    h = np.array([[1.0, a], [a, 1.0]])
    check(
        np.array([[0.1, 0.1]]), np.array([[0.0, 0.0], [0.5, 0.5], [0.3, 0.3]]), np.array([1.0, 2.0, 5.0]), "gaussian", h
    )


@pytest.mark.parametrize("d", some_of([2, 5, 17, 40, 64, 90, 150, 300], quick=(2, 5, 17, 40, 90)))
def test_whitening_keeps_its_bounds_in_many_coordinates(d):
    """u² by the factor and the points it whitens, against decimal arithmetic of H itself."""
    rng = np.random.default_rng(d)
    mixing = rng.normal(size=(d, d)) / math.sqrt(d)
    h = mixing @ mixing.T + (np.eye(d) if d > 128 else 1e-3 * np.eye(d))
    h = (h + h.T) / 2
    found = factor.factor(h)
    points, origin = rng.normal(size=(2, d)) * 30, rng.normal(size=d)
    with mpmath.workdps(40):
        matrix, whitened = mp_matrix(h), found.whitened(points, origin)
        for x, z in zip(points, whitened, strict=True):
            apart = mpmath.matrix(
                [mpmath.mpf(a) - mpmath.mpf(b) for a, b in zip(x.tolist(), origin.tolist(), strict=True)]
            )
            square = (apart.T * mpmath.lu_solve(matrix, apart))[0] if d < 100 else long_square(h, x, origin)
            got = mpmath.fsum(mpmath.mpf(float(v)) ** 2 for v in z)
            bound = found.square_error + 2.1 * found.point_error
            assert abs(got - square) <= bound * square
            assert bound < 1e-9


def long_square(h, x, origin):
    """u² in long double, for matrices whose condition is small."""
    lower, apart = np.linalg.cholesky(h), (x.astype(np.longdouble) - origin)
    solution = np.zeros(len(x), np.longdouble)
    for _ in range(4):  # iterative refinement
        rest = (apart - h.astype(np.longdouble) @ solution).astype(np.float64)
        solution = solution + np.linalg.solve(lower.T, np.linalg.solve(lower, rest))
    return mpmath.mpf(np.format_float_scientific((solution * apart).sum(), precision=25, unique=False))


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("d", [2, 5, 16, 64])
def test_matrices_symmetric_up_to_the_rounding_of_their_type(dtype, d):
    rng = np.random.default_rng(d)
    for _ in range(10):
        points = rng.normal(size=(200, d)).astype(dtype)
        covariance = np.cov(points.T).astype(dtype)
        spectrum, rotation = np.linalg.eigh(covariance)
        for h in ((rotation * spectrum) @ rotation.T, np.linalg.pinv(covariance)):
            mean = (h.astype(np.float64) + h.T.astype(np.float64)) / 2
            got = fastnw.pool(points[:2], points[:9], points[:9, 0], bandwidth=h)
            np.testing.assert_array_equal(got, fastnw.pool(points[:2], points[:9], points[:9, 0], bandwidth=mean))
    h = np.eye(d, dtype=dtype)
    h[0, 1] = 100 * d * np.finfo(dtype).eps
    with pytest.raises(ValueError, match=r"must be symmetric, but entries \(0, 1\) and \(1, 0\) differ"):
        fastnw.pool(points[:2], points[:9], points[:9, 0], bandwidth=h)


def test_a_matrix_is_factorised_once_or_twice(monkeypatch):
    """Not each of its leading minors, which took 70 s in 1,000 coordinates."""
    calls, cholesky = [], np.linalg.cholesky
    monkeypatch.setattr(np.linalg, "cholesky", lambda h: calls.append(len(h)) or cholesky(h))
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(300, 300)) / 20
    h = mixing @ mixing.T + np.eye(300)
    fastnw.density(rng.normal(size=(2, 300)), rng.normal(size=(40, 300)), bandwidth=h)
    assert calls == [300, 300]
    bad = np.eye(300)
    bad[200, 200] = -1.0
    with pytest.raises(ValueError, match="fails at coordinate 200"):
        fastnw.density(np.zeros((1, 300)), np.zeros((2, 300)), bandwidth=bad)


@pytest.mark.parametrize("method", ["exact", "tree"])
@pytest.mark.parametrize("log_condition", [1, 4, 8, 12])
@pytest.mark.parametrize("centre", [0.0, 1e3, 1e6])
def test_keys_on_the_rim_of_a_boxcar(method, log_condition, centre):
    """A key 1e-12 within or beyond the window is on its own side, however far whitened coordinates are from 0."""
    rng = np.random.default_rng([log_condition, int(centre)])
    h, lower = matrix_of(rng, 2, log_condition)
    directions = rng.normal(size=(40, 2))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    steps = rng.choice([-1, 1], size=(40, 1)) * 10.0 ** rng.uniform(-13, -8, size=(40, 1))
    z = np.concatenate([np.zeros((1, 2)), centre + directions * (1 + steps)])  # the first key is where whitening starts
    keys, query = z @ lower.T, np.array([[centre, centre]]) @ lower.T
    values = rng.normal(size=41)
    with mpmath.workdps(60):
        u = mp_scores(query[0], keys, "boxcar", h)
        inside = [i for i in range(41) if u[i] <= 1]
        doubtful = [i for i in range(41) if abs(u[i] - 1) < 32 * EPS]
    kept = [i for i in range(41) if i not in doubtful]
    got = fastnw.pool(query, keys[kept], values[kept], kernel="boxcar", bandwidth=h, method=method)
    assert got[0] == pytest.approx(values[[i for i in inside if i in kept]].mean(), abs=1e-12)


@pytest.mark.parametrize("kernel", ["gaussian", "matern32", "epanechnikov", "boxcar"])
@pytest.mark.parametrize("unit", [1e-310, 1e-200, 1e200])
def test_the_tree_hands_on_what_leaves_the_range(kernel, unit):
    keys, queries = unit * np.array([[0.0], [3.0], [1.5], [-0.7]]), unit * np.array([[0.9], [2.2]])
    check(queries, keys, np.array([1.0, 2.0, 4.0, -1.0]), kernel, unit, digits=800, method="tree")
