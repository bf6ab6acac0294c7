"""The loop over panels of queries: each panel descends the ladder of rungs until every error bound is in tolerance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.core import empties, estimate
from fastnw.core.array import DeviceRows
from fastnw.core.empties import Tally
from fastnw.core.judge import Judge
from fastnw.core.model import Model, Queries, Summary
from fastnw.core.plan import Rung
from fastnw.core.problem import Problem
from fastnw.core.state import Sums
from fastnw.core.validate import Empty
from fastnw.runtime.threads import Meter
from fastnw.runtime.threads import progress as progress_meter

Array = NDArray[Any]
Floats = NDArray[np.float64]

# In the progress bar, the search for the nearest keys of empty windows counts as this share of the summed pairs.
NEAREST_SHARE = 0.5


@dataclass(frozen=True)
class Answers:
    """The sums of one panel of queries, with their error bounds.

    Attributes
    ----------
    rows : (m,) intp
        Positions of the queries.
    sums : Sums
    bound : (m,) float64
        Bound on the error of the normalised means (`Sums.bound`).
    rungs : (m,) int8
        Index in the ladder of the rung that summed each query.
    """

    rows: NDArray[np.intp]
    sums: Sums
    bound: Floats
    rungs: NDArray[np.int8]


def answers(model: Model, problem: Problem, meter: Meter, rows: NDArray[np.intp] | None = None) -> Iterator[Answers]:
    """Yield certified sums at the problem's queries, or at those at `rows`, panel by panel.

    Where no rung reaches the tolerance, the sums are those of the last rung, with their true bound.
    """
    judge, size = Judge(model), model.summary(model.plan.ladder[0]).panel
    count = problem.m if rows is None else len(rows)
    for start in range(0, count, size):
        part = np.arange(start, min(start + size, count)) if rows is None else rows[start : start + size]
        panel = _Panel(Queries(problem, part), judge)
        for number, rung in enumerate(model.plan.ladder):
            summary = model.summary(rung)
            for chosen in panel.open_for(rung, summary):
                panel.put(number, chosen, summary.sums(panel.queries.at(chosen), meter))
            if not len(panel.open_rows):
                break
        yield Answers(part, panel.sums.with_units(model.problem.units), panel.bound, panel.rungs)


class _Panel:
    """A panel of queries while it descends the ladder, with its latest sums.

    Attributes
    ----------
    queries : Queries
    open_rows : (k,) intp
        Positions within the panel of the queries that are not certified yet.
    sums, bound, rungs
        As in `Answers`.
    """

    def __init__(self, queries: Queries, judge: Judge) -> None:
        self.queries, self.judge = queries, judge
        self.open_rows, self.rank = np.arange(len(queries)), -1.0
        self.sums: Sums = Sums.empty(0, 0)
        self.bound, self.rungs = np.empty(0), np.zeros(len(queries), np.int8)

    def open_for(self, rung: Rung, summary: Summary) -> Iterator[NDArray[np.intp] | slice]:
        """Yield the open queries that the rung sums, in parts of at most its panel size; a slice stands for all."""
        if rung.rank <= self.rank:
            return
        whole = len(self.open_rows) == len(self.queries)
        chosen = slice(None) if whole else self.open_rows
        mass = self.sums.mass[chosen] if len(self.bound) else None
        wanted = summary.wanted(self.queries.at(chosen), mass)
        if wanted is None:
            self.rank = rung.rank
            if whole and len(self.queries) <= summary.panel:
                yield slice(None)
                return
        rows = self.open_rows if wanted is None else self.open_rows[wanted]
        for start in range(0, len(rows), summary.panel):
            yield rows[start : start + summary.panel]

    def put(self, number: int, chosen: NDArray[np.intp] | slice, sums: Sums) -> None:
        """Store the sums of a rung for the chosen queries, and close the queries that these sums certify."""
        errors = sums.errors()
        bound = errors[1]
        closed = self.judge.closed(self.queries.at(chosen), sums, errors)
        if isinstance(chosen, slice):
            self.sums, self.bound, self.open_rows = sums, bound, np.flatnonzero(~closed)
        else:
            if not len(self.bound):
                self.sums = Sums.empty(len(self.queries), sums.total.shape[1])
                self.bound = self.sums.bound()
            self.sums.put(chosen, sums)
            self.bound[chosen] = bound
            self.open_rows = np.setdiff1d(self.open_rows, chosen[closed], assume_unique=True)
        self.rungs[chosen] = number


def predict(
    model: Model,
    problem: Problem,
    progress: bool | None,
    mean: Array | DeviceRows,
    *,
    empty: Empty | None = None,
    log_mass: Array | None = None,
    error: Array | None = None,
) -> Counter[str]:
    """Write means (m, c), `log_mass` and `error` (m,) of all queries, then warn.

    No other array has a row for each query, so that memory beyond the results does not grow with m.

    Parameters
    ----------
    model : Model
    problem : Problem
        The keys of the model with the queries to answer.
    progress : bool, optional
        Whether to show a bar; None shows it for long calls on a terminal.
    mean : (m, c) array or DeviceRows
        Output buffer for the means.
    empty : {"nan", "raise", "nearest", "mean"} or float, optional
        Value in empty windows, which are then reported; None leaves NaN there without a report.
    log_mass, error : (m,) arrays, optional
        Output buffers for log Σ w κ and for the error bounds.

    Returns
    -------
    answered : Counter
        Number of queries that each method answered.

    Raises
    ------
    ValueError
        An empty window, with ``empty="raise"``; a user's kernel that is not finite and non-negative.

    Warns
    -----
    AccuracyWarning, EmptyWindowWarning
    """
    missed, empty_windows, answered = Tally(), Tally(), Counter[str]()
    # An estimator's model may have been planned for another number of queries.
    share = problem.m / model.plan.shape[0] if model.plan.shape[0] else 1.0
    pairs, seconds = share * model.plan.pairs, share * model.plan.seconds
    # Each panel's empty windows are searched for nearest keys right after its sums, so the bar includes that work.
    reserved = NEAREST_SHARE * pairs if empty == "nearest" and problem.kernel.support is not None else 0.0
    allowed = estimate.allowed_error(problem) * (1 + 1e-9)
    with progress_meter(progress, seconds, pairs + reserved, "fastnw") as meter:
        for answer in answers(model, problem, meter):
            start = int(answer.rows[0])
            rows = slice(start, start + len(answer.rows))
            estimate.check_masses(problem, answer.sums, start)
            bound = estimate.write_means(problem, answer.sums, answer.bound, mean[rows])
            if error is not None:
                error[rows] = bound
            if log_mass is not None:
                logs = answer.sums.log_mass() + problem.log_largest_weight
                log_mass[rows] = estimate.finite_logs(logs, log_mass.dtype)
            if not (bound <= allowed).all():  # NaN where empty
                uncertified = np.flatnonzero(bound > allowed)
                missed.add(uncertified + start, bound[uncertified])
                empty_rows = np.flatnonzero(answer.sums.is_empty) + start
                empty_windows.add(empty_rows)
                if empty is not None and len(empty_rows):
                    share_of_panel = reserved * len(answer.rows) / problem.m
                    nearest = partial(model.nearest, problem, meter=meter, pairs=share_of_panel)
                    empties.fill(problem, mean, empty_rows, empty, nearest)
            if not answer.rungs.any():
                answered[model.plan.ladder[0].method] += len(answer.rungs)
                continue
            for number, count in enumerate(np.bincount(answer.rungs).tolist()):
                answered[model.plan.ladder[number].method] += count
    estimate.warn_of_accuracy(problem, missed)
    if empty is not None:
        empties.report(problem, empty_windows, empty)
    return +answered
