"""The problems on which fastnw is compared with its peers, and the goals for it."""

from __future__ import annotations

from bench.lib.cases import Case, Goal
from bench.lib.systems import ALL, CEILING, FASTNW_COMPILED, FASTNW_GAUSSIAN, KEOPS, NUMPY, SDPA

CASES = [
    Case(
        "d=3",
        goals=(Goal(CEILING, 0.8), Goal(SDPA, 4), Goal(KEOPS, 20), Goal(NUMPY, 100)),
        rivals=ALL,
        quick_rivals=ALL,
    ),
    Case("d=1", d=1, goals=(Goal(CEILING, 0.75),)),
    Case("d=2", d=2, goals=(Goal(CEILING, 0.75),)),
    Case("d=3 float64", dtype="float64", goals=(Goal(CEILING, 0.75), Goal(SDPA, 3))),
    Case("d=16", d=16, bandwidth=2.0, goals=(Goal(SDPA, 2),)),
    Case("d=64", m=4096, n=65_536, d=64, bandwidth=4.0, goals=(Goal(SDPA, 1.8),)),
    Case("d=64, 64 values", m=4096, n=65_536, d=64, c=64, bandwidth=4.0, goals=(Goal(SDPA, 1.05),)),
    Case("d=768, 64 values", m=2048, n=32_768, d=768, c=64, bandwidth=14.0, goals=(Goal(SDPA, 1.1),)),
    Case("1 query", m=1, n=1_000_000, d=64, c=64, bandwidth=4.0, fitted=True, goals=(Goal(SDPA, 2.5),)),
    Case(
        "64 queries",
        m=64,
        n=1_000_000,
        d=64,
        c=64,
        bandwidth=4.0,
        fitted=True,
        goals=(Goal(SDPA, 1.3),),
        rivals=(SDPA,),
    ),
    *(
        Case(
            kernel,
            kernel=kernel,
            bandwidth=1.0,
            goals=(Goal(FASTNW_GAUSSIAN, 1.0),),
            rivals=(FASTNW_GAUSSIAN,),
            quick_rivals=(FASTNW_GAUSSIAN,),
        )
        for kernel in ("epanechnikov", "boxcar", "triangular")
    ),
    Case(
        "Numba",
        backend="numba",
        goals=(Goal(FASTNW_COMPILED, 0.7),),
        rivals=(FASTNW_COMPILED, SDPA),
        quick_rivals=(FASTNW_COMPILED,),
    ),
    Case(
        "Numba float64",
        backend="numba",
        dtype="float64",
        rivals=(FASTNW_COMPILED, SDPA),
        quick_rivals=(FASTNW_COMPILED,),
    ),
    Case(
        "Numba, a user's kernel",
        backend="numba",
        kernel="1/(1 + u²)²",
        goals=(Goal(FASTNW_GAUSSIAN, 0.6),),
        rivals=(FASTNW_GAUSSIAN,),
        quick_rivals=(FASTNW_GAUSSIAN,),
    ),
]

OFF_CENTRE = Case("d=3 centred at 1e4", centre=1e4)
ACCURACY_CASES = [*(case for case in CASES if case.kernel == "gaussian" and case.backend == "compiled"), OFF_CENTRE]
ACCURACY_QUICK = [CASES[0], CASES[3], OFF_CENTRE]
MEMORY_CASES = [
    Case("many keys", m=2_000, n=2_000_000),
    Case("many queries", m=2_000_000, n=2_000),
    Case("d=64, 64 values", m=4096, n=65_536, d=64, c=64, bandwidth=4.0),
]

# For the pictures. The bandwidth grows so that a window holds a similar share of the keys in every d.
BY_DIMENSION = [Case(f"sweep d={d}", d=d, bandwidth=0.5 * d**0.5, rivals=ALL) for d in (1, 2, 3, 4, 8, 16, 32, 64, 128)]
BY_KEYS = [Case(f"sweep n={n}", n=n, rivals=ALL) for n in (1_000, 10_000, 100_000, 1_000_000)]
