"""`learn_bandwidth`: descent on mini-batches with streamed gradients, for bandwidths or for a whole metric."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnw.bandwidth.criteria import Floats
from fastnw.bandwidth.descent import OPTIMIZERS, Learner, Matrix, Steps, Widths, by_batches, by_lbfgs
from fastnw.bandwidth.progress import Progress
from fastnw.bandwidth.rows import Rows, read_rows
from fastnw.bandwidth.rules import RULES, rule_bandwidth
from fastnw.bandwidth.select import random_generator
from fastnw.core.classes import OneHot
from fastnw.core.validate import check_bandwidth
from fastnw.core.warnings import BandwidthWarning, caller_level
from fastnw.kernels.kernel import Kernel

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

BATCH, EPOCHS = 256, 20


@dataclass(frozen=True)
class History:
    """The steps of a descent.

    Attributes
    ----------
    loss : (k,) float64
        The loss of each step's batch, before the step.
    bandwidth : (k, d), or (k, d, d) for a metric
        The bandwidth before each step.
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
        To use as ``bandwidth=``.
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
        """Draw the loss and the bandwidths against the steps.

        Parameters
        ----------
        ax : two matplotlib Axes, optional
            None makes a new figure.

        Returns
        -------
        Figure

        Raises
        ------
        ValueError
            There is no history.
        """
        from fastnw.bandwidth.picture import draw_history

        if self.history is None:
            raise ValueError("There is nothing to draw: the history was not kept. Use history=True.")
        return draw_history(self.history.loss, self.history.bandwidth, self.leave_one_out, ax)

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
    """Learn bandwidths by gradient descent, like the parameters of an attention layer.

    The loss is that of `select_bandwidth`: the mean squared error of the keys' means, or the log-loss for class labels.
    Gradients are analytic and streamed: a step sums batch × n pairs and stores none of them.

    Parameters
    ----------
    keys : array of shape (n, d)
    values : array of shape (n,) or (n, c)
        Targets, or class labels (strings or booleans).
    kernel : str or Kernel
    bandwidth : {"scott", "silverman"}, float, (d,) or, with `matrix`, (d, d) array
        The start of the descent.
    leave_one_out : bool
        False uses each key's own value to predict it: the loss is then least at bandwidth zero, where the fit remembers
        every value and learns nothing. The option exists to show this, and warns.
    optimizer : {"sgd", "adam", "lbfgs"}
        "sgd" has a momentum of 0.9; its rate, and Adam's [1]_, fall to zero like a cosine. "lbfgs" uses all keys in
        every step.
    learning_rate : float, optional
        For log-bandwidths and the loss divided by the variance of the values; by default 5.0 for "sgd" and 0.1 for
        "adam".
    batch_size : int
        Number of keys in a step.
    epochs : int
        Number of passes over the keys; for "lbfgs", the largest number of steps.
    per_coordinate : bool
        True: one bandwidth for each coordinate. False: one number for all.
    matrix : bool
        Learn a full metric, the H of u² = (q−k)ᵀH⁻¹(q−k): the smallest learnt representation.
    history : bool
        Keep the loss and the bandwidth of every step.
    sample_weight : (n,) array, optional
        Relative weights of the rows, as in `select_bandwidth`.
    random_state : int, RandomState or None
        Seeds the shuffling of the batches; None means 0.
    n_jobs, progress
        As in `select_bandwidth`.

    Returns
    -------
    LearnedBandwidth

    Raises
    ------
    ValueError
        The input is invalid, or the window of some key in a batch contains no other key.

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
        raise ValueError("learn_bandwidth needs values, got None. Use fastnw.select_bandwidth for a density.")
    if not leave_one_out:
        warnings.warn(
            "leave_one_out=False uses each key's own value to predict it: the loss is least at bandwidth zero. Use "
            "leave_one_out=True to learn.",
            BandwidthWarning,
            stacklevel=caller_level(),
        )
    rows = read_rows(keys, values, "loo", kernel, sample_weight)
    learner = _learner(rows, bandwidth, leave_one_out, n_jobs)
    parameters = Matrix(learner.start, learner.problem.d) if matrix else Widths(learner.start, per_coordinate)
    with Progress(progress) as report:
        steps = Steps(learner, parameters, report, history)
        if optimizer == "lbfgs":
            theta = by_lbfgs(steps, epochs)
        else:
            theta = by_batches(steps, optimizer, learning_rate, batch_size, epochs, random_generator(random_state))
        learned = parameters.bandwidth(theta)
        loss = learner.loss(learner.at(learned), np.arange(learner.problem.n))
    units, name = learner.units, str(learner.problem.kernel)
    kept = History(units.score(np.array(steps.losses)), np.array(steps.bandwidths)) if history else None
    return LearnedBandwidth(learned, units.score(loss.value), kept, optimizer, name, leave_one_out)


def _learner(rows: Rows, bandwidth: Any, leave_one_out: bool, n_jobs: int | None) -> Learner:
    """The loss of checked rows, to descend on from a bandwidth or from a rule."""
    if isinstance(rows.values, OneHot):
        rows = replace(rows, values=rows.values[:])
    rows = rows.with_weight()
    if isinstance(bandwidth, str) and bandwidth in RULES:
        start = rule_bandwidth(rows.keys, bandwidth, rows.kernel, rows.weights)
    else:
        start = check_bandwidth(bandwidth, rows.keys.shape[1])
    problem, sample, units = rows.problem(1.0, leave_one_out)
    return Learner(problem, sample, start, rows.loss, units, n_jobs)
