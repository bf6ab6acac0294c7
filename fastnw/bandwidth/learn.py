"""`learn_bandwidth`: descent on mini-batches with streaming gradients, for widths or for a whole metric."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import optimize

from fastnw import kernels
from fastnw.bandwidth.criteria import Floats, Loss, Sample
from fastnw.bandwidth.fits import forward
from fastnw.bandwidth.parameters import Matrix, Widths
from fastnw.bandwidth.rules import RULES, rule_bandwidth
from fastnw.bandwidth.select import LOSSES, Progress, kind_of, random_generator
from fastnw.bandwidth.sums import cotangents, mass_cotangents
from fastnw.bandwidth.units import Units, normalised
from fastnw.core.classes import OneHot
from fastnw.core.problem import Problem
from fastnw.core.row_weights import relative_weights
from fastnw.core.validate import build, check_bandwidth, metric
from fastnw.core.warnings import BandwidthWarning, caller_level
from fastnw.gradients import sums as gradient_sums
from fastnw.interop import frameworks
from fastnw.kernels.registry import Kernel
from fastnw.planner import make_plan
from fastnw.runtime.threads import Meter, one_blas_thread

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

OPTIMIZERS = ("sgd", "adam", "lbfgs")
RATES = {"sgd": 5.0, "adam": 0.1, "lbfgs": 1.0}  # of losses over the values' variance, in log-bandwidths
BATCH, EPOCHS = 256, 20
MOMENTUM = 0.9
ADAM = (0.9, 0.999, 1e-8)


@dataclass(frozen=True)
class History:
    """What happened at each step.

    Attributes
    ----------
    loss : (k,) float64
        Of the step's batch, before the step.
    bandwidth : (k, d), or (k, d, d) for a metric
        Likewise.
    """

    loss: Floats
    bandwidth: Floats

    def __len__(self) -> int:
        return len(self.loss)


@dataclass(frozen=True)
class LearnedBandwidth:
    """Bandwidths found by descent.

    Attributes
    ----------
    bandwidth : float, (d,) or (d, d) float64
        To pass on as ``bandwidth=``.
    score : float
        The loss over all keys.
    history : History or None
    optimizer, kernel : str
    leave_one_out : bool
    """

    bandwidth: Any
    score: float
    history: History | None
    optimizer: str
    kernel: str
    leave_one_out: bool

    def plot(self, ax: Any = None) -> Figure | SubFigure:
        """Loss and bandwidths against steps.

        Parameters
        ----------
        ax : two matplotlib Axes, optional
            None: those of a new figure.

        Returns
        -------
        Figure

        Raises
        ------
        ValueError
            ``history=False`` was asked for.
        """
        from fastnw.bandwidth.picture import draw_history

        return draw_history(self, ax)

    def __repr__(self) -> str:
        h = f"{self.bandwidth:.6g}" if np.ndim(self.bandwidth) == 0 else np.array2string(self.bandwidth, precision=6)
        return f"LearnedBandwidth(bandwidth={h}, score={self.score:.6g}, optimizer={self.optimizer!r})"


def learn_bandwidth(
    keys: Any,
    values: Any,
    *,
    kernel: str | Kernel = "gaussian",
    bandwidth: Any = "scott",
    leave_one_out: bool = True,
    optimizer: str = "sgd",
    learning_rate: float | None = None,
    batch_size: int = BATCH,
    epochs: int = EPOCHS,
    per_coordinate: bool = True,
    matrix: bool = False,
    history: bool = True,
    sample_weight: Any = None,
    random_state: Any = None,
    n_jobs: int | None = None,
    progress: bool | None = None,
) -> LearnedBandwidth:
    """Learn bandwidths by gradient descent, as the parameters of an attention layer are.

    The loss is that of `select_bandwidth`: the mean squared error of each key's mean, or the log-loss for class labels.
    Gradients are analytic and streamed: a step takes batch × n pairs and no memory for them.

    Parameters
    ----------
    keys : array of shape (n, d)
    values : array of shape (n,) or (n, c)
        Targets, or class labels (strings or booleans).
    kernel : str or Kernel
    bandwidth : {"scott", "silverman"}, float, (d,) or, with `matrix`, (d, d) array
        Where to start.
    leave_one_out : bool
        False lets each key see its own value: the loss then is least at width zero, where everything is remembered and
        nothing learnt. It is there to show that, and warns.
    optimizer : {"sgd", "adam", "lbfgs"}
        "sgd" has a momentum of 0.9; its rate, and Adam's [1]_, fall to zero like a cosine. "lbfgs" takes all keys in
        every step.
    learning_rate : float, optional
        Of log-bandwidths, for the loss over the values' variance; by default 5.0 for "sgd" and 0.1 for "adam".
    batch_size : int
        Keys in a step.
    epochs : int
        Passes over the keys; for "lbfgs", steps at most.
    per_coordinate : bool
        One bandwidth a coordinate; False: one number for all.
    matrix : bool
        Learn a full metric, H of u² = (q−k)ᵀH⁻¹(q−k): the smallest learnt representation.
    history : bool
        Keep the loss and the bandwidth of every step.
    sample_weight : (n,) array, optional
        Relative weights of the rows, as in `select_bandwidth`.
    random_state : int, RandomState or None
        Of the batches; None is 0.
    n_jobs, progress
        As in `select_bandwidth`.

    Returns
    -------
    LearnedBandwidth

    Raises
    ------
    ValueError
        What is wrong with the input; a batch in which some key has no other one in its window.

    Warns
    -----
    BandwidthWarning
        For ``leave_one_out=False``.

    References
    ----------
    .. [1] Kingma and Ba (2015), Adam: a method for stochastic optimization, ICLR.

    Examples
    --------
    >>> import numpy as np, fastnw
    >>> rng = np.random.default_rng(0)
    >>> x = rng.uniform(size=(500, 2))
    >>> found = fastnw.learn_bandwidth(x, np.sin(6 * x[:, 0]) + 0.1 * rng.normal(size=500), optimizer="adam")
    >>> bool(found.bandwidth[0] < found.bandwidth[1])
    True
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"Unknown optimizer {optimizer!r}. Choose one of {', '.join(map(repr, OPTIMIZERS))}.")
    for name, number in (("batch_size", batch_size), ("epochs", epochs)):
        if not (isinstance(number, (int, np.integer)) and number > 0):
            raise ValueError(f"{name} must be a positive integer, got {number!r}.")
    if learning_rate is not None and not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"learning_rate must be a positive number, got {learning_rate!r}.")
    if values is None:
        raise ValueError("values is required: a density's bandwidth is chosen by fastnw.select_bandwidth.")
    if not leave_one_out:
        warnings.warn(
            "leave_one_out=False lets each key see its own value: the loss is least at width zero.",
            BandwidthWarning,
            stacklevel=caller_level(),
        )
    keys, values, sample_weight = (frameworks.to_numpy(array) for array in (keys, values, sample_weight))
    kind, values = kind_of("loo", values)
    values = values[:] if isinstance(values, OneHot) else values
    learner = _learner(keys, values, kernels.get(kernel), bandwidth, sample_weight, leave_one_out, kind, n_jobs)
    shape = Matrix(learner.start, learner.problem.d) if matrix else Widths(learner.start, per_coordinate)
    with Progress(progress) as told:
        steps = _Steps(learner, shape, told, history)
        if optimizer == "lbfgs":
            theta = _by_lbfgs(steps, epochs)
        else:
            theta = _by_batches(steps, optimizer, learning_rate, batch_size, epochs, random_generator(random_state))
        found = shape.bandwidth(theta)
        score = learner.units.score(learner.loss(learner.at(found), np.arange(learner.problem.n)).value)
    kept = History(learner.units.score(np.array(steps.losses)), np.array(steps.bandwidths)) if history else None
    return LearnedBandwidth(found, score, kept, optimizer, str(learner.problem.kernel), leave_one_out)


@dataclass
class _Learner:
    """Losses and gradients of some keys at a bandwidth."""

    problem: Problem
    sample: Sample
    start: Floats
    criterion: Callable[[Sample, Any], Loss]
    units: Units
    n_jobs: int | None

    def at(self, bandwidth: Any) -> Problem:
        h = np.asarray(bandwidth, np.float64)
        return (
            replace(self.problem, metric=metric(h, self.problem.d))
            if h.ndim == 2
            else self.problem.with_metric(metric(h, self.problem.d))
        )

    def loss(self, problem: Problem, positions: Any, sums: list[Any] | None = None) -> Loss:
        """Of those keys; what the gradient takes is put into `sums`."""
        plan = make_plan(problem, "auto" if len(positions) == problem.n else "exact", "auto", self.n_jobs)
        meter = Meter(False, 0, "")
        fit = forward(problem, plan, positions, meter)
        found = self.criterion(self.sample.at(positions), fit)
        if not math.isfinite(found.value):
            raise ValueError(
                f"The loss is infinite: some key has no other one in the window of kernel {problem.kernel.name!r}. "
                "Start from a wider bandwidth, or choose a kernel without bounds."
            )
        if sums is not None:
            sums += [plan, fit, meter]
        return found

    def gradient(self, problem: Problem, positions: Any, outer: bool) -> tuple[float, Floats]:
        """The loss, and Σ_ij E_ij z zᵀ, or its diagonal."""
        sums: list[Any] = []
        loss = self.loss(problem, positions, sums)
        plan, fit, meter = sums
        alpha, gamma = cotangents(fit, loss)
        found = gradient_sums.by_query(
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
        return loss.value, found.squares.sum(axis=0) if found.outer is None else found.outer


def _learner(
    keys: Any,
    values: Any,
    kernel: Kernel,
    bandwidth: Any,
    sample_weight: Any,
    leave_one_out: bool,
    kind: str,
    n_jobs: int | None,
) -> _Learner:
    problem = build(
        keys, keys, values, kernel=kernel, bandwidth=1.0, sample_weight=sample_weight, exclude_self=leave_one_out
    )
    rows, weights = relative_weights(problem.weights)
    keys, values = np.ascontiguousarray(problem.keys[rows], np.float64), problem.values[rows]
    if isinstance(bandwidth, str) and bandwidth in RULES:
        start = rule_bandwidth(keys, bandwidth, kernel, weights)
    else:
        start = check_bandwidth(bandwidth, problem.d)
    problem = build(keys, keys, values, kernel=kernel, bandwidth=1.0, sample_weight=weights, exclude_self=leave_one_out)
    values, units = normalised(problem, kind)
    problem = replace(problem, values=values)
    return _Learner(problem, Sample.of(problem), start, LOSSES[kind][0], units, n_jobs)


class _Steps:
    """Loss and gradient by θ, over the values' variance, noted."""

    def __init__(self, learner: _Learner, shape: Any, tell: Callable[[float], None], history: bool) -> None:
        self.learner, self.shape, self.tell, self.history = learner, shape, tell, history
        self.losses: list[float] = []
        self.bandwidths: list[Floats] = []
        sample = learner.sample
        middle = np.average(sample.values, axis=0, weights=sample.weights)
        spread = float(np.average(np.square(sample.values - middle), axis=0, weights=sample.weights).sum())
        self.scale = spread if spread > 0 else 1.0

    def __call__(self, theta: Floats, positions: Any) -> tuple[float, Floats]:
        problem = self.learner.at(self.shape.bandwidth(theta))
        value, sums = self.learner.gradient(problem, positions, self.shape.outer)
        if self.history:
            self.losses.append(value)
            self.bandwidths.append(self.shape.recorded(theta, problem.d))
        self.tell(self.learner.units.score(value))
        return value / self.scale, self.shape.pulled_back(theta, sums) / self.scale


def _by_lbfgs(steps: _Steps, epochs: int) -> Floats:
    everything = np.arange(steps.learner.problem.n)
    best: tuple[float, Floats] = (math.inf, steps.shape.theta)

    def loss(theta: Floats) -> tuple[float, Floats]:
        nonlocal best
        value, gradient = steps(steps.shape.bounded(theta), everything)
        if value < best[0]:
            best = value, steps.shape.bounded(theta)
        return value, gradient

    with one_blas_thread:
        optimize.minimize(
            loss, steps.shape.theta, jac=True, method="L-BFGS-B", options={"maxiter": epochs, "ftol": 1e-9}
        )
    return best[1]


def _by_batches(
    steps: _Steps, optimizer: str, learning_rate: float | None, batch_size: int, epochs: int, rng: np.random.RandomState
) -> Floats:
    theta, n = steps.shape.theta.copy(), steps.learner.problem.n
    rate = RATES[optimizer] if learning_rate is None else learning_rate
    number = epochs * math.ceil(n / batch_size)
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    beta1, beta2, least = ADAM
    for step, positions in enumerate(_batches(n, batch_size, epochs, rng)):
        _, gradient = steps(theta, positions)
        now = rate * 0.5 * (1.0 + math.cos(math.pi * step / number))
        if optimizer == "sgd":
            first = MOMENTUM * first + (1.0 - MOMENTUM) * gradient
            move = now * first
        else:
            first, second = beta1 * first + (1 - beta1) * gradient, beta2 * second + (1 - beta2) * gradient**2
            move = now * (first / (1 - beta1 ** (step + 1))) / (np.sqrt(second / (1 - beta2 ** (step + 1))) + least)
        theta = steps.shape.bounded(theta - move)
    return theta


def _batches(n: int, size: int, epochs: int, rng: np.random.RandomState) -> Iterator[Any]:
    for _ in range(epochs):
        order = rng.permutation(n)
        yield from (np.sort(order[start : start + size]) for start in range(0, n, size))
