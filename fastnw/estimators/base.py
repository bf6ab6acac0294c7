"""The base class of the estimators: validation, the bandwidth, and cached plans and models."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions, validate_parameter_constraints
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, check_non_negative, validate_data

from fastnw import bandwidth, kernels
from fastnw._version import __version__
from fastnw.bandwidth.adaptive import Abramson, NearestNeighbours
from fastnw.bandwidth.criteria import loss_for
from fastnw.core.classes import OneHot
from fastnw.core.model import Model
from fastnw.core.plan import Plan
from fastnw.core.precision import check_losses
from fastnw.core.problem import Problem
from fastnw.core.validate import check_bandwidth, trusted
from fastnw.core.warnings import VersionWarning, caller_level
from fastnw.interop.dataframes import as_known
from fastnw.kernels.kernel import Kernel
from fastnw.methods import NAMES
from fastnw.planner import make_plan, model_of
from fastnw.runtime.hardware import n_threads
from fastnw.runtime.threads import Meter

FLOATS = [np.float64, np.float32]
# The key of the version in the state of a pickle. scikit-learn stores one for its own classes only.
VERSION = "_fastnw_version"

# Up to this number of queries, one plan is cached for all calls of the same order of magnitude.
MAX_CACHED_PLAN_QUERIES = 10**6
# Up to this number of elements, one pass over the queries is faster than the checks of scikit-learn.
MAX_QUICK_CHECK_SIZE = 1 << 16
# The number of cached models: one for each kernel, tolerance, dtype, backend and number of threads of the predictions.
MAX_MODELS = 8

# Names of kernels, methods and backends are checked by the functions that resolve them, whose errors list the choices.
COMMON_CONSTRAINTS: dict[str, Any] = {
    "kernel": [str, Kernel],
    "bandwidth": [
        Interval(Real, 0, None, closed="neither"),
        StrOptions({*bandwidth.RULES, *bandwidth.CRITERIA}),
        list,
        tuple,
        np.ndarray,
        Abramson,
        NearestNeighbours,
    ],
    "method": [str],
    "backend": [str],
    "n_jobs": [Integral, None],
}


class KernelEstimator(BaseEstimator):
    """Stores the keys, their weights and the bandwidth; validates queries; caches plans and models."""

    _parameter_constraints: ClassVar[dict[str, Any]] = COMMON_CONSTRAINTS
    _by_volume: ClassVar[bool] = False  # whether weights are divided by λ^d, as densities need

    _predicts: ClassVar[str] = "numbers"  # the kind of values, for `fastnw.bandwidth.criteria.loss_for`

    def _fit_keys(self, X: np.ndarray, sample_weight: Any) -> None:
        """Store the keys and their weights, and determine the bandwidth and the key scale."""
        kernel = kernels.get(self.kernel)
        weights = None if sample_weight is None else _checked_weights(sample_weight, X)
        names = getattr(self, "feature_names_in_", None)
        self._keys, self._weights, self.key_scale_ = X, weights, None
        adaptive = self.bandwidth if isinstance(self.bandwidth, (Abramson, NearestNeighbours)) else None
        requested = self.bandwidth if adaptive is None else adaptive.bandwidth
        if adaptive is not None and isinstance(requested, (str, Abramson, NearestNeighbours)):
            plain = [o for o in self._parameter_constraints["bandwidth"] if o not in (Abramson, NearestNeighbours)]
            validate_parameter_constraints({"bandwidth": plain}, {"bandwidth": requested}, type(self).__name__)
        if isinstance(requested, str) and requested in bandwidth.CRITERIA:
            h = self._selected_bandwidth(X, weights, kernel, names, requested)
        elif isinstance(requested, str):
            h = bandwidth.rule_bandwidth(X, requested, kernel, weights, feature_names=names)
        else:
            h = check_bandwidth(requested, X.shape[1])
        self.bandwidth_ = float(h) if h.ndim == 0 else h
        if adaptive is not None:
            adaptive = replace(adaptive, bandwidth=self.bandwidth_)
            self.key_scale_ = adaptive.key_scale(X, kernel=kernel, sample_weight=weights, n_jobs=self.n_jobs)

    def _selected_bandwidth(
        self, X: np.ndarray, weights: Any, kernel: Kernel, names: Any, criterion: str
    ) -> np.ndarray:
        """Select the bandwidth by the criterion, and store `selection_`."""
        from fastnw.bandwidth.rows import Rows
        from fastnw.bandwidth.select import selected

        values = self._training_values()
        values = values.reshape(len(X), -1) if isinstance(values, np.ndarray) else values
        self.selection_ = selected(
            Rows(X, values, weights, kernel, loss_for(criterion, self._predicts), names),
            random_state=getattr(self, "random_state", None),
            backend=self.backend,
            n_jobs=self.n_jobs,
        )
        return np.asarray(self.selection_.bandwidth)

    def _training_values(self) -> np.ndarray | OneHot | None:
        """Return the values of the keys; None for densities."""
        return None

    def _remember(self) -> None:
        """Build the problem of the keys, and cache the facts that need a pass over them, for all predictions."""
        kernel = kernels.get(self.kernel)
        self._problem = trusted(
            self._keys,
            self._training_values(),
            kernel,
            self.bandwidth_,
            self._weights,
            None,
            key_scale=self.key_scale_,
            by_volume=self._by_volume and self.key_scale_ is not None,
        )
        problem = self._problem
        _ = problem.largest_half, problem.least_weight, problem.total_weight, problem.key_scale_range
        self._set_problem(problem.prepared_for(frozenset(getattr(self, "_prepared", ()))))

    def _prepare(self, tol: float | None) -> None:
        """Build the summaries of two methods: the fastest for as many queries as keys, and the fastest for one query.

        The second is planned as if all summaries existed. Plans of predictions do not count the cost of these two.
        """
        kernel = kernels.get(self.kernel)
        many_queries = self._problem.prepared_for(frozenset()).asked(self._keys, kernel=kernel, tol=tol)
        one_query = self._problem.prepared_for(frozenset(NAMES)).asked(self._keys[:1], kernel=kernel, tol=tol)
        plans = [make_plan(problem, self.method, self.backend, self.n_jobs) for problem in (many_queries, one_query)]
        self._prepared = sorted({plan.method for plan in plans})
        self._set_problem(self._problem.prepared_for(frozenset(self._prepared)))
        problem = self._problem.asked(self._keys, kernel=kernel, tol=tol)
        for plan in plans:
            model = self._cached_model(problem, plan)
            model.summary(plan.ladder[0]).prepare(Meter(False, 0, ""))

    def _set_problem(self, problem: Problem) -> None:
        """Store the problem of the keys, and clear the caches of plans and models."""
        self._problem = problem
        self._plans: dict[Hashable, Plan] = {}
        self._models: dict[Hashable, Model] = {}

    def _model(self, problem: Problem) -> Model:
        """Return the cached model for a problem of these keys, planned once for each order of magnitude of m.

        Parameters are read at each prediction, as in scikit-learn.
        """
        size = 10 ** math.ceil(math.log10(max(problem.m, 1)))
        if size > MAX_CACHED_PLAN_QUERIES:
            return self._cached_model(problem, make_plan(problem, self.method, self.backend, self.n_jobs))
        call = (problem.kernel, problem.tol, problem.dtype, self.method, self.backend, n_threads(self.n_jobs), size)
        if call not in self._plans:
            keys = self._keys[np.arange(size) % len(self._keys)].astype(problem.queries.dtype, copy=False)
            typical = problem.asked(keys, kernel=problem.kernel, tol=problem.tol)
            self._plans[call] = make_plan(typical, self.method, self.backend, self.n_jobs)
        return self._cached_model(problem, self._plans[call])

    def _cached_model(self, problem: Problem, plan: Plan) -> Model:
        """Return the cached model for the options of the problem, with the given plan."""
        key = (problem.kernel, problem.tol, problem.dtype, plan.backend, plan.dtype, plan.n_threads)
        if key not in self._models:
            if len(self._models) >= MAX_MODELS:  # the parameters have been set to other values
                self._models.clear()
            no_queries = np.empty((0, problem.d), problem.queries.dtype)  # a view would hold the memory of the queries
            keys_alone = problem.asked(no_queries, kernel=problem.kernel, tol=problem.tol)
            self._models[key] = model_of(keys_alone, plan)
        return self._models[key].with_plan(plan)

    def __getstate__(self) -> dict[str, Any]:
        state = {
            name: value
            for name, value in super().__getstate__().items()
            if name not in ("_problem", "_models", "_plans")
        }
        return {**state, VERSION: __version__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        pickled_by = state.pop(VERSION, "without a number")
        if pickled_by != __version__:
            warnings.warn(
                f"This {type(self).__name__} was pickled by version {pickled_by} of fastnw and is read by version "
                f"{__version__}: it may fail or return other predictions. Fit it again, or store models with "
                "fastnw.save, whose files later versions read.",
                VersionWarning,
                stacklevel=caller_level(),
            )
        super().__setstate__(state)
        if "_keys" in state:
            self._remember()

    def _check_queries(self, X: Any) -> np.ndarray:
        """Validate queries as scikit-learn does, but allow an empty array."""
        if _is_checked(X, self.__dict__):
            return X
        check_is_fitted(self)
        check_losses(X=X)
        X = as_known(X)
        # As in fastnw.pool, an array without queries is valid and has no predictions.
        return validate_data(self, X, dtype=FLOATS, reset=False, ensure_min_samples=0)


def _checked_weights(sample_weight: Any, X: np.ndarray) -> np.ndarray:
    """Check weights with the messages of scikit-learn; returns (n,) float64."""
    weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
    check_non_negative(weights, "`sample_weight`")
    if not np.any(weights):  # scikit-learn checks this itself from 1.8 on
        raise ValueError("Sample weights must contain at least one non-zero number.")
    return weights


def _is_checked(X: Any, fitted: dict[str, Any]) -> bool:
    """Return whether scikit-learn's checks, which take at least 60 µs, would neither raise, warn nor convert."""
    return (
        type(X) is np.ndarray
        and X.ndim == 2
        and X.dtype.char in "fd"
        and X.dtype.isnative
        and 0 < X.size <= MAX_QUICK_CHECK_SIZE
        and X.shape[1] == fitted.get("n_features_in_")
        and "feature_names_in_" not in fitted
        and "_problem" in fitted
        and bool(np.isfinite(X).all())
    )
