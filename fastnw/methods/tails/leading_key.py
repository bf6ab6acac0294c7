"""One query in double-double arithmetic: log κ of its keys less a leading key's, however far they are, with bounds.

Coordinates are scaled by powers of two, which rounds nothing: to a bandwidth of about 1, and for a query beyond
`View.RANGE` to a distance of about 1. So squares neither overflow nor vanish, at 10³⁰⁰ bandwidths or at h = 10⁻²⁰⁰.
Keys for which 32 digits are too few go on to decimal arithmetic (`digits`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fastnw.arithmetic import doubledouble as dd
from fastnw.arithmetic.factor import MAX_EXACT_D
from fastnw.core.problem import Problem
from fastnw.methods.tails import digits

Floats = NDArray[np.float64]
Positions = NDArray[np.intp]

LOWEST = float(np.finfo(np.float64).min)  # stands for log κ where it overflows
SLICE = 1 << 13  # numbers (keys × coordinates) worked on at a time: a dozen temporaries of them make 1 MiB
UNIT = 2.0**-53
# Bound on the relative error of a chain of double-double operations, reciprocals of bandwidths and scales included.
PAIR_ERROR = 2.0**-97
MAX_LOG_ERROR = 1e-14  # nats, beyond which digits are added
MAX_EDGE_ERROR = 2.0**-58  # the same, relative, of 1 − u²
LARGEST_DISTANCE = 1e307


@dataclass(frozen=True)
class View:
    """A problem in coordinates x_j·2^(−exponents_j).

    Attributes
    ----------
    form : (d,) or (d, d) pair
        1/h_j² (1/h_j for inner products) in these coordinates, or what whitens them if `whitens`, else H⁻¹.
    whitens : bool
    form_error : float
        Bound on the relative error that the form adds to u², beside its rounding.
    root : (d,) or (d, d) float64
        The bandwidth in these coordinates: h_j, or L with L Lᵀ = H.
    exponents : (d,) int
    power : int
        Distances come out divided by 2^power.
    """

    problem: Problem
    form: dd.Pair
    whitens: bool
    form_error: float
    root: Floats
    exponents: NDArray[np.intp]
    power: int = 0

    RANGE: ClassVar[float] = 1e140  # bandwidths up to which double-double arithmetic holds u² with power 0

    @classmethod
    def of(cls, problem: Problem) -> View:
        h, cholesky = problem.metric.bandwidth, problem.metric.cholesky
        exponents = np.frexp(h if cholesky is None else np.sqrt(np.diag(h)))[1].astype(np.intp)
        if cholesky is None:
            if problem.kernel.inner_product:
                exponents = np.zeros_like(exponents)
            root = np.ldexp(h, -exponents)
            form = dd.reciprocal(root)
            form = form if problem.kernel.inner_product else dd.multiply(form, form)
            return cls(problem, form, False, 0.0, root, exponents)
        root = np.ldexp(cholesky, -exponents[:, None])
        if problem.d <= MAX_EXACT_D:
            return cls(problem, digits.whitening(problem.metric), True, 0.0, root, exponents)
        form, error = _inverse(np.ldexp(h, -exponents[:, None] - exponents), root)
        return cls(problem, form, False, error, root, exponents)

    def scaled(self, power: int) -> View:
        return replace(self, exponents=self.exponents + power, power=power)

    def beyond(self, leader: Leader) -> bool:
        """Whether that query needs a scaled view."""
        if self.power or self.problem.kernel.inner_product or self.needs_digits:
            return False
        return not leader.distance < self.RANGE

    @property
    def needs_digits(self) -> bool:
        """Whether key scales leave the range of double-double arithmetic."""
        return self.problem.key_scale is not None and not self.problem.scales_in_range

    @property
    def has_digits(self) -> bool:
        """Whether there is decimal arithmetic for it."""
        return self.root.ndim == 1 or self.problem.d <= MAX_EXACT_D

    def squares(self, row: int, block: slice) -> Floats:
        """(keys,) u² of a query in these coordinates, in plain float64."""
        problem = self.problem
        difference = self.points(problem.queries[row]) - self.points(problem.keys[block])
        if self.root.ndim == 1:
            difference /= self.root
        else:
            from scipy.linalg import solve_triangular  # 0.2 s to import, and few need it

            difference = solve_triangular(self.root, difference.T, lower=True, check_finite=False).T
        if problem.key_scale is not None:
            difference /= problem.key_scale[block, None].astype(np.float64)
        return np.asarray(np.square(difference).sum(axis=1))

    @property
    def square_error(self) -> float:
        """Bound on the relative error of `squares`."""
        factor = self.problem.metric.factor
        plain = 0.0 if factor is None else factor.plain_errors[0] + 4 * factor.plain_errors[1] * self.problem.d**0.5
        return (20 + self.problem.d) * 2.0**-52 + plain

    def points(self, points: NDArray[np.generic]) -> Floats:
        """Points of the problem, (d,) or (…, d), in these coordinates."""
        return np.ldexp(points.astype(np.float64), -self.exponents)

    def form_of(self, near: dd.Pair, far: dd.Pair) -> tuple[dd.Pair, Floats]:
        """nearᵀ A far, A the quadratic form of the bandwidth, and bounds on the errors."""
        left, right = np.abs(near[0]), np.abs(far[0])
        if np.ndim(self.form[0]) == 1:
            found = dd.total(dd.multiply(dd.multiply(near, far), self.form))
            return found, PAIR_ERROR * ((left * right) @ np.abs(self.form[0]))
        form = np.abs(self.form[0])
        if not self.whitens:
            found = dd.total(dd.multiply(times(self.form, near), far))
            sizes = np.linalg.norm(left @ form, axis=-1) * np.linalg.norm(right, axis=-1)
            return found, (PAIR_ERROR + self.form_error) * sizes
        same = far is near
        left, right = left @ form.T, right @ form.T
        near = times(self.form, near)
        far = near if same else times(self.form, far)
        error = (left * np.abs(far[0])).sum(axis=-1) + (np.abs(near[0]) * right).sum(axis=-1)
        return dd.total(dd.multiply(near, far)), PAIR_ERROR * error


@dataclass(frozen=True)
class Leader:
    """The key with (nearly) the largest weight, and the query's relation to it."""

    position: int
    key: Floats  # (d,) in the view's coordinates
    scale: float  # λ
    factor: dd.Pair  # 1/λ², 1/λ for inner products
    score: dd.Pair  # Σ_j (q_j − k_j)²/h_j² or Σ_j q_j k_j/h_j in the view's coordinates, before the factor
    square: float  # score · factor
    distance: float  # u in bandwidths, at most 1e307; the score for inner products
    base: float  # log w κ(u), w relative to the largest


def lead(view: View, row: int, position: int) -> Leader:
    """That key as the leader of that query."""
    problem = view.problem
    assert problem.kernel.facts.log_ratio is not None
    q, key = view.points(problem.queries[row]), view.points(problem.keys[position])
    at = np.array([position])
    factor = tuple(part[0] for part in factors(problem, at))
    if problem.kernel.inner_product:
        score, _ = view.form_of((q, np.zeros_like(q)), (key, np.zeros_like(key)))
    else:
        difference = dd.two_sum(q, -key)
        score, _ = view.form_of(difference, difference)
    argument = dd.multiply(score, factor)
    square = distance = float(argument[0] + argument[1])
    if not problem.kernel.inner_product:
        distance = float(np.ldexp(np.sqrt(square), view.power))
    if view.has_digits and (view.needs_digits or (problem.kernel.inner_product and not np.isfinite(distance))):
        distance = digits.distance(problem, row, position)
    distance = float(np.fmin(distance, LARGEST_DISTANCE))
    log_weight = float(log_weights(problem, at)[0])
    base = np.fmax(problem.kernel.facts.log_ratio(distance, 0.0), LOWEST) + log_weight
    scale = 1.0 if problem.key_scale is None else float(problem.key_scale[at].astype(np.float64)[0])
    return Leader(position, key, scale, factor, score, square, distance, float(base))


def log_ratios(view: View, row: int, leader: Leader, positions: Positions) -> tuple[Floats, Floats]:
    """log w κ of those keys less the leader's, and bounds on the errors: infinite or NaN where nothing is known."""
    step = max(SLICE // view.problem.d, 1)
    starts = range(0, len(positions), step)
    parts = [_log_ratios(view, row, leader, positions[i : i + step]) for i in starts]
    return np.concatenate([logs for logs, _ in parts]), np.concatenate([errors for _, errors in parts])


def _log_ratios(view: View, row: int, leader: Leader, positions: Positions) -> tuple[Floats, Floats]:
    problem = view.problem
    assert problem.kernel.facts.log_ratio is not None
    if view.needs_digits:
        return np.zeros(len(positions)), np.full(len(positions), np.inf)
    q, keys = view.points(problem.queries[row]), view.points(problem.keys[positions])
    factor = factors(problem, positions)
    product, error = view.form_of(*_terms(problem, q, leader, keys))
    place = np.zeros(len(keys))
    by_scale = dd.multiply(_scale_difference(problem, leader, positions, factor), leader.score)
    pair = dd.add(dd.multiply(product, factor), by_scale)
    delta = pair[0] + pair[1]
    error = error * np.abs(factor[0]) + PAIR_ERROR * np.abs(by_scale[0])
    if not problem.kernel.inner_product:  # u − u₀ = (u² − u₀²)/(u + u₀)
        # u² in pairs: from floats, that of a key much nearer than the leader would have no digits left
        square = dd.add(dd.multiply(leader.score, leader.factor), pair)
        u = np.sqrt(np.maximum(square[0] + square[1], 0.0))
        of_square = error + PAIR_ERROR * leader.square
        of_u = np.minimum(np.sqrt(of_square), of_square / np.where(u > 0, u, 1.0) + np.where(u > 0, 0.0, np.inf))
        roots = u + np.sqrt(leader.square)
        roots = np.where(roots > 0, roots, 1.0)
        delta, error = delta / roots, error / roots
        error = error + np.abs(delta) * (of_u / roots)
        delta, error, place = (np.ldexp(x, view.power) for x in (delta, error, u))
    logs = _log_ratio(problem, delta, place, leader)
    nudged = [_log_ratio(problem, delta + by, place + by, leader) for by in (error, -error)]
    error = np.maximum(np.abs(nudged[0] - logs), np.abs(nudged[1] - logs)) + 4 * UNIT * np.abs(logs)
    return _weighted(problem, leader, positions, logs, error)


def exact_log_ratios(view: View, row: int, leader: Leader, positions: Positions) -> tuple[Floats, Floats]:
    """The same in decimal arithmetic, where `View.has_digits`."""
    problem = view.problem
    logs = _log_ratio(problem, *digits.deltas(problem, row, leader.position, positions), leader)
    error = 4 * UNIT * np.abs(logs)
    if leader.distance >= LARGEST_DISTANCE:  # κ falls at least as fast as it does there
        error = np.where((logs == 0) | (logs < -1e4), error, np.inf)
    return _weighted(problem, leader, positions, logs, error)


def _log_ratio(problem: Problem, delta: Floats, u: Floats, leader: Leader) -> Floats:
    """log κ(u) − log κ(u₀) for u − u₀ = δ; of scores δ is all that counts.

    From the nearer of the two: polynomials of the Matérn kernels, and Cauchy's, cancel from the farther one.
    """
    assert problem.kernel.facts.log_ratio is not None
    ratio = problem.kernel.facts.log_ratio
    if problem.kernel.inner_product:
        return np.asarray(ratio(delta, leader.distance))
    delta, u = np.maximum(delta, -leader.distance), np.clip(u, 0.0, LARGEST_DISTANCE)
    return np.where(delta < 0, -ratio(np.abs(delta), u), ratio(np.abs(delta), leader.distance))


def _weighted(
    problem: Problem, leader: Leader, positions: Positions, logs: Floats, error: Floats
) -> tuple[Floats, Floats]:
    weights = problem.log_weights_at(positions, leader.position)
    if weights is None:
        return np.asarray(logs), error
    finite = np.where(np.isfinite(weights), weights, 0.0)
    return np.asarray(logs + weights), error + 4 * UNIT * np.abs(finite)


def edge_distances(view: View, row: int, positions: Positions) -> tuple[Floats, Floats, Floats]:
    """1 − u² of those keys, with all its digits where it is small, bounds on the errors, and u², with all its own."""
    problem, step = view.problem, max(SLICE // view.problem.d, 1)
    q = view.points(problem.queries[row])
    found, errors, squares = (np.empty(len(positions)) for _ in range(3))
    for i in range(0, len(positions), step):
        mine = positions[i : i + step]
        difference, factor = dd.two_sum(q, -view.points(problem.keys[mine])), factors(problem, mine)
        score, error = view.form_of(difference, difference)
        square = dd.multiply(score, factor)
        y = dd.add((np.ones(len(mine)), np.zeros(len(mine))), dd.negate(square))
        found[i : i + step], squares[i : i + step] = y[0] + y[1], square[0] + square[1]
        errors[i : i + step] = error * factor[0] + PAIR_ERROR * np.maximum(np.abs(square[0]), 1.0)
    if view.needs_digits:
        errors[:] = np.inf
    rough = np.flatnonzero(~(errors <= MAX_EDGE_ERROR * np.abs(found)) & ~(found + errors < 0))
    if len(rough) and view.has_digits:
        found[rough], squares[rough] = digits.edge_distances(problem, row, positions[rough])
        errors[rough] = 0.0
    return found, errors, squares


def log_weights(problem: Problem, rows: slice | Positions, own: int = -1) -> Floats:
    """log of w over the largest; −inf for the key at `own`, a position among those rows."""
    logs = problem.log_weights_at(rows)
    if logs is None:
        logs = np.zeros(len(problem.keys[rows]))
    if 0 <= own < len(logs):
        logs[own] = -np.inf
    return logs


def factors(problem: Problem, positions: Positions) -> dd.Pair:
    """What key scales multiply scores by: 1/λ², for inner products 1/λ."""
    if problem.key_scale is None:
        return np.ones(len(positions)), np.zeros(len(positions))
    inverse = dd.reciprocal(problem.key_scale[positions].astype(np.float64))
    return inverse if problem.kernel.inner_product else dd.multiply(inverse, inverse)


def _scale_difference(problem: Problem, leader: Leader, positions: Positions, factor: dd.Pair) -> dd.Pair:
    """1/λ² − 1/λ₀² = (λ₀ − λ)(λ₀ + λ)/(λλ₀)², whose digits do not cancel; 1/λ − 1/λ₀ for inner products."""
    if problem.key_scale is None:
        return np.zeros(len(positions)), np.zeros(len(positions))
    scale = problem.key_scale[positions].astype(np.float64)
    apart = dd.two_sum(leader.scale, -scale)
    if not problem.kernel.inner_product:
        apart = dd.multiply(apart, dd.two_sum(leader.scale, scale))
    return dd.multiply(dd.multiply(apart, factor), leader.factor)


def _terms(problem: Problem, q: Floats, leader: Leader, keys: Floats) -> tuple[dd.Pair, dd.Pair]:
    """Pairs a, b with score − leader's score = aᵀ form b."""
    if problem.kernel.inner_product:
        fixed = np.broadcast_to(q, keys.shape)
        return (fixed, np.zeros_like(fixed)), dd.two_sum(keys, -leader.key)
    return dd.two_sum(leader.key, -keys), dd.add(dd.two_sum(2 * q, -leader.key), (-keys, np.zeros_like(keys)))


def times(form: dd.Pair, points: dd.Pair) -> dd.Pair:
    """(…, d) The form times each point, one row at a time: no (keys, d, d) array."""
    columns = [dd.total(dd.multiply(points, row)) for row in zip(*form, strict=True)]
    return np.stack([first for first, _ in columns], axis=-1), np.stack([second for _, second in columns], axis=-1)


def _inverse(h: Floats, cholesky: Floats) -> tuple[dd.Pair, float]:
    """H⁻¹, by one Newton step with a double-double residual: H⁻¹ + H⁻¹(I − H H⁻¹); and what it leaves, relative to a
    point's norm times another's after H⁻¹'s absolute values."""
    from scipy.linalg import cho_solve  # 0.2 s to import, and few need it

    d = len(h)
    inverse, residual, step = cho_solve((cholesky, True), np.eye(d)), np.empty((d, d)), max(SLICE // d, 1)
    for start in range(0, d, step):
        rows = slice(start, start + step)
        left = (np.eye(d)[rows], np.zeros((len(h[rows]), d)))
        for k in range(d):  # one term at a time: no (d, d, d) array
            left = dd.add(left, dd.negate(dd.two_product(h[rows, k, None], inverse[k])))
        residual[rows] = left[0] + left[1]
    size = math.fsum(np.abs(residual).sum(axis=1)) ** 2
    return dd.two_sum(inverse, inverse @ residual), 2 * size + d * 2.0**-52 * size**0.5 if size < 0.25 else math.inf
