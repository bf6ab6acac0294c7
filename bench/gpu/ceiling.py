"""The measured ceilings of a card: fused multiply-adds and exponentials a second."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

CHAINS = 8  # independent chains in each thread, which hide the latency
WIDE_D = 33  # from so many coordinates on, a score is a sum of products instead of squared differences


@dataclass(frozen=True)
class Rates:
    """Instructions a second over all threads: fused multiply-adds, 2^x in float32, fused multiply-adds in float64."""

    fma32: float
    exp2: float
    fma64: float

    def pairs(self, d: int, dtype: str) -> float:
        """Pairs a second with one value, if nothing but the arithmetic took time.

        d differences, d squares, the factor, two sums; with many coordinates d products, two for the norms and the
        factor, two sums. An exponential in float64 is a polynomial of some twenty multiply-adds.
        """
        arithmetic = 2 * d + 3 if d < WIDE_D else d + 5
        if dtype == "float64":
            return self.fma64 / (arithmetic + 20)
        return min(self.fma32 / arithmetic, self.exp2)


def measure(blocks: int, threads: int, loops: int) -> Rates:
    """Measure the current device."""
    rates = {}
    for name, dtype in (("fma32", "float32"), ("exp2", "float32"), ("fma64", "float64")):
        kernel, real = _kernel(name, dtype), getattr(np, dtype)
        rates[name] = _rate(kernel, real, blocks, threads, loops)
    return Rates(**rates)


def _kernel(name: str, dtype: str) -> Any:
    from numba import cuda

    from fastnw.backends.cuda.functions import functions

    step = "exp2(x{i})" if name == "exp2" else "x{i} * a + b"
    lines = ["def kernel(a, b, loops, out):", "    t = cuda.grid(1)"]
    lines += [f"    x{i} = a + real(t + {i})" for i in range(CHAINS)]
    lines += ["    k = 0", "    while k < loops:"]
    lines += [f"        x{i} = {step.format(i=i)}" for _ in range(4) for i in range(CHAINS)]
    lines += ["        k += 1", "    if t < out.shape[0]:"]
    lines += ["        out[t] = " + " + ".join(f"x{i}" for i in range(CHAINS))]
    scope = dict(functions(dtype, True)) | {"cuda": cuda}
    exec("\n".join(lines), scope)
    return cuda.jit(scope["kernel"])


def _rate(kernel: Any, real: Any, blocks: int, threads: int, loops: int) -> float:
    from numba import cuda

    out = cuda.device_array(blocks * threads, real)
    best = 0.0
    for _ in range(4):  # the first compiles
        cuda.synchronize()
        start = perf_counter()
        kernel[blocks, threads](real(-0.5), real(0.25), loops, out)
        cuda.synchronize()
        best = max(best, blocks * threads * loops * 4.0 * CHAINS / (perf_counter() - start))
    return best
