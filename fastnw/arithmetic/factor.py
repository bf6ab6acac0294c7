"""A bandwidth matrix taken apart: H = L Lᵀ, points whitened as L⁻¹(x − origin), and bounds on what rounding does to u².

A float64 factor has a backward error of ε|L||Lᵀ|, which changes u² by ε·cond(H) = ε·cond(L)². Where that is too much, L
and L⁻¹ are computed in decimal arithmetic instead and kept as sums of two float64, and points are whitened by products
of short slices (Ozaki, Ogita, Oishi and Rump, 2012, Error-free transformations of matrix multiplication), which BLAS
adds up without rounding: whitened coordinates then are right to their last digit, whatever the condition number.
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
MAX_PLAIN_ERROR = 2e-11  # relative error of u² from a float64 factor up to which it is used
MIN_PLAIN = 1e-280  # products of the factor's entries lose no digits down to here
MIN_MEASURED_D = 16  # coordinates from which a float64 factor's error is measured before a better one is made
MAX_EXACT_D = 128  # coordinates up to which decimal factors are made: 0.5 s there, 1 ms for ten
DIGITS = 80  # of the decimal factors that float64 pairs are made of
SOLVED = 128  # coordinates that one sum adds up in a triangular solve
SLICES, SLICE_BITS = 4, 20  # of a number; products of two, added up over 2^10 coordinates, are exact
SPLIT_BITS = 20  # the same for a residual, over up to 2^12 coordinates
ROWS = 1 << 14  # numbers whitened at a time: temporaries stay in L2


class NotPositiveDefinite(ValueError):
    """The leading minor up to `coordinate` is not positive."""

    def __init__(self, coordinate: int) -> None:
        super().__init__(f"bandwidth matrix must be positive definite; it fails at coordinate {coordinate}.")


@dataclass(frozen=True)
class Whitening:
    """x ↦ L⁻¹ x by exact products of slices.

    Attributes
    ----------
    inverse : (d, d) pair
        L⁻¹ of the matrix in coordinates x_j·2^(−exponents_j), in which H has a diagonal of about 1.
    slices : list of (d, d) float64
        Its rows over 2^row_exponents.
    row_exponents, exponents : (d,) int
    """

    inverse: dd.Pair
    slices: list[Floats]
    row_exponents: NDArray[np.intp]
    exponents: NDArray[np.intp]

    def __call__(self, points: Floats, origin: Floats) -> Floats:
        """(rows, d) The points less the origin, whitened; not finite where a coordinate leaves float64's range."""
        found, step = np.empty(points.shape), max(ROWS // points.shape[1], 1)
        start = np.ldexp(origin, -self.exponents)
        with np.errstate(all="ignore"):
            for first in range(0, len(points), step):
                rows = slice(first, first + step)
                found[rows] = self._rows(dd.two_sum(np.ldexp(points[rows], -self.exponents), -start))
        return found

    def _rows(self, x: dd.Pair) -> Floats:
        exponents = np.frexp(np.abs(x[0]).max(axis=1, keepdims=True))[1]
        left = _sliced((np.ldexp(x[0], -exponents), np.ldexp(x[1], -exponents)))
        # slices whose places add up to the same: sums of integers below 2^53 in one unit
        levels = [
            np.concatenate(left[: k + 1], axis=1) @ np.concatenate(self.slices[k::-1], axis=1).T for k in range(SLICES)
        ]
        first, second = dd.two_sum(levels[0], levels[1])
        return np.asarray(np.ldexp(first + (second + (levels[2] + levels[3])), exponents + self.row_exponents))


@dataclass(frozen=True)
class Factor:
    """H = L Lᵀ.

    Attributes
    ----------
    lower : (d, d) float64
        L, rounded.
    log_volume : float
        log √det H.
    square_error : float
        Bound on the relative error of u² = |z|² for z whitened without rounding.
    point_error : float
        Bound on what rounding changes a whitened point by, over its norm.
    plain_errors : (float, float)
        The same two for whitening by forward substitution, as devices do.
    whitening : Whitening or None
        None: by forward substitution.
    """

    lower: Floats
    log_volume: float
    square_error: float
    point_error: float
    plain_errors: tuple[float, float]
    whitening: Whitening | None

    def whitened(self, points: Floats, origin: Floats) -> Floats:
        """(rows, d) L⁻¹(x − origin)."""
        with one_blas_thread:  # callers share out the work themselves
            if self.whitening is not None:
                return self.whitening(points, origin)
            return solved(self.lower, points - origin)


def lower_factor(h: Floats) -> Floats:
    """L in float64.

    Raises
    ------
    NotPositiveDefinite
        With the first coordinate whose leading minor fails, found only then.
    """
    try:
        return np.asarray(np.linalg.cholesky(h), np.float64)
    except np.linalg.LinAlgError:
        return _rescued(h)


def _rescued(h: Floats) -> Floats:
    """L of a matrix that float64 cannot factor, which may be positive definite all the same."""
    if len(h) <= MAX_EXACT_D:
        exponents = exponents_of(h)
        rows, _ = decimal_factor(scaled(h, exponents), DIGITS)
        return np.ldexp(as_pair(rows)[0], exponents[:, None])
    from scipy.linalg.lapack import dpotrf  # 0.2 s to import, and few need it

    _, failed = dpotrf(h, lower=1)
    raise NotPositiveDefinite(max(int(failed) - 1, 0))


def factor(h: Floats) -> Factor:
    """The factor of a symmetric matrix, as accurate as its condition asks for.

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
    """The factor by decimal arithmetic, in up to MAX_EXACT_D coordinates."""
    d, exponents = len(h), exponents_of(h)
    rows, inverse_rows = decimal_factor(scaled(h, exponents), DIGITS)
    lower, inverse = as_pair(rows), as_pair(inverse_rows)
    row_exponents = np.frexp(np.abs(inverse[0]).max(axis=1))[1].astype(np.intp)
    shift = -row_exponents[:, None]
    slices = _sliced((np.ldexp(inverse[0], shift), np.ldexp(inverse[1], shift)))
    growth = 1.01 * _growth(inverse[0], lower[0])
    # slices leave out d 2^-79 of the largest x and the largest of each row
    left_out = d * 2.0**-77 * float(np.linalg.norm(lower[0])) * float(np.linalg.norm(inverse[0]))
    volume = sum(np.log(np.diag(lower[0]))) + np.log1p(np.diag(lower[1]) / np.diag(lower[0])).sum()
    volume += np.log(2.0) * float(exponents.sum())
    return Factor(
        np.ldexp(lower[0], exponents[:, None]),
        float(volume),
        0.0,
        UNIT + left_out,
        (3 * UNIT * growth, _solving_terms(d) * UNIT * growth),
        Whitening(inverse, slices, row_exponents, exponents),
    )


def _inverse(lower: Floats) -> Floats:
    from scipy.linalg.lapack import dtrtri  # 0.2 s to import, and few need it

    inverse, failed = dtrtri(lower, lower=1)
    return np.tril(inverse) if failed == 0 else np.full_like(lower, np.nan)


def _growth(inverse: Floats, lower: Floats) -> float:
    """Bound on ‖|L⁻¹||L|‖₂: by how much the roundings of a triangular solve may grow."""
    inverse, lower = np.abs(inverse), np.abs(lower)
    return float(np.sqrt((inverse @ lower.sum(axis=1)).max() * (inverse.sum(axis=0) @ lower).max()))


def exponents_of(h: Floats) -> NDArray[np.intp]:
    """(d,) Powers of two that the coordinates are divided by, so that H has a diagonal of about 1.

    Raises
    ------
    NotPositiveDefinite
        If the diagonal is not positive.
    """
    diagonal = np.diag(h)
    bad = np.flatnonzero(~(diagonal > 0))
    if len(bad):
        raise NotPositiveDefinite(int(bad[0]))
    return np.frexp(np.sqrt(diagonal))[1].astype(np.intp)


def scaled(h: Floats, exponents: NDArray[np.intp]) -> Floats:
    """H in those coordinates."""
    return np.ldexp(h, -exponents[:, None] - exponents)


def decimal_context(digits: int) -> Context:
    """Arithmetic of so many digits that neither overflows nor traps."""
    return Context(prec=digits, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])


def decimal_factor(h: Floats, digits: int) -> tuple[Decimals, Decimals]:
    """The rows of L and of L⁻¹, each up to the diagonal.

    Raises
    ------
    NotPositiveDefinite
        Also if a pivot is the rounding of the arithmetic.
    """
    lower: Decimals = []
    with localcontext(decimal_context(digits)):
        least = Decimal(10) ** (-digits // 2)
        for i, row in enumerate(h.tolist()):
            mine: list[Decimal] = []
            for j in range(i):
                mine.append((Decimal(row[j]) - sum(map(mul, mine, lower[j]))) / lower[j][j])
            pivot = Decimal(row[i]) - sum(map(mul, mine, mine))
            if not pivot > least:
                raise NotPositiveDefinite(i)
            lower.append([*mine, pivot.sqrt()])
        columns: Decimals = []  # of the inverse, from the diagonal on
        for j in range(len(h)):
            column = [1 / lower[j][j]]
            for i in range(j + 1, len(h)):
                column.append(-sum(map(mul, lower[i][j:i], column)) / lower[i][i])
            columns.append(column)
        return lower, [[columns[j][i - j] for j in range(i + 1)] for i in range(len(h))]


def as_pair(rows: Decimals) -> dd.Pair:
    """(d, d) The two float64 nearest to each entry, one after the other."""
    pair = np.zeros((2, len(rows), len(rows)))
    for i, row in enumerate(rows):
        for j, x in enumerate(row):
            pair[0, i, j] = first = float(x)
            pair[1, i, j] = float(x - Decimal(first))
    return pair[0], pair[1]


def _sliced(x: dd.Pair) -> list[Floats]:
    """Slices of SLICE_BITS whose sum is x, |x| ≤ 1, to within 2^-81."""
    first, second = x
    found = []
    for k in range(1, SLICES + 1):
        step = 1.5 * 2.0 ** (52 - SLICE_BITS * k)
        part = (first + step) - step
        found.append(part)
        first, second = dd.two_sum(first - part, second)
    return found


def _measured_error(h: Floats, lower: Floats, inverse: Floats) -> float:
    """Bound on ‖L⁻¹ H L⁻ᵀ − I‖ from the residual H − L Lᵀ, whose leading product has no rounding."""
    exponents, d = exponents_of(h), len(h)
    if d > 1 << (52 - 2 * SPLIT_BITS):
        return np.inf
    from scipy.linalg.blas import dtrmm  # 0.2 s to import, and few need it

    a, inverse = np.ldexp(lower, -exponents[:, None]), np.ldexp(inverse, exponents)
    step = 1.5 * 2.0 ** (52 - SPLIT_BITS)
    head = (a + step) - step  # |a| ≤ 1
    b = a - head
    mixed = (head + b / 2) @ b.T
    rest = dd.two_sum(scaled(h, exponents), -(head @ head.T))
    residual = rest[0] - (mixed + mixed.T) + rest[1]
    norm, whole = np.linalg.norm, dtrmm(1.0, inverse, dtrmm(1.0, inverse, residual, lower=1).T, lower=1)
    # what the second product and the sums round, by the rows' norms
    rounding = 2.2 * d * UNIT * norm(a) * norm(b) + 4 * UNIT * (2 * norm(mixed) + norm(residual))
    return float(1.1 * norm(whole) + 1.1 * norm(inverse, 1) * norm(inverse, np.inf) * rounding)


def _solving_terms(d: int) -> float:
    """Roundings of a term in `solved`."""
    return d + 4 if d <= SOLVED else SOLVED + 2 * d / SOLVED + 8


def solved(lower: Floats, points: Floats) -> Floats:
    """(rows, d) L⁻¹ x by forward substitution, which adds up SOLVED coordinates at a time."""
    from scipy.linalg import solve_triangular  # 0.2 s to import, and few need it

    d = len(lower)
    if d <= SOLVED:
        return solve_triangular(lower, points.T, lower=True, check_finite=False).T
    found = np.empty((d, len(points)))
    for start in range(0, d, SOLVED):
        mine = slice(start, min(start + SOLVED, d))
        rest = points[:, mine].T.copy()
        for before in range(0, start, SOLVED):
            known = slice(before, before + SOLVED)
            rest -= lower[mine, known] @ found[known]
        found[mine] = solve_triangular(lower[mine, mine], rest, lower=True, check_finite=False)
    return found.T
