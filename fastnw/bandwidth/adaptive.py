"""Adaptive widths: a factor λ of the bandwidth for each key, wider where keys are few."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np

from fastnw.bandwidth.rules import rule_bandwidth
from fastnw.core.problem import Array, Floats, Metric, Problem
from fastnw.core.row_weights import relative_weights
from fastnw.core.validate import build, check_bandwidth, metric
from fastnw.functions import pooled
from fastnw.interop import frameworks
from fastnw.kernels.kernel import Kernel
from fastnw.planner import make_model
from fastnw.runtime.hardware import n_threads

_BLOCK_ELEMENTS = 2**20  # neighbours found at a time: 16 MiB of distances and positions


@dataclass(frozen=True)
class Abramson:
    """Widths by Silverman's local-density heuristic (Abramson's square root law): h λ_i with λ_i = (p̂(k_i)/ḡ)^(−α).

    p̂ is a pilot density of one bandwidth, each key's own share included, and ḡ its geometric mean over the keys [1]_.
    With α = ½ the bias of a density is of order h⁴ instead of h² [2]_. Pass one as `bandwidth` to an estimator, or what
    `key_scale` returns to :func:`fastnw.pool` and :func:`fastnw.density`. It takes as long as the density of all keys.

    Parameters
    ----------
    bandwidth : {"scott", "silverman"}, float, or array-like of shape (d,) or (d, d), default="scott"
        The pilot's, and the h that λ multiplies.
    alpha : float, default=0.5
        Between 0, one bandwidth for all, and 1.

    References
    ----------
    .. [1] Silverman (1986), Density Estimation for Statistics and Data Analysis, section 5.3, Chapman & Hall.
    .. [2] Abramson (1982), On bandwidth variation in kernel estimates: a square root law, Annals of Statistics 10,
       1217-1223.

    Examples
    --------
    >>> import fastnw
    >>> keys = [[0.0], [0.1], [0.2], [3.0]]
    >>> scale = fastnw.Abramson(bandwidth=0.3).key_scale(keys)
    >>> scale.round(2)
    array([0.89, 0.86, 0.89, 1.47])
    >>> fastnw.density([[3.0]], keys, bandwidth=0.3, key_scale=scale).round(3)
    array([0.226])
    """

    bandwidth: Any = "scott"
    alpha: float = 0.5

    def key_scale(
        self, keys: Any, *, kernel: str | Kernel = "gaussian", sample_weight: Any = None, n_jobs: int | None = None
    ) -> Any:
        """λ of each key; their geometric mean is 1.

        Parameters
        ----------
        keys : array of shape (n, d)
        kernel : str or Kernel
            The pilot's. It need have no integral: only ratios of densities count.
        sample_weight : (n,) array, optional
            Relative weights, in the pilot and in its mean: a constant factor changes nothing. A key without weight is
            as if absent and has λ = 1.
        n_jobs : int, optional
            Threads, as in :func:`fastnw.pool`.

        Returns
        -------
        scale : (n,) float64 array

        Raises
        ------
        ValueError
            Also for an `alpha` outside [0, 1], and for the kernel ``dot``.
        """
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, Real) or not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be a number between 0 and 1, got {self.alpha!r}.")
        restore = frameworks.restorer(keys)
        problem, present, n = _pilot(keys, kernel, self.bandwidth, sample_weight)
        model = make_model(problem, "auto", "auto", n_jobs)
        _, log_mass = pooled(model, problem, flat=False, empty="mean", return_mass=True)
        logs = log_mass.astype(np.float64)
        logs -= np.average(logs, weights=problem.weights_at(slice(None)))
        scale = np.ones(n)
        scale[present] = np.exp(-float(self.alpha) * logs)
        return restore(scale)


@dataclass(frozen=True)
class NearestNeighbours:
    """Widths as the distance from each key to its `k`-th nearest other key (Breiman, Meisel & Purcell [1]_).

    Pass one as `bandwidth` to an estimator, or what `key_scale` returns to :func:`fastnw.pool` and
    :func:`fastnw.density`, with the same bandwidth as here.

    Parameters
    ----------
    k : int
        At least 1. Equal keys are one place: where `k` others or more equal a key, its distance is that to the nearest
        key elsewhere, since no width can be 0.
    bandwidth : float, {"scott", "silverman"}, or array-like of shape (d,) or (d, d), default=1.0
        What distances are measured in: λ_i is the distance in these bandwidths, h λ_i the width. A common factor
        cancels; coordinates in different units need one each, as the rules give.

    References
    ----------
    .. [1] Breiman, Meisel & Purcell (1977), Variable kernel estimates of multivariate densities, Technometrics 19,
       135-144.

    Examples
    --------
    >>> import fastnw
    >>> fastnw.NearestNeighbours(k=2).key_scale([[0.0], [1.0], [1.5], [4.0]])
    array([1.5, 1. , 1.5, 3. ])
    """

    k: int
    bandwidth: Any = 1.0

    def key_scale(
        self, keys: Any, *, kernel: str | Kernel = "gaussian", sample_weight: Any = None, n_jobs: int | None = None
    ) -> Any:
        """λ of each key: the distance to its `k`-th nearest other key, in bandwidths.

        Parameters
        ----------
        keys : array of shape (n, d)
        kernel : str or Kernel
            Only the rules depend on it.
        sample_weight : (n,) array, optional
            Only which keys have a weight counts (and what a rule makes of the weights): neighbours are keys, however
            heavy. A key without weight is as if absent and has λ = 1.
        n_jobs : int, optional
            Threads, as in :func:`fastnw.pool`.

        Returns
        -------
        scale : (n,) float64 array

        Raises
        ------
        ValueError
            Also for a `k` below 1, fewer than k + 1 keys with weight, keys that all are equal, and the kernel ``dot``.
        TypeError
            If `k` is not an integer.
        """
        if isinstance(self.k, bool) or not hasattr(self.k, "__index__"):
            raise TypeError(f"k must be an integer, got {self.k!r}.")
        if self.k < 1:
            raise ValueError(f"k == {self.k}, must be >= 1.")
        restore, threads = frameworks.restorer(keys), n_threads(n_jobs)
        problem, present, n = _pilot(keys, kernel, self.bandwidth, sample_weight)
        if problem.n < self.k + 1:
            with_weight = "" if problem.n == n else ", counting only keys with a positive weight"
            raise ValueError(f"k={self.k} needs {self.k + 1} samples, got n_samples = {problem.n}{with_weight}.")
        scale = np.ones(n)
        scale[present] = _distances(_whitened(problem.keys, problem.metric), self.k, threads)
        return restore(scale)


def _pilot(
    keys: Any, kernel: str | Kernel, bandwidth: Any, sample_weight: Any
) -> tuple[Problem, slice | np.ndarray, int]:
    """The keys that have a weight, asked at themselves, weights in a unit of no consequence; where they are among all;
    how many all are."""
    keys, sample_weight = frameworks.to_numpy(keys), frameworks.to_numpy(sample_weight)
    rule = isinstance(bandwidth, str)
    first = 1.0 if rule else bandwidth
    problem = build(keys, keys, None, kernel=kernel, bandwidth=first, sample_weight=sample_weight)
    if problem.kernel.inner_product:
        raise ValueError(f"Adaptive widths are not defined for kernel {str(problem.kernel)!r}, which has no distances.")
    n, (present, weights) = problem.n, relative_weights(problem.weights)
    keys = problem.keys[present]
    if not len(keys):
        raise ValueError("Sample weights must contain at least one non-zero number.")
    problem = replace(problem, queries=keys, keys=keys, values=problem.values[present], weights=weights)
    if rule:
        h = rule_bandwidth(keys, bandwidth, problem.kernel, weights)
        problem = replace(problem, metric=metric(check_bandwidth(h, problem.d), problem.d))
    return problem, present, n


def _whitened(keys: Array, shape: Metric) -> Floats:
    """(n, d) keys in bandwidths, from the first: far from 0 they would lose digits."""
    points = keys.astype(np.float64) - keys[0].astype(np.float64)
    if shape.cholesky is None:
        return points * shape.inverse
    from scipy.linalg import solve_triangular

    return solve_triangular(shape.cholesky, points.T, lower=True).T


def _distances(points: Floats, k: int, threads: int) -> Floats:
    """(n,) The least r > 0 within which there are k + 1 points, the own one and what equals it included, and another
    place."""
    from scipy.spatial import cKDTree

    places, place, counts = np.unique(points, axis=0, return_inverse=True, return_counts=True)
    place = place.reshape(-1)  # NumPy 2.0 gives it another shape
    if len(places) == 1:
        raise ValueError("All keys are equal: they have no nearest neighbours elsewhere. Give a bandwidth.")
    tree, reach = cKDTree(places), np.empty(len(places))
    waiting, width = np.arange(len(places)), min(k + 1, len(places))
    while len(waiting):
        later = []
        for some in _blocks(waiting, width):
            distance, neighbour = tree.query(places[some], k=width, workers=threads)
            enough = np.cumsum(counts[neighbour], axis=1) >= k + 1
            enough[:, 0] = False  # the place itself
            first = enough.argmax(axis=1)
            reach[some] = distance[np.arange(len(some)), first]
            later.append(some[first == 0])
        waiting, width = np.concatenate(later), min(2 * width, len(places))
    if not reach.min() > 0:
        raise ValueError("Some keys are so close that their distance in bandwidths is 0 in float64.")
    return reach[place]


def _blocks(positions: np.ndarray, width: int) -> Iterator[np.ndarray]:
    step = max(1, _BLOCK_ELEMENTS // width)
    return (positions[start : start + step] for start in range(0, len(positions), step))
