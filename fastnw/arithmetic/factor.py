"""The Cholesky factor of a bandwidth matrix, whitening by it, and bounds on what both do to u².

H = L Lᵀ, and a point x is whitened as L⁻¹(x − origin).

A float64 factor has a backward error of ε|L||Lᵀ|, which changes u² by ε·cond(H) = ε·cond(L)². If that is too much, L
and L⁻¹ are computed in decimal arithmetic instead and rounded to double-double numbers. Points are then whitened by
products of short slices (Ozaki, Ogita, Oishi and Rump, 2012, Error-free transformations of matrix multiplication),
which BLAS sums without rounding, so that whitened coordinates are accurate to their last digit for any condition
number.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext
from operator import mul

import numpy as np
from numpy.typing import NDArray

from fastnw.arithmetic import doubledouble as dd
from fastnw.runtime.threads import one_blas_thread

Floats = NDArray[np.float64]
Decimals = list[list[Decimal]]

UNIT = 2.0**-53
MAX_PLAIN_ERROR = 2e-11  # the largest relative error of u² for which a float64 factor is used
MIN_PLAIN = 1e-280  # least diagonal entry of H for which products of the factor's entries lose no digits
MIN_MEASURED_D = 16  # from this dimension on, the error of a float64 factor is measured before it is given up
MAX_EXACT_D = 128  # largest dimension for decimal factors, which take 0.5 s there and 1 ms for d = 10
DIGITS = 80  # decimal digits of a factor before it is rounded to double-double
SOLVE_BLOCK = 128  # coordinates in one sum of a triangular solve
SLICES, SLICE_BITS = 4, 20  # products of two slices have exact sums over up to 2^10 coordinates
SPLIT_BITS = 20  # of the leading part of a factor, for an exact residual over up to 2^12 coordinates
WHITENED_NUMBERS = 1 << 14  # whitened at a time, so that temporary arrays stay in the L2 cache


class NotPositiveDefinite(ValueError):
    """The matrix is not positive definite: its leading minor up to `coordinate` is not positive."""

    def __init__(self, coordinate: int) -> None:
        super().__init__(f"bandwidth matrix must be positive definite; it fails at coordinate {coordinate}.")


@dataclass(frozen=True)
class Whitening:
    """The map x ↦ L⁻¹ x by exact products of slices.

    Attributes
    ----------
    inverse : (d, d) pair
        L⁻¹ in the coordinates x_j·2^(−exponents_j), in which the diagonal of H is about 1.
    slices : list of (d, d) float64
        The slices of its rows, divided by 2^row_exponents.
    row_exponents, exponents : (d,) int
    """

    inverse: dd.Pair
    slices: list[Floats]
    row_exponents: NDArray[np.intp]
    exponents: NDArray[np.intp]

    def __call__(self, points: Floats, origin: Floats) -> Floats:
        """(rows, d) L⁻¹(x − origin) of each point; not finite if a coordinate leaves the range of float64."""
        whitened, step = np.empty(points.shape), max(WHITENED_NUMBERS // points.shape[1], 1)
        start = np.ldexp(origin, -self.exponents)
        with np.errstate(all="ignore"):
            for first in range(0, len(points), step):
                rows = slice(first, first + step)
                whitened[rows] = self._rows(dd.two_sum(np.ldexp(points[rows], -self.exponents), -start))
        return whitened

    def _rows(self, x: dd.Pair) -> Floats:
        exponents = np.frexp(np.abs(x[0]).max(axis=1, keepdims=True))[1]
        left = _sliced((np.ldexp(x[0], -exponents), np.ldexp(x[1], -exponents)))
        # Products of slices with equal sums of places are integers below 2^53 in one unit, and so are their sums.
        levels = [
            np.concatenate(left[: k + 1], axis=1) @ np.concatenate(self.slices[k::-1], axis=1).T for k in range(SLICES)
        ]
        first, second = dd.two_sum(levels[0], levels[1])
        return np.asarray(np.ldexp(first + (second + (levels[2] + levels[3])), exponents + self.row_exponents))


@dataclass(frozen=True)
class Factor:
    """The factor L of H = L Lᵀ, and the errors of whitening by it.

    Attributes
    ----------
    lower : (d, d) float64
        L, rounded.
    log_volume : float
        log √det H.
    square_error : float
        Bound on the relative error of u² = |z|² if z is whitened without rounding.
    point_error : float
        Bound on the rounding error of a whitened point, relative to its norm.
    plain_errors : (float, float)
        Both bounds for whitening by forward substitution, which devices use.
    whitening : Whitening or None
        None if points are whitened by forward substitution.
    """

    lower: Floats
    log_volume: float
    square_error: float
    point_error: float
    plain_errors: tuple[float, float]
    whitening: Whitening | None

    def whitened(self, points: Floats, origin: Floats) -> Floats:
        """(rows, d) L⁻¹(x − origin)."""
        with one_blas_thread:  # callers distribute the work over threads themselves
            if self.whitening is not None:
                return self.whitening(points, origin)
            return solved(self.lower, points - origin)


def lower_factor(h: Floats) -> Floats:
    """The factor L, computed in float64.

    Raises
    ------
    NotPositiveDefinite
        It names the first coordinate whose leading minor is not positive.
    """
    try:
        return np.asarray(np.linalg.cholesky(h), np.float64)
    except np.linalg.LinAlgError:
        return _rescued(h)


def _rescued(h: Floats) -> Floats:
    """L of a matrix that cannot be factored in float64 and yet may be positive definite."""
    if len(h) <= MAX_EXACT_D:
        exponents = exponents_of(h)
        rows, _ = decimal_factor(scaled(h, exponents), DIGITS)
        return np.ldexp(as_pair(rows)[0], exponents[:, None])
    from scipy.linalg.lapack import dpotrf  # imported here, since the import takes 0.2 s

    _, failed = dpotrf(h, lower=1)
    raise NotPositiveDefinite(max(int(failed) - 1, 0))


def factor(h: Floats) -> Factor:
    """The factor of a symmetric matrix, with the accuracy that its condition number requires.

    Raises
    ------
    NotPositiveDefinite
    """
    d, lower = len(h), lower_factor(h)
    with np.errstate(all="ignore"):
        inverse = _inverse(lower)
        growth = 1.01 * _growth(inverse, lower)
        error = (d + 2) * UNIT * growth**2
        if not error <= MAX_PLAIN_ERROR and d >= MIN_MEASURED_D:
            error = min(error, _measured_error(h, lower, inverse))
        if not MIN_PLAIN < np.diag(h).min() <= np.diag(h).max() < 1 / MIN_PLAIN:
            error = np.inf
    if not error <= MAX_PLAIN_ERROR and d <= MAX_EXACT_D:
        return exact_factor(h)
    point_error = _solving_terms(d) * UNIT * growth
    volume = float(np.log(np.diag(lower)).sum())
    return Factor(lower, volume, error, point_error, (error, point_error), None)


def exact_factor(h: Floats) -> Factor:
    """The factor by decimal arithmetic, for up to MAX_EXACT_D coordinates."""
    d, exponents = len(h), exponents_of(h)
    rows, inverse_rows = decimal_factor(scaled(h, exponents), DIGITS)
    lower, inverse = as_pair(rows), as_pair(inverse_rows)
    row_exponents = np.frexp(np.abs(inverse[0]).max(axis=1))[1].astype(np.intp)
    shift = -row_exponents[:, None]
    slices = _sliced((np.ldexp(inverse[0], shift), np.ldexp(inverse[1], shift)))
    growth = 1.01 * _growth(inverse[0], lower[0])
    # The slices omit at most d·2^-79 of the largest x times the largest entry of each row.
    omitted = d * 2.0**-77 * float(np.linalg.norm(lower[0])) * float(np.linalg.norm(inverse[0]))
    volume = sum(np.log(np.diag(lower[0]))) + np.log1p(np.diag(lower[1]) / np.diag(lower[0])).sum()
    volume += np.log(2.0) * float(exponents.sum())
    return Factor(
        np.ldexp(lower[0], exponents[:, None]),
        float(volume),
        0.0,
        UNIT + omitted,
        (3 * UNIT * growth, _solving_terms(d) * UNIT * growth),
        Whitening(inverse, slices, row_exponents, exponents),
    )


def _inverse(lower: Floats) -> Floats:
    from scipy.linalg.lapack import dtrtri  # imported here, since the import takes 0.2 s

    inverse, failed = dtrtri(lower, lower=1)
    return np.tril(inverse) if failed == 0 else np.full_like(lower, np.nan)


def _growth(inverse: Floats, lower: Floats) -> float:
    """Bound on ‖|L⁻¹||L|‖₂, the growth of rounding errors in a triangular solve."""
    inverse, lower = np.abs(inverse), np.abs(lower)
    return float(np.sqrt((inverse @ lower.sum(axis=1)).max() * (inverse.sum(axis=0) @ lower).max()))


def exponents_of(h: Floats) -> NDArray[np.intp]:
    """(d,) The powers of two by which coordinates are divided, so that the diagonal of H becomes about 1.

    Raises
    ------
    NotPositiveDefinite
        A diagonal entry is not positive.
    """
    diagonal = np.diag(h)
    bad = np.flatnonzero(~(diagonal > 0))
    if len(bad):
        raise NotPositiveDefinite(int(bad[0]))
    return np.frexp(np.sqrt(diagonal))[1].astype(np.intp)


def scaled(h: Floats, exponents: NDArray[np.intp]) -> Floats:
    """H in the coordinates divided by those powers of two."""
    return np.ldexp(h, -exponents[:, None] - exponents)


def decimal_context(digits: int) -> Context:
    """Decimal arithmetic with that many digits, which neither overflows nor traps."""
    return Context(prec=digits, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])


def decimal_factor(h: Floats, digits: int) -> tuple[Decimals, Decimals]:
    """The rows of L and of L⁻¹, each up to its diagonal entry.

    Raises
    ------
    NotPositiveDefinite
        A pivot is not positive, or not above the rounding error of the arithmetic.
    """
    lower: Decimals = []
    with localcontext(decimal_context(digits)):
        least = Decimal(10) ** (-digits // 2)
        for i, row in enumerate(h.tolist()):
            entries: list[Decimal] = []
            for j in range(i):
                entries.append((Decimal(row[j]) - sum(map(mul, entries, lower[j]))) / lower[j][j])
            pivot = Decimal(row[i]) - sum(map(mul, entries, entries))
            if not pivot > least:
                raise NotPositiveDefinite(i)
            lower.append([*entries, pivot.sqrt()])
        columns: Decimals = []  # of the inverse, from its diagonal entry on
        for j in range(len(h)):
            column = [1 / lower[j][j]]
            for i in range(j + 1, len(h)):
                column.append(-sum(map(mul, lower[i][j:i], column)) / lower[i][i])
            columns.append(column)
        return lower, [[columns[j][i - j] for j in range(i + 1)] for i in range(len(h))]


def as_pair(rows: Decimals) -> dd.Pair:
    """(d, d) Each entry as a sum of two float64."""
    pair = np.zeros((2, len(rows), len(rows)))
    for i, row in enumerate(rows):
        for j, x in enumerate(row):
            pair[0, i, j] = first = float(x)
            pair[1, i, j] = float(x - Decimal(first))
    return pair[0], pair[1]


def _sliced(x: dd.Pair) -> list[Floats]:
    """Slices of SLICE_BITS bits whose sum is x, |x| ≤ 1, up to 2^-81."""
    first, second = x
    slices = []
    for k in range(1, SLICES + 1):
        step = 1.5 * 2.0 ** (52 - SLICE_BITS * k)
        part = (first + step) - step
        slices.append(part)
        first, second = dd.two_sum(first - part, second)
    return slices


def _measured_error(h: Floats, lower: Floats, inverse: Floats) -> float:
    """Bound on ‖L⁻¹ H L⁻ᵀ − I‖ from the residual H − L Lᵀ, whose leading product is exact."""
    exponents, d = exponents_of(h), len(h)
    if d > 1 << (52 - 2 * SPLIT_BITS):
        return np.inf
    from scipy.linalg.blas import dtrmm  # imported here, since the import takes 0.2 s

    a, inverse = np.ldexp(lower, -exponents[:, None]), np.ldexp(inverse, exponents)
    step = 1.5 * 2.0 ** (52 - SPLIT_BITS)
    head = (a + step) - step  # |a| ≤ 1
    b = a - head
    mixed = (head + b / 2) @ b.T
    remainder = dd.two_sum(scaled(h, exponents), -(head @ head.T))
    residual = remainder[0] - (mixed + mixed.T) + remainder[1]
    norm, whole = np.linalg.norm, dtrmm(1.0, inverse, dtrmm(1.0, inverse, residual, lower=1).T, lower=1)
    # The rounding error of the second product and of the sums is bounded by the norms of the rows.
    rounding = 2.2 * d * UNIT * norm(a) * norm(b) + 4 * UNIT * (2 * norm(mixed) + norm(residual))
    return float(1.1 * norm(whole) + 1.1 * norm(inverse, 1) * norm(inverse, np.inf) * rounding)


def _solving_terms(d: int) -> float:
    """The number of roundings of a term in `solved`."""
    return d + 4 if d <= SOLVE_BLOCK else SOLVE_BLOCK + 2 * d / SOLVE_BLOCK + 8


def solved(lower: Floats, points: Floats) -> Floats:
    """(rows, d) L⁻¹ x by forward substitution, in which each sum has at most SOLVE_BLOCK terms."""
    from scipy.linalg import solve_triangular  # imported here, since the import takes 0.2 s

    d = len(lower)
    if d <= SOLVE_BLOCK:
        return solve_triangular(lower, points.T, lower=True, check_finite=False).T
    solution = np.empty((d, len(points)))
    for start in range(0, d, SOLVE_BLOCK):
        block = slice(start, min(start + SOLVE_BLOCK, d))
        right = points[:, block].T.copy()
        for before in range(0, start, SOLVE_BLOCK):
            known = slice(before, before + SOLVE_BLOCK)
            right -= lower[block, known] @ solution[known]
        solution[block] = solve_triangular(lower[block, block], right, lower=True, check_finite=False)
    return solution.T
