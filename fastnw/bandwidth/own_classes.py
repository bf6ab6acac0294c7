"""Leave-one-out shares of each row's own class, from pairs of rows of the same class: few where classes are many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastnw.bandwidth.criteria import Floats
from fastnw.core.problem import Problem
from fastnw.runtime.threads import Meter, check_stop, run

PAIRS = 1 << 18  # a task: some ten arrays of 2 MiB
PAIR_NS = 100.0  # in NumPy, d = 2, one Zen 4 core; 0.9 where totals of all classes are summed


@dataclass(frozen=True)
class OwnClasses:
    """The rows of each output, sorted by class.

    Attributes
    ----------
    orders : list of (n,) intp
        Positions of the sorted rows, one array an output.
    firsts, sizes : list of (n,) intp
        Where each sorted row's class begins among them, and how many rows it has.
    """

    orders: list[NDArray[np.intp]]
    firsts: list[NDArray[np.intp]]
    sizes: list[NDArray[np.intp]]

    @classmethod
    def of(cls, codes: NDArray[np.int32]) -> OwnClasses:
        """From codes (n, outputs)."""
        orders = [np.argsort(column, kind="stable") for column in codes.T]
        firsts, sizes = [], []
        for order, column in zip(orders, codes.T, strict=True):
            _, first, inverse, count = np.unique(
                column[order], return_index=True, return_inverse=True, return_counts=True
            )
            firsts.append(first[inverse])
            sizes.append(count[inverse])
        return cls(orders, firsts, sizes)

    @property
    def seconds(self) -> float:
        """Predicted, for `shares` on one thread."""
        return PAIR_NS * 1e-9 * sum(float(size.sum()) for size in self.sizes)

    def shares(self, problem: Problem, log_mass: Floats, n_threads: int) -> Floats:
        """(n, outputs) Of the mass at each row, that of the other rows of its class; NaN where the window is empty.

        The problem's queries are its keys, its bandwidths one a coordinate; `log_mass` (n,) is without the row's own.
        """
        found = np.empty((problem.n, len(self.orders)))
        for k, (order, firsts, sizes) in enumerate(zip(self.orders, self.firsts, self.sizes, strict=True)):
            ends = np.cumsum(sizes)
            cuts = np.unique(np.searchsorted(ends, np.arange(0, ends[-1], PAIRS)))
            cuts = np.append(cuts, problem.n)

            def task(
                i: int,
                k: int = k,
                order: NDArray[np.intp] = order,
                firsts: NDArray[np.intp] = firsts,
                sizes: NDArray[np.intp] = sizes,
                cuts: NDArray[np.intp] = cuts,
            ) -> float:
                check_stop()
                rows = slice(cuts[i], cuts[i + 1])
                found[order[rows], k] = _shares(problem, log_mass, order, rows, firsts[rows], sizes[rows])
                return 0.0

            run(task, len(cuts) - 1, n_threads, Meter(False, 0, ""))
        found[np.isneginf(log_mass)] = np.nan
        return found


def _shares(
    problem: Problem,
    log_mass: Floats,
    order: NDArray[np.intp],
    rows: slice,
    firsts: NDArray[np.intp],
    sizes: NDArray[np.intp],
) -> Floats:
    """Those of some sorted rows."""
    starts = np.cumsum(sizes) - sizes
    each = np.repeat(np.arange(len(sizes)), sizes)
    others = order[firsts[each] + np.arange(len(each)) - starts[each]]
    own = order[rows][each]
    kernel, u2 = problem.kernel, np.zeros(len(each))
    with np.errstate(all="ignore"):  # κ(0 · ∞) of no consequence, logarithms of 0
        for j, inverse in enumerate(problem.metric.inverse):
            u2 += np.square((problem.keys[own, j] - problem.keys[others, j]) * inverse)
        logs = kernel.log(u2)
        outside = others == own
        if kernel.support is not None:
            outside |= u2 > kernel.support**2
        weights = problem.log_weights_at(others)
        logs = np.where(outside, -np.inf, logs if weights is None else logs + weights)
        return np.add.reduceat(np.exp(logs - (log_mass[own] - problem.log_largest_weight)), starts)
