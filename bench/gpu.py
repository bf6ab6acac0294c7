"""``python bench/gpu.py``: everything that has to be seen on a real GPU, in one call of some minutes.

Parity of every kernel with float64 on fresh random data, from host arrays and from arrays on the card; then pairs a
second against the card's measured ceilings and, where they are installed, KeOps and PyTorch. Writes
bench/results/gpu-<card>.json and prints a table. The exit status is 1 if an answer was wrong or arrays on the card were
copied from it; missed goals are in the table. ``--dry-run`` takes tiny sizes through numba-cuda's simulator.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

if "--dry-run" in sys.argv:
    os.environ["NUMBA_ENABLE_CUDASIM"] = "1"  # before numba is imported

import numpy as np

ROOT = Path(__file__).resolve().parents[1]

import fastnw  # noqa: E402 (before the next line: what is installed counts)

sys.path.append(str(ROOT))

from bench import gpu_arrays, gpu_ceiling  # noqa: E402
from bench.gpu_peers import PEERS, Problem, missing  # noqa: E402
from fastnw import kernels  # noqa: E402
from fastnw.backends.cuda import backend as cuda  # noqa: E402

PROMISE = {"float32": 1e-4, "float64": 1e-8}
LOOSE = {"float32": 2e-3, "float64": 1e-6}  # of peers, some of which subtract large squares
CHECKED = 32  # queries of each timed case that are compared with float64
SECONDS = 1.0  # a call: larger cases get fewer queries
CALLS, THERE, SUMS = "fastnw, whole call", "fastnw, device arrays", "fastnw, sums"


@dataclass(frozen=True)
class Case:
    """`m` queries on `n` keys, standard normal."""

    name: str
    m: int
    n: int
    d: int = 3
    c: int = 1
    dtype: str = "float32"

    @property
    def bandwidth(self) -> float:
        return 0.3 if self.d <= 3 else 0.5 * self.d**0.5

    def problem(self, rng: np.random.Generator) -> Problem:
        queries, keys = (rng.standard_normal((rows, self.d), np.float32) for rows in (self.m, self.n))
        values = np.sin(3 * keys[:, :1]) + 0.1 * rng.standard_normal((self.n, self.c), np.float32)
        return Problem(*(a.astype(self.dtype) for a in (queries, keys, values)), self.bandwidth)


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
    to_host: int | None = None  # bytes, of a call with arrays on the card
    may_leave: int = 0

    @property
    def rate(self) -> float:
        return self.pairs / median(self.seconds) if self.seconds else 0.0

    @property
    def wrong(self) -> bool:
        return (self.error is not None and not self.error <= self.allowed) or (self.to_host or 0) > self.may_leave


@dataclass(frozen=True)
class Goal:
    """A rate that fastnw's sums have to reach: `factor` times that of `against`, or so many pairs a second."""

    case: str
    against: str
    factor: float


GOALS = [
    Goal("d=3 float32 1e6", "ceiling", 0.75),
    Goal("d=3 float32 1e6", "2.8e12 pairs/s (H200)", 1.0),
    Goal("d=3 float32 1e6", "KeOps", 1.5),
    Goal("d=64 float32 1e5", "torch SDPA", 1.0),
]


def cases(dry: bool) -> list[Case]:
    small, large = (8, 30) if dry else (100_000, 1_000_000)
    dimensions = (3, 34) if dry else (1, 2, 3, 8, 64)
    found = [
        Case(f"d={d} {dtype} {size}", n, n, d, 1, dtype)
        for d in dimensions
        for dtype in ("float32", "float64")
        for size, n in (("1e5", small), ("1e6", large))
        if not (dry and size == "1e6" and d > 3)
    ]
    few, values = (2, 5) if dry else (64, 64)
    found += [Case(f"{m} queries d={d}", m, large, d) for m in (1, few) for d in (dimensions[-1], 3)]
    return found + [Case(f"{values} values d={d}", small, small, d, values) for d in (3, dimensions[-1])]


def parity(seed: int, dry: bool) -> list[dict[str, Any]]:
    """Largest error over ranges of the values, of every kernel, type and a few shapes, from plain sums in float64."""
    found, rng = [], np.random.default_rng(seed)
    m, n = (4, 30) if dry else (500, 20_000)
    shapes = [(1, 1), (3, 5), (20, 1), (64, 1), (64, 40)]  # of three kernels: each takes seconds to compile
    for name in kernels.names():
        for dtype in ("float32", "float64"):
            for d, c in [(3, 1), *(shapes if name in ("gaussian", "epanechnikov", "dot") and not dry else [])]:
                case = Case("", m, n, d, c, dtype)
                problem = case.problem(rng)
                h = float(d) if name == "dot" else 2 * case.bandwidth
                host = [problem.queries, problem.keys, problem.values]
                for where, arrays in (("host", host), ("card", gpu_arrays.placed(problem))):
                    got = fastnw.pool(*arrays, kernel=name, bandwidth=h, backend="cuda", empty=0.0)
                    error = worst(problem, on_host(got), name, h)
                    found.append({"kernel": name, "dtype": dtype, "d": d, "c": c, "arrays": where, "error": error})
                    found[-1]["right"] = bool(error <= PROMISE[dtype])
    return found


def worst(problem: Problem, answer: np.ndarray, kernel: str = "gaussian", h: float | None = None) -> float:
    """Largest error on some queries, in ranges of the values."""
    rows = np.unique(np.linspace(0, len(problem.queries) - 1, CHECKED).astype(int))
    keys, values = problem.keys.astype(float), problem.values.astype(float)
    h, kappa, error = h or problem.bandwidth, kernels.get(kernel), 0.0
    for row in rows:
        q = problem.queries[row].astype(float)
        u2 = keys @ q / h if kappa.inner_product else (((keys - q) / h) ** 2).sum(axis=1)
        if kappa.log_profile is not None:
            logs = kappa.log_profile(u2)
            weights = np.exp(logs - logs.max())
        else:
            weights = kappa.profile(np.minimum(u2, 1) if kappa.support else u2) * (u2 <= (kappa.support or np.inf))
        right = weights @ values / weights.sum() if weights.sum() > 0 else np.zeros(values.shape[1])
        error = max(error, float((np.abs(np.asarray(answer)[row] - right) / np.ptp(values, axis=0)).max()))
    return error


def whole_call(problem: Problem) -> Callable[[], np.ndarray]:
    """From host arrays to a host array, certified."""
    return lambda: fastnw.pool(
        problem.queries, problem.keys, problem.values, bandwidth=problem.bandwidth, backend="cuda", progress=False
    )


def sums(problem: Problem) -> Callable[[], np.ndarray]:
    """With the keys on the card already: what peers do that are given arrays there."""
    from fastnw.backends.cuda.stream import Queries, Stream
    from fastnw.backends.cuda.stream import sums as summed
    from fastnw.core.pack import pack_inverse, pack_keys, pack_queries
    from fastnw.core.validate import build

    checked = build(problem.queries, problem.keys, problem.values, kernel="gaussian", bandwidth=problem.bandwidth)
    kind, rows = checked.dtype, np.arange(checked.m)
    inverse, points = pack_inverse(checked, kind), pack_queries(checked, rows, kind)
    shape = cuda.shape_of(checked.kernel, kind, inverse, checked.c, False, False, None, cuda.by_products(checked, kind))
    stream = Stream(shape, inverse, lambda: iter([pack_keys(checked, 0, checked.n, kind)]), checked.n, checked.n)
    queries = Queries(points, inverse, np.full(checked.m, 1e-6), None)
    centre, half = checked.values_centre

    def call() -> np.ndarray:
        state = summed(checked.kernel, shape, queries, stream, lambda pairs: None)
        return centre + half * state.finalise()[0]

    return call


def on_host(answer: Any) -> np.ndarray:
    if hasattr(answer, "copy_to_host"):
        return answer.copy_to_host()
    return answer.cpu().numpy() if hasattr(answer, "cpu") else np.asarray(answer)


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
    """The median of some calls; with fewer queries where one would take too long."""
    timing = Timing(case.name, system, case.m, 0.0, allowed=(LOOSE if loose else PROMISE)[case.dtype])
    problem = case.problem(np.random.default_rng(seed))
    try:
        few = max(min(case.m, 4096), 1)
        trial = make(Problem(problem.queries[:few], problem.keys, problem.values, problem.bandwidth))
        trial()  # compiles
        taken, _ = finished(trial)
        timing.m = max(min(case.m, int(few * SECONDS / max(taken, 1e-6))), few)
        problem = Problem(problem.queries[: timing.m], problem.keys, problem.values, problem.bandwidth)
        call = make(problem)
        call()
        if system == THERE:
            timing.to_host, timing.may_leave = gpu_arrays.bytes_to_host(call), gpu_arrays.most_bytes(problem)
        while len(timing.seconds) < 3 or (len(timing.seconds) < 10 and sum(timing.seconds) < 1.0):
            taken, answer = finished(call)
            timing.seconds.append(taken)
        timing.error = worst(problem, on_host(answer).reshape(timing.m, -1))
    except Exception as failure:  # a peer that fails is a result
        timing.seconds, timing.reason = [], f"{type(failure).__name__}: {failure}".splitlines()[0][:160]
    timing.pairs = float(timing.m) * case.n
    return timing


def compare(case: Case, seed: int, timings: list[Timing]) -> None:
    """Every system on one case."""
    makers = {CALLS: (whole_call, None), THERE: (gpu_arrays.pooled, None), SUMS: (sums, None)}
    makers |= {name: (make, missing(module)) for name, (module, make) in PEERS.items()}
    for name, (make, absent) in makers.items():
        if absent:
            timings.append(Timing(case.name, name, case.m, 0.0, reason=f"missing: {absent}"))
            continue
        timings.append(timed(case, name, make, seed, name in PEERS))
        print(f"  {case.name}, {name}: {timings[-1].rate:.3g} pairs/s {timings[-1].reason}", flush=True)


def with_cases(timings: list[Timing], dry: bool) -> list[tuple[Timing, Case]]:
    by_name = {case.name: case for case in cases(dry)}
    return [(timing, by_name[timing.case]) for timing in timings]


def as_json(timing: Timing, case: Case, rates: gpu_ceiling.Rates) -> dict[str, Any]:
    """With its share of the ceiling, which is known for one value."""
    share = timing.rate / rates.pairs(case.d, case.dtype) if case.c == 1 else None
    return asdict(timing) | {"rate": timing.rate, "wrong": timing.wrong, "share": share}


def goals(timings: list[Timing], rates: gpu_ceiling.Rates) -> list[dict[str, Any]]:
    """What was reached of each goal: None where there is nothing to compare with."""
    by_name = {(t.case, t.system): t.rate for t in timings if t.seconds}
    found = []
    for goal in GOALS:
        mine, d = by_name.get((goal.case, SUMS)), int(re.match(r"d=(\d+)", goal.case).group(1))
        if goal.against == "ceiling":
            other = rates.pairs(d, "float32")
        elif goal.against.endswith("(H200)"):
            other = float(goal.against.split()[0])
        else:
            other = by_name.get((goal.case, goal.against))
        share = mine / other if mine and other else None
        found.append({**asdict(goal), "share": share, "reached": None if share is None else share >= goal.factor})
    return found


def card() -> dict[str, Any]:
    from numba import cuda as device

    names = ("fastnw", "numpy", "numba", "numba-cuda", "torch", "pykeops")
    facts: dict[str, Any] = {"versions": {name: _version(name) for name in names}}
    current = device.get_current_device()
    name = getattr(current, "name", b"simulator")
    facts["card"] = name.decode() if isinstance(name, bytes) else str(name)
    facts["multiprocessors"] = getattr(current, "MULTIPROCESSOR_COUNT", None)
    facts["date"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return facts


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def table(results: dict[str, Any]) -> str:
    lines = [f"{results['card']}, {results['date']}", f"ceilings: {results['ceilings']}"]
    wrong = [p for p in results["parity"] if not p["right"]]
    lines.append(f"parity: {len(results['parity']) - len(wrong)} right, {len(wrong)} wrong {wrong[:5]}")
    lines.append(
        f"{'case':<24}{'system':<22}{'queries':>9}{'pairs/s':>11}{'of ceiling':>11}{'error':>10}{'to host':>10}"
    )
    for t in results["timings"]:
        if t["reason"]:
            lines.append(f"{t['case']:<24}{t['system']:<22}{t['reason']}")
        else:
            share = f"{t['share']:.0%}" if t["share"] else ""
            lines.append(
                f"{t['case']:<24}{t['system']:<22}{t['m']:>9}{t['rate']:>11.3g}{share:>11}{t['error']:>10.1e}"
                + ("" if t["to_host"] is None else f"{t['to_host']:>10.1e}")
                + (" WRONG" if t["wrong"] else "")
            )
    for g in results["goals"]:
        said = "nothing to compare" if g["share"] is None else f"{g['share']:.2f}"
        reached = {None: "", True: "reached", False: "missed"}[g["reached"]]
        lines.append(f"goal: {g['case']}, {g['factor']} x {g['against']}: {said} {reached}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes in the simulator: only whether it runs")
    parser.add_argument("--output", type=Path, help="where to write the results")
    parser.add_argument("--seed", type=int, default=int(perf_counter() * 1e6) % 2**31, help="of the random data")
    options = parser.parse_args(arguments)
    reason = cuda.missing()
    if reason is not None:
        print(f"no CUDA here: {reason}", file=sys.stderr)
        return 2
    results = card() | {"seed": options.seed, "dry_run": options.dry_run}
    slug = re.sub(r"[^a-z0-9]+", "-", results["card"].lower()).strip("-")
    path = options.output or ROOT / "bench" / "results" / f"gpu-{slug}.json"
    rates = gpu_ceiling.measure(*((2, 4, 3) if options.dry_run else (2048, 256, 4096)))
    results["ceilings"] = asdict(rates)
    print(f"parity on {results['card']} …", flush=True)
    results["parity"] = parity(options.seed, options.dry_run)
    timings: list[Timing] = []
    for case in cases(options.dry_run):
        compare(case, options.seed, timings)
        results["timings"] = [as_json(t, case, rates) for t, case in with_cases(timings, options.dry_run)]
        results["goals"] = goals(timings, rates)
        path.write_text(json.dumps(results, indent=1) + "\n")  # a run that is cut short leaves what it had
    print(table(results) + f"\nwrote {path.name}")
    failed = [t for t in timings if t.system in (CALLS, THERE, SUMS) and (t.wrong or not t.seconds)]
    return int(bool(failed) or not all(p["right"] for p in results["parity"]))


if __name__ == "__main__":
    sys.exit(main())
