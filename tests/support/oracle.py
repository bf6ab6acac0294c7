"""What fastnw must agree with: its formulas written out once more, as plainly as possible.

Nothing here comes from fastnw, the table of kernels included. `naive_*` run in any NumPy type, by default the longest;
in the type under test they are the "plain same-precision computation" that tolerances are measured by. `mp_*` run in
mpmath at as many digits as asked, on exactly the numbers given.
"""

from __future__ import annotations

import math

import mpmath
import numpy as np
from scipy import integrate, special

LONG = np.longdouble
# Not on macOS with arm64, nor with MSVC: naive sums are then no oracle of float64's last digits and whole range.
LONGER = bool(np.finfo(LONG).eps < 1e-18)


def _inside(kappa):
    """A compact kernel: `kappa` for u <= 1, otherwise 0."""
    return lambda u: np.where(u <= 1, kappa(np.minimum(u, 1)), 0)


def _root(number, u):
    """sqrt(number) in the type of u."""
    return np.sqrt(u.dtype.type(number))


COMPACT = {
    "boxcar": _inside(lambda u: np.ones_like(u)),
    "triangular": _inside(lambda u: 1 - u),
    "epanechnikov": _inside(lambda u: 1 - u**2),
    "biweight": _inside(lambda u: (1 - u**2) ** 2),
    "triweight": _inside(lambda u: (1 - u**2) ** 3),
    "tricube": _inside(lambda u: (1 - u**3) ** 3),
    # sin instead of cos: at u = 1 rounded pi/2 must not leave a rest
    "cosine": _inside(lambda u: np.sin(u.dtype.type(LONG("3.14159265358979323846") / 2) * (1 - u))),
}
KAPPA = COMPACT | {"cauchy": lambda u: 1 / (1 + u**2), "constant": lambda u: np.ones_like(u)}
LOG_KAPPA = {
    "gaussian": lambda u: -(u**2) / 2,
    "laplacian": lambda u: -u,
    "matern32": lambda u: np.log1p(_root(3, u) * u) - _root(3, u) * u,
    "matern52": lambda u: np.log1p(_root(5, u) * u + 5 * u**2 / 3) - _root(5, u) * u,
    "logistic": lambda u: np.log(u.dtype.type(4)) - u - 2 * np.log1p(np.exp(-u)),
    "dot": lambda score: score,
}
MP_LOG_KAPPA = {
    "gaussian": lambda u: -(u**2) / 2,
    "laplacian": lambda u: -u,
    "matern32": lambda u: mpmath.log(1 + mpmath.sqrt(3) * u) - mpmath.sqrt(3) * u,
    "matern52": lambda u: mpmath.log(1 + mpmath.sqrt(5) * u + 5 * u**2 / 3) - mpmath.sqrt(5) * u,
    "logistic": lambda u: mpmath.log(4 / (mpmath.exp(u) + 2 + mpmath.exp(-u))),
    "dot": lambda score: score,
}
MP_CAUCHY = {"cauchy": lambda u: -mpmath.log(1 + u**2)}  # does not work on logs, but needs them where u² overflows


def inverse_factor(bandwidth, d):
    """(d, d) W in long double with u = |W (q - k)|: 1/h, diag(1/h_j), or the inverse of H's Cholesky factor."""
    h = np.asarray(bandwidth, dtype=LONG)
    if h.ndim < 2:
        return np.diag(1 / np.broadcast_to(h, d))
    lower, inverse = np.zeros((d, d), LONG), np.zeros((d, d), LONG)
    for i in range(d):
        for j in range(i + 1):
            rest = h[i, j] - lower[i, :j] @ lower[j, :j]
            lower[i, j] = np.sqrt(rest) if i == j else rest / lower[j, j]
        inverse[i] = ((np.arange(d) == i) - lower[i, :i] @ inverse[:i]) / lower[i, i]
    return inverse


def inner_product_factor(bandwidth, d):
    """(d, d) A in long double with score = qᵀ A k: 1/s, diag(1/s_j) or H⁻¹."""
    factor = inverse_factor(bandwidth, d)
    return factor.T @ factor if np.ndim(bandwidth) == 2 else factor


def naive_scaled(queries, keys, kernel="gaussian", bandwidth=1.0, key_scale=None, dtype=LONG):
    """(m, n) scaled distances u, or scores for ``dot``."""
    q, k = np.asarray(queries).astype(dtype), np.asarray(keys).astype(dtype)
    scaled = np.empty((len(q), len(k)), dtype)
    if kernel == "dot":
        factor = inner_product_factor(bandwidth, k.shape[1]).astype(dtype)
        for i in range(len(q)):
            scaled[i] = k @ (factor @ q[i])
    else:
        factor = inverse_factor(bandwidth, k.shape[1]).astype(dtype)
        for i in range(len(q)):
            scaled[i] = np.sqrt((((q[i] - k) @ factor.T) ** 2).sum(axis=1))
    return scaled if key_scale is None else scaled / np.asarray(key_scale).astype(dtype)


def naive_weights(
    queries, keys, kernel="gaussian", bandwidth=1.0, sample_weight=None, key_scale=None, exclude_self=False, dtype=LONG
):
    """(m, n) weights w κ / mass, rows of NaN where the window is empty, and (m,) log Σ w κ."""
    scaled = naive_scaled(queries, keys, kernel, bandwidth, key_scale, dtype)
    m, n = scaled.shape
    w = np.ones(n, dtype) if sample_weight is None else np.asarray(sample_weight).astype(dtype)
    weights, log_mass = np.full((m, n), np.nan, dtype), np.full(m, -np.inf, dtype)
    for i in range(m):
        keep = w > 0
        if exclude_self:
            keep[i] = False
        if not keep.any():
            continue
        if kernel in LOG_KAPPA:
            log_kappa = LOG_KAPPA[kernel](scaled[i])
            shift = log_kappa[keep].max()
            terms = w * np.exp(np.minimum(log_kappa - shift, 0))
        else:
            shift = dtype(0)
            terms = w * KAPPA[kernel](scaled[i])
        terms = np.where(keep, terms, 0).astype(dtype)
        mass = terms.sum()
        if mass > 0:
            weights[i], log_mass[i] = terms / mass, shift + np.log(mass)
    return weights, log_mass


def naive_pool(queries, keys, values, kernel="gaussian", bandwidth=1.0, dtype=LONG, **options):
    """f, (m,) or (m, c), NaN where the window is empty, and log_mass (m,). Options as in `naive_weights`."""
    weights, log_mass = naive_weights(queries, keys, kernel, bandwidth, dtype=dtype, **options)
    return weights @ np.asarray(values).astype(dtype), log_mass


def normalising_constant(kernel, d):
    """∫ κ(|x|) dx over d dimensions, by closed forms: S_d ∫ r^(d-1) κ(r) dr with S_d the area of the unit sphere."""
    sphere = 2 * math.pi ** (d / 2) / special.gamma(d / 2)
    gamma = special.gamma
    radial = {
        "gaussian": lambda: 2 ** (d / 2 - 1) * gamma(d / 2),
        "boxcar": lambda: 1 / d,
        "triangular": lambda: 1 / (d * (d + 1)),
        "epanechnikov": lambda: special.beta(d / 2, 2) / 2,
        "biweight": lambda: special.beta(d / 2, 3) / 2,
        "triweight": lambda: special.beta(d / 2, 4) / 2,
        "tricube": lambda: special.beta(d / 3, 4) / 3,
        "cosine": lambda: integrate.quad(lambda r: r ** (d - 1) * math.cos(math.pi * r / 2), 0, 1, epsabs=1e-14)[0],
        "laplacian": lambda: gamma(d),
        "matern32": lambda: 3 ** (-d / 2) * (gamma(d) + gamma(d + 1)),
        "matern52": lambda: 5 ** (-d / 2) * (gamma(d) + gamma(d + 1) + gamma(d + 2) / 3),
        "cauchy": lambda: math.pi / 2 if d == 1 else math.inf,
        "logistic": lambda: 4 * gamma(d) * float(mpmath.altzeta(d - 1)),
    }
    return sphere * radial[kernel]()


def naive_log_density(queries, keys, kernel="gaussian", bandwidth=1.0, sample_weight=None, key_scale=None):
    """(m,) log of Σ w κ(u_i) λ_i^(-d) / (C_d sqrt(det H) Σ w), -inf where it is 0."""
    n, d = np.shape(keys)
    w = np.ones(n, LONG) if sample_weight is None else np.asarray(sample_weight).astype(LONG)
    scale = np.ones(n, LONG) if key_scale is None else np.asarray(key_scale).astype(LONG)
    scaled = naive_scaled(queries, keys, kernel, bandwidth, key_scale)
    with np.errstate(divide="ignore"):
        log_kappa = LOG_KAPPA[kernel](scaled) if kernel in LOG_KAPPA else np.log(KAPPA[kernel](scaled))
        logs = log_kappa + np.log(w) - d * np.log(scale)  # scale**d may be no number
    shift = np.maximum(logs.max(axis=1), np.finfo(LONG).min)[:, None]
    with np.errstate(divide="ignore"):
        log_mass = shift[:, 0] + np.log(np.exp(logs - shift).sum(axis=1))
    log_volume = -np.log(np.diag(inverse_factor(bandwidth, d))).sum()
    return log_mass - np.log(LONG(normalising_constant(kernel, d))) - log_volume - np.log(w.sum())


def _mp(number):
    return mpmath.mpf(float(number))


def _mp_scaled(query, key, kernel, inverse):
    """u, or the score for ``dot``, from exact numbers. `inverse`: per coordinate 1/h_j² (``dot``: 1/s_j), or H⁻¹."""
    d = len(query)
    left = query if kernel == "dot" else [query[j] - key[j] for j in range(d)]
    right = key if kernel == "dot" else left
    if isinstance(inverse, list):
        total = mpmath.fsum(left[j] * right[j] * inverse[j] for j in range(d))
    else:
        total = mpmath.fsum(left[i] * inverse[i, j] * right[j] for i in range(d) for j in range(d))
    return total if kernel == "dot" else mpmath.sqrt(total)


def mp_squares(query, keys, bandwidth, key_scale, digits=50):
    """u² of each key as mpf."""
    with mpmath.workdps(digits):
        if np.ndim(bandwidth) == 2:
            inverse = mpmath.matrix([[_mp(x) for x in row] for row in np.asarray(bandwidth)]) ** -1
        else:
            inverse = [_mp(h) ** -2 for h in np.broadcast_to(bandwidth, len(query))]
        q = [_mp(x) for x in query]
        points = ([_mp(x) for x in key] for key in keys)
        scaled = (_mp_scaled(q, point, "", inverse) / _mp(x) for point, x in zip(points, key_scale, strict=True))
        return [u**2 for u in scaled]


def mp_weights(queries, keys, kernel, bandwidth=1.0, sample_weight=None, key_scale=None, exclude_self=False, digits=50):
    """Weights w κ / mass as lists of mpf, a row a query, and log_mass as mpf; for kernels of the two tables."""
    n, d = np.shape(keys)
    rows, log_masses, log_kappa = [], [], (MP_LOG_KAPPA | MP_CAUCHY)[kernel]
    with mpmath.workdps(digits):
        if np.ndim(bandwidth) == 2:
            inverse = mpmath.matrix([[_mp(x) for x in row] for row in np.asarray(bandwidth)]) ** -1
        else:
            inverse = [_mp(h) ** (-1 if kernel == "dot" else -2) for h in np.broadcast_to(bandwidth, d)]
        w = [mpmath.mpf(1)] * n if sample_weight is None else [_mp(x) for x in sample_weight]
        scale = [mpmath.mpf(1)] * n if key_scale is None else [_mp(x) for x in key_scale]
        points = [[_mp(x) for x in key] for key in keys]
        for i, query in enumerate(np.asarray(queries)):
            q = [_mp(x) for x in query]
            kept = [j for j in range(n) if w[j] > 0 and not (exclude_self and i == j)]
            logs = {j: log_kappa(_mp_scaled(q, points[j], kernel, inverse) / scale[j]) for j in kept}
            top = max(logs.values())
            terms = {j: w[j] * mpmath.exp(logs[j] - top) for j in kept}
            mass = mpmath.fsum(terms.values())
            rows.append([terms.get(j, mpmath.mpf(0)) / mass for j in range(n)])
            log_masses.append(top + mpmath.log(mass))
    return rows, log_masses


def mp_pool(queries, keys, values, kernel, bandwidth=1.0, digits=50, **options):
    """f (m,) or (m, c) and log_mass (m,), correctly rounded to float64."""
    rows, log_masses = mp_weights(queries, keys, kernel, bandwidth, digits=digits, **options)
    columns = np.asarray(values).reshape(len(keys), -1).T
    with mpmath.workdps(digits):
        f = [[float(mpmath.fdot(row, [_mp(x) for x in column])) for column in columns] for row in rows]
    return np.array(f).reshape(len(rows), *np.shape(values)[1:]), np.array([float(x) for x in log_masses])
