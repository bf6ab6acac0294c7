"""Descents on the loss of a bandwidth: their parameters θ, the losses of batches of keys, and the optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from fastnw.bandwidth.criteria import Fit, Floats, Loss, LossFunction, Sample
from fastnw.bandwidth.fits.at_keys import fit_at_keys
from fastnw.bandwidth.fits.fitter import cotangents, mass_cotangents
from fastnw.bandwidth.rows import ScoreUnits
from fastnw.core.plan import Plan
from fastnw.core.problem import Problem
from fastnw.core.validate import metric
from fastnw.gradients import sums as gradient_sums
from fastnw.planner import make_plan
from fastnw.runtime.threads import Meter, one_blas_thread

OPTIMIZERS = ("sgd", "adam", "lbfgs")
# Learning rates of log-bandwidths, for losses divided by the variance of the values.
RATES = {"sgd": 5.0, "adam": 0.1, "lbfgs": 1.0}
MOMENTUM = 0.9
ADAM = (0.9, 0.999, 1e-8)  # β₁, β₂, ε
# Bounds of a descent, as factors of its start: a narrower bandwidth has collapsed, a wider one has no influence.
MIN_FACTOR, MAX_FACTOR = 1e-6, 1e4


class Widths:
    """Parameters θ that are the logarithms of the bandwidths: one for each coordinate, or one for all."""

    needs_outer_products = False

    def __init__(self, start: Floats, per_coordinate: bool) -> None:
        if start.ndim == 2:
            raise ValueError(f"bandwidth must be a number or have shape (d,), got {start.shape}. Use matrix=True.")
        self.single = start.ndim == 0 or not per_coordinate
        self.theta = np.atleast_1d(np.log(start).mean() if self.single else np.log(start))

    def bandwidth(self, theta: Floats) -> Any:
        """The bandwidth at θ, a number or (d,)."""
        return float(np.exp(theta[0])) if self.single else np.exp(theta)

    def recorded(self, theta: Floats, d: int) -> Floats:
        """The bandwidths (d,) at θ, for the history."""
        return np.broadcast_to(np.exp(theta), d).copy()

    def gradient(self, theta: Floats, squares: Floats) -> Floats:
        """The derivatives by θ from the sums Σ E z² (d,)."""
        return np.atleast_1d(squares.sum()) if self.single else squares

    def bounded(self, theta: Floats) -> Floats:
        """θ within the bounds of the descent."""
        return np.clip(theta, self.theta + math.log(MIN_FACTOR), self.theta + math.log(MAX_FACTOR))


class Matrix:
    """Parameters θ that are a lower triangle T, logarithms on its diagonal: u = |T A₀ (q − k)|, A₀ of the start."""

    needs_outer_products = True

    def __init__(self, start: Floats, d: int) -> None:
        if start.ndim < 2:
            start = np.diag(np.square(np.broadcast_to(start, d)))
        self.start = np.linalg.inv(np.linalg.cholesky(start))
        self.lower = np.tril_indices(d)
        self.theta = np.zeros(d * (d + 1) // 2)

    def _factor(self, theta: Floats) -> Floats:
        triangle = np.zeros_like(self.start)
        triangle[self.lower] = theta
        np.fill_diagonal(triangle, np.exp(np.diag(triangle)))
        return triangle

    def bandwidth(self, theta: Floats) -> Floats:
        """The matrix H (d, d) at θ."""
        inverse = np.linalg.inv(self._factor(theta) @ self.start)
        h = inverse @ inverse.T
        return (h + h.T) / 2

    def recorded(self, theta: Floats, d: int) -> Floats:
        """The matrix (d, d) at θ, for the history."""
        return self.bandwidth(theta)

    def gradient(self, theta: Floats, outer: Floats) -> Floats:
        """The derivatives by θ from the sums Σ E z zᵀ (d, d).

        With u = |A δ| and A = T A₀, ∂L/∂A = −A Σ E δ δᵀ; the sums are of whitened differences, δ = L z.
        """
        triangle = self._factor(theta)
        a, whole = triangle @ self.start, np.linalg.cholesky(self.bandwidth(theta))
        by_triangle = -a @ whole @ outer @ whole.T @ self.start.T
        np.fill_diagonal(by_triangle, np.diag(by_triangle) * np.diag(triangle))
        by_theta: Floats = by_triangle[self.lower]
        return by_theta

    def bounded(self, theta: Floats) -> Floats:
        """θ within the bounds of the descent; only the diagonal has any."""
        diagonal = self.lower[0] == self.lower[1]
        within = np.clip(theta, -math.log(MAX_FACTOR), -math.log(MIN_FACTOR))
        return np.where(diagonal, within, theta)


@dataclass
class Learner:
    """The loss of some keys, and its gradient, at a bandwidth."""

    problem: Problem
    sample: Sample
    start: Floats
    loss_function: LossFunction
    units: ScoreUnits
    n_jobs: int | None

    def at(self, bandwidth: Any) -> Problem:
        """The problem with another bandwidth: a number, (d,) or (d, d)."""
        h = np.asarray(bandwidth, np.float64)
        if h.ndim == 2:
            return replace(self.problem, metric=metric(h, self.problem.d))
        return self.problem.with_metric(metric(h, self.problem.d))

    def loss(self, problem: Problem, positions: NDArray[np.intp]) -> Loss:
        """The loss of the keys at those positions."""
        return self._evaluated(problem, positions)[0]

    def _evaluated(self, problem: Problem, positions: NDArray[np.intp]) -> tuple[Loss, Fit, Plan, Meter]:
        """The loss, and what its gradient is made from.

        Raises
        ------
        ValueError
            The loss is infinite.
        """
        plan = make_plan(problem, "auto" if len(positions) == problem.n else "exact", "auto", self.n_jobs)
        meter = Meter(False, 0, "")
        fit = fit_at_keys(problem, plan, positions, meter)
        loss = self.loss_function(self.sample.at(positions), fit)
        if not math.isfinite(loss.value):
            raise ValueError(
                f"The loss is infinite: the window of some key contains no other key (kernel {problem.kernel.name!r}). "
                "Start from a wider bandwidth, or use a kernel without bounds."
            )
        return loss, fit, plan, meter

    def gradient(self, problem: Problem, positions: NDArray[np.intp], outer: bool) -> tuple[float, Floats]:
        """The loss, and Σ_ij E_ij z zᵀ (d, d), or without `outer` its diagonal (d,)."""
        loss, fit, plan, meter = self._evaluated(problem, positions)
        alpha, gamma = cotangents(fit, loss)
        sums = gradient_sums.by_query(
            problem,
            positions,
            fit.log_mass,
            alpha,
            gamma,
            plan.n_threads,
            meter,
            outer=outer,
            by_log_mass=mass_cotangents(problem, loss)[: len(positions)],
        )
        return loss.value, sums.squares.sum(axis=0) if sums.outer is None else sums.outer


class Steps:
    """Loss and gradient by θ, divided by the variance of the values, which records the steps of a descent.

    Parameters
    ----------
    learner : Learner
    parameters : Widths or Matrix
    report : callable
        Is called with each loss, in the user's units.
    history : bool
        Whether losses and bandwidths are recorded.
    """

    def __init__(
        self, learner: Learner, parameters: Widths | Matrix, report: Callable[[float], None], history: bool
    ) -> None:
        self.learner, self.parameters, self.report, self.history = learner, parameters, report, history
        self.losses: list[float] = []
        self.bandwidths: list[Floats] = []
        sample = learner.sample
        middle = np.average(sample.values, axis=0, weights=sample.weights)
        spread = float(np.average(np.square(sample.values - middle), axis=0, weights=sample.weights).sum())
        self.scale = spread if spread > 0 else 1.0

    def __call__(self, theta: Floats, positions: Any) -> tuple[float, Floats]:
        problem = self.learner.at(self.parameters.bandwidth(theta))
        value, sums = self.learner.gradient(problem, positions, self.parameters.needs_outer_products)
        if self.history:
            self.losses.append(value)
            self.bandwidths.append(self.parameters.recorded(theta, problem.d))
        self.report(self.learner.units.score(value))
        return value / self.scale, self.parameters.gradient(theta, sums) / self.scale


def by_lbfgs(steps: Steps, epochs: int) -> Floats:
    """The best θ of at most `epochs` steps of L-BFGS-B on the loss of all keys."""
    every_key = np.arange(steps.learner.problem.n)
    best: tuple[float, Floats] = (math.inf, steps.parameters.theta)

    def loss(theta: Floats) -> tuple[float, Floats]:
        nonlocal best
        value, gradient = steps(steps.parameters.bounded(theta), every_key)
        if value < best[0]:
            best = value, steps.parameters.bounded(theta)
        return value, gradient

    with one_blas_thread:
        optimize.minimize(
            loss, steps.parameters.theta, jac=True, method="L-BFGS-B", options={"maxiter": epochs, "ftol": 1e-9}
        )
    return best[1]


def by_batches(
    steps: Steps, optimizer: str, learning_rate: float | None, batch_size: int, epochs: int, rng: np.random.RandomState
) -> Floats:
    """θ after a descent on mini-batches by "sgd" or "adam"."""
    theta, n = steps.parameters.theta.copy(), steps.learner.problem.n
    rate = RATES[optimizer] if learning_rate is None else learning_rate
    n_steps = epochs * math.ceil(n / batch_size)
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    beta1, beta2, epsilon = ADAM
    for step, positions in enumerate(_batches(n, batch_size, epochs, rng)):
        _, gradient = steps(theta, positions)
        step_rate = rate * 0.5 * (1.0 + math.cos(math.pi * step / n_steps))
        if optimizer == "sgd":
            first = MOMENTUM * first + (1.0 - MOMENTUM) * gradient
            move = step_rate * first
        else:
            first, second = beta1 * first + (1 - beta1) * gradient, beta2 * second + (1 - beta2) * gradient**2
            spread = np.sqrt(second / (1 - beta2 ** (step + 1)))
            move = step_rate * (first / (1 - beta1 ** (step + 1))) / (spread + epsilon)
        theta = steps.parameters.bounded(theta - move)
    return theta


def _batches(n: int, size: int, epochs: int, rng: np.random.RandomState) -> Iterator[Any]:
    for _ in range(epochs):
        order = rng.permutation(n)
        yield from (np.sort(order[start : start + size]) for start in range(0, n, size))
