"""What the estimators share: checked samples and weights, the bandwidth."""

from __future__ import annotations

import warnings
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions, validate_parameter_constraints
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, check_non_negative, validate_data

import fastnw
from fastnw import bandwidth, kernels
from fastnw.bandwidth.adaptive import Abramson, NearestNeighbours
from fastnw.core.classes import OneHot
from fastnw.core.precision import check_losses
from fastnw.core.validate import check_bandwidth, trusted
from fastnw.core.warnings import VersionWarning, caller_level
from fastnw.interop.dataframes import as_known
from fastnw.kernels.kernel import Kernel
from fastnw.methods import NAMES
from fastnw.planner import make_plan
from fastnw.runtime.threads import Meter

FLOATS = [np.float64, np.float32]
VERSION = "_fastnw_version"  # in a pickle's state; scikit-learn keeps its own for its own classes only

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

    # what bandwidth="loo" leaves out to judge by: see `selection.select.LOSSES`
    _loss: ClassVar[str] = "squares"

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
        from fastnw.bandwidth.select import selected

        values = self._values_kept()
        self.selection_ = selected(
            X,
            values.reshape(len(X), -1) if isinstance(values, np.ndarray) else values,
            weights,
            kernel=kernel,
            kind=self._loss if criterion == "loo" else "aicc",
            random_state=getattr(self, "random_state", None),
            backend=self.backend,
            n_jobs=self.n_jobs,
            feature_names=names,
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
        _ = problem.values_centre, problem.least_weight, problem.total_weight, problem.key_scale_range
        self._problem = problem.prepared_for(frozenset(getattr(self, "_prepared", ())))

    def _prepare(self, tol: float | None) -> None:
        """Make what two methods keep of the keys, which may be the same: the one for as many queries, and the one for a
        single row, were everything prepared. Predictions are planned with that, and only cost their own."""
        kernel = kernels.get(self.kernel)
        many = self._problem.prepared_for(frozenset()).asked(self._keys, kernel=kernel, tol=tol)
        single = self._problem.prepared_for(frozenset(NAMES)).asked(self._keys[:1], kernel=kernel, tol=tol)
        plans = [make_plan(problem, self.method, self.backend, self.n_jobs) for problem in (many, single)]
        self._prepared = sorted({plan.method for plan in plans})
        self._problem = self._problem.prepared_for(frozenset(self._prepared))
        for plan in plans:
            problem = self._problem.asked(self._keys, kernel=kernel, tol=tol)
            plan.steps.summarise(problem, plan).prepare(Meter(False, 0, ""))

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in super().__getstate__().items() if name != "_problem"}
        return {**state, VERSION: fastnw.__version__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        written = state.pop(VERSION, "without a number")
        if written != fastnw.__version__:
            warnings.warn(
                f"This {type(self).__name__} was pickled by version {written} of fastnw and is read by version "
                f"{fastnw.__version__}: it may fail, or predict something else. Fit it again, or keep models with "
                "fastnw.save, whose files later versions read.",
                VersionWarning,
                stacklevel=caller_level(),
            )
        super().__setstate__(state)
        if "_keys" in state:
            self._remember()

    def _check_queries(self, X: Any) -> np.ndarray:
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
