"""The small calls that are timed, as data, and an adaptor of each system that answers them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

import fastnw

FASTNW, NUMPY = "fastnw", "NumPy"
SKLEARN_KDE, SKLEARN_NEIGHBORS = "scikit-learn KernelDensity", "scikit-learn KNeighborsRegressor"

D = 3
DISTINCT_QUERIES = 64  # calls ask for these in turn, so that no call repeats the one before
TOLERANCE = 1e-8  # of the values' range: what fastnw promises in float64

Array = NDArray[np.float64]
Ask = Callable[[Array], Array]


@dataclass(frozen=True)
class Work:
    """A call with `m` queries on `n` keys; `fitted`: the keys are prepared by `fit` before the timed call."""

    name: str
    m: int
    n: int
    kernel: str
    bandwidth: float
    fitted: bool
    goal: float  # s a call at most

    @property
    def title(self) -> str:
        call = "predict" if self.fitted else "pool"
        return f"`{call}`, {self.m} on {self.n:,} keys, {self.kernel}, h = {self.bandwidth:g}"


@dataclass(frozen=True)
class FirstUse:
    """Programs that each run in a fresh process; only the part named `timed` counts."""

    name: str
    goal: float  # s at most
    imported_before: str
    timed: dict[str, str] = field(default_factory=dict)  # by system


# On 10⁶ keys a window of 0.06 holds about 60 of them; a Gaussian of 0.01 falls to 1e-8 within that.
WORKS = [
    Work("one row, gaussian", 1, 1_000, "gaussian", 0.3, True, 120e-6),
    Work("one row, epanechnikov", 1, 1_000, "epanechnikov", 0.9, True, 120e-6),
    Work("one row on many keys, gaussian", 1, 1_000_000, "gaussian", 0.01, True, 250e-6),
    Work("one row on many keys, epanechnikov", 1, 1_000_000, "epanechnikov", 0.06, True, 250e-6),
    Work("pool", 50, 40, "gaussian", 0.5, False, 250e-6),
]

_DATA = "rng = numpy.random.default_rng(0); X = rng.normal(size=(200, 2)); y = numpy.sin(X[:, 0])"
FIRST_USES = [
    FirstUse(
        "import",
        0.1,
        "",
        {FASTNW: "import fastnw", NUMPY: "import numpy", "scikit-learn": "import sklearn.neighbors"},
    ),
    FirstUse(
        "import and first select_bandwidth, 200 × 2",
        0.4,
        f"import numpy, scipy.fft, scipy.linalg, scipy.optimize, scipy.spatial, scipy.special; {_DATA}",
        {
            FASTNW: "import fastnw; fastnw.select_bandwidth(X, y)",
            SKLEARN_KDE: "from sklearn.neighbors import KernelDensity; KernelDensity().fit(X).score_samples(X)",
        },
    ),
]


@lru_cache(maxsize=2)  # systems take turns on one work
def problem(work: Work) -> tuple[list[Array], Array, Array]:
    """Distinct queries, each (m, d) and close to keys; keys (n, d), standard normal; values (n,)."""
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(work.n, D))
    values = np.sin(3 * keys[:, 0]) + 0.1 * rng.normal(size=work.n)
    centres = keys[(np.square(keys).sum(axis=1) < 4)]  # where a window holds keys
    queries = [rng.choice(centres, work.m) + 1e-3 * rng.normal(size=(work.m, D)) for _ in range(DISTINCT_QUERIES)]
    return queries, keys, values


def systems(work: Work) -> dict[str, Ask]:
    """What each system is asked, ready to be timed."""
    _, keys, values = problem(work)
    return {
        FASTNW: _fastnw(work, keys, values),
        SKLEARN_KDE: _kernel_density(work, keys),
        SKLEARN_NEIGHBORS: _neighbours(work, keys, values),
        NUMPY: lambda queries: means(work, queries, keys, values),
    }


def _fastnw(work: Work, keys: Array, values: Array) -> Ask:
    if work.fitted:
        model = fastnw.NadarayaWatsonRegressor(kernel=work.kernel, bandwidth=work.bandwidth).fit(keys, values)
        return model.predict
    return lambda queries: fastnw.pool(queries, keys, values, kernel=work.kernel, bandwidth=work.bandwidth)


def _kernel_density(work: Work, keys: Array) -> Ask:
    from sklearn.neighbors import KernelDensity

    model = KernelDensity(kernel=work.kernel, bandwidth=work.bandwidth).fit(keys)
    if work.fitted:
        return model.score_samples
    return lambda queries: model.fit(keys).score_samples(queries)


def _neighbours(work: Work, keys: Array, values: Array) -> Ask:
    from sklearn.neighbors import KNeighborsRegressor

    model = KNeighborsRegressor().fit(keys, values)
    if work.fitted:
        return model.predict
    return lambda queries: model.fit(keys, values).predict(queries)


def means(work: Work, queries: Array, keys: Array, values: Array) -> Array:
    """(m,) kernel-weighted means as one writes them in NumPy."""
    weights = _weights(work, queries, keys)
    return (weights @ values) / weights.sum(axis=1)


def _weights(work: Work, queries: Array, keys: Array) -> Array:
    u2 = np.square((queries[:, None] - keys) / work.bandwidth).sum(axis=2)
    return np.exp(-0.5 * u2) if work.kernel == "gaussian" else np.maximum(1 - u2, 0)


def check(work: Work, system: str, ask: Ask) -> None:
    """Compare the answers to all queries with NumPy's.

    Raises
    ------
    AssertionError
        An answer is not what the system promises.
    """
    queries, keys, values = problem(work)
    for each in queries[:8]:
        got = ask(each)
        if system in (FASTNW, NUMPY):
            wanted, allowed = means(work, each, keys, values), TOLERANCE * np.ptp(values)
        elif system == SKLEARN_KDE:
            masses = _weights(work, each, keys).sum(axis=1)
            wanted, allowed = np.log(masses / (work.n * _volume(work))), 1e-6
        else:
            distances = np.square(each[:, None] - keys).sum(axis=2)
            wanted, allowed = values[np.argpartition(distances, 5)[:, :5]].mean(axis=1), 1e-12
        np.testing.assert_allclose(got, wanted, rtol=0, atol=allowed, err_msg=f"{system}, {work.name}")


def _volume(work: Work) -> float:
    """The kernel's integral in three coordinates."""
    unit = (2 * np.pi) ** 1.5 if work.kernel == "gaussian" else 8 * np.pi / 15
    return float(unit * work.bandwidth**D)
