"""What the estimators share: checked samples and weights, the bandwidth."""

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
VERSION = "_fastnw_version"  # in a pickle's state; scikit-learn keeps its own for its own classes only

MOST_PLANNED = 10**6  # queries up to which a plan serves all calls of the same order of magnitude
SMALL_SIZE = 1 << 16  # numbers in queries up to which one look at them is faster than the checks of scikit-learn
MOST_MODELS = 8  # kept at a time: one for each kernel, tolerance, type and backend that predictions have asked for

# Names of kernels, methods and backends are left to the functions that know them: their errors say more.
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
    """Keeps the keys, their weights and the bandwidth; validates queries."""

    _parameter_constraints: ClassVar[dict[str, Any]] = COMMON_CONSTRAINTS
    _by_volume: ClassVar[bool] = False  # whether a key's share is spread over its own window

    _predicts: ClassVar[str] = "numbers"  # the kind of values, for `fastnw.bandwidth.criteria.loss_for`

    def _fit_keys(self, X: np.ndarray, sample_weight: Any) -> None:
        kernel = kernels.get(self.kernel)
        weights = None if sample_weight is None else _checked_weights(sample_weight, X)
        names = getattr(self, "feature_names_in_", None)
        self._keys, self._weights, self.key_scale_ = X, weights, None
        adaptive = self.bandwidth if isinstance(self.bandwidth, (Abramson, NearestNeighbours)) else None
        asked = self.bandwidth if adaptive is None else adaptive.bandwidth
        if adaptive is not None and isinstance(asked, (str, Abramson, NearestNeighbours)):
            plain = [o for o in self._parameter_constraints["bandwidth"] if o not in (Abramson, NearestNeighbours)]
            validate_parameter_constraints({"bandwidth": plain}, {"bandwidth": asked}, type(self).__name__)
        if isinstance(asked, str) and asked in bandwidth.CRITERIA:
            h = self._selected(X, weights, kernel, names, asked)
        elif isinstance(asked, str):
            h = bandwidth.rule_bandwidth(X, asked, kernel, weights, feature_names=names)
        else:
            h = check_bandwidth(asked, X.shape[1])
        self.bandwidth_ = float(h) if h.ndim == 0 else h
        if adaptive is not None:
            settled = replace(adaptive, bandwidth=self.bandwidth_)
            self.key_scale_ = settled.key_scale(X, kernel=kernel, sample_weight=weights, n_jobs=self.n_jobs)

    def _selected(self, X: np.ndarray, weights: Any, kernel: Kernel, names: Any, criterion: str) -> np.ndarray:
        from fastnw.bandwidth.rows import Rows
        from fastnw.bandwidth.select import selected

        values = self._values_kept()
        values = values.reshape(len(X), -1) if isinstance(values, np.ndarray) else values
        self.selection_ = selected(
            Rows(X, values, weights, kernel, loss_for(criterion, self._predicts), names),
            random_state=getattr(self, "random_state", None),
            backend=self.backend,
            n_jobs=self.n_jobs,
        )
        return np.asarray(self.selection_.bandwidth)

    def _values_kept(self) -> np.ndarray | OneHot | None:
        """The values that stay the same from one prediction to the next."""
        return None

    def _remember(self) -> None:
        """Keep the keys as a checked problem, and what takes a pass over them to know, so that predictions do not."""
        kernel = kernels.get(self.kernel)
        self._problem = trusted(
            self._keys,
            self._values_kept(),
            kernel,
            self.bandwidth_,
            self._weights,
            None,
            key_scale=self.key_scale_,
            by_volume=self._by_volume and self.key_scale_ is not None,
        )
        problem = self._problem
        _ = problem.largest_half, problem.least_weight, problem.total_weight, problem.key_scale_range
        self._keep(problem.prepared_for(frozenset(getattr(self, "_prepared", ()))))

    def _prepare(self, tol: float | None) -> None:
        """Make what two methods keep of the keys, which may be the same: the one for as many queries, and the one for a
        single row, were everything prepared. Predictions are planned with that, and only cost their own."""
        kernel = kernels.get(self.kernel)
        many = self._problem.prepared_for(frozenset()).asked(self._keys, kernel=kernel, tol=tol)
        single = self._problem.prepared_for(frozenset(NAMES)).asked(self._keys[:1], kernel=kernel, tol=tol)
        plans = [make_plan(problem, self.method, self.backend, self.n_jobs) for problem in (many, single)]
        self._prepared = sorted({plan.method for plan in plans})
        self._keep(self._problem.prepared_for(frozenset(self._prepared)))
        problem = self._problem.asked(self._keys, kernel=kernel, tol=tol)
        for plan in plans:
            model = self._kept_model(problem, plan)
            model.summary(plan.ladder[0]).prepare(Meter(False, 0, ""))

    def _keep(self, problem: Problem) -> None:
        self._problem = problem
        self._plans: dict[Hashable, Plan] = {}
        self._models: dict[Hashable, Model] = {}

    def _model(self, problem: Problem) -> Model:
        """The kept model for a problem with this estimator's keys, planned once for each order of magnitude of m.

        Parameters are read now, as scikit-learn's are.
        """
        size = 10 ** math.ceil(math.log10(max(problem.m, 1)))
        if size > MOST_PLANNED:
            return self._kept_model(problem, make_plan(problem, self.method, self.backend, self.n_jobs))
        call = (problem.kernel, problem.tol, problem.dtype, self.method, self.backend, n_threads(self.n_jobs), size)
        if call not in self._plans:
            keys = self._keys[np.arange(size) % len(self._keys)].astype(problem.queries.dtype, copy=False)
            like = problem.asked(keys, kernel=problem.kernel, tol=problem.tol)
            self._plans[call] = make_plan(like, self.method, self.backend, self.n_jobs)
        return self._kept_model(problem, self._plans[call])

    def _kept_model(self, problem: Problem, plan: Plan) -> Model:
        key = (problem.kernel, problem.tol, problem.dtype, plan.backend, plan.dtype, plan.n_threads)
        if key not in self._models:
            if len(self._models) >= MOST_MODELS:  # of parameters that have been set since
                self._models.clear()
            none = np.empty((0, problem.d), problem.queries.dtype)  # a view would keep the queries
            alone = problem.asked(none, kernel=problem.kernel, tol=problem.tol)
            self._models[key] = model_of(alone, plan)
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
        written = state.pop(VERSION, "without a number")
        if written != __version__:
            warnings.warn(
                f"This {type(self).__name__} was pickled by version {written} of fastnw and is read by version "
                f"{__version__}: it may fail, or predict something else. Fit it again, or keep models with "
                "fastnw.save, whose files later versions read.",
                VersionWarning,
                stacklevel=caller_level(),
            )
        super().__setstate__(state)
        if "_keys" in state:
            self._remember()

    def _check_queries(self, X: Any) -> np.ndarray:
        if _is_checked(X, self.__dict__):
            return X
        check_is_fitted(self)
        check_losses(X=X)
        X = as_known(X)
        # no queries, no predictions: not an error, here as in fastnw.pool
        return validate_data(self, X, dtype=FLOATS, reset=False, ensure_min_samples=0)


def _checked_weights(sample_weight: Any, X: np.ndarray) -> np.ndarray:
    weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
    check_non_negative(weights, "`sample_weight`")
    if not np.any(weights):  # scikit-learn checks this itself from 1.8 on
        raise ValueError("Sample weights must contain at least one non-zero number.")
    return weights


def _is_checked(X: Any, fitted: dict[str, Any]) -> bool:
    """Whether there is nothing that scikit-learn's checks, which take 60 µs and more, could complain of or convert."""
    return (
        type(X) is np.ndarray
        and X.ndim == 2
        and X.dtype.char in "fd"
        and X.dtype.isnative
        and 0 < X.size <= SMALL_SIZE
        and X.shape[1] == fitted.get("n_features_in_")
        and "feature_names_in_" not in fitted
        and "_problem" in fitted
        and bool(np.isfinite(X).all())
    )
