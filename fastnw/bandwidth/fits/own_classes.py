"""Leave-one-out shares of each row's own class, from pairs of rows of one class, few if classes are many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastnw.bandwidth.criteria import Floats
from fastnw.core.problem import Problem
from fastnw.runtime.threads import Meter, check_stop, run

PAIRS_PER_TASK = 1 << 18  # a task then holds some ten arrays of 2 MiB
PAIR_NS = 100.0  # in NumPy, d = 2, on one Zen 4 core; a pair in the sums of all classes takes 0.9


@dataclass(frozen=True)
class OwnClasses:
    """The rows of each output, sorted by class.

    Attributes
    ----------
    orders : list of (n,) intp
        Positions of the sorted rows, one array for each output.
    firsts, sizes : list of (n,) intp
        Where the class of each sorted row begins among the sorted rows, and how many rows the class has.
    """

    orders: list[NDArray[np.intp]]
    firsts: list[NDArray[np.intp]]
    sizes: list[NDArray[np.intp]]

    @classmethod
    def of(cls, codes: NDArray[np.int32]) -> OwnClasses:
        """Sort the rows by their codes (n, outputs)."""
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
        """Predicted time of `shares` on one thread."""
        return PAIR_NS * 1e-9 * sum(float(size.sum()) for size in self.sizes)

    def shares(self, problem: Problem, log_mass: Floats, n_threads: int) -> Floats:
        """The part (n, outputs) of the mass at each row that belongs to other rows of its class.

        It is NaN where the window is empty. The queries of the problem are its keys, with one bandwidth for each
        coordinate; `log_mass` (n,) leaves out each row's own weight.
        """
        result = np.empty((problem.n, len(self.orders)))
        for k, (order, firsts, sizes) in enumerate(zip(self.orders, self.firsts, self.sizes, strict=True)):
            ends = np.cumsum(sizes)
            cuts = np.unique(np.searchsorted(ends, np.arange(0, ends[-1], PAIRS_PER_TASK)))
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
                result[order[rows], k] = _shares(problem, log_mass, order, rows, firsts[rows], sizes[rows])
                return 0.0

            run(task, len(cuts) - 1, n_threads, Meter(False, 0, ""))
        result[np.isneginf(log_mass)] = np.nan
        return result


def _shares(
    problem: Problem,
    log_mass: Floats,
    order: NDArray[np.intp],
    rows: slice,
    firsts: NDArray[np.intp],
    sizes: NDArray[np.intp],
) -> Floats:
    """The shares of a range of the sorted rows."""
    starts = np.cumsum(sizes) - sizes
    row_of_pair = np.repeat(np.arange(len(sizes)), sizes)
    others = order[firsts[row_of_pair] + np.arange(len(row_of_pair)) - starts[row_of_pair]]
    own = order[rows][row_of_pair]
    kernel, u2 = problem.kernel, np.zeros(len(row_of_pair))
    with np.errstate(all="ignore"):  # κ(0 · ∞) of pairs that are left out, and logarithms of 0
        for j, inverse in enumerate(problem.metric.inverse):
            u2 += np.square((problem.keys[own, j] - problem.keys[others, j]) * inverse)
        logs = kernel.log(u2)
        outside = others == own
        if kernel.support is not None:
            outside |= u2 > kernel.support**2
        weights = problem.log_weights_at(others)
        logs = np.where(outside, -np.inf, logs if weights is None else logs + weights)
        return np.add.reduceat(np.exp(logs - (log_mass[own] - problem.log_largest_weight)), starts)
