"""`select_bandwidth`: reads the rows, runs the search, and reports on its result."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from fastnw import kernels
from fastnw.bandwidth import search
from fastnw.bandwidth.criteria import ALL_CRITERIA, LIKELIHOOD, Floats
from fastnw.bandwidth.fits.fitter import Fitter
from fastnw.bandwidth.fits.planned import PlannedFitter
from fastnw.bandwidth.fits.spectral import SpectralFitter, seconds
from fastnw.bandwidth.progress import Progress
from fastnw.bandwidth.result import BandwidthSelection, SearchPath
from fastnw.bandwidth.rows import Rows, ScoreUnits, read_rows
from fastnw.bandwidth.rules import RULES, geometric_mean, rule_bandwidth
from fastnw.bandwidth.search import Directions, Objective
from fastnw.core.problem import Problem
from fastnw.core.validate import build, check_bandwidth
from fastnw.core.warnings import BandwidthWarning, caller_level
from fastnw.interop import dataframes, frameworks
from fastnw.kernels.kernel import Kernel
from fastnw.runtime.threads import Meter


def select_bandwidth(
    keys: Any,
    values: Any = None,
    *,
    kernel: str | Kernel = "gaussian",
    criterion: str = "loo",
    sample_weight: Any = None,
    candidates: Any = None,
    per_coordinate: bool = True,
    random_state: Any = None,
    n_jobs: int | None = None,
    progress: bool | None = None,
) -> BandwidthSelection:
    """Choose the bandwidth with the least loss on the data themselves, over all rows.

    Parameters
    ----------
    keys : array of shape (n, d)
    values : array of shape (n,) or (n, c), optional
        Targets; class labels (strings, booleans, or anything with ``criterion="log_loss"``); None for a density.
    kernel : str or Kernel
    criterion : {"loo", "aicc", "log_loss", "scott", "silverman"}
        "loo" predicts each observation from the others. The loss is the mean squared error, summed over outputs [1]_;
        for class labels, the mean −log of the probability of the row's class, clipped at 1e-15; without values, the
        mean −log density [2]_. "aicc" is log σ̂² + (1 + tr/n)/(1 − (tr + 2)/n), summed over outputs, with the trace tr
        of the smoother; it is ∞ if tr + 2 ≥ n [3]_. The rules use no loss: see `fastnw.bandwidth.rule_bandwidth`.
    sample_weight : (n,) array, optional
        Relative weights of the rows, in sums and in the mean loss. A constant factor changes nothing, and rows with
        weight 0 count as absent. A row is left out as a whole, whatever its weight; the n of AICc is the number of
        rows, that of the rules is (Σw)²/Σw².
    candidates : array of shape (k,) or (k, d), optional
        The bandwidths to choose from. By default a search finds the best one, from several starts, by L-BFGS-B on
        log-bandwidths with analytic gradients.
    per_coordinate : bool
        True: one bandwidth for each coordinate. False: one number for all.
    random_state : int, RandomState or None
        Seeds the random starts of the search in several coordinates. None means 0, so that the same data give the same
        bandwidth.
    n_jobs : int, optional
        Number of threads. None: every core that this process may use.
    progress : bool, optional
        Show a progress bar. None: on a terminal, once the search has lasted 2 s.

    Returns
    -------
    BandwidthSelection
        With ``bandwidth, score, path, notes`` and ``plot()``.

    Raises
    ------
    ValueError
        The input is invalid, or no bandwidth has a finite loss.

    Warns
    -----
    BandwidthWarning
        A coordinate has no relation to the values (its bandwidth is then so wide that it has no influence), or the loss
        is least at the narrow end of the search.

    Notes
    -----
    The loss is infinite if the window of a key contains no other key. So the bandwidth of a compact kernel is at least
    the largest distance from a key to its nearest neighbour.

    References
    ----------
    .. [1] Härdle and Marron (1985), Optimal bandwidth selection in nonparametric regression function estimation, Annals
       of Statistics 13.
    .. [2] Habbema, Hermans and van den Broek (1974), A stepwise discriminant analysis program using density
       estimation, COMPSTAT.
    .. [3] Hurvich, Simonoff and Tsai (1998), Smoothing parameter selection in nonparametric regression using an
       improved Akaike information criterion, JRSS B 60.

    Examples
    --------
    >>> import numpy as np, fastnw
    >>> rng = np.random.default_rng(0)
    >>> x = rng.uniform(size=(200, 2))
    >>> found = fastnw.select_bandwidth(x, np.sin(6 * x[:, 0]) + 0.1 * rng.normal(size=200))
    >>> bool(found.bandwidth[0] < 0.2 < found.bandwidth[1])
    True
    """
    choices = (*ALL_CRITERIA, *RULES)
    if criterion not in choices:
        raise ValueError(f"Unknown criterion {criterion!r}. Choose one of {', '.join(map(repr, choices))}.")
    if criterion in RULES:
        return _by_rule(keys, values, criterion, kernel, sample_weight, per_coordinate)
    rows = read_rows(keys, values, criterion, kernel, sample_weight)
    with Progress(progress) as report:
        return selected(
            rows,
            candidates=None if candidates is None else _checked_candidates(candidates, rows.keys.shape[1]),
            per_coordinate=per_coordinate,
            random_state=random_state,
            n_jobs=n_jobs,
            report=report,
        )


def _by_rule(
    keys: Any, values: Any, rule: str, kernel: str | Kernel, sample_weight: Any, per_coordinate: bool
) -> BandwidthSelection:
    names = dataframes.column_names(keys)
    keys, values, sample_weight = (frameworks.to_numpy(array) for array in (keys, values, sample_weight))
    kernel = kernels.get(kernel)
    build(keys, keys, values, kernel=kernel, bandwidth=1.0, sample_weight=sample_weight)  # raises for invalid input
    h = rule_bandwidth(keys, rule, kernel, sample_weight, feature_names=names)
    bandwidth = h if per_coordinate else geometric_mean(h)
    return BandwidthSelection(bandwidth, math.nan, SearchPath(np.empty((0, len(h))), np.empty(0)), rule, str(kernel))


def _checked_candidates(candidates: Any, d: int) -> Floats:
    h = np.asarray(candidates, dtype=np.float64)
    if h.ndim == 1:
        h = np.repeat(h[:, None], d, axis=1)
    if h.ndim != 2 or h.shape[1] != d or not len(h):
        raise ValueError(f"candidates must have shape (k,) or (k, {d}) with k > 0, got {np.shape(candidates)}.")
    for row in h:
        check_bandwidth(row, d)
    return h


def selected(
    rows: Rows,
    *,
    candidates: Floats | None = None,
    per_coordinate: bool = True,
    random_state: Any = None,
    backend: str = "auto",
    n_jobs: int | None = None,
    report: Callable[[float], None] | None = None,
) -> BandwidthSelection:
    """Choose the bandwidth of checked rows; parameters as in `select_bandwidth`.

    Parameters
    ----------
    rows : Rows
    candidates : (k, d) array, optional
    backend : str
        As in `fastnw.pool`.
    report : callable, optional
        Is called with each loss, in the user's units.
    """
    loss, kernel = rows.loss, rows.kernel
    rows = rows.with_weight()
    unit = rule_bandwidth(
        rows.keys, "scott", kernel, rows.weights, feature_names=rows.feature_names, named=loss.criterion
    )
    problem, sample, units = rows.problem(unit, leave_one_out=loss.leaves_out)
    if loss is LIKELIHOOD:  # a search in units of the rule leaves out log Π h_j of the unit
        units = ScoreUnits(offset=float(np.log(unit).sum()))
    objective = Objective(
        _fitter_for(problem, backend, n_jobs),
        loss,
        sample,
        kernel,
        (lambda value: None) if report is None else (lambda value: report(units.score(value))),
        lambda unit: _narrowest_factor(problem, unit),
        unit,
    )
    notes: list[str] = []
    if candidates is not None:
        _try_candidates(objective, candidates)
    else:
        if not per_coordinate:
            unit = np.full(problem.d, geometric_mean(unit))
        notes = _search(objective, unit, per_coordinate, random_generator(random_state))
    path = SearchPath(np.array(objective.path.bandwidth), units.score(np.array(objective.path.score)))
    if not min(objective.path.score) < math.inf:
        raise ValueError(
            f"criterion={loss.criterion!r} is infinite at every bandwidth that was tried: the window of some key "
            "contains no other key ('loo'), or the smoother has as many degrees of freedom as there are observations "
            "('aicc'). Use wider candidates, or a kernel without bounds."
        )
    h = path.bandwidth[objective.path.best]
    for note in notes:
        warnings.warn(note, BandwidthWarning, stacklevel=caller_level())
    score = units.score(_certified_loss(problem, objective, h, backend, n_jobs))
    bandwidth = h if per_coordinate or np.ptp(h) > 0 else float(h[0])
    return BandwidthSelection(bandwidth, score, path, loss.criterion, str(kernel), tuple(notes))


def _try_candidates(objective: Objective, candidates: Floats) -> None:
    """Fill the path of the objective with the candidates, in one pass if all are multiples of one bandwidth."""
    first = candidates[0]
    factors = candidates[:, 0] / first[0]
    if np.allclose(candidates, factors[:, None] * first, rtol=1e-12, atol=0.0):
        widest_first = np.argsort(-factors, kind="stable")
        narrowest = candidates[widest_first[-1]]
        objective.many(narrowest, [float(candidates[i, 0] / narrowest[0]) for i in widest_first])
        objective.path.sort(np.argsort(widest_first))
    else:
        for h in candidates:
            objective(h)


def random_generator(random_state: Any) -> np.random.RandomState:
    """The generator for a `random_state` as scikit-learn takes it, but that None is 0.

    It stands here because importing scikit-learn for it took most of the first call of a process.

    Raises
    ------
    ValueError
        `random_state` is neither None, an integer from 0 to 2**32 - 1, nor a generator.
    """
    if isinstance(random_state, np.random.RandomState):
        return random_state
    if random_state is np.random:
        generator: np.random.RandomState = np.random.mtrand._rand  # NumPy's global one
        return generator
    if random_state is None or isinstance(random_state, Integral):
        return np.random.RandomState(int(random_state or 0))
    raise ValueError(
        f"random_state must be None, an integer or a numpy.random.RandomState, got {random_state!r}. "
        "Use random_state=0."
    )


def _fitter_for(problem: Problem, backend: str, n_jobs: int | None) -> Callable[[Floats, bool], Fitter]:
    """A function from a bandwidth, and whether a gradient is wanted, to the faster fitter: by transforms or planned."""
    meter = Meter(False, 0, "")
    planned = PlannedFitter(problem, backend, n_jobs, meter)
    spectral: list[SpectralFitter] = []

    def fitter(h: Floats, with_gradient: bool) -> Fitter:
        if spectral and problem.d == 1 and spectral[0].covers(h):  # the transform of the keys is already there
            return spectral[0]
        by_transforms = seconds(problem, h, with_gradient) if backend in ("auto", "compiled") else math.inf
        if not math.isfinite(by_transforms) or not by_transforms < planned.seconds(h, with_gradient):
            return planned
        if not spectral:
            spectral.append(SpectralFitter(problem, backend, n_jobs, meter))
        return spectral[0]

    return fitter


def _certified_loss(problem: Problem, objective: Objective, h: Floats, backend: str, n_jobs: int | None) -> float:
    """The loss at h from means and masses that are as accurate as those of `pool`."""
    fit = PlannedFitter(problem, backend, n_jobs, Meter(False, 0, "")).at(h).fit
    return objective.value(h, objective.loss(objective.sample, fit))


def _search(objective: Objective, unit: Floats, per_coordinate: bool, rng: np.random.RandomState) -> list[str]:
    """Fill the path of the objective by a search; return remarks on the best bandwidth."""
    d = len(unit)
    free = Directions(unit, np.eye(d) if per_coordinate else np.ones((1, d)))
    p, kernel = len(free.basis), objective.kernel
    line = search.scan_line(objective, unit)
    starts = [(value, np.full(p, t)) for t, value in search.local_minima(line)]
    if p > 1:
        starts += search.random_starts(objective, free, starts[0][1], rng)
    if p == 1 and search.has_kinks(objective):
        _descend_from(objective, free, *search.refine_line(objective, unit, line))
        return search.remarks(objective, free, unit)
    starts.sort(key=lambda start: start[0])
    low, high = np.full(p, math.log(search.MIN_FACTOR)), np.full(p, math.log(search.MAX_FACTOR))
    known_minima: list[Floats] = []
    for _, start in search.distinct(starts):
        step = math.log(search.STEP)
        if p == 1:  # the neighbours on the line are no better
            low, high = start - step, start + step
        if search.is_smooth(kernel):
            search.descend(objective, free, start, low, high, known_minima)
        else:
            search.zoom(objective, free, start, step)
    return search.remarks(objective, free, unit)


def _descend_from(objective: Objective, free: Directions, starts: list[float], step: float) -> None:
    """Descend from each start on a line, no further than one step of the line, if the loss has derivatives."""
    if search.is_smooth(objective.kernel):
        for t in starts:
            start = np.array([t])
            search.descend(objective, free, start, start - step, start + step, [])


def _narrowest_factor(problem: Problem, unit: Floats) -> float:
    """The factor of `unit` below which the window of some key contains no other key; 0 if there is none."""
    if problem.kernel.support is None or not problem.exclude_self:
        return 0.0
    points = problem.keys / unit
    to_nearest = cKDTree(points).query(points, k=2)[0][:, 1]
    return float(to_nearest.max()) / problem.kernel.support
