"""The loop that answers queries: panel by panel, down the ladder of rungs until each sum's bound keeps the promise."""

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

NEAREST_SHARE = 0.5  # of the pairs summed: what a search for the nearest keys of all empty windows counts in the bar


@dataclass(frozen=True)
class Answers:
    """What a panel of queries got.

    Attributes
    ----------
    rows : (m,) intp
        Positions of the queries.
    sums : PoolState
    bound : (m,) float64
        On the error of the normalised means (`PoolState.bound`).
    rungs : (m,) int8
        Which rung of the ladder summed each query.
    """

    rows: NDArray[np.intp]
    sums: PoolState
    bound: Floats
    rungs: NDArray[np.int8]


def answers(model: Model, problem: Problem, meter: Meter, rows: NDArray[np.intp] | None = None) -> Iterator[Answers]:
    """Certified sums at the problem's queries, or at those of `rows`, panel by panel.

    Where no rung keeps the promise the sums are the last rung's, under their true bound.
    """
    judge, step = Judge(model), model.summary(model.plan.ladder[0]).panel
    count = problem.m if rows is None else len(rows)
    for start in range(0, count, step):
        stop = min(start + step, count)
        yield _panel(
            model, judge, Queries(problem, np.arange(start, stop) if rows is None else rows[start:stop]), meter
        )


def _panel(model: Model, judge: Judge, queries: Queries, meter: Meter) -> Answers:
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
        asked = queries.at(chosen)
        found = _summed(summary, asked, meter)
        found_bound = found.bound()
        closed = judge.closed(asked, found, found_bound)
        if sums is None and isinstance(chosen, slice):
            sums, bound = found, found_bound
        else:
            if sums is None:
                sums = PoolState.empty(len(queries), model.problem.c)
                bound = sums.bound()
            sums.put(chosen, found)
            bound[chosen] = found_bound
        rungs[chosen] = number
        if wanted is None:
            rank = rung.rank
            still_open = np.arange(len(queries))[chosen][~closed]
        else:
            keep = np.zeros(len(queries), bool)
            keep[still_open] = True
            keep[np.asarray(chosen)[closed]] = False
            still_open = np.flatnonzero(keep)
        if not len(still_open):
            break
    assert sums is not None
    return Answers(queries.rows, sums, bound, rungs)


def _summed(summary: Summary, queries: Queries, meter: Meter) -> PoolState:
    """The sums of those queries, in parts of the size that the rung can take."""
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
    """Write means (m, c), `log_mass` and `error` (m,): the way that every result goes.

    Nothing else is kept for each query, so that memory does not grow with m.

    Returns
    -------
    answered : Counter
        How many queries each method answered.
    """
    missed, empty_windows, answered = Tally(), Tally(), Counter[str]()
    share = (
        problem.m / model.plan.shape[0] if model.plan.shape[0] else 1.0
    )  # a kept model was planned for other queries
    pairs, seconds = share * model.plan.pairs, share * model.plan.seconds
    # the nearest keys of empty windows are looked for when their panel is summed: a part of the bar is theirs
    reserved = NEAREST_SHARE * pairs if empty == "nearest" and problem.kernel.support is not None else 0.0
    allowed = estimate.allowed_error(problem) * (1 + 1e-9)
    with progress_meter(progress, seconds, pairs + reserved, "fastnw") as meter:
        for found in answers(model, problem, meter):
            start = int(found.rows[0])
            rows = slice(start, start + len(found.rows))
            estimate.check_masses(problem, found.sums, start)
            bound = estimate.write_means(problem, found.sums, found.bound, mean[rows])
            if error is not None:
                error[rows] = bound
            if log_mass is not None:
                logs = found.sums.log_mass() + problem.log_largest_weight
                log_mass[rows] = estimate.finite_logs(logs, log_mass.dtype)
            if not (bound <= allowed).all():  # NaN where empty
                late = np.flatnonzero(bound > allowed)
                missed.add(late + start, bound[late])
                nothing = np.flatnonzero(found.sums.is_empty) + start
                empty_windows.add(nothing)
                if empty is not None and len(nothing):
                    share_of_panel = reserved * len(found.rows) / problem.m
                    nearest = partial(model.nearest, problem, meter=meter, pairs=share_of_panel)
                    empties.fill(problem, mean, nothing, empty, nearest)
            for number, count in enumerate(np.bincount(found.rungs).tolist()):
                answered[model.plan.ladder[number].method] += count
    estimate.warn_of_accuracy(problem, missed)
    if empty is not None:
        empties.report(problem, empty_windows, empty)
    return +answered
