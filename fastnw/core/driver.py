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
from fastnw.core.problem import Problem
from fastnw.core.state import PoolState
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
    sums : PoolState
    bound : (m,) float64
        Bound on the error of the normalised means (`PoolState.bound`).
    rungs : (m,) int8
        Index in the ladder of the rung that summed each query.
    """

    rows: NDArray[np.intp]
    sums: PoolState
    bound: Floats
    rungs: NDArray[np.int8]


def answers(model: Model, problem: Problem, meter: Meter, rows: NDArray[np.intp] | None = None) -> Iterator[Answers]:
    """Yield certified sums at the problem's queries, or at those at `rows`, panel by panel.

    Where no rung reaches the tolerance, the sums are those of the last rung, with their true bound.
    """
    judge, step = Judge(model), model.summary(model.plan.ladder[0]).panel
    count = problem.m if rows is None else len(rows)
    for start in range(0, count, step):
        stop = min(start + step, count)
        yield _panel(
            model, judge, Queries(problem, np.arange(start, stop) if rows is None else rows[start:stop]), meter
        )


def _panel(model: Model, judge: Judge, queries: Queries, meter: Meter) -> Answers:
    """Sum one panel: each rung sums the queries that no earlier rung has certified."""
    sums: PoolState | None = None
    bound, rungs = np.empty(0), np.zeros(len(queries), np.int8)
    still_open: NDArray[np.intp] | slice = slice(None)
    rank = -1.0
    for number, rung in enumerate(model.plan.ladder):
        if rung.rank <= rank:
            continue
        summary = model.summary(rung)
        wanted = summary.wanted(queries.at(still_open), None if sums is None else sums.mass[still_open])
        chosen: NDArray[np.intp] | slice = still_open
        if wanted is not None:
            chosen = np.arange(len(queries))[still_open][wanted]
        if not isinstance(chosen, slice) and not len(chosen):
            continue
        chosen_queries = queries.at(chosen)
        new_sums = _summed(summary, chosen_queries, meter)
        new_bound = new_sums.bound()
        closed = judge.closed(chosen_queries, new_sums, new_bound)
        if sums is None and isinstance(chosen, slice):
            sums, bound = new_sums, new_bound
        else:
            if sums is None:
                sums = PoolState.empty(len(queries), model.problem.c)
                bound = sums.bound()
            sums.put(chosen, new_sums)
            bound[chosen] = new_bound
        rungs[chosen] = number
        if wanted is None:
            rank = rung.rank
            still_open = np.arange(len(queries))[chosen][~closed]
        else:
            is_open = np.zeros(len(queries), bool)
            is_open[still_open] = True
            is_open[np.asarray(chosen)[closed]] = False
            still_open = np.flatnonzero(is_open)
        if not len(still_open):
            break
    assert sums is not None
    return Answers(queries.rows, sums, bound, rungs)


def _summed(summary: Summary, queries: Queries, meter: Meter) -> PoolState:
    """Sum the queries in parts of at most the rung's panel size."""
    step = summary.panel
    if len(queries) <= step:
        return summary.sums(queries, meter)
    return PoolState.stacked(
        [summary.sums(queries.at(slice(i, i + step)), meter) for i in range(0, len(queries), step)]
    )


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
            for number, count in enumerate(np.bincount(answer.rungs).tolist()):
                answered[model.plan.ladder[number].method] += count
    estimate.warn_of_accuracy(problem, missed)
    if empty is not None:
        empties.report(problem, empty_windows, empty)
    return +answered
