"""Kernel density estimation as a scikit-learn estimator."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from scipy.special import gammainc
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from fastnw import kernels
from fastnw.bandwidth.rules import RULES
from fastnw.core.precision import check_losses
from fastnw.core.validate import check_tol
from fastnw.estimators.base import COMMON_CONSTRAINTS, FLOATS, KernelEstimator
from fastnw.functions import densities
from fastnw.interop.dataframes import as_known
from fastnw.kernels import integrals
from fastnw.kernels.kernel import Kernel


class KernelDensity(KernelEstimator):
    """Kernel density estimation with the parameters and methods of :class:`sklearn.neighbors.KernelDensity`.

    Parameters
    ----------
    bandwidth : float, {"scott", "silverman", "loo"}, array-like, Abramson or NearestNeighbours, default=1.0
        As in :class:`fastnw.NadarayaWatsonRegressor`. Unlike in scikit-learn, the rules include the spread of each
        feature and the canonical bandwidth of the kernel (:func:`fastnw.bandwidth.rule_bandwidth`), and use the
        effective sample size of `sample_weight`. "loo" maximises the leave-one-out likelihood
        (:func:`fastnw.select_bandwidth`).
    algorithm : {"kd_tree", "ball_tree", "auto"}, default="auto"
        Ignored; accepted for compatibility, as are `breadth_first` and `leaf_size`. See `method`.
    kernel : str or fastnw.Kernel, default="gaussian"
        A name in ``fastnw.kernels.names()``, which include those of scikit-learn, or a user-defined kernel. Its
        integral must be finite.
    metric : {"euclidean"}, default="euclidean"
        The only metric for which densities are normalised.
    atol, rtol : float, default=0
        The error of the density is at most ``atol + rtol * density``. If both are 0, the relative error is at most 1e-8
        in float64 and 1e-4 in float32.
    breadth_first : bool, default=True
        Ignored.
    leaf_size : int, default=40
        Ignored.
    metric_params : dict, optional
        Must be empty: the Euclidean metric has none.
    method, backend, n_jobs
        As in :class:`fastnw.NadarayaWatsonRegressor`.

    Attributes
    ----------
    bandwidth_ : float or ndarray of shape (d,) or (d, d)
        The bandwidth.
    selection_ : BandwidthSelection
        The result of the search, for bandwidth="loo".
    key_scale_ : ndarray of shape (n,) or None
        Factors of the bandwidth for each sample, for adaptive widths.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (d,)
        Names of features, if `X` had them.

    Notes
    -----
    With ``kernel="cosine"`` and an even number of features, results differ from scikit-learn's, whose normalisation
    is wrong in that case: for two features its densities are too small by a factor of 2.75.

    Examples
    --------
    >>> from fastnw import KernelDensity
    >>> kde = KernelDensity(kernel="tophat", bandwidth=0.5).fit([[0.0], [1.0]])
    >>> kde.score_samples([[0.0], [3.0]])
    array([-0.69314718,        -inf])
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **COMMON_CONSTRAINTS,
        "bandwidth": [option for option in COMMON_CONSTRAINTS["bandwidth"] if not isinstance(option, StrOptions)]
        + [StrOptions({*RULES, "loo"})],
        "algorithm": [StrOptions({"kd_tree", "ball_tree", "auto"})],
        "metric": [StrOptions({"euclidean"})],
        "atol": [Interval(Real, 0, None, closed="left")],
        "rtol": [Interval(Real, 0, None, closed="left")],
        "breadth_first": ["boolean"],
        "leaf_size": [Interval(Integral, 1, None, closed="left")],
        "metric_params": [None, dict],
    }
    _by_volume = True

    _predicts = "density"

    def __init__(
        self,
        *,
        bandwidth: Any = 1.0,
        algorithm: str = "auto",
        kernel: str | Kernel = "gaussian",
        metric: str = "euclidean",
        atol: float = 0,
        rtol: float = 0,
        breadth_first: bool = True,
        leaf_size: int = 40,
        metric_params: dict[str, Any] | None = None,
        method: str = "auto",
        backend: str = "auto",
        n_jobs: int | None = None,
    ) -> None:
        self.bandwidth = bandwidth
        self.algorithm = algorithm
        self.kernel = kernel
        self.metric = metric
        self.atol = atol
        self.rtol = rtol
        self.breadth_first = breadth_first
        self.leaf_size = leaf_size
        self.metric_params = metric_params
        self.method = method
        self.backend = backend
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> KernelDensity:
        """Store the training data and determine the bandwidth.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Training samples.
        y : None
            Ignored.
        sample_weight : array-like of shape (n,), optional
            Relative weights. A weight of 2 is equivalent to two equal samples, and a constant factor of all weights
            changes nothing.

        Returns
        -------
        self : KernelDensity
        """
        self._validate_params()
        if self.metric_params:
            raise ValueError(
                f"metric_params must be None or empty, got {self.metric_params!r}. "
                "The Euclidean metric has no parameters."
            )
        check_losses(X=X, sample_weight=sample_weight)
        X = as_known(X)
        X = validate_data(self, X, dtype=FLOATS)
        integrals.log_integral(kernels.get(self.kernel), X.shape[1])  # raises now instead of in score_samples
        self._fit_keys(X, sample_weight)
        self._remember()
        self._prepare(check_tol(self._relative_tolerance()))
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """Compute the logarithm of the density.

        Parameters
        ----------
        X : array-like of shape (m, d)
            Queries.

        Returns
        -------
        log_density : ndarray of shape (m,)
            −inf where the density is 0.
        """
        X = self._check_queries(X)
        tol = check_tol(self._relative_tolerance())
        problem = self._problem.asked(X, kernel=kernels.get(self.kernel), tol=tol)
        return densities(self._model(problem), problem, progress=None, log=True)

    def score(self, X: Any, y: Any = None) -> float:
        """Compute the total log-likelihood.

        Parameters
        ----------
        X : array-like of shape (m, d)
            Queries, whose log-densities are summed.
        y : None
            Ignored.

        Returns
        -------
        float
        """
        return float(np.sum(self.score_samples(X), dtype=np.float64))

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """Draw samples from the estimated density, for every kernel.

        The same seed gives the same samples as scikit-learn for the Gaussian and the tophat, which it supports.

        Parameters
        ----------
        n_samples : int, default=1
            Number of samples.
        random_state : int, RandomState instance, optional
            Seed or generator of the random numbers.

        Returns
        -------
        X : ndarray of shape (n_samples, d)
        """
        check_is_fitted(self)
        rng = check_random_state(random_state)
        n, d = self._keys.shape
        uniform = rng.uniform(0, 1, size=n_samples)
        if self._weights is None:
            rows = (uniform * n).astype(np.int64)
        else:
            cumulative = np.cumsum(
                np.ldexp(self._weights, -int(np.frexp(self._weights.max())[1]))
            )  # scaled to avoid overflow
            rows = np.searchsorted(cumulative, uniform * cumulative[-1])
        # The direction of a normal vector is uniform and independent of its length. The distribution function of the
        # length, evaluated at the length, is uniform.
        z = rng.normal(size=(n_samples, d))
        squares = np.einsum("ij,ij->i", z, z)
        radius = integrals.sample_radius(self.kernel, d, gammainc(0.5 * d, 0.5 * squares))
        z *= (radius / np.sqrt(squares))[:, None]
        step = z * self.bandwidth_ if np.ndim(self.bandwidth_) < 2 else z @ np.linalg.cholesky(self.bandwidth_).T
        if self.key_scale_ is not None:
            step *= self.key_scale_[rows, None]
        return (self._keys[rows] + step).astype(self._keys.dtype, copy=False)

    def _relative_tolerance(self) -> float | None:
        """Return rtol + atol/p_max, or None if both are 0; p_max = κ(0)/(C_d √det H min λ^d) bounds the density."""
        relative = float(self.rtol)
        if self.atol:
            d, h = self.n_features_in_, self.bandwidth_
            log_volume = 0.5 * np.linalg.slogdet(h)[1] if np.ndim(h) == 2 else np.sum(np.log(np.broadcast_to(h, d)))
            kernel = kernels.get(self.kernel)
            at_zero = float(kernel.profile(np.float64(0.0)))
            if self.key_scale_ is not None:
                log_volume += d * math.log(self.key_scale_.min())
            log_highest = math.log(at_zero) - integrals.log_integral(kernel, d) - log_volume
            relative += math.exp(min(0.0, math.log(self.atol) - log_highest))
        # A relative error above 1/2 is useless as a bound.
        return min(0.5, relative) or None
