"""Pairs a second of fastnw and its peers on one card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

import fastnw
from bench.gpu import arrays
from bench.gpu.cases import Case
from bench.gpu.parity import PROMISE, on_host, worst
from bench.gpu.peers import PEERS, Problem, missing
from fastnw.backends.cuda import backend as cuda

PEER_TOLERANCE = {"float32": 2e-3, "float64": 1e-6}  # some of them subtract large squares
CALL_SECONDS = 1.0  # cases with longer calls get fewer queries
CALLS, THERE, SUMS = "fastnw, whole call", "fastnw, device arrays", "fastnw, sums"


@dataclass
class Timing:
    """One system on one case."""

    case: str
    system: str
    m: int
    pairs: float
    seconds: list[float] = field(default_factory=list)
    error: float | None = None
    allowed: float = 0.0
    reason: str = ""
    to_host: int | None = None  # bytes that leave the card in a call with arrays there
    may_leave: int = 0

    @property
    def rate(self) -> float:
        return self.pairs / median(self.seconds) if self.seconds else 0.0

    @property
    def wrong(self) -> bool:
        return (self.error is not None and not self.error <= self.allowed) or (self.to_host or 0) > self.may_leave


def whole_call(problem: Problem) -> Callable[[], np.ndarray]:
    """From host arrays to a host array, certified."""
    return lambda: fastnw.pool(
        problem.queries, problem.keys, problem.values, bandwidth=problem.bandwidth, backend="cuda", progress=False
    )


def sums(problem: Problem) -> Callable[[], np.ndarray]:
    """The sums alone, with the keys on the card already, as for peers that are given arrays there."""
    from fastnw.backends.cuda.stream import Queries, Stream
    from fastnw.backends.cuda.stream import sums as summed
    from fastnw.core.pack import pack_inverse, pack_keys, pack_queries
    from fastnw.core.validate import build
    from fastnw.methods import products

    checked = build(problem.queries, problem.keys, problem.values, kernel="gaussian", bandwidth=problem.bandwidth)
    kind, rows = checked.dtype, np.arange(checked.m)
    inverse, points = pack_inverse(checked, kind), pack_queries(checked, rows, kind)
    by_products = cuda.by_products(checked) and products.promising(checked, kind, 0.75 * checked.promise)
    shape = cuda.shape_of(checked.kernel, kind, inverse, checked.c, False, False, None, by_products)
    stream = Stream(shape, inverse, lambda: iter([pack_keys(checked, 0, checked.n, kind)]), checked.n, checked.n)
    queries = Queries(points, inverse, np.full(checked.m, 1e-6), None)
    centre, half = checked.values_centre

    def call() -> np.ndarray:
        state = summed(checked.kernel, shape, queries, stream, lambda pairs: None)
        return centre + half * state.finalise()[0]

    return call


def finished(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds until the card is done, and the answer."""
    from numba import cuda as device

    start = perf_counter()
    answer = call()
    if hasattr(answer, "cpu"):
        import torch

        torch.cuda.synchronize()
    device.synchronize()
    return perf_counter() - start, answer


def timed(case: Case, system: str, make: Callable[[Problem], Callable[[], Any]], seed: int, loose: bool) -> Timing:
    """Time some calls, with fewer queries if one call would take too long."""
    timing = Timing(case.name, system, case.m, 0.0, allowed=(PEER_TOLERANCE if loose else PROMISE)[case.dtype])
    problem = case.problem(np.random.default_rng(seed))
    try:
        few = max(min(case.m, 4096), 1)
        trial = make(Problem(problem.queries[:few], problem.keys, problem.values, problem.bandwidth))
        trial()  # compiles
        taken, _ = finished(trial)
        timing.m = max(min(case.m, int(few * CALL_SECONDS / max(taken, 1e-6))), few)
        problem = Problem(problem.queries[: timing.m], problem.keys, problem.values, problem.bandwidth)
        call = make(problem)
        call()
        if system == THERE:
            timing.to_host, timing.may_leave = arrays.bytes_to_host(call), arrays.most_bytes(problem)
        while len(timing.seconds) < 3 or (len(timing.seconds) < 10 and sum(timing.seconds) < 1.0):
            taken, answer = finished(call)
            timing.seconds.append(taken)
        timing.error = worst(problem, on_host(answer).reshape(timing.m, -1))
    except Exception as failure:  # a peer's failure is recorded, and does not end the run
        timing.seconds, timing.reason = [], f"{type(failure).__name__}: {failure}".splitlines()[0][:160]
    timing.pairs = float(timing.m) * case.n
    return timing


def compare(case: Case, seed: int, timings: list[Timing]) -> None:
    """Time every system on one case."""
    makers = {CALLS: (whole_call, None), THERE: (arrays.pooled, None), SUMS: (sums, None)}
    makers |= {name: (make, missing(module)) for name, (module, make) in PEERS.items()}
    for name, (make, absent) in makers.items():
        if absent:
            timings.append(Timing(case.name, name, case.m, 0.0, reason=f"missing: {absent}"))
            continue
        timings.append(timed(case, name, make, seed, name in PEERS))
        print(f"  {case.name}, {name}: {timings[-1].rate:.3g} pairs/s {timings[-1].reason}", flush=True)
