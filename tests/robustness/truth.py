"""What is true at one query: every sum in decimal arithmetic of 60 digits or more, whose exponents never overflow.

Nothing comes from fastnw. Numbers enter exactly as they are (`Decimal(float)` rounds nothing), differences and H⁻¹ are
taken with all digits, and every kernel is a factor F times e to the power E, with F and E in closed form:

    w κ(u) / (w₀ κ(u₀)) = w/w₀ · F/F₀ · exp(E − E₀)

relative to the leading key 0, so that nothing underflows at any distance. Digits are added where E is large.

`screen` does the same for all queries at once in long double, only to find the queries worth this effort.
"""

from __future__ import annotations

import decimal
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

import numpy as np

from robustness.draw import COMPACT, Problem

LONG = np.longdouble
DIGITS = 60
NATS = 180  # below the leading key: what lies deeper is less than 1e-75 of the mass
MOST_ON_RIM = 6  # keys within rounding of u = 1 of which every subset is tried
ZERO, ONE = Decimal(0), Decimal(1)
RIM = Decimal("1e-45")


def context(digits: int) -> Any:
    made = decimal.Context(prec=digits, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN, traps=[decimal.InvalidOperation])
    return decimal.localcontext(made)


@lru_cache(maxsize=64)
def pi(digits: int) -> Decimal:
    """Machin's formula: 16 atan(1/5) − 4 atan(1/239)."""

    def arctan_of_inverse(x: int) -> Decimal:
        power = total = ONE / x
        for k in itertools.count(3, 2):
            power /= -x * x
            if abs(power) < Decimal(10) ** (-digits - 5):
                return total
            total += power / k
        raise AssertionError

    with context(digits + 10):
        return 16 * arctan_of_inverse(5) - 4 * arctan_of_inverse(239)


def sine(x: Decimal) -> Decimal:
    """sin(x) for 0 ≤ x ≤ 2 by its series."""
    term = total = x
    for k in itertools.count(2, 2):
        term *= -x * x / (k * (k + 1))
        if term == 0 or term.adjusted() < total.adjusted() - decimal.getcontext().prec - 2:
            return total
        total += term
    raise AssertionError


def _window(factor: Callable[[Decimal, Decimal], Decimal]) -> Callable[[Decimal], tuple[Decimal, Decimal]]:
    # 1 - u2 below RIM is the division's rounding for a key exactly on the rim, which a heavy key would show
    return lambda u2: (ZERO, factor(ONE if abs(1 - u2) < RIM else u2, u2.sqrt()) if u2 < 1 + RIM else ZERO)


def _cosine(u2: Decimal, u: Decimal) -> Decimal:
    return sine(pi(decimal.getcontext().prec) / 2 * (1 - u2) / (1 + u))


def _matern52(u2: Decimal) -> tuple[Decimal, Decimal]:
    z = (5 * u2).sqrt()
    return -z, 1 + z + 5 * u2 / 3


def _matern32(u2: Decimal) -> tuple[Decimal, Decimal]:
    z = (3 * u2).sqrt()
    return -z, 1 + z


def _logistic(u2: Decimal) -> tuple[Decimal, Decimal]:
    u = u2.sqrt()
    return -u, 4 / (1 + (-u).exp()) ** 2


# (E, F) from u² (from the score for "dot"): κ = F e^E.
PARTS: dict[str, Callable[[Decimal], tuple[Decimal, Decimal]]] = {
    "gaussian": lambda u2: (-u2 / 2, ONE),
    "laplacian": lambda u2: (-u2.sqrt(), ONE),
    "matern32": _matern32,
    "matern52": _matern52,
    "logistic": _logistic,
    "dot": lambda score: (score, ONE),
    "cauchy": lambda u2: (ZERO, 1 / (1 + u2)),
    "constant": lambda u2: (ZERO, ONE),
    "boxcar": _window(lambda u2, u: ONE),
    "triangular": _window(lambda u2, u: (1 - u2) / (1 + u)),
    "epanechnikov": _window(lambda u2, u: 1 - u2),
    "biweight": _window(lambda u2, u: (1 - u2) ** 2),
    "triweight": _window(lambda u2, u: (1 - u2) ** 3),
    "tricube": _window(lambda u2, u: (1 - u2 * u) ** 3),
    "cosine": _window(_cosine),
    "user student": lambda u2: (ZERO, 1 / (1 + u2) ** 2),
    "user bump": lambda u2: (ZERO, (1 - u2 / 4) ** 2 if u2 <= 4 else ZERO),
    "user power": lambda u2: (ZERO, 1 / ((1 + u2) ** 2 * (1 + u2).sqrt())),
    "user stretched": lambda u2: (-2 * u2 / (1 + u2.sqrt()), ONE),
    "user two scales": lambda u2: (-u2.sqrt(), 1 + u2 / (1 + u2)),
}


SUPPORT_SQUARED = dict.fromkeys(COMPACT, 1) | {"user bump": 4}


@dataclass(frozen=True)
class Answer:
    """What may be true at one query: one `Sums` for each way the keys on a boxcar's rim may fall.

    `may_be_empty`: no key with weight lies further inside the window than rounding may move it. `anything`: so many
    keys lie on the rim, or only such beyond it, that nothing but the values' range is known.
    """

    ways: list[Sums]
    may_be_empty: bool
    anything: bool


@dataclass(frozen=True)
class Sums:
    """f (c,), log Σ w κ, and w κ/mass of the keys that matter; an empty window has None, −inf and no key."""

    f: list[Decimal] | None
    log_mass: Decimal
    shares: dict[int, Decimal]


EMPTY = Sums(None, Decimal("-Infinity"), {})


class Oracle:
    """The numbers of a problem as decimals, made once."""

    def __init__(self, problem: Problem) -> None:
        options = problem.options
        self.problem, self.kernel = problem, options["kernel"]
        n, d = problem.keys.shape
        self.h = np.asarray(options.get("bandwidth", 1.0), np.float64)
        w = np.ones(n) if "sample_weight" not in options else np.asarray(options["sample_weight"])
        lam = np.ones(n) if "key_scale" not in options else np.asarray(options["key_scale"])
        counts = [1] * n if problem.copies is None else problem.copies.tolist()
        self.scale = [Decimal(float(x)) for x in lam]
        with context(DIGITS):
            self.weight = [Decimal(float(x)) * count for x, count in zip(w, counts, strict=True)]
        self.log_weight = [log(x) for x in self.weight]
        self.by_volume = problem.ask == "density" and "key_scale" in options
        self.keys = np.array([[Decimal(float(x)) for x in key] for key in problem.keys], object).reshape(n, d)
        columns = None if problem.values is None else problem.values.reshape(n, -1)
        self.values = [] if columns is None else [[Decimal(float(x)) for x in row] for row in columns]
        self.forms: dict[int, Any] = {}

    def form(self) -> Any:
        """1/h_j² or H⁻¹ (1/s_j for "dot") at the present precision."""
        digits = decimal.getcontext().prec
        if digits not in self.forms:
            if self.h.ndim == 2:
                self.forms[digits] = inverse([[Decimal(float(x)) for x in row] for row in self.h])
            else:
                widths = [Decimal(float(x)) for x in np.broadcast_to(self.h, self.keys.shape[1])]
                power = 1 if self.kernel == "dot" else 2
                self.forms[digits] = np.array([1 / x**power for x in widths], object)
        return self.forms[digits]

    def squares(self, row: int, kept: list[int]) -> tuple[list[Decimal], int]:
        """u², or the scores, of those keys; and the power of ten of the largest product that scores add up."""
        form, query = self.form(), np.array([Decimal(float(x)) for x in self.problem.queries[row]], object)
        keys = self.keys[kept]
        left, right = (query - keys, query - keys) if self.kernel != "dot" else (query[None], keys)
        products = left * form * right if form.ndim == 1 else left.dot(form) * right
        size = 0
        if self.kernel == "dot":
            size = max(x.adjusted() for x in products.ravel().tolist()) - min(self.scale[i].adjusted() for i in kept)
        power = 1 if self.kernel == "dot" else 2
        sums = products.sum(axis=1).tolist()
        return [x / self.scale[i] ** power for x, i in zip(sums, kept, strict=True)], size

    def at(self, row: int) -> Answer:
        """What is true at that query."""
        kept = [i for i, w in enumerate(self.weight) if w > 0]
        if self.problem.options.get("exclude_self"):
            kept = [i for i in kept if i != row]
        if not kept:
            return Answer([EMPTY], True, False)
        digits = DIGITS
        while True:
            with context(digits):
                squares, size = self.squares(row, kept)
                parts = [PARTS[self.kernel](x) for x in squares]
                largest = max(max(e.adjusted() if e else 0 for e, _ in parts), size, 0)
                if digits >= DIGITS + 2 * max(largest - 4, 0):
                    return self._answer(kept, squares, parts)
                digits = DIGITS + 2 * largest

    def _answer(self, kept: list[int], squares: list[Decimal], parts: list[tuple[Decimal, Decimal]]) -> Answer:
        inside = [k for k, (_, factor) in enumerate(parts) if factor > 0]
        if self.kernel not in SUPPORT_SQUARED:
            return Answer([self._sums(kept, parts, inside)], False, False)
        rim = SUPPORT_SQUARED[self.kernel]
        grace = Decimal(33 * self.keys.shape[1]) * Decimal(float(np.finfo(result_type(self.problem)).eps)) * rim
        on_rim = [k for k, u2 in enumerate(squares) if abs(u2 - rim) <= grace]
        if self.kernel != "boxcar":
            sure = set(inside) - set(on_rim)
            return Answer([self._sums(kept, parts, inside)], not sure, not inside and bool(on_rim))
        sure = [k for k in inside if k not in on_rim]
        if len(on_rim) > MOST_ON_RIM:
            return Answer([], not sure, True)
        full = [(ZERO, ONE)] * len(parts)
        subsets = itertools.chain.from_iterable(itertools.combinations(on_rim, r) for r in range(len(on_rim) + 1))
        return Answer([self._sums(kept, full, sure + list(subset)) for subset in subsets], not sure, False)

    def _sums(self, kept: list[int], parts: list[tuple[Decimal, Decimal]], which: list[int]) -> Sums:
        if not which:
            return EMPTY
        d = self.keys.shape[1]
        near = [parts[k][0] + Decimal(self.log_weight[kept[k]] + log(parts[k][1])) for k in which]
        if self.by_volume:
            near = [x - d * Decimal(log(self.scale[kept[k]])) for x, k in zip(near, which, strict=True)]
        top = max(near)
        lead = which[near.index(top)]
        e0, f0 = parts[lead]
        w0 = self._weight(kept[lead])
        terms: dict[int, Decimal] = {}
        for k, size in zip(which, near, strict=True):
            if size >= top - NATS:
                i, (e, factor) = kept[k], parts[k]
                terms[i] = self._weight(i) / w0 * (factor / f0) * (ONE if e == e0 else (e - e0).exp())
        mass = sum(terms.values(), ZERO)
        columns = range(len(self.values[0]) if self.values else 0)
        f = [sum((term * self.values[i][column] for i, term in terms.items()), ZERO) / mass for column in columns]
        log_mass = e0 + f0.ln() + w0.ln() + mass.ln()
        return Sums(f, log_mass, {i: term / mass for i, term in terms.items()})

    def _weight(self, i: int) -> Decimal:
        return self.weight[i] / self.scale[i] ** self.keys.shape[1] if self.by_volume else self.weight[i]


def inverse(matrix: list[list[Decimal]]) -> Any:
    """The inverse of a symmetric matrix, by Gauss and Jordan with pivots from the diagonal."""
    d = len(matrix)
    rows = [[*row, *(ONE if i == j else ZERO for j in range(d))] for i, row in enumerate(matrix)]
    for i in range(d):
        pivot = max(range(i, d), key=lambda k: abs(rows[k][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        first = rows[i][i]
        rows[i] = [x / first for x in rows[i]]
        for k in range(d):
            if k != i and rows[k][i]:
                factor = rows[k][i]
                rows[k] = [x - factor * y for x, y in zip(rows[k], rows[i], strict=True)]
    return np.array([row[d:] for row in rows], object)


def log(x: Decimal) -> float:
    """log x to about float64's digits, for any size; −inf of 0."""
    if not x:
        return -math.inf
    return x.adjusted() * math.log(10) + math.log(float(x.scaleb(-x.adjusted())))


def determinant(matrix: np.ndarray) -> Decimal:
    """det of a symmetric positive definite matrix; not positive if it is none."""
    rows = [[Decimal(float(x)) for x in row] for row in matrix]
    product = ONE
    for i in range(len(rows)):
        if rows[i][i] <= 0:
            return ZERO
        product *= rows[i][i]
        for k in range(i + 1, len(rows)):
            factor = rows[k][i] / rows[i][i]
            rows[k] = [x - factor * y for x, y in zip(rows[k], rows[i], strict=True)]
    return product


def result_type(problem: Problem) -> np.dtype[Any]:
    """float32 if queries, keys and floating values all are float32 or float16; otherwise float64."""
    arrays = [problem.queries, problem.keys]
    if problem.values is not None and problem.values.dtype.kind == "f":
        arrays.append(problem.values)
    return np.dtype(np.float32 if all(a.dtype.kind == "f" and a.dtype.itemsize <= 4 for a in arrays) else np.float64)


def screen(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """f (m, c) and log Σ w κ (m,) of all queries in long double: near enough to find the queries that look wrong."""
    options, kernel = problem.options, problem.options["kernel"]
    n, d = problem.keys.shape
    h = np.asarray(options.get("bandwidth", 1.0)).astype(LONG)
    with np.errstate(all="ignore"):
        w = np.log(np.ones(n, LONG) if "sample_weight" not in options else options["sample_weight"].astype(LONG))
        if problem.copies is not None:
            w = w + np.log(problem.copies.astype(LONG))
        scale = np.ones(n, LONG) if "key_scale" not in options else options["key_scale"].astype(LONG)
        if problem.ask == "density":
            w = w - d * np.log(scale)
        keys, queries = problem.keys.astype(LONG), problem.queries.astype(LONG)
        if h.ndim == 2:
            factor = np.array([[LONG(str(x)) for x in row] for row in inverse_factor(h)])
        else:
            factor = np.diag(1 / np.broadcast_to(h, d))
        logs = np.empty((len(queries), n), LONG)
        for row, query in enumerate(queries):
            if kernel == "dot":
                form = factor.T @ factor if h.ndim == 2 else factor
                scaled = keys @ (form @ query) / scale
            else:
                scaled = np.sqrt(np.square((query - keys) @ factor.T).sum(axis=1)) / scale
            logs[row] = w + log_kappa(kernel, scaled)
            if options.get("exclude_self"):
                logs[row, row] = -np.inf
        top = logs.max(axis=1)
        shift = np.where(np.isfinite(top), top, 0)[:, None]
        terms = np.exp(logs - shift)
        mass = terms.sum(axis=1)
        values = np.zeros((n, 0), LONG) if problem.values is None else problem.values.reshape(n, -1).astype(LONG)
        middle = values.mean(axis=0) if n else 0
        return middle + (terms @ (values - middle)) / mass[:, None], shift[:, 0] + np.log(mass)


def inverse_factor(h: np.ndarray) -> list[list[Decimal]]:
    """W with WᵀW = H⁻¹, lower triangular, by Cholesky with all digits."""
    d = len(h)
    with context(DIGITS):
        a = [[Decimal(float(x)) for x in row] for row in h]
        lower = [[ZERO] * d for _ in range(d)]
        made: list[list[Decimal]] = []
        for i in range(d):
            for j in range(i + 1):
                rest = a[i][j] - sum((lower[i][k] * lower[j][k] for k in range(j)), ZERO)
                lower[i][j] = max(rest, Decimal("1e-700")).sqrt() if i == j else rest / lower[j][j]
            unit = [ONE if i == j else ZERO for j in range(d)]
            made.append(
                [(unit[j] - sum((lower[i][k] * made[k][j] for k in range(i)), ZERO)) / lower[i][i] for j in range(d)]
            )
        return made


def log_kappa(kernel: str, u: np.ndarray) -> np.ndarray:
    """log κ(u) in long double."""
    three, five = np.sqrt(LONG(3)), np.sqrt(LONG(5))
    u2 = u * u
    y = 1 - u2
    inside = u <= 1
    formulas: dict[str, Callable[[], Any]] = {
        "gaussian": lambda: -u2 / 2,
        "laplacian": lambda: -u,
        "matern32": lambda: np.log1p(three * u) - three * u,
        "matern52": lambda: np.log1p(five * u + 5 * u2 / 3) - five * u,
        "logistic": lambda: np.log(LONG(4)) - u - 2 * np.log1p(np.exp(-u)),
        "dot": lambda: u,
        "cauchy": lambda: -np.log1p(u2),
        "constant": lambda: np.zeros_like(u),
        "boxcar": lambda: np.where(inside, 0, -np.inf),
        "triangular": lambda: np.log(np.where(inside, y / (1 + u), 0)),
        "epanechnikov": lambda: np.log(np.where(inside, y, 0)),
        "biweight": lambda: 2 * np.log(np.where(inside, y, 0)),
        "triweight": lambda: 3 * np.log(np.where(inside, y, 0)),
        "tricube": lambda: 3 * np.log(np.where(inside, 1 - u2 * u, 0)),
        "cosine": lambda: np.log(np.where(inside, np.sin(2 * np.arctan(LONG(1)) * y / (1 + u)), 0)),
        "user student": lambda: -2 * np.log1p(u2),
        "user bump": lambda: 2 * np.log(np.where(u <= 2, 1 - u2 / 4, 0)),
        "user power": lambda: -2.5 * np.log1p(u2),
        "user stretched": lambda: -2 * u2 / (1 + u),
        "user two scales": lambda: -u + np.log1p(u2 / (1 + u2)),
    }
    return formulas[kernel]()
