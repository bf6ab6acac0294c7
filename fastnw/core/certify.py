"""Bounds on the rounding of sums over pairs, and whether they keep a limit: what every method that sums them shares."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.core.problem import Problem
from fastnw.core.state import PoolState

FLOAT64 = np.dtype(np.float64)
LEAST_WEIGHT = 1e-200  # in units of the largest: products of lesser weights and κ may vanish
NEARER = 2.0**25  # κ of a key in units of a state's shift, at most: MUCH in _tiles.pxi, times lanes
LOST_SLOWLY = 1e-130  # κ of keys whose u² overflows before their scale, in range (`Problem`), divides it
# Terms that one lane may add in sequence before they are folded to float64: a strip of 1024 in 4 lanes (2 for float64).
SEQUENTIAL = {np.dtype(np.float32): 264, np.dtype(np.float64): 520}
CLAMP = {np.dtype(np.float32): 80.0, np.dtype(np.float64): 690.0}  # exp stops at e^-CLAMP


class Rounding:
    """What rounding may do to the sums over all keys of a problem in one compute type, or over some of them.

    Parameters
    ----------
    problem : Problem
    dtype : dtype
    as_written : bool
        Whether NumPy computes the kernel's formula: see `Kernel.rounding`.
    least_weight, total_weight : float, optional
        Smallest and summed weight of the keys that were summed, if those are not all, in the units of their state.
    """

    def __init__(
        self,
        problem: Problem,
        dtype: np.dtype[Any],
        *,
        as_written: bool = False,
        least_weight: float | None = None,
        total_weight: float | None = None,
    ) -> None:
        kernel, unit = problem.kernel, float(np.finfo(dtype).eps) / 2
        own_relative, own_absolute = kernel.rounding(dtype, as_written)
        self.kernel, self.unit = kernel, unit
        self.of_sums = (SEQUENTIAL[dtype] + 12) * unit
        self.relative = self.of_sums + own_relative
        self.absolute = own_absolute * (problem.total_weight if total_weight is None else total_weight)
        # what exp adds below its clamp, with the polynomials of the Matérn kernels
        self.clamped = problem.n * math.exp(-CLAMP[dtype]) * (1 + CLAMP[dtype]) ** 2
        self.lost = _vanished(problem, dtype, problem.least_weight if least_weight is None else least_weight)
        users = not kernel.facts.built_in
        self.log_peak = kernel.log_sensitivity[2] if self.lost and users and kernel.works_on_logs else None

    def certified(self, state: PoolState, error: Any, spread: float = 1.0) -> PoolState:
        """The state with bounds on the rounding of its sums.

        Parameters
        ----------
        state : PoolState
        error : (m,) float64
            Bound on the relative error of κ where tiles do not bound it themselves.
        spread : float
            Values lie within [−spread, spread].
        """
        relative: Any = self.relative + error
        lost: Any = self.lost
        with np.errstate(all="ignore"):
            if self.kernel.works_on_logs:
                relative = relative + self.clamped * (1 + np.abs(state.shift)) ** 2 / state.mass
            if self.log_peak is not None:
                # the shift is that of keys whose weights are left, and a lost one may be much nearer
                lost = lost * np.exp(np.maximum(self.log_peak - state.shift, 0.0))
            mass_error = state.mass_error + relative * state.mass + lost
            if self.absolute:
                counted = True if self.kernel.support is None else state.mass > 0  # an empty window stays empty
                mass_error = mass_error + np.where(counted, self.absolute, 0.0)
            total_error = mass_error + ((spread - 1) * self.of_sums + 4 * spread * self.unit) * state.mass
            total_error += state.total_error  # that of classes
        return PoolState(state.shift, state.mass, state.total, mass_error, total_error)


def _vanished(problem: Problem, dtype: np.dtype[Any], least_weight: float) -> float:
    """Bound on terms that are lost, or lose digits, below the smallest normal number."""
    slow = problem.kernel.facts.heavy_tailed
    lost = float(np.finfo(dtype).tiny) if slow or least_weight < LEAST_WEIGHT else 0.0
    if slow and dtype == np.float64:
        lost = LOST_SLOWLY
    if problem.kernel.works_on_logs:
        lost *= NEARER
    return problem.n * lost


def accurate(
    problem: Problem, state: PoolState, limit: Any, bound: NDArray[np.float64] | None = None
) -> NDArray[np.bool_]:
    """(m,) Whether masses and means keep the limit, a number or (m,); `bound`: the state's, if it is known."""
    relative = state.relative_mass_error()
    if problem.c:
        bound = state.bound() if bound is None else bound
        relative = np.fmax(relative, bound / 2)  # NaN where empty
    # No mass: certainly empty only if no key of a compact kernel is near its edge. Else it may have underflowed.
    lost = state.is_empty & ((problem.kernel.support is None) | ~(state.mass_error <= 0))
    return (relative <= limit) & ~lost


def error_of_weights(
    problem: Problem, tiles: Any, error: NDArray[np.float64], state: PoolState, dtype: np.dtype[Any] = FLOAT64
) -> Any:
    """(m,) What `certified` takes, from the relative error of u²."""
    if tiles.bounds(problem.kernel):
        return np.where(error < np.inf, 0.0, np.inf)
    return exponent_error(problem, error, state.log_mass(), dtype)


def exponent_error(
    problem: Problem, error: NDArray[np.float64], log_mass: NDArray[np.float64], dtype: np.dtype[Any] = FLOAT64
) -> NDArray[np.float64]:
    """(rows,) Bound on the weights' mean relative error, from the error of u².

    The relative error of κ is at most a + b·(−log κ) times that of u² (`Kernel.log_sensitivity`), and since the
    Kullback–Leibler divergence of the weights from w/W, W = Σ w, is not negative, the mean of −log κ over the weights
    is at most log(W/mass). So the bound needs no further sum. An absolute error of u, as of whitened coordinates, is
    multiplied by |d log κ/du|: of the built-in kernels at most √5 or, of the Gaussian, u, whose mean square over the
    weights is at most 2 log(W/mass).
    """
    if problem.kernel.inner_product:
        return error
    log_peak = problem.kernel.log_sensitivity[2]
    depth = np.maximum(math.log(problem.total_weight or 1.0) + log_peak - log_mass, 0.0)
    return nats(problem, error, depth, dtype)


def nats(
    problem: Problem, error: NDArray[np.float64], depth: NDArray[np.float64], dtype: np.dtype[Any] = FLOAT64
) -> NDArray[np.float64]:
    """(rows,) Bound on the error of log κ of keys that lie, in the mean, so deep below the kernel's peak."""
    facts, (a, b, _) = problem.kernel.facts, problem.kernel.log_sensitivity
    with np.errstate(over="ignore", invalid="ignore"):  # such a query goes to `tails`
        if problem.metric.factor is not None and facts.built_in and b:
            relative = relative_error(problem, dtype)
            apart = np.maximum(error - relative, 0.0) / 2
            return relative * (a + b * depth) + apart * (math.sqrt(5.0) + np.sqrt(2 * depth))
        return np.where(error < np.inf, error * (a + b * depth) if b else error * a, np.inf)


def relative_error(problem: Problem, dtype: np.dtype[Any]) -> float:
    """Bound on the relative error of u² from differences of coordinates, and from the factor of a matrix."""
    roundings = 16 + problem.d / 4 + (0 if problem.key_scale is None else 3)
    return roundings * float(np.finfo(dtype).eps) / 2 + problem.whitening_errors[0]
