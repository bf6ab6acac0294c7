"""Bounds on the rounding of sums over pairs, and whether they keep a limit: what every method that sums them shares."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.core import _bounds
from fastnw.core.problem import Problem
from fastnw.core.state import PoolState
from fastnw.runtime._constants import EXP_CLAMP_NATS, LOG2_NEARER_KEY, MAX_STRIP_KEYS

FLOAT64 = np.dtype(np.float64)
LEAST_WEIGHT = 1e-200  # in units of the largest: products of lesser weights and κ may vanish
# Bound on κ of a key in units of a state's shift: vectors have up to 2⁵ lanes, each of which may meet a nearer key.
NEARER = 2.0 ** (LOG2_NEARER_KEY + 5)
LOST_SLOWLY = 1e-130  # κ of keys whose u² overflows before their scale, in range (`Problem`), divides it
# Terms that one lane adds in sequence before they are added to float64: a strip in 4 lanes (2 in float64), and 8 more.
SEQUENTIAL = {np.dtype(np.float32): MAX_STRIP_KEYS // 4 + 8, np.dtype(np.float64): MAX_STRIP_KEYS // 2 + 8}
CLAMP = {np.dtype(name): nats for name, nats in EXP_CLAMP_NATS.items()}  # exp stops at e^-CLAMP


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
        absolute = own_absolute * (problem.total_weight if total_weight is None else total_weight)
        self.absolute = absolute if kernel.support is None else -absolute  # an empty window stays empty
        # what exp adds below its clamp, with the polynomials of the Matérn kernels
        clamped = problem.n * math.exp(-CLAMP[dtype]) * (1 + CLAMP[dtype]) ** 2
        self.clamped = clamped if kernel.works_on_logs else 0.0
        lost = _vanished(problem, dtype, problem.least_weight if least_weight is None else least_weight)
        self.lost = np.full(1, lost)
        users = not kernel.facts.built_in
        self.log_peak = kernel.log_sensitivity[2] if lost and users and kernel.works_on_logs else None

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
        lost = self.lost
        if self.log_peak is not None:  # the shift is that of keys whose weights are left; a lost one may be much nearer
            with np.errstate(all="ignore"):
                lost = lost * np.exp(np.maximum(self.log_peak - state.shift, 0.0))
        of_totals = (spread - 1) * self.of_sums + 4 * spread * self.unit
        mass_error, total_error = _bounds.certified(
            state.shift,
            state.mass,
            state.mass_error,
            state.total_error,
            error,
            lost,
            self.relative,
            self.clamped,
            self.absolute,
            of_totals,
        )
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
    problem: Problem,
    state: PoolState,
    limit: Any,
    errors: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> NDArray[np.bool_]:
    """(m,) Whether masses and means keep the limit, a number or (m,); `errors` are the state's, if they are known.

    A window without mass is certainly empty only if no key of a compact kernel is near its edge. Otherwise its mass may
    have underflowed.
    """
    relative, bound = state.errors() if errors is None else errors
    limit = limit if isinstance(limit, np.ndarray) else np.full(1, float(limit))
    compact = problem.kernel.support is not None
    return _bounds.accurate(relative, bound if problem.c else relative, state.mass, state.mass_error, limit, compact)


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
