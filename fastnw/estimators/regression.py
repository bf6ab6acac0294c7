"""Nadaraya-Watson regression and classification as scikit-learn estimators."""

from __future__ import annotations

import warnings
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.utils import check_array, column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from fastnw import kernels
from fastnw.core.classes import MIN_CODED_CLASSES, MostProbable, OneHot, shares
from fastnw.core.driver import predict
from fastnw.core.precision import check_losses
from fastnw.core.problem import Problem
from fastnw.core.validate import check_empty, check_tol
from fastnw.core.warnings import EmptyWindowWarning, caller_level
from fastnw.estimators.base import COMMON_CONSTRAINTS, FLOATS, KernelEstimator
from fastnw.estimators.density import KernelDensity
from fastnw.functions import pooled
from fastnw.interop.dataframes import as_known
from fastnw.kernels.kernel import Kernel

__all__ = ["KernelDensity", "NadarayaWatsonClassifier", "NadarayaWatsonRegressor"]


def _dense(y: Any) -> np.ndarray:
    """Convert a sparse `y` to a dense array."""
    return y.toarray() if hasattr(y, "toarray") else y


class _NadarayaWatson(MultiOutputMixin, KernelEstimator):
    """Parameters and predictions that regression and classification share."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **COMMON_CONSTRAINTS,
        "tol": [Interval(Real, 0, None, closed="left"), None],
        "empty": [StrOptions({"nan", "raise", "nearest", "mean"}), Real],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        *,
        kernel: str | Kernel = "gaussian",
        bandwidth: Any = "scott",
        method: str = "auto",
        backend: str = "auto",
        tol: float | None = None,
        empty: str | float = "nan",
        n_jobs: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.kernel = kernel
        self.bandwidth = bandwidth
        self.method = method
        self.backend = backend
        self.tol = tol
        self.empty = empty
        self.n_jobs = n_jobs
        self.random_state = random_state

    def _problem_at(self, X: np.ndarray) -> Problem:
        """Return the problem of the training data with checked queries `X`."""
        return self._problem.asked(X, kernel=kernels.get(self.kernel), tol=check_tol(self.tol))

    def _pool(self, X: np.ndarray, flat: bool, empty: Any = None, return_mass: bool = False) -> Any:
        """Return the results of `pooled` at checked queries; parameters are read now, as in scikit-learn."""
        problem = self._problem_at(X)
        empty = check_empty(self.empty if empty is None else empty)
        return pooled(self._model(problem), problem, flat=flat, empty=empty, return_mass=return_mass)


class NadarayaWatsonRegressor(RegressorMixin, _NadarayaWatson):
    """Nadaraya-Watson kernel regression: the mean of the training targets, weighted by a kernel of the distance.

    Parameters
    ----------
    kernel : str or fastnw.Kernel, default="gaussian"
        A name in ``fastnw.kernels.names()``, or a user-defined kernel.
    bandwidth : str, float, array-like, Abramson or NearestNeighbours, default="scott"
        "scott" and "silverman" are rules (:func:`fastnw.bandwidth.rule_bandwidth`); "loo" and "aicc" minimise the
        leave-one-out error or the AICc (:func:`fastnw.select_bandwidth`). Or a number, one per feature (d,), or a
        symmetric positive definite matrix H (d, d). :class:`fastnw.Abramson` and :class:`fastnw.NearestNeighbours`
        give each sample its own bandwidth.
    method : {"auto", "exact", "tree", "moments", "fourier"}, default="auto"
        How the pairs to sum are selected; "auto" uses the fastest method that supports the problem.
    backend : {"auto", "compiled", "numba", "cuda", "reference"}, default="auto"
        What sums the pairs.
    tol : float, optional
        Largest error as a fraction of the range of the targets. ``None`` means 1e-8 in float64 and 1e-4 in float32; 0
        sums every pair.
    empty : {"nan", "raise", "nearest", "mean"} or float, default="nan"
        Prediction where no training sample is within the support of the kernel: NaN with one `EmptyWindowWarning`, an
        error, the target of the nearest sample, the mean of the targets, or this number.
    n_jobs : int, optional
        Number of threads; ``None`` means all available cores, and negative numbers count from the end, as in joblib.
    random_state : int, RandomState instance, optional
        Seeds the random restarts of the search for bandwidth="loo" or "aicc"; the rules use no random numbers.

    Attributes
    ----------
    bandwidth_ : float or ndarray of shape (d,) or (d, d)
        The bandwidth.
    selection_ : BandwidthSelection
        The result of the search, for bandwidth="loo" or "aicc".
    key_scale_ : ndarray of shape (n,) or None
        Factors of the bandwidth for each training sample, for adaptive widths.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (d,)
        Names of features, if `X` had them.

    Notes
    -----
    If `X` is float32 in both `fit` and `predict`, so are the computation and the result. `fit` stores `X` without a
    copy where its dtype allows. Cross-validation with kernels of bounded support needs `empty` other than "nan" and
    "raise".

    Examples
    --------
    >>> from fastnw import NadarayaWatsonRegressor
    >>> model = NadarayaWatsonRegressor(kernel="boxcar", bandwidth=1.5).fit([[0.0], [1.0], [2.0]], [0.0, 1.0, 5.0])
    >>> model.predict([[0.0], [1.0]])
    array([0.5, 2. ])
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> NadarayaWatsonRegressor:
        """Store the training data and determine the bandwidth.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Training samples.
        y : array-like of shape (n,) or (n, c)
            Targets.
        sample_weight : array-like of shape (n,), optional
            Relative weights. At a given bandwidth, a weight of 2 is equivalent to two equal samples. Searches for the
            bandwidth ignore a constant factor of all weights (:func:`fastnw.select_bandwidth`).

        Returns
        -------
        self : NadarayaWatsonRegressor
        """
        self._validate_params()
        check_losses(X=X, y=y, sample_weight=sample_weight)
        X = as_known(X)
        X, y = validate_data(self, X, y, dtype=FLOATS, multi_output=True, y_numeric=True)
        with np.errstate(over="ignore", invalid="ignore"):  # a number beyond float32 becomes infinite and is rejected
            self._values = check_array(_dense(y), dtype=X.dtype, ensure_2d=False, input_name="y", estimator=self)
        self._fit_keys(X, sample_weight)
        self._remember()
        self._prepare(check_tol(self.tol))
        return self

    def _training_values(self) -> np.ndarray:
        return self._values

    def predict(self, X: Any) -> np.ndarray:
        """Compute the weighted means of the training targets.

        Parameters
        ----------
        X : array-like of shape (m, d)
            Queries.

        Returns
        -------
        y : ndarray of shape (m,) or (m, c)
        """
        X = self._check_queries(X)
        return self._pool(X, flat=self._values.ndim == 1)[0]


class NadarayaWatsonClassifier(ClassifierMixin, _NadarayaWatson):
    """Nadaraya-Watson classification: the share of each class in the kernel weights at a query.

    Parameters
    ----------
    kernel, bandwidth, method, backend, n_jobs, random_state
        As in :class:`NadarayaWatsonRegressor`, except that bandwidth="loo" minimises the log-loss, which is the mean of
        −log of the probability of the true class.
    tol : float, optional
        Largest error of a probability. ``None`` means 1e-8 in float64 and 1e-4 in float32; 0 sums every pair.
    empty : {"nan", "raise", "nearest", "mean"}, default="nan"
        Prediction where no training sample is within the support of the kernel: "nan" returns the class priors, as
        weighted in `fit`, with one `EmptyWindowWarning` (probabilities are never NaN); "mean" returns the priors
        without a warning; "nearest" the class of the nearest sample; "raise" raises an error.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,), or list of such arrays
        Class labels; for a two-dimensional `y` a list with one array per output.
    bandwidth_, selection_, key_scale_, n_features_in_, feature_names_in_
        As in :class:`NadarayaWatsonRegressor`.

    Examples
    --------
    >>> from fastnw import NadarayaWatsonClassifier
    >>> model = NadarayaWatsonClassifier(kernel="triangular", bandwidth=2.0).fit([[0.0], [1.0], [2.0]], ["a", "b", "b"])
    >>> model.predict([[0.0], [1.0]])
    array(['a', 'b'], dtype='<U1')
    >>> model.predict_proba([[0.0], [1.0]])
    array([[0.66666667, 0.33333333],
           [0.25      , 0.75      ]])
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **_NadarayaWatson._parameter_constraints,
        "empty": [StrOptions({"nan", "raise", "nearest", "mean"})],
    }
    _predicts = "classes"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> NadarayaWatsonClassifier:
        """Store the training data and determine the bandwidth.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Training samples.
        y : array-like of shape (n,) or (n, n_outputs)
            Class labels.
        sample_weight : array-like of shape (n,), optional
            Relative weights. At a given bandwidth, a weight of 2 is equivalent to two equal samples. Searches for the
            bandwidth ignore a constant factor of all weights (:func:`fastnw.select_bandwidth`).

        Returns
        -------
        self : NadarayaWatsonClassifier
        """
        self._validate_params()
        check_losses(X=X, sample_weight=sample_weight)  # labels are not converted to floats
        X = as_known(X)
        X, y = validate_data(self, X, y, dtype=FLOATS, multi_output=True)
        check_classification_targets(y)
        y = _dense(y)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        outputs = [np.unique(column, return_inverse=True) for column in y.reshape(len(y), -1).T]
        self._codes = np.column_stack([codes for _, codes in outputs])
        self.classes_ = outputs[0][0] if y.ndim == 1 else [classes for classes, _ in outputs]
        self._fit_keys(X, sample_weight)
        self._remember()
        self._prepare(check_tol(self.tol))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predict the most probable classes; of equally probable ones, the first in `classes_`.

        Parameters
        ----------
        X : array-like of shape (m, d)
            Queries.

        Returns
        -------
        y : ndarray of shape (m,) or (m, n_outputs)
        """
        problem = self._problem_at(self._check_queries(X))
        most_probable = MostProbable(problem.m, self._sizes(), problem.dtype)
        self._write_probabilities(problem, most_probable)
        labels = [classes[codes] for classes, codes in zip(self._classes(), most_probable.codes().T, strict=True)]
        return np.column_stack(labels) if isinstance(self.classes_, list) else labels[0]

    def predict_proba(self, X: Any) -> Any:
        """Compute the probabilities of the classes.

        Parameters
        ----------
        X : array-like of shape (m, d)
            Queries.

        Returns
        -------
        p : ndarray of shape (m, n_classes), or list of such arrays
            Columns are in the order of `classes_`; rows sum to 1.
        """
        return self._probabilities(X)[0]

    def _probabilities(self, X: Any, progress: bool | None = None) -> tuple[Any, np.ndarray]:
        """Return the result of `predict_proba` and the log mass of each query, (m,)."""
        problem = self._problem_at(self._check_queries(X))
        means = np.empty((problem.m, problem.c), problem.dtype)
        log_mass = self._write_probabilities(problem, means, progress)
        probabilities = shares(means, self._sizes())
        return probabilities if isinstance(self.classes_, list) else probabilities[0], log_mass

    def _classes(self) -> list[np.ndarray]:
        """Return the class labels of each output."""
        return self.classes_ if isinstance(self.classes_, list) else [self.classes_]

    def _sizes(self) -> list[int]:
        """Return the number of classes of each output."""
        return [len(classes) for classes in self._classes()]

    def _training_values(self) -> np.ndarray | OneHot:
        """Return one-hot indicators of the classes, with the columns of the outputs one after the other."""
        if sum(self._sizes()) >= MIN_CODED_CLASSES:
            return OneHot.of(self._codes, self._sizes(), self._keys.dtype)
        pairs = zip(self._codes.T, self._sizes(), strict=True)
        indicators = [np.equal.outer(codes, np.arange(size)) for codes, size in pairs]
        return np.concatenate(indicators, axis=1).astype(self._keys.dtype)

    def _write_probabilities(self, problem: Problem, means: Any, progress: bool | None = None) -> np.ndarray:
        """Write the class shares of all outputs into `means` (m, c); returns the log masses (m,)."""
        log_mass = np.empty(problem.m, problem.dtype)
        predict(
            self._model(problem),
            problem,
            progress,
            means,
            empty="mean" if self.empty == "nan" else self.empty,
            log_mass=log_mass,
        )
        if self.empty == "nan":
            _warn_of_priors(np.flatnonzero(np.isneginf(log_mass)), problem.m)
        return log_mass


def _warn_of_priors(rows: np.ndarray, m: int) -> None:
    """Warn that predictions are class priors at the given rows."""
    if rows.size:
        first = ", ".join(map(str, rows[:5])) + (", ..." if rows.size > 5 else "")
        warnings.warn(
            f"{rows.size} of {m} queries have no training sample in their window (rows {first}): their probabilities "
            'are the class priors. Widen the bandwidth, or choose empty="nearest", "mean" or "raise".',
            EmptyWindowWarning,
            stacklevel=caller_level(),
        )
