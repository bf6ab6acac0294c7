"""Rounding error bounds for sums over pairs, and the test of these bounds against a tolerance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.core import _bounds
from fastnw.core.problem import Problem
from fastnw.core.state import Sums
from fastnw.runtime._constants import EXP_CLAMP_NATS, LOG2_NEARER_KEY, MAX_STRIP_KEYS

FLOAT64 = np.dtype(np.float64)
# Weights are relative to the largest. The product of κ and a weight below this one may underflow.
LEAST_WEIGHT = 1e-200
# A key's κ exceeds exp(shift) of its state by this factor at most: vectors have up to 2⁵ lanes, and each lane may
# contain a nearer key.
MAX_RATIO_TO_SHIFT = 2.0 ** (LOG2_NEARER_KEY + 5)
# Bounds κ of a heavy-tailed kernel where u² overflows before a key scale within `Problem`'s range divides it.
MAX_OVERFLOWED_KAPPA = 1e-130
# The number of terms that one lane adds in sequence before they are folded to float64: a strip in 4 lanes (2 for
# float64), and a margin of 8.
MAX_SEQUENTIAL_TERMS = {np.dtype(np.float32): MAX_STRIP_KEYS // 4 + 8, np.dtype(np.float64): MAX_STRIP_KEYS // 2 + 8}


class Rounding:
    """Bounds on the rounding errors of sums in one compute type, over all keys of a problem or over a part of them.

    Parameters
    ----------
    problem : Problem
    dtype : dtype
    as_written : bool
        Whether NumPy evaluates the kernel's formula: see `Kernel.rounding`.
    least_weight, total_weight : float, optional
        Smallest weight and sum of weights of the summed keys, in the units of their state; by default those of all
        keys.
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
        kernel_relative, kernel_absolute = kernel.rounding(dtype, as_written)
        self.kernel, self.unit = kernel, unit
        self.summation = (MAX_SEQUENTIAL_TERMS[dtype] + 12) * unit
        self.relative = self.summation + kernel_relative
        absolute = kernel_absolute * (problem.total_weight if total_weight is None else total_weight)
        self.absolute = absolute if kernel.support is None else -absolute  # an empty window stays empty
        # The clamp of exp makes κ too large by at most this, times the polynomials of the Matérn kernels.
        clamped = problem.n * math.exp(-EXP_CLAMP_NATS[dtype.name]) * (1 + EXP_CLAMP_NATS[dtype.name]) ** 2
        self.clamped = clamped if kernel.works_on_logs else 0.0
        underflow = _underflow_bound(problem, dtype, problem.least_weight if least_weight is None else least_weight)
        self.underflow = np.full(1, underflow)
        is_users = not kernel.facts.built_in
        self.log_peak = kernel.log_sensitivity[2] if underflow and is_users and kernel.works_on_logs else None

    def certified(self, state: Sums, error: Any, spread: float = 1.0) -> Sums:
        """Return the state with bounds on the rounding errors of its sums.

        Parameters
        ----------
        state : Sums
        error : (m,) float64
            Bound on the relative error of κ; 0 where the backend includes it in the errors of `state`.
        spread : float
            The values lie within [−spread, spread].

        Returns
        -------
        state : Sums
            The same sums; `mass_error` and `total_error` include rounding.
        """
        underflow = self.underflow
        if self.log_peak is not None:
            # The shift comes from keys whose weights did not underflow; one whose weight did may be much nearer.
            with np.errstate(all="ignore"):
                underflow = underflow * np.exp(np.maximum(self.log_peak - state.shift, 0.0))
        of_totals = (spread - 1) * self.summation + 4 * spread * self.unit
        mass_error, total_error = _bounds.certified(
            state.shift,
            state.mass,
            state.mass_error,
            state.total_error,
            error,
            underflow,
            self.relative,
            self.clamped,
            self.absolute,
            of_totals,
        )
        return Sums(state.shift, state.mass, state.total, mass_error, total_error)


def _underflow_bound(problem: Problem, dtype: np.dtype[Any], least_weight: float) -> float:
    """Bound the sum of the terms that underflow, or lose digits, below the smallest normal number."""
    heavy_tailed = problem.kernel.facts.heavy_tailed
    term = float(np.finfo(dtype).tiny) if heavy_tailed or least_weight < LEAST_WEIGHT else 0.0
    if heavy_tailed and dtype == np.float64:
        term = MAX_OVERFLOWED_KAPPA
    if problem.kernel.works_on_logs:
        term *= MAX_RATIO_TO_SHIFT
    return problem.n * term


def accurate(
    problem: Problem,
    state: Sums,
    limit: Any,
    errors: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> NDArray[np.bool_]:
    """Test whether the errors of masses and means are within a tolerance.

    A window of mass 0 is certainly empty only if no key of a compact kernel is near its edge. Otherwise the mass may
    have underflowed.

    Parameters
    ----------
    problem : Problem
    state : Sums
    limit : float or (m,) float64
        The tolerance, relative for masses and in units of the values' range for means.
    errors : pair of (m,) float64, optional
        `state.errors()`, if they have been computed.

    Returns
    -------
    accurate : (m,) bool
    """
    relative, bound = state.errors() if errors is None else errors
    limit = limit if isinstance(limit, np.ndarray) else np.full(1, float(limit))
    compact = problem.kernel.support is not None
    return _bounds.accurate(relative, bound if problem.c else relative, state.mass, state.mass_error, limit, compact)


def error_of_weights(
    problem: Problem, backend: Any, error: NDArray[np.float64], state: Sums, dtype: np.dtype[Any] = FLOAT64
) -> Any:
    """Bound the relative error of the weights, (m,), from that of u²: the argument `error` of `Rounding.certified`.

    0 where the backend bounds that error itself; inf where nothing bounds the error of u².
    """
    if backend.bounds(problem.kernel):
        return np.where(error < np.inf, 0.0, np.inf)
    return exponent_error(problem, error, state.log_mass(), dtype)


def exponent_error(
    problem: Problem, error: NDArray[np.float64], log_mass: NDArray[np.float64], dtype: np.dtype[Any] = FLOAT64
) -> NDArray[np.float64]:
    """Bound the mean relative error of the weights of each query, (m,), from the error of u².

    The relative error of κ is at most a + b·(−log κ) times that of u² (`Kernel.log_sensitivity`), and since the
    Kullback–Leibler divergence of the weights from w/W, W = Σ w, is not negative, the mean of −log κ over the weights
    is at most log(W/mass). So the bound needs no further sum. An absolute error of u, which whitening causes, is
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
    """Bound the error of log κ, (m,), of keys that lie on average `depth` nats below the kernel's peak."""
    facts, (a, b, _) = problem.kernel.facts, problem.kernel.log_sensitivity
    with np.errstate(over="ignore", invalid="ignore"):  # the rung `tails` sums such a query
        if problem.metric.factor is not None and facts.built_in and b:
            relative = relative_error(problem, dtype)
            absolute = np.maximum(error - relative, 0.0) / 2
            return relative * (a + b * depth) + absolute * (math.sqrt(5.0) + np.sqrt(2 * depth))
        return np.where(error < np.inf, error * (a + b * depth) if b else error * a, np.inf)


def relative_error(problem: Problem, dtype: np.dtype[Any]) -> float:
    """Bound the relative error of u²: of differences of coordinates, and of the factor of a bandwidth matrix."""
    roundings = 16 + problem.d / 4 + (0 if problem.key_scale is None else 3)
    return roundings * float(np.finfo(dtype).eps) / 2 + problem.whitening_errors[0]
