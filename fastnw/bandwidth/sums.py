"""Means and masses at the keys for one bandwidth after another, and the loss's gradient: whatever method sums them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from fastnw import backends
from fastnw.bandwidth import multi_bandwidth
from fastnw.bandwidth.criteria import Fit, Floats, Loss
from fastnw.bandwidth.fits import forward
from fastnw.bandwidth.own_classes import OwnClasses
from fastnw.core.plan import NOMINAL_THREADS
from fastnw.core.problem import Problem
from fastnw.core.validate import metric
from fastnw.gradients import sums as gradient_sums
from fastnw.planner import make_plan
from fastnw.runtime.cached import cached_property
from fastnw.runtime.threads import Meter

STEP = 1e-3  # of log h, where a gradient is taken from differences of sums that are certified to 1e-8
CLASS_NS = 1.0  # a pair of sums of all classes
SLOPE_NS = 2.0  # a pair of gradient sums, on one thread
FEW = 3_000  # keys up to which the planner's own look at the methods takes longer than it saves


@dataclass
class Summed:
    """Sums at one bandwidth."""

    problem: Problem
    fit: Fit


class Sums:
    """Sums at all keys by the method that the planner takes, at each bandwidth anew."""

    def __init__(self, problem: Problem, backend: str, n_jobs: int | None, meter: Meter) -> None:
        self.base, self.backend, self.n_jobs, self.meter = problem, backend, n_jobs, meter
        self.own = None if problem.classes is None else OwnClasses.of(problem.classes.codes)
        if self.own is not None and self.own.seconds < CLASS_NS * 1e-9 * problem.n**2:
            self.base = replace(problem, values=problem.values[:, :0])
        else:
            self.own = None  # classes of many rows: sums of all classes

    @property
    def _has_slopes(self) -> bool:
        """Whether there are analytic gradients: of values and masses, not of integers."""
        return self.own is None and self.base.classes is None

    def at(self, h: Floats) -> Summed:
        """Means and log masses at bandwidths h (d,)."""
        problem = self.base.with_metric(metric(h, self.base.d))
        plan = make_plan(problem, "auto", self.backend, self.n_jobs)
        fit = forward(problem, plan, None, self.meter)
        if self.own is not None:
            fit = Fit(self.own.shares(problem, fit.log_mass, plan.n_threads), fit.log_mass)
        return Summed(problem, fit)

    def seconds(self, h: Floats, with_gradient: bool) -> float:
        """Predicted, on one thread."""
        by_pairs = SLOPE_NS * 1e-9 * self.base.n**2
        if not self._has_slopes:
            by_pairs = 2 * self.base.d * self._of_every_pair
        if self.base.n < FEW:
            return self._of_every_pair + by_pairs * with_gradient
        problem = self.base.with_metric(metric(h, self.base.d))
        plan = make_plan(problem, "auto", self.backend, 1)
        by_differences = math.inf if plan.method == "exact" else 2 * problem.d * plan.seconds
        return plan.seconds + (min(by_pairs, by_differences) if with_gradient else 0.0)

    @cached_property
    def _of_every_pair(self) -> float:
        return make_plan(self.base, "exact", self.backend, 1).seconds

    def many(self, bandwidths: list[Floats]) -> list[Fit] | None:
        """Means and log masses at multiples of one bandwidth, the widest first, if one pass serves them all."""
        problem = self.base.with_metric(metric(bandwidths[-1], self.base.d))
        plans = [
            make_plan(self.base.with_metric(metric(h, self.base.d)), "auto", self.backend, self.n_jobs)
            for h in (bandwidths[0], bandwidths[-1])
        ]
        if (
            not self._has_slopes
            or problem.c > 1
            or any(plan.method != "exact" for plan in plans)
            or backends.get(plans[0].backend).sweep is not None
        ):
            return None
        factors = [float(h[0] / bandwidths[-1][0]) for h in bandwidths]
        return multi_bandwidth.fits(problem, plans[-1], factors, self.meter)

    def gradient(self, summed: Summed, loss: Loss) -> Floats:
        """(d,) ∂ loss/∂ log h_j."""
        problem, fit = summed.problem, summed.fit
        if not self._has_slopes:
            return self._by_differences(summed, loss) + loss.by_log_bandwidth
        plan = make_plan(problem, "auto", self.backend, self.n_jobs)
        everywhere = np.arange(problem.n)
        # as on the machine that methods are compared on: a choice that depended on threads would show in the bits
        pairs = SLOPE_NS * 1e-9 * problem.n**2 / NOMINAL_THREADS
        nominal = make_plan(problem, "auto", self.backend, NOMINAL_THREADS).seconds
        if plan.method == "exact" or pairs < 2 * problem.d * nominal:
            alpha, gamma = cotangents(fit, loss)
            sums = gradient_sums.by_query(
                problem,
                everywhere,
                fit.log_mass,
                alpha,
                gamma,
                plan.n_threads,
                self.meter,
                by_log_mass=mass_cotangents(problem, loss),
            )
            return sums.squares.sum(axis=0) + loss.by_log_bandwidth
        return self._by_differences(summed, loss) + loss.by_log_bandwidth

    def _by_differences(self, summed: Summed, loss: Loss) -> Floats:
        """The same where summing every pair would take longer: means and masses a little to both sides."""
        found = np.empty(self.base.d)
        for j in range(self.base.d):
            sides = []
            for sign in (1.0, -1.0):
                h = summed.problem.metric.bandwidth.copy()
                h[j] *= np.exp(sign * STEP)
                sides.append(self.at(h).fit)
            found[j] = change(loss, sides[0], sides[1], summed.fit) / (2 * STEP)
        return found


def change(loss: Loss, up: Fit, down: Fit, at: Fit) -> float:
    """What the loss changes, to first order, from one fit to another near `at`."""
    present = np.isfinite(at.log_mass) & np.isfinite(up.log_mass) & np.isfinite(down.log_mass)
    total = 0.0
    if loss.by_mean is not None:
        total += float(np.sum(loss.by_mean[present] * (up.mean[present] - down.mean[present])))
    if loss.by_log_mass is not None:
        total += float(loss.by_log_mass[present] @ (up.log_mass[present] - down.log_mass[present]))
    return total


def cotangents(fit: Fit, loss: Loss) -> tuple[Floats, Floats]:
    """alpha (n, c) and gamma (n,) of `fastnw.gradients.sums` for a loss."""
    gamma = np.zeros(len(fit.log_mass)) if loss.by_log_mass is None else -loss.by_log_mass
    if loss.by_mean is None:
        return np.zeros((len(gamma), fit.mean.shape[1])), gamma
    return loss.by_mean, gamma + np.einsum("ij,ij->i", loss.by_mean, np.nan_to_num(fit.mean))


def mass_cotangents(problem: Problem, loss: Loss) -> Floats:
    """(m,) `by_log_mass` of `fastnw.gradients.sums`."""
    return np.zeros(problem.m) if loss.by_log_mass is None else loss.by_log_mass
