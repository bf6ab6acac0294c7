"""Which queries a rung has answered for good: the only place where sums are judged."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnw.core import certify
from fastnw.core.model import Model, Queries
from fastnw.core.pack import pack_queries, queries_there
from fastnw.core.state import PoolState

Floats = NDArray[np.float64]

# In a far tail float64 sums count as accurate up to TAIL_LIMIT. It is a worst case: errors are some tenth of it, within
# the 1e-12 promised for tails. TAIL_FLOOR is what plain sums themselves may lose; nothing is gained by asking the tails
# for less. A far tail is where the keys that count lie DEEP_NATS below κ(0). What float64 loses of an exponent does not
# grow with d (the bound does): measured for d from 1 to 200, it is 2e-13 of the range at 5e3 nats, 8e-13 at 5e4, 8e-12
# at 5e5.
TAIL_LIMIT, TAIL_FLOOR, DEEP_NATS = 4e-12, 2e-13, 2e4
RIM_ROUNDINGS = 16  # the promise for a boxcar: pairs within 16 d ε of u = 1 may fall on either side


class Judge:
    """Judges the sums of one model's queries."""

    def __init__(self, model: Model) -> None:
        self.model, self.problem = model, model.problem
        self.has_tails = any(rung.method == "tails" for rung in model.plan.ladder)

    def closed(self, queries: Queries, sums: PoolState, errors: tuple[Floats, Floats]) -> NDArray[np.bool_]:
        """(m,) Whether those sums keep the promise; `errors` are theirs (`PoolState.errors`)."""
        problem = self.problem
        limit = self.limit(queries, sums) if self.has_tails else problem.promise
        kept = certify.accurate(problem, sums, limit, errors)
        if (
            self.has_tails
            and problem.kernel.facts.discontinuous
            and problem.metric.factor is not None
            and not problem.on_device
        ):
            kept &= ~self._on_the_rim(queries)
        return kept

    def limit(self, queries: Queries, sums: PoolState) -> Any:
        """(m,) or a number: the bound up to which float64 sums count as accurate."""
        problem = self.problem
        if not problem.kernel.works_on_logs or self.model.plan.dtype != np.float64:
            return problem.promise
        if problem.tol:
            return max(problem.tol, TAIL_FLOOR)
        depth = math.log(problem.total_weight or 1.0) - sums.log_mass()
        if problem.kernel.inner_product:  # the terms of a product may be large where their sum is not
            pack = queries_there if problem.on_device else pack_queries
            depth = self.model.errors.of(pack(queries.problem, queries.rows, np.dtype(np.float64)))
            depth = depth / ((problem.d + 4) * 2.0**-53)
        return np.where(depth > DEEP_NATS, TAIL_LIMIT, problem.promise)

    def _on_the_rim(self, queries: Queries) -> NDArray[np.bool_]:
        """(m,) Queries of a kernel that jumps at its rim which may have a whitened key on its wrong side.

        Within RIM_ROUNDINGS of a coordinate it may lie on either.
        """
        problem = self.problem
        packed = pack_queries(queries.problem, queries.rows, np.float64)
        error = self.model.errors.of(packed)
        found = ~(error <= RIM_ROUNDINGS * problem.d * 2.0**-52)
        wide = np.flatnonzero(found & (error < 1))
        if len(wide) and problem.key_scale is None:
            places = self.model.shared("places", self._places)
            inside, outside = (
                places.query_ball_point(packed[wide], radius, return_length=True)
                for radius in (1 - error[wide], 1 + error[wide])
            )
            found[wide] = inside != outside
        return found

    def _places(self) -> Any:
        """A tree of the keys' coordinates, to count those within a distance."""
        from scipy.spatial import cKDTree  # few need it

        from fastnw.core.pack import coordinates

        return cKDTree(coordinates(self.problem, self.problem.keys))
