"""The works that are timed, as data: sizes, kernel, bandwidth, and what fastnw has to reach on each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

# Names of systems, as tables and goals call them; peers.py has one adaptor for each.
FASTNW = "fastnw"
FASTNW_GAUSSIAN = "fastnw, Gaussian"
FASTNW_COMPILED = "fastnw, compiled"
FASTNW_EXACT = "fastnw, every pair"
NUMPY = "NumPy, differences"
NUMPY_PRODUCT = "NumPy, matrix product"
RBF_KERNEL = "scikit-learn rbf_kernel"
SKLEARN_KDE = "scikit-learn KernelDensity"
CDIST = "torch cdist + softmax"
SDPA = "torch SDPA"
KEOPS = "KeOps CPU"
KERNEL_REG = "statsmodels KernelReg"
MLPACK = "mlpack KDE"
KDEPY = "KDEpy TreeKDE"
CEILING = "ceiling of the pipes"
READ = "one read of the data"

DENSE = (SDPA, NUMPY_PRODUCT)
ALL = (SDPA, KEOPS, CDIST, NUMPY, NUMPY_PRODUCT, RBF_KERNEL, KERNEL_REG, SKLEARN_KDE, MLPACK, KDEPY)


@dataclass(frozen=True)
class Goal:
    """fastnw's rate must be at least `factor` times that of `against`."""

    against: str
    factor: float


@dataclass(frozen=True)
class Case:
    """`m` queries, `n` keys of `d` standard normal coordinates around `centre`, `c` values a key."""

    name: str
    m: int = 10_000
    n: int = 100_000
    d: int = 3
    c: int = 1
    dtype: str = "float32"
    kernel: str = "gaussian"
    bandwidth: float = 0.3
    centre: float = 0.0
    backend: str = "compiled"  # fastnw's
    fitted: bool = False  # keys are prepared once, outside the timed work
    goals: tuple[Goal, ...] = ()
    rivals: tuple[str, ...] = DENSE
    quick_rivals: tuple[str, ...] = (SDPA,)

    def with_queries(self, m: int) -> Case:
        """The same work on the first `m` queries."""
        return replace(self, m=m)

    def problem(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Queries (m, d), keys (n, d), values (n,) or (n, c): the same for every system, and read-only."""
        queries = _normal(1, self.m, self.d, self.dtype, self.centre)
        return queries, *_keys_and_values(self.n, self.d, self.c, self.dtype, self.centre)


def _normal(seed: int, rows: int, d: int, dtype: str, centre: float) -> np.ndarray:
    """(rows, d) normal; a smaller number of rows gives the first of them."""
    points = np.random.default_rng(seed).standard_normal((rows, d), dtype=np.dtype(dtype))
    points += points.dtype.type(centre)
    return _frozen(points)


@lru_cache(maxsize=2)  # systems take turns on one case; the largest takes 0.5 GB
def _keys_and_values(n: int, d: int, c: int, dtype: str, centre: float) -> tuple[np.ndarray, np.ndarray]:
    keys = _normal(2, n, d, dtype, centre)
    noise = np.random.default_rng(3).standard_normal((n, c), dtype=np.dtype(dtype))
    values = np.sin(3 * (keys[:, 0] - centre)) + 0.1 * noise[:, 0] if c == 1 else noise
    return keys, _frozen(values.astype(dtype))


def _frozen(array: np.ndarray) -> np.ndarray:
    """No system can spoil the data of the next one."""
    array.flags.writeable = False
    return array


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

# Pictures: h grows so that a query sees a similar share of the keys in every d.
BY_DIMENSION = [Case(f"sweep d={d}", d=d, bandwidth=0.5 * d**0.5, rivals=ALL) for d in (1, 2, 3, 4, 8, 16, 32, 64, 128)]
BY_KEYS = [Case(f"sweep n={n}", n=n, rivals=ALL) for n in (1_000, 10_000, 100_000, 1_000_000)]
