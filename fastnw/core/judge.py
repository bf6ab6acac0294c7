"""The decision which queries a rung has certified. No other module accepts or rejects sums of a prediction."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.core import certify
from fastnw.core.model import Model, Queries
from fastnw.core.pack import device_queries, pack_queries
from fastnw.core.state import Sums

Floats = NDArray[np.float64]

# A query lies in a far tail if the keys with most of its mass lie more than MIN_TAIL_NATS below κ(0). There, float64
# sums are accepted with bounds up to MAX_TAIL_ERROR. That bound is a worst case: actual errors are about a tenth of it,
# within the documented 1e-12 for tails. MIN_TAIL_ERROR is the rounding error of plain float64 sums, so the rung `tails`
# is never asked for less. The error of a float64 exponent does not grow with d, although its bound does: measured for d
# from 1 to 200, it is 2e-13 of the range at 5e3 nats, 8e-13 at 5e4 and 8e-12 at 5e5.
MAX_TAIL_ERROR, MIN_TAIL_ERROR, MIN_TAIL_NATS = 4e-12, 2e-13, 2e4
# The documented tolerance of a boxcar: a pair within RIM_ROUNDINGS d ε of u = 1 may be counted as inside or outside.
RIM_ROUNDINGS = 16


class Judge:
    """Compares the error bounds of a model's sums with its tolerance."""

    def __init__(self, model: Model) -> None:
        self.model, self.problem = model, model.problem
        self.has_tails = any(rung.method == "tails" for rung in model.plan.ladder)

    def closed(self, queries: Queries, sums: Sums, errors: tuple[Floats, Floats]) -> NDArray[np.bool_]:
        """Return a mask (m,) of the queries whose sums are within the tolerance; `errors` is ``sums.errors()``."""
        problem = self.problem
        limit = self.limit(queries, sums) if self.has_tails else problem.promise
        closed = certify.accurate(problem, sums, limit, errors)
        if (
            self.has_tails
            and problem.kernel.facts.discontinuous
            and problem.metric.factor is not None
            and not problem.on_device
        ):
            closed &= ~self._near_rim(queries)
        return closed

    def limit(self, queries: Queries, sums: Sums) -> Any:
        """Return the largest accepted bound, a number or (m,)."""
        problem = self.problem
        if not problem.kernel.works_on_logs or self.model.plan.dtype != np.float64:
            return problem.promise
        if problem.tol:
            return max(problem.tol, MIN_TAIL_ERROR)
        depth = math.log(problem.total_weight or 1.0) - sums.log_mass()
        if problem.kernel.inner_product:  # the terms of a product may be large where their sum is not
            pack = device_queries if problem.on_device else pack_queries
            depth = self.model.errors.of(pack(queries.problem, queries.rows, np.dtype(np.float64)))
            depth = depth / ((problem.d + 4) * 2.0**-53)
        return np.where(depth > MIN_TAIL_NATS, MAX_TAIL_ERROR, problem.promise)

    def _near_rim(self, queries: Queries) -> NDArray[np.bool_]:
        """Return a mask (m,) of the queries for which rounding may move a whitened key across the rim u = 1.

        The kernel is discontinuous there. A key within RIM_ROUNDINGS of the rim may be on either side by definition.
        """
        problem = self.problem
        packed = pack_queries(queries.problem, queries.rows, np.float64)
        error = self.model.errors.of(packed)
        near_rim = ~(error <= RIM_ROUNDINGS * problem.d * 2.0**-52)
        wide = np.flatnonzero(near_rim & (error < 1))
        if len(wide) and problem.key_scale is None:
            key_tree = self.model.shared("key tree", self._key_tree)
            inside, outside = (
                key_tree.query_ball_point(packed[wide], radius, return_length=True)
                for radius in (1 - error[wide], 1 + error[wide])
            )
            near_rim[wide] = inside != outside
        return near_rim

    def _key_tree(self) -> Any:
        """Build a k-d tree of the keys' coordinates, which counts the keys within a distance."""
        from scipy.spatial import cKDTree  # imported here because few problems need it

        from fastnw.core.pack import coordinates

        return cKDTree(coordinates(self.problem, self.problem.keys))
