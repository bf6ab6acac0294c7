"""`select_bandwidth`: checks, the search, and what is said of its result."""

from __future__ import annotations

import math
import sys
import time
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from fastnw import kernels
from fastnw.bandwidth import criteria, search
from fastnw.bandwidth.criteria import Floats, Sample
from fastnw.bandwidth.result import BandwidthSelection, SearchPath
from fastnw.bandwidth.rules import RULES, rule_bandwidth
from fastnw.bandwidth.search import Directions, Objective
from fastnw.bandwidth.spectral import Spectrum, seconds
from fastnw.bandwidth.sums import Sums
from fastnw.bandwidth.units import Units, geometric_mean, normalised
from fastnw.core.classes import OneHot
from fastnw.core.problem import Problem
from fastnw.core.row_weights import relative_weights
from fastnw.core.validate import build, check_bandwidth
from fastnw.core.warnings import BandwidthWarning, caller_level
from fastnw.interop import dataframes, frameworks
from fastnw.kernels import integrals
from fastnw.kernels.kernel import Kernel
from fastnw.runtime.threads import PROGRESS_SECONDS, Meter

CRITERIA = ("loo", "aicc", "log_loss", *RULES)
MOST_INDICATOR_BYTES = 64 << 20  # of classes; some five arrays of that size are worked with


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
        "loo" leaves each observation out: mean squared error, outputs summed [1]_; for class labels, mean −log of the
        own class's probability, clipped at 1e-15; without values, mean −log density [2]_. "aicc" is
        log σ̂² + (1 + tr/n)/(1 − (tr + 2)/n), tr the trace of the smoother, ∞ if tr + 2 ≥ n, outputs summed [3]_. The
        rules look at nothing: see `fastnw.bandwidth.rule_bandwidth`.
    sample_weight : (n,) array, optional
        Relative weights of the rows, in sums and in the mean loss: a constant factor changes nothing, rows without
        weight are as if absent. A row is left out as a whole, whatever its weight; the n of AICc counts rows, that of
        the rules is (Σw)²/Σw².
    candidates : array of shape (k,) or (k, d), optional
        Choose among these alone; by default the best is searched for, from several starts, by L-BFGS-B on
        log-bandwidths with analytic gradients.
    per_coordinate : bool
        One bandwidth a coordinate; False: one number for all.
    random_state : int, RandomState or None
        Of the random starts that are looked at where there are several coordinates; None is 0, so that the same data
        give the same bandwidth.
    n_jobs : int, optional
        Threads; None: every core allowed.
    progress : bool, optional
        Show how far the search is. None: on a terminal, once it has lasted 2 s.

    Returns
    -------
    BandwidthSelection
        With ``bandwidth, score, path, notes`` and ``plot()``.

    Raises
    ------
    ValueError
        What is wrong with the input; no bandwidth has a finite loss.

    Warns
    -----
    BandwidthWarning
        A coordinate has no relation to the values (its bandwidth then is so wide that it does not count); the loss
        falls to the narrow end of the search.

    Notes
    -----
    A key whose window has no other key in it makes the loss infinite: compact kernels get bandwidths that reach from
    every key to another.

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
    if criterion not in CRITERIA:
        raise ValueError(f"Unknown criterion {criterion!r}. Choose one of {', '.join(map(repr, CRITERIA))}.")
    names = dataframes.column_names(keys)
    keys, values, sample_weight = (frameworks.to_numpy(array) for array in (keys, values, sample_weight))
    kernel = kernels.get(kernel)
    if criterion in RULES:
        build(keys, keys, values, kernel=kernel, bandwidth=1.0, sample_weight=sample_weight)
        found = rule_bandwidth(keys, criterion, kernel, sample_weight, feature_names=names)
        h = found if per_coordinate else geometric_mean(found)
        return BandwidthSelection(
            h, math.nan, SearchPath(np.empty((0, len(found))), np.empty(0)), criterion, str(kernel)
        )
    kind, values = kind_of(criterion, values)
    classes = values if isinstance(values, OneHot) else None
    values = values if classes is None else classes.codes
    problem = build(keys, keys, values, kernel=kernel, bandwidth=1.0, sample_weight=sample_weight)
    values = problem.values if problem.c else None
    with Progress(progress) as told:
        return selected(
            problem.keys,
            values if classes is None else classes,
            problem.weights,
            kernel=kernel,
            kind=kind,
            candidates=None if candidates is None else _candidates(candidates, problem.d),
            per_coordinate=per_coordinate,
            random_state=random_state,
            n_jobs=n_jobs,
            tell=told,
            feature_names=names,
        )


def kind_of(criterion: str, values: Any) -> tuple[str, Any]:
    """Which loss, and the values as numbers."""
    if values is None:
        if criterion != "loo":
            raise ValueError(f"criterion={criterion!r} needs values; without them, for a density, there is 'loo'.")
        return "likelihood", None
    values = np.asarray(values)
    if criterion == "log_loss" or (criterion == "loo" and _are_labels(values)):
        if values.ndim != 1:
            raise ValueError(f"class labels must have shape (n,), got {values.shape}.")
        _, codes = np.unique(values, return_inverse=True)
        return "log_loss", OneHot.of(codes[:, None], [int(codes.max(initial=-1)) + 1], np.float64)
    return ("squares" if criterion == "loo" else "aicc"), values


def _values_of(values: Any, rows: Any, name: str) -> Any:
    """Those rows' values. Classes become indicators where these are few enough to be worth their gradients."""
    if not isinstance(values, OneHot):
        return None if values is None else values[rows]
    values = values.taken(rows)
    if values.nbytes <= MOST_INDICATOR_BYTES:
        return values[:]
    if name == "aicc":
        raise ValueError(
            f"criterion 'aicc' needs indicators of classes, of at most {MOST_INDICATOR_BYTES >> 20} MiB, got "
            f"{values.nbytes >> 20} MiB ({len(values):,} rows, {values.count:,} classes). Use 'loo'."
        )
    return values


def _are_labels(values: np.ndarray) -> bool:
    """Whether these are strings or booleans; columns of a data frame may hold numbers as objects."""
    if values.dtype.kind != "O":
        return values.dtype.kind in "SUb"
    return any(isinstance(value, (str, bytes, bool, np.bool_)) for value in values.flat)


def _candidates(candidates: Any, d: int) -> Floats:
    h = np.asarray(candidates, dtype=np.float64)
    if h.ndim == 1:
        h = np.repeat(h[:, None], d, axis=1)
    if h.ndim != 2 or h.shape[1] != d or not len(h):
        raise ValueError(f"candidates must have shape (k,) or (k, {d}) with k > 0, got {np.shape(candidates)}.")
    for row in h:
        check_bandwidth(row, d)
    return h


LOSSES = {
    "squares": (criteria.least_squares, "loo"),
    "log_loss": (criteria.log_loss, "loo"),
    "likelihood": (criteria.likelihood, "loo"),
    "aicc": (criteria.aicc, "aicc"),
}


def selected(
    keys: Any,
    values: Any,
    weights: Any,
    *,
    kernel: Kernel,
    kind: str,
    candidates: Floats | None = None,
    per_coordinate: bool = True,
    random_state: Any = None,
    backend: str = "auto",
    n_jobs: int | None = None,
    tell: Any = None,
    feature_names: Any = None,
) -> BandwidthSelection:
    """`select_bandwidth` of checked arrays; `kind` names the loss."""
    loss, name = LOSSES[kind]
    rows, weights = relative_weights(weights)
    keys, values = keys[rows], _values_of(values, rows, name)
    keys = np.ascontiguousarray(keys, np.float64)
    unit = rule_bandwidth(keys, "scott", kernel, weights, feature_names=feature_names, named=name)
    classes = values if isinstance(values, OneHot) else None
    values = None if classes is not None else values
    problem = build(
        keys, keys, values, kernel=kernel, bandwidth=unit, sample_weight=weights, exclude_self=kind != "aicc"
    )
    values, units = normalised(problem, kind)
    problem = replace(problem, values=values if classes is None else classes)
    likely = kind == "likelihood"
    if likely:
        units = Units(offset=float(np.log(unit).sum()))
    sample = Sample.of(problem, integrals.log_integral(kernel, problem.d) if likely else 0.0)
    told = (lambda value: None) if tell is None else (lambda value: tell(units.score(value)))
    objective = Objective(
        _sums(problem, backend, n_jobs), loss, sample, kernel, told, lambda unit: _narrowest(problem, unit), unit
    )
    if candidates is not None:
        notes: list[str] = []
        _look(objective, candidates)
    else:
        if not per_coordinate:
            unit = np.full(problem.d, geometric_mean(unit))
        notes = _search(objective, unit, per_coordinate, kind, random_of(random_state))
    path = SearchPath(np.array(objective.path.bandwidth), units.score(np.array(objective.path.score)))
    if not min(objective.path.score) < math.inf:
        raise ValueError(
            f"criterion {name!r} is infinite at every bandwidth looked at: some key has no other one in its window "
            "('loo'), or the smoother has as many degrees of freedom as there are observations ('aicc')."
        )
    h = path.bandwidth[objective.path.best]
    for note in notes:
        warnings.warn(note, BandwidthWarning, stacklevel=caller_level())
    score = units.score(_certified(problem, objective, h, backend, n_jobs))
    chosen = h if per_coordinate or np.ptp(h) > 0 else float(h[0])
    return BandwidthSelection(chosen, score, path, name, str(kernel), tuple(notes))


def _look(objective: Objective, candidates: Floats) -> None:
    """Fill the objective's path with the candidates; multiples of one bandwidth take one pass."""
    first = candidates[0]
    factors = candidates[:, 0] / first[0]
    if np.allclose(candidates, factors[:, None] * first, rtol=1e-12, atol=0.0):
        widest = np.argsort(-factors, kind="stable")
        narrow = candidates[widest[-1]]
        objective.many(narrow, [float(candidates[i, 0] / narrow[0]) for i in widest])
        objective.path.sort(np.argsort(widest))
    else:
        for h in candidates:
            objective(h)


def random_of(random_state: Any) -> np.random.RandomState:
    from sklearn.utils import check_random_state

    return check_random_state(0 if random_state is None else random_state)


def _sums(problem: Problem, backend: str, n_jobs: int | None) -> Any:
    """For bandwidths, what takes less time: transforms or the planner's methods."""
    meter = Meter(False, 0, "")
    planned = Sums(problem, backend, n_jobs, meter)
    spectral: list[Spectrum] = []

    def sums(h: Floats, with_gradient: bool) -> Any:
        if spectral and problem.d == 1 and spectral[0].covers(h):  # what is left to do takes next to no time
            return spectral[0]
        transforms = seconds(problem, h, with_gradient) if backend in ("auto", "compiled") else math.inf
        if not math.isfinite(transforms) or not transforms < planned.seconds(h, with_gradient):
            return planned
        if not spectral:
            spectral.append(Spectrum(problem, backend, n_jobs, meter))
        return spectral[0]

    return sums


def _certified(problem: Problem, objective: Objective, h: Floats, backend: str, n_jobs: int | None) -> float:
    """The loss from sums that keep the promise of `pool`."""
    fit = Sums(problem, backend, n_jobs, Meter(False, 0, "")).at(h).fit
    return objective.value(h, objective.criterion(objective.sample, fit))


def _search(
    objective: Objective, unit: Floats, per_coordinate: bool, kind: str, rng: np.random.RandomState
) -> list[str]:
    """Fill the objective's path; returns what to say of the best."""
    d = len(unit)
    free = Directions(unit, np.eye(d) if per_coordinate else np.ones((1, d)))
    p, kernel = len(free.basis), objective.kernel
    places = search.line(objective, unit)
    starts = [(value, np.full(p, t)) for t, value in search.minima(places)]
    if p > 1:
        starts += search.scattered(objective, free, starts[0][1], rng)
    if p == 1 and search.has_kinks(objective):
        _descend_closely(objective, free, *search.closely(objective, unit, places))
        return search.remarks(objective, free, unit, kind)
    starts.sort(key=lambda start: start[0])
    low, high = np.full(p, math.log(search.NARROWEST)), np.full(p, math.log(search.WIDEST))
    known: list[Floats] = []
    for _, start in search.distinct(starts):
        step = math.log(search.STEP)
        if p == 1:  # the line's neighbours are no better
            low, high = start - step, start + step
        if search.is_smooth(kernel):
            search.descend(objective, free, start, low, high, known)
        else:
            search.zoom(objective, free, start, step)
    return search.remarks(objective, free, unit, kind)


def _descend_closely(objective: Objective, free: Directions, places: list[float], step: float) -> None:
    if search.is_smooth(objective.kernel):
        for t in places:
            start = np.array([t])
            search.descend(objective, free, start, start - step, start + step, [])


def _narrowest(problem: Problem, unit: Floats) -> float:
    """The factor of `unit` below which some key has no other in its window; 0 if none does."""
    if problem.kernel.support is None or not problem.exclude_self:
        return 0.0
    places = problem.keys / unit
    alone = cKDTree(places).query(places, k=2)[0][:, 1]
    return float(alone.max()) / problem.kernel.support


class Progress:
    """A line on a terminal that counts what was looked at."""

    def __init__(self, show: bool | None) -> None:
        self.show, self.bar, self.best = show, None, math.inf

    def __enter__(self) -> Progress:
        self.start = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, value: float) -> None:
        self.best = min(self.best, value)
        late = time.perf_counter() - self.start > PROGRESS_SECONDS and sys.stderr is not None and sys.stderr.isatty()
        if self.bar is None and (self.show or (self.show is None and late)):
            from tqdm import tqdm

            self.bar = tqdm(desc="fastnw bandwidth", unit=" losses")
        if self.bar is not None:
            self.bar.set_postfix_str(f"least {self.best:.6g}")
            self.bar.update()
