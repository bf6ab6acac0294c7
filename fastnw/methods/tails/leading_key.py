"""log κ of a query's keys relative to its leading key, in double-double arithmetic, with bounds on the errors.

Coordinates are scaled by powers of two, which rounds nothing: to a bandwidth of about 1, and for a query beyond
`View.RANGE` to a distance of about 1. So squares neither overflow nor underflow, at 10³⁰⁰ bandwidths or at h = 10⁻²⁰⁰.
Keys for which 32 digits are too few use decimal arithmetic (`digits`).
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

# Replaces log κ where it overflows.
LOWEST = float(np.finfo(np.float64).min)
# Numbers (keys × coordinates) processed at a time: a dozen temporaries of this length take 1 MiB.
SLICE = 1 << 13
UNIT = 2.0**-53
# Bound on the relative error of a chain of double-double operations, reciprocals of bandwidths and scales included.
PAIR_ERROR = 2.0**-97
# Error in nats above which decimal arithmetic adds digits.
MAX_LOG_ERROR = 1e-14
# Relative error of 1 − u² above which decimal arithmetic adds digits.
MAX_RELATIVE_EDGE_ERROR = 2.0**-58
LARGEST_DISTANCE = 1e307


@dataclass(frozen=True)
class View:
    """A problem in scaled coordinates x_j·2^(−exponents_j).

    Attributes
    ----------
    form : (d,) or (d, d) pair
        The quadratic form in these coordinates: 1/h_j² (1/h_j for inner products), L⁻¹ if `whitens`, else H⁻¹.
    whitens : bool
        Whether `form` whitens points.
    form_error : float
        Bound on the relative error of u² that the form adds to rounding errors.
    root : (d,) or (d, d) float64
        The bandwidth in these coordinates: h_j, or L with L Lᵀ = H.
    exponents : (d,) int
        Powers of two by which coordinates are divided.
    power : int
        Distances in these coordinates are divided by 2^power.
    """

    problem: Problem
    form: dd.Pair
    whitens: bool
    form_error: float
    root: Floats
    exponents: NDArray[np.intp]
    power: int = 0

    RANGE: ClassVar[float] = 1e140  # up to so many bandwidths, double-double arithmetic holds u² with power 0

    @classmethod
    def of(cls, problem: Problem) -> View:
        bandwidth, cholesky = problem.metric.bandwidth, problem.metric.cholesky
        exponents = np.frexp(bandwidth if cholesky is None else np.sqrt(np.diag(bandwidth)))[1].astype(np.intp)
        if cholesky is None:
            if problem.kernel.inner_product:
                exponents = np.zeros_like(exponents)
            root = np.ldexp(bandwidth, -exponents)
            form = dd.reciprocal(root)
            form = form if problem.kernel.inner_product else dd.multiply(form, form)
            return cls(problem, form, False, 0.0, root, exponents)
        root = np.ldexp(cholesky, -exponents[:, None])
        if problem.d <= MAX_EXACT_D:
            return cls(problem, digits.whitening(problem.metric), True, 0.0, root, exponents)
        form, error = _inverse(np.ldexp(bandwidth, -exponents[:, None] - exponents), root)
        return cls(problem, form, False, error, root, exponents)

    def scaled(self, power: int) -> View:
        return replace(self, exponents=self.exponents + power, power=power)

    def beyond(self, leader: Leader) -> bool:
        """Whether the leader's query needs a scaled view."""
        if self.power or self.problem.kernel.inner_product or self.needs_digits:
            return False
        return not leader.distance < self.RANGE

    @property
    def needs_digits(self) -> bool:
        """Whether key scales exceed the range of double-double arithmetic."""
        return self.problem.key_scale is not None and not self.problem.scales_in_range

    @property
    def has_digits(self) -> bool:
        """Whether decimal arithmetic supports the bandwidth."""
        return self.root.ndim == 1 or self.problem.d <= MAX_EXACT_D

    def squares(self, row: int, block: slice) -> Floats:
        """(keys,) u² of one query in these coordinates, in plain float64."""
        problem = self.problem
        difference = self.points(problem.queries[row]) - self.points(problem.keys[block])
        if self.root.ndim == 1:
            difference /= self.root
        else:
            from scipy.linalg import solve_triangular  # imported here: it takes 0.2 s, and few calls need it

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
        """nearᵀ A far, where A is the quadratic form of the bandwidth, with bounds on the errors."""
        abs_near, abs_far = np.abs(near[0]), np.abs(far[0])
        if np.ndim(self.form[0]) == 1:
            product = dd.total(dd.multiply(dd.multiply(near, far), self.form))
            return product, PAIR_ERROR * ((abs_near * abs_far) @ np.abs(self.form[0]))
        form = np.abs(self.form[0])
        if not self.whitens:
            product = dd.total(dd.multiply(times(self.form, near), far))
            sizes = np.linalg.norm(abs_near @ form, axis=-1) * np.linalg.norm(abs_far, axis=-1)
            return product, (PAIR_ERROR + self.form_error) * sizes
        same = far is near
        abs_near, abs_far = abs_near @ form.T, abs_far @ form.T
        near = times(self.form, near)
        far = near if same else times(self.form, far)
        error = (abs_near * np.abs(far[0])).sum(axis=-1) + (np.abs(near[0]) * abs_far).sum(axis=-1)
        return dd.total(dd.multiply(near, far)), PAIR_ERROR * error


@dataclass(frozen=True)
class Leader:
    """A query's leading key, which has (nearly) the largest weight w κ, and its distance from the query."""

    position: int
    key: Floats  # (d,) in the view's coordinates
    scale: float  # λ
    factor: dd.Pair  # 1/λ², or 1/λ for inner products
    score: dd.Pair  # Σ_j (q_j − k_j)²/h_j² or Σ_j q_j k_j/h_j in the view's coordinates, before the factor
    square: float  # score · factor
    distance: float  # u in bandwidths, at most 1e307; the score for inner products
    base: float  # log w κ(u), with w relative to the largest weight


def lead(view: View, row: int, position: int) -> Leader:
    """Make a leader of the key at `position` for the query at `row`."""
    problem = view.problem
    assert problem.kernel.facts.log_ratio is not None
    q, key = view.points(problem.queries[row]), view.points(problem.keys[position])
    positions = np.array([position])
    factor = tuple(part[0] for part in factors(problem, positions))
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
    log_weight = float(log_weights(problem, positions)[0])
    base = np.fmax(problem.kernel.facts.log_ratio(distance, 0.0), LOWEST) + log_weight
    scale = 1.0 if problem.key_scale is None else float(problem.key_scale[positions].astype(np.float64)[0])
    return Leader(position, key, scale, factor, score, square, distance, float(base))


def log_ratios(view: View, row: int, leader: Leader, positions: Positions) -> tuple[Floats, Floats]:
    """log w κ of keys relative to the leader's, and bounds on the errors, infinite or NaN where a log is unknown."""
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
    product, error = view.form_of(*_difference_factors(problem, q, leader, keys))
    place = np.zeros(len(keys))
    by_scale = dd.multiply(_scale_difference(problem, leader, positions, factor), leader.score)
    pair = dd.add(dd.multiply(product, factor), by_scale)
    delta = pair[0] + pair[1]
    error = error * np.abs(factor[0]) + PAIR_ERROR * np.abs(by_scale[0])
    if not problem.kernel.inner_product:  # u − u₀ = (u² − u₀²)/(u + u₀)
        # u² in pairs: floats would lose all digits of a key that is much nearer than the leader
        square = dd.add(dd.multiply(leader.score, leader.factor), pair)
        distance = np.sqrt(np.maximum(square[0] + square[1], 0.0))
        square_error = error + PAIR_ERROR * leader.square
        distance_error = np.minimum(
            np.sqrt(square_error),
            square_error / np.where(distance > 0, distance, 1.0) + np.where(distance > 0, 0.0, np.inf),
        )
        roots = distance + np.sqrt(leader.square)
        roots = np.where(roots > 0, roots, 1.0)
        delta, error = delta / roots, error / roots
        error = error + np.abs(delta) * (distance_error / roots)
        delta, error, place = (np.ldexp(x, view.power) for x in (delta, error, distance))
    logs = _log_ratio(problem, delta, place, leader)
    nudged = [_log_ratio(problem, delta + nudge, place + nudge, leader) for nudge in (error, -error)]
    error = np.maximum(np.abs(nudged[0] - logs), np.abs(nudged[1] - logs)) + 4 * UNIT * np.abs(logs)
    return _add_log_weights(problem, leader, positions, logs, error)


def exact_log_ratios(view: View, row: int, leader: Leader, positions: Positions) -> tuple[Floats, Floats]:
    """Compute `log_ratios` in decimal arithmetic; requires `View.has_digits`."""
    problem = view.problem
    logs = _log_ratio(problem, *digits.deltas(problem, row, leader.position, positions), leader)
    error = 4 * UNIT * np.abs(logs)
    if leader.distance >= LARGEST_DISTANCE:  # beyond it, κ decreases at least as fast as at this distance
        error = np.where((logs == 0) | (logs < -1e4), error, np.inf)
    return _add_log_weights(problem, leader, positions, logs, error)


def _log_ratio(problem: Problem, delta: Floats, u: Floats, leader: Leader) -> Floats:
    """log κ(u) − log κ(u₀) for u − u₀ = δ; for inner products it depends on δ alone.

    The nearer key is the reference: the polynomials of the Matérn and Cauchy kernels cancel from the farther one.
    """
    assert problem.kernel.facts.log_ratio is not None
    ratio = problem.kernel.facts.log_ratio
    if problem.kernel.inner_product:
        return np.asarray(ratio(delta, leader.distance))
    delta, u = np.maximum(delta, -leader.distance), np.clip(u, 0.0, LARGEST_DISTANCE)
    return np.where(delta < 0, -ratio(np.abs(delta), u), ratio(np.abs(delta), leader.distance))


def _add_log_weights(
    problem: Problem, leader: Leader, positions: Positions, logs: Floats, error: Floats
) -> tuple[Floats, Floats]:
    weights = problem.log_weights_at(positions, leader.position)
    if weights is None:
        return np.asarray(logs), error
    finite = np.where(np.isfinite(weights), weights, 0.0)
    return np.asarray(logs + weights), error + 4 * UNIT * np.abs(finite)


def edge_distances(view: View, row: int, positions: Positions) -> tuple[Floats, Floats, Floats]:
    """1 − u² of keys with all digits where it is small, bounds on its errors, and u² with all its digits."""
    problem, step = view.problem, max(SLICE // view.problem.d, 1)
    q = view.points(problem.queries[row])
    edges, errors, squares = (np.empty(len(positions)) for _ in range(3))
    for i in range(0, len(positions), step):
        slice_positions = positions[i : i + step]
        difference, factor = (
            dd.two_sum(q, -view.points(problem.keys[slice_positions])),
            factors(problem, slice_positions),
        )
        score, error = view.form_of(difference, difference)
        square = dd.multiply(score, factor)
        edge = dd.add((np.ones(len(slice_positions)), np.zeros(len(slice_positions))), dd.negate(square))
        edges[i : i + step], squares[i : i + step] = edge[0] + edge[1], square[0] + square[1]
        errors[i : i + step] = error * factor[0] + PAIR_ERROR * np.maximum(np.abs(square[0]), 1.0)
    if view.needs_digits:
        errors[:] = np.inf
    inaccurate = np.flatnonzero(~(errors <= MAX_RELATIVE_EDGE_ERROR * np.abs(edges)) & ~(edges + errors < 0))
    if len(inaccurate) and view.has_digits:
        edges[inaccurate], squares[inaccurate] = digits.edge_distances(problem, row, positions[inaccurate])
        errors[inaccurate] = 0.0
    return edges, errors, squares


def log_weights(problem: Problem, rows: slice | Positions, own: int = -1) -> Floats:
    """log of w relative to the largest weight; −inf for the key at `own`, a position among those rows."""
    logs = problem.log_weights_at(rows)
    if logs is None:
        logs = np.zeros(len(problem.keys[rows]))
    if 0 <= own < len(logs):
        logs[own] = -np.inf
    return logs


def factors(problem: Problem, positions: Positions) -> dd.Pair:
    """Factors that key scales put on scores: 1/λ², or 1/λ for inner products."""
    if problem.key_scale is None:
        return np.ones(len(positions)), np.zeros(len(positions))
    inverse = dd.reciprocal(problem.key_scale[positions].astype(np.float64))
    return inverse if problem.kernel.inner_product else dd.multiply(inverse, inverse)


def _scale_difference(problem: Problem, leader: Leader, positions: Positions, factor: dd.Pair) -> dd.Pair:
    """1/λ² − 1/λ₀² = (λ₀ − λ)(λ₀ + λ)/(λλ₀)² without cancellation; 1/λ − 1/λ₀ for inner products."""
    if problem.key_scale is None:
        return np.zeros(len(positions)), np.zeros(len(positions))
    scale = problem.key_scale[positions].astype(np.float64)
    difference = dd.two_sum(leader.scale, -scale)
    if not problem.kernel.inner_product:
        difference = dd.multiply(difference, dd.two_sum(leader.scale, scale))
    return dd.multiply(dd.multiply(difference, factor), leader.factor)


def _difference_factors(problem: Problem, q: Floats, leader: Leader, keys: Floats) -> tuple[dd.Pair, dd.Pair]:
    """Pairs a, b with score − leader's score = aᵀ A b, where A is the view's form."""
    if problem.kernel.inner_product:
        fixed = np.broadcast_to(q, keys.shape)
        return (fixed, np.zeros_like(fixed)), dd.two_sum(keys, -leader.key)
    return dd.two_sum(leader.key, -keys), dd.add(dd.two_sum(2 * q, -leader.key), (-keys, np.zeros_like(keys)))


def times(form: dd.Pair, points: dd.Pair) -> dd.Pair:
    """(…, d) The form times each point, row by row of the form, which avoids a (keys, d, d) array."""
    columns = [dd.total(dd.multiply(points, row)) for row in zip(*form, strict=True)]
    return np.stack([first for first, _ in columns], axis=-1), np.stack([second for _, second in columns], axis=-1)


def _inverse(h: Floats, cholesky: Floats) -> tuple[dd.Pair, float]:
    """H⁻¹ by one Newton step with a double-double residual, H⁻¹ + H⁻¹(I − H H⁻¹), and a bound on its error, relative to
    the norm of one point times the norm of |H⁻¹| times another point."""
    from scipy.linalg import cho_solve  # imported here: it takes 0.2 s, and few calls need it

    d = len(h)
    inverse, residual, step = cho_solve((cholesky, True), np.eye(d)), np.empty((d, d)), max(SLICE // d, 1)
    for start in range(0, d, step):
        rows = slice(start, start + step)
        remainder = (np.eye(d)[rows], np.zeros((len(h[rows]), d)))
        for k in range(d):  # term by term, which avoids a (d, d, d) array
            remainder = dd.add(remainder, dd.negate(dd.two_product(h[rows, k, None], inverse[k])))
        residual[rows] = remainder[0] + remainder[1]
    residual_norm = math.fsum(np.abs(residual).sum(axis=1)) ** 2
    error = 2 * residual_norm + d * 2.0**-52 * residual_norm**0.5 if residual_norm < 0.25 else math.inf
    return dd.two_sum(inverse, inverse @ residual), error
