"""One query in double-double arithmetic: log κ of its keys less a leading key's, however far they are.

Coordinates are scaled by powers of two, which rounds nothing: to a bandwidth of about 1, and for a query beyond
`View.RANGE` to a distance of about 1. So squares neither overflow nor vanish, at 10³⁰⁰ bandwidths or at h = 10⁻²⁰⁰.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fastnw import _doubledouble as dd
from fastnw._problem import Problem

Floats = NDArray[np.float64]
Positions = NDArray[np.intp]

LOWEST = float(np.finfo(np.float64).min)  # stands for log κ where it overflows
SLICE = 1 << 13  # numbers (keys × coordinates) worked on at a time: a dozen temporaries of them make 1 MiB


@dataclass(frozen=True)
class View:
    """A problem in coordinates x_j·2^(−exponents_j).

    Attributes
    ----------
    form : (d,) or (d, d) pair
        The quadratic form of the bandwidth in these coordinates: 1/h_j² (1/h_j for inner products), or H⁻¹.
    root : (d,) or (d, d) float64
        The bandwidth in these coordinates: h_j, or L with L Lᵀ = H.
    exponents : (d,) int
    power : int
        Distances come out divided by 2^power.
    """

    problem: Problem
    form: dd.Pair
    root: Floats
    exponents: NDArray[np.intp]
    power: int = 0

    RANGE: ClassVar[float] = 1e140  # bandwidths up to which double-double arithmetic holds u² with power 0

    @classmethod
    def of(cls, problem: Problem) -> View:
        h, cholesky = problem.metric.bandwidth, problem.metric.cholesky
        exponents = np.frexp(h if cholesky is None else np.sqrt(np.diag(h)))[1].astype(np.intp)
        if problem.kernel.inner_product:
            exponents = np.zeros_like(exponents)
        if cholesky is None:
            root = np.ldexp(h, -exponents)
            form = dd.reciprocal(root)
            form = form if problem.kernel.inner_product else dd.multiply(form, form)
            return cls(problem, form, root, exponents)
        root = np.ldexp(cholesky, -exponents[:, None])
        return cls(problem, _inverse(np.ldexp(h, -exponents[:, None] - exponents), root), root, exponents)

    def scaled(self, power: int) -> View:
        return replace(self, exponents=self.exponents + power, power=power)

    def beyond(self, leader: Leader) -> bool:
        """Whether that query needs a scaled view."""
        return not (self.power or self.problem.kernel.inner_product or leader.distance < self.RANGE)

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
        condition = 1.0 if self.root.ndim == 1 else float(np.linalg.cond(self.root))
        return (20 + self.problem.d) * 2.0**-52 * condition

    def points(self, points: NDArray[np.generic]) -> Floats:
        """Points of the problem, (d,) or (…, d), in these coordinates."""
        return np.ldexp(points.astype(np.float64), -self.exponents)


@dataclass(frozen=True)
class Leader:
    """The key with (nearly) the largest weight, and the query's relation to it."""

    key: Floats  # (d,) in the view's coordinates
    log_weight: float
    factor: dd.Pair  # 1/λ², 1/λ for inner products
    score: dd.Pair  # Σ_j (q_j − k_j)²/h_j² or Σ_j q_j k_j/h_j in the view's coordinates, before the factor
    square: float  # score · factor
    distance: float  # u in bandwidths, at most 1e307; the score for inner products
    base: float  # log w κ(u)


def lead(view: View, row: int, position: int) -> Leader:
    """That key as the leader of that query."""
    problem = view.problem
    assert problem.kernel.facts is not None
    assert problem.kernel.facts.log_ratio is not None
    q, key = view.points(problem.queries[row]), view.points(problem.keys[position])
    at = np.array([position])
    factor = tuple(part[0] for part in factors(problem, at))
    if problem.kernel.inner_product:
        score = apply(view.form, (q, np.zeros_like(q)), (key, np.zeros_like(key)))
    else:
        difference = dd.two_sum(q, -key)
        score = apply(view.form, difference, difference)
    argument = dd.multiply(score, factor)
    square = distance = float(argument[0] + argument[1])
    if not problem.kernel.inner_product:
        distance = float(np.fmin(np.ldexp(np.sqrt(square), view.power), 1e307))
    log_weight = float(log_weights(problem, at)[0])
    base = np.fmax(problem.kernel.facts.log_ratio(distance, 0.0), LOWEST) + log_weight
    return Leader(key, log_weight, factor, score, square, distance, float(base))


def log_ratios(view: View, row: int, leader: Leader, positions: Positions) -> Floats:
    """log w κ of those keys, less the leader's."""
    step = max(SLICE // view.problem.d, 1)
    starts = range(0, len(positions), step)
    return np.concatenate([_log_ratios(view, row, leader, positions[i : i + step]) for i in starts])


def _log_ratios(view: View, row: int, leader: Leader, positions: Positions) -> Floats:
    problem = view.problem
    assert problem.kernel.facts is not None
    assert problem.kernel.facts.log_ratio is not None
    q, keys = view.points(problem.queries[row]), view.points(problem.keys[positions])
    factor = factors(problem, positions)
    scaled = dd.multiply(apply(view.form, *_terms(problem, q, leader, keys)), factor)
    pair = dd.add(scaled, dd.multiply(dd.add(factor, dd.negate(leader.factor)), leader.score))
    delta = pair[0] + pair[1]
    if not problem.kernel.inner_product:  # u − u₀ = (u² − u₀²)/(u + u₀)
        roots = np.sqrt(np.maximum(leader.square + delta, 0.0)) + np.sqrt(leader.square)
        delta = np.ldexp(delta / np.where(roots > 0, roots, 1.0), view.power)
    logs = problem.kernel.facts.log_ratio(delta, leader.distance)
    return np.asarray(logs + (log_weights(problem, positions) - leader.log_weight))


def edge_distances(view: View, row: int, positions: Positions) -> Floats:
    """1 − u² of those keys, with all its digits where it is small."""
    problem, step = view.problem, max(SLICE // view.problem.d, 1)
    q, found = view.points(problem.queries[row]), np.empty(len(positions))
    for i in range(0, len(positions), step):
        mine = positions[i : i + step]
        difference = dd.two_sum(q, -view.points(problem.keys[mine]))
        square = dd.multiply(apply(view.form, difference, difference), factors(problem, mine))
        y = dd.add((np.ones(len(mine)), np.zeros(len(mine))), dd.negate(square))
        found[i : i + step] = y[0] + y[1]
    return found


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


def _terms(problem: Problem, q: Floats, leader: Leader, keys: Floats) -> tuple[dd.Pair, dd.Pair]:
    """Pairs a, b with score − leader's score = aᵀ form b."""
    if problem.kernel.inner_product:
        fixed = np.broadcast_to(q, keys.shape)
        return (fixed, np.zeros_like(fixed)), dd.two_sum(keys, -leader.key)
    return dd.two_sum(leader.key, -keys), dd.add(dd.two_sum(2 * q, -leader.key), (-keys, np.zeros_like(keys)))


def apply(form: dd.Pair, near: dd.Pair, far: dd.Pair) -> dd.Pair:
    if np.ndim(form[0]) == 1:
        return dd.total(dd.multiply(dd.multiply(near, far), form))
    result = (np.zeros(np.shape(near[0])[:-1]), np.zeros(np.shape(near[0])[:-1]))
    for j, column in enumerate(zip(*form, strict=True)):  # one at a time: no (keys, d, d) array
        product = dd.total(dd.multiply(near, column))
        result = dd.add(result, dd.multiply(product, (far[0][..., j], far[1][..., j])))
    return result


def _inverse(h: Floats, cholesky: Floats) -> dd.Pair:
    """H⁻¹, by one Newton step with a double-double residual: H⁻¹ + H⁻¹(I − H H⁻¹)."""
    from scipy.linalg import cho_solve  # 0.2 s to import, and few need it

    d = len(h)
    inverse, residual, step = cho_solve((cholesky, True), np.eye(d)), np.empty((d, d)), max(SLICE // d, 1)
    for start in range(0, d, step):
        rows = slice(start, start + step)
        left = (np.eye(d)[rows], np.zeros((len(h[rows]), d)))
        for k in range(d):  # one term at a time: no (d, d, d) array
            left = dd.add(left, dd.negate(dd.two_product(h[rows, k, None], inverse[k])))
        residual[rows] = left[0] + left[1]
    return dd.two_sum(inverse, inverse @ residual)
