"""Means and masses at the keys by the method that the planner chooses at each bandwidth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from fastnw import backends
from fastnw.bandwidth.criteria import Fit, Floats, Loss
from fastnw.bandwidth.fits import multi_bandwidth
from fastnw.bandwidth.fits.at_keys import fit_at_keys
from fastnw.bandwidth.fits.fitter import FitAt, cotangents, mass_cotangents
from fastnw.bandwidth.fits.own_classes import OwnClasses
from fastnw.core.plan import NOMINAL_THREADS
from fastnw.core.problem import Problem
from fastnw.core.validate import metric
from fastnw.gradients import sums as gradient_sums
from fastnw.planner import make_plan
from fastnw.runtime.cached import cached_property
from fastnw.runtime.threads import Meter

LOG_STEP = 1e-3  # of log h, for gradients by differences of sums that are certified to 1e-8
CLASSES_PAIR_NS = 1.0  # nanoseconds of a pair in a sum of all classes
GRADIENT_PAIR_NS = 2.0  # nanoseconds of a pair in the sums of a gradient, on one thread
MIN_PLANNED_KEYS = 3_000  # with fewer, comparing the methods takes longer than the best of them saves


class PlannedFitter:
    """Fits by the method that is cheapest at each bandwidth."""

    def __init__(self, problem: Problem, backend: str, n_jobs: int | None, meter: Meter) -> None:
        self.base, self.backend, self.n_jobs, self.meter = problem, backend, n_jobs, meter
        self.own_classes = None if problem.classes is None else OwnClasses.of(problem.classes.codes)
        if self.own_classes is not None and self.own_classes.seconds < CLASSES_PAIR_NS * 1e-9 * problem.n**2:
            self.base = replace(problem, values=problem.values[:, :0])
        else:
            self.own_classes = None  # classes have many rows: sums of all classes are faster

    @property
    def _has_gradient_sums(self) -> bool:
        """Whether gradients are analytic: they are for values and masses, not for classes kept as integers."""
        return self.own_classes is None and self.base.classes is None

    def at(self, h: Floats) -> FitAt:
        """Means and log masses at the bandwidths h (d,)."""
        problem = self.base.with_metric(metric(h, self.base.d))
        plan = make_plan(problem, "auto", self.backend, self.n_jobs)
        fit = fit_at_keys(problem, plan, None, self.meter)
        if self.own_classes is not None:
            fit = Fit(self.own_classes.shares(problem, fit.log_mass, plan.n_threads), fit.log_mass)
        return FitAt(problem, fit)

    def seconds(self, h: Floats, with_gradient: bool) -> float:
        """Predicted time of a fit, and of its gradient if that is wanted, on one thread."""
        by_pairs = GRADIENT_PAIR_NS * 1e-9 * self.base.n**2
        if not self._has_gradient_sums:
            by_pairs = 2 * self.base.d * self._every_pair_seconds
        if self.base.n < MIN_PLANNED_KEYS:
            return self._every_pair_seconds + by_pairs * with_gradient
        problem = self.base.with_metric(metric(h, self.base.d))
        plan = make_plan(problem, "auto", self.backend, 1)
        by_differences = math.inf if plan.method == "exact" else 2 * problem.d * plan.seconds
        return plan.seconds + (min(by_pairs, by_differences) if with_gradient else 0.0)

    @cached_property
    def _every_pair_seconds(self) -> float:
        return make_plan(self.base, "exact", self.backend, 1).seconds

    def many(self, bandwidths: list[Floats]) -> list[Fit] | None:
        """Means and log masses at multiples of one bandwidth, the widest first; None unless one pass serves all."""
        problem = self.base.with_metric(metric(bandwidths[-1], self.base.d))
        plans = [
            make_plan(self.base.with_metric(metric(h, self.base.d)), "auto", self.backend, self.n_jobs)
            for h in (bandwidths[0], bandwidths[-1])
        ]
        if (
            not self._has_gradient_sums
            or problem.c > 1
            or any(plan.method != "exact" for plan in plans)
            or backends.get(plans[0].backend).sweep is not None
        ):
            return None
        factors = [float(h[0] / bandwidths[-1][0]) for h in bandwidths]
        return multi_bandwidth.fits(problem, plans[-1], factors, self.meter)

    def gradient(self, fit_at: FitAt, loss: Loss) -> Floats:
        """The derivatives (d,) of the loss by the logarithms of the bandwidths."""
        problem, fit = fit_at.problem, fit_at.fit
        if not self._has_gradient_sums:
            return self._by_differences(fit_at, loss) + loss.by_log_bandwidth
        plan = make_plan(problem, "auto", self.backend, self.n_jobs)
        # for the nominal number of threads: a choice that depended on `n_jobs` would change the bits of the result
        pairs = GRADIENT_PAIR_NS * 1e-9 * problem.n**2 / NOMINAL_THREADS
        nominal = make_plan(problem, "auto", self.backend, NOMINAL_THREADS).seconds
        if plan.method == "exact" or pairs < 2 * problem.d * nominal:
            alpha, gamma = cotangents(fit, loss)
            sums = gradient_sums.by_query(
                problem,
                np.arange(problem.n),
                fit.log_mass,
                alpha,
                gamma,
                plan.n_threads,
                self.meter,
                by_log_mass=mass_cotangents(problem, loss),
            )
            return sums.squares.sum(axis=0) + loss.by_log_bandwidth
        return self._by_differences(fit_at, loss) + loss.by_log_bandwidth

    def _by_differences(self, fit_at: FitAt, loss: Loss) -> Floats:
        """The gradient from fits at slightly wider and narrower bandwidths, where summing every pair takes longer."""
        gradient = np.empty(self.base.d)
        for j in range(self.base.d):
            sides = []
            for sign in (1.0, -1.0):
                h = fit_at.problem.metric.bandwidth.copy()
                h[j] *= np.exp(sign * LOG_STEP)
                sides.append(self.at(h).fit)
            gradient[j] = _loss_change(loss, sides[0], sides[1], fit_at.fit) / (2 * LOG_STEP)
        return gradient


def _loss_change(loss: Loss, wider: Fit, narrower: Fit, at: Fit) -> float:
    """The change of the loss, to first order, from the narrower fit to the wider one, both near `at`."""
    present = np.isfinite(at.log_mass) & np.isfinite(wider.log_mass) & np.isfinite(narrower.log_mass)
    total = 0.0
    if loss.by_mean is not None:
        total += float(np.sum(loss.by_mean[present] * (wider.mean[present] - narrower.mean[present])))
    if loss.by_log_mass is not None:
        total += float(loss.by_log_mass[present] @ (wider.log_mass[present] - narrower.log_mass[present]))
    return total
