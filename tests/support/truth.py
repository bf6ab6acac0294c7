"""What is true at some queries, and how sure that is: sums over all keys, of which nothing comes from fastnw.

In long double (64 bits), relative to a leading key 0, with exponents from differences:

    u_i² − u_0² = (k_0 − k_i)ᵀ A (2q − k_0 − k_i),  A = H⁻¹

Each factor has all its digits; the sum over coordinates may cancel, and key scales add u_0² (1/λ_i² − 1/λ_0²). So the
error of an exponent is at most UNIT times the terms without their signs, and that of a result (`doubt`) follows: it is
1e-17 of the range or so among the keys, and grows with u (in one coordinate it does not), to 1e-9 at 10⁹ bandwidths.
Where it exceeds DOUBT, far out or on a compact kernel's rim, the keys that matter are summed by mpmath with 50 digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import mpmath
import numpy as np
from clouds import Cloud
from oracle import LOG_KAPPA, LONG, mp_pool, mp_squares

EPS = float(np.finfo(np.float64).eps)
UNIT = 8 * np.finfo(LONG).eps  # 16 roundings of long double: no chain here is longer
DOUBT = 1e-13  # of the range: certificates are some 1e-12 at least
REACH = 70.0  # nats below the leading key: all keys further down weigh less than 1e-25
PATIENCE = 500  # keys that mpmath sums for a query


@dataclass(frozen=True)
class Truth:
    """Rows of a `Cloud`: f (m, c), NaN where empty; log_mass (m,); `doubt` (m,) how far f may be wrong, in units of the
    largest range, and log_mass absolutely; `most` (m,) log_mass with a boxcar's keys on the rim, of which `log_mass`
    has none."""

    f: np.ndarray
    log_mass: np.ndarray
    doubt: np.ndarray
    most: np.ndarray


@dataclass(frozen=True)
class Query:
    """One query and its keys, those of weight 0 left out."""

    query: np.ndarray  # (d,)
    keys: np.ndarray
    values: np.ndarray  # (n, c)
    weights: np.ndarray
    scale: np.ndarray
    kernel: str
    bandwidth: object
    form: np.ndarray  # (d, d) long double


def truth(cloud: Cloud, rows: np.ndarray, by_volume: bool = False) -> Truth:
    """At the queries `rows`. `by_volume`: weights over λ^d, as densities have them."""
    options, n, d = cloud.options, *cloud.keys.shape
    weights = np.asarray(options.get("sample_weight", np.ones(n))).astype(LONG)
    scale = np.asarray(options.get("key_scale", np.ones(n))).astype(LONG)
    weights = weights / scale**d if by_volume else weights
    values, form = cloud.values.reshape(n, -1).astype(LONG), _form(options["bandwidth"], d)
    found = []
    for row in rows:
        kept = weights > 0
        kept[row if options.get("exclude_self") else []] = False
        arrays = (a[kept] for a in (cloud.keys.astype(np.float64), values, weights, scale))
        one = Query(cloud.queries[row].astype(np.float64), *arrays, options["kernel"], options["bandwidth"], form)
        if not kept.any():
            found.append((np.full(values.shape[1], np.nan), -np.inf, 0.0, -np.inf))
        else:
            found.append((_of_logs if one.kernel in LOG_KAPPA else _of_window)(one))
    f, *rest = zip(*found, strict=True)
    return Truth(np.array(f).astype(np.float64), *(np.array(x).astype(np.float64) for x in rest))


def _form(bandwidth: object, d: int) -> np.ndarray:
    h = np.asarray(bandwidth)
    if h.ndim < 2:
        return np.diag(1 / np.broadcast_to(h.astype(LONG), d) ** 2)
    with mpmath.workdps(60):
        inverse = mpmath.matrix(h.tolist()) ** -1
        return np.array([[LONG(mpmath.nstr(inverse[i, j], 25)) for j in range(d)] for i in range(d)])


def _product(a: np.ndarray, form: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) aᵀ A b, and a bound on its error."""
    return (a @ form * b).sum(axis=1), UNIT * (abs(a) @ abs(form) * abs(b)).sum(axis=1)


def _log_ratio(kernel: str, u: np.ndarray, u0: LONG, delta: np.ndarray, error: np.ndarray) -> tuple:
    """log κ(u) − log κ(u0) from delta = u² − u0², and a bound on its error."""
    if kernel == "gaussian":
        return -delta / 2, error / 2
    apart = np.where(u + u0 > 0, u + u0, 1)
    step = delta / apart
    root = np.sqrt(LONG({"matern32": 3, "matern52": 5}.get(kernel, 1)))
    z, z0, dz = root * u, root * u0, root * step
    growth = {
        "laplacian": lambda: LONG(0),
        "logistic": lambda: -2 * (np.log1p(np.exp(-u)) - np.log1p(np.exp(-u0))),
        "matern32": lambda: np.log1p(dz / (1 + z0)),
        "matern52": lambda: np.log1p(dz * (1 + (z + z0) / 3) / (1 + z0 + z0**2 / 3)),
    }[kernel]()
    return growth - dz, root * error / apart + UNIT * (abs(dz) + 1)


def _of_logs(one: Query) -> tuple:
    away = one.query.astype(LONG) - one.keys
    square, _ = _product(away, one.form, away)
    u = np.sqrt(square) / one.scale
    at = int(np.argmax(LOG_KAPPA[one.kernel](u) + np.log(one.weights)))
    delta, error = _product(one.keys[at].astype(LONG) - one.keys, one.form, away + away[at])
    turn = (one.scale[at] - one.scale) * (one.scale[at] + one.scale) / (one.scale[at] * one.scale) ** 2
    delta, error = delta / one.scale**2 + square[at] * turn, error / one.scale**2 + UNIT * abs(square[at] * turn)
    logs, error = _log_ratio(one.kernel, u, u[at], delta, error)
    logs = logs + np.log(one.weights / one.weights[at])
    matters = np.flatnonzero(logs + 2 * error >= -REACH)
    terms = np.exp(logs[matters])
    share = terms / terms.sum()
    doubt = 2 * (share * error[matters]).sum() + UNIT * (REACH + np.sqrt(len(matters)))
    if doubt > DOUBT and len(matters) <= PATIENCE:
        mine = {"sample_weight": one.weights[matters], "key_scale": one.scale[matters]}
        values = one.values[matters].astype(np.float64)  # as they came: nothing is lost
        f, log_mass = mp_pool(one.query[None], one.keys[matters], values, one.kernel, one.bandwidth, **mine)
        return f[0], log_mass[0], EPS, log_mass[0]
    log_mass = LOG_KAPPA[one.kernel](u[at]) + np.log(one.weights[at]) + np.log(terms.sum())
    return one.values[at] + share @ (one.values[matters] - one.values[at]), log_mass, doubt, log_mass


# Of compact kernels: κ from y = 1 − u² and u, with all digits that y has; and |dκ/dy| at most, as a multiple of κ/y.
WINDOW = {
    "boxcar": (lambda y, u: np.ones_like(y), 0),
    "triangular": (lambda y, u: y / (1 + u), 1),
    "epanechnikov": (lambda y, u: y, 1),
    "biweight": (lambda y, u: y**2, 2),
    "triweight": (lambda y, u: y**3, 3),
    "tricube": (lambda y, u: (y * (1 + u + u * u) / (1 + u)) ** 3, 3),
    "cosine": (lambda y, u: np.sin(2 * np.arctan(LONG(1)) * y / (1 + u)), 1),
}


def _of_window(one: Query) -> tuple:
    away = one.query.astype(LONG) - one.keys
    square, error = _product(away, one.form, away)
    square, error = square / one.scale**2, error / one.scale**2 + UNIT
    near = np.flatnonzero(square < 1 + 1e-6)
    one = _part(one, near)
    y, u, error = 1 - square[near], np.sqrt(square[near]), error[near]
    if one.kernel == "boxcar":
        rim = abs(u - 1) <= 16 * len(one.query) * EPS
        f, log_mass, _, _ = _summed(one, np.where((y > 0) & ~rim, 1, 0).astype(LONG), 0 * y)
        most = one.weights[(y > 0) | rim].sum()
        return f, log_mass, UNIT * 64, np.log(most) if most > 0 else -np.inf
    kappa, power = WINDOW[one.kernel]

    def summed() -> tuple:
        inside, least = np.maximum(y, 0), np.maximum(np.maximum(y, error), LONG(2) ** -1000)
        slope = power * kappa(least, u) / least
        return _summed(one, kappa(inside, u), np.where(y > -error, 2 * slope * error, 0))

    found = summed()
    if found[2] > DOUBT and len(near) <= PATIENCE:
        exact = mp_squares(one.query, one.keys, one.bandwidth, one.scale)
        with mpmath.workdps(50):
            y = np.array([LONG(mpmath.nstr(x, 25)) if abs(x := 1 - s) > 1e-45 else LONG(0) for s in exact])
        error = UNIT * abs(y)
        found = summed()
    return found


def _part(one: Query, some: np.ndarray) -> Query:
    arrays = (a[some] for a in (one.keys, one.values, one.weights, one.scale))
    return Query(one.query, *arrays, one.kernel, one.bandwidth, one.form)


def _summed(one: Query, kappa: np.ndarray, error: np.ndarray) -> tuple:
    terms = one.weights * kappa
    mass, unsure = terms.sum(), (one.weights * error).sum()
    if not mass > 0:  # it may yet be some, if `unsure` is
        return np.full(one.values.shape[1], np.nan), -np.inf, np.inf if unsure > 0 else 0.0, -np.inf
    at = int(np.argmax(terms))
    f = one.values[at] + (terms / mass) @ (one.values - one.values[at])
    doubt = 2 * unsure / mass + UNIT * (8 + np.sqrt(len(terms)))
    return f, np.log(mass), doubt, np.log(mass)
