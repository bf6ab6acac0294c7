"""The choice of bandwidths by leave-one-out least squares: its time, and whether a grid finds a better one."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median

import numpy as np

import fastnw
from bench.lib.record import Progress
from bench.peers.adaptors import PEERS

STATSMODELS, SKLEARN = "statsmodels KernelReg", "scikit-learn grid search"
GRID = {"full": 200, "quick": 24}  # number of bandwidths of the grid
SPREAD = 8.0  # the grid extends from an eighth of the chosen bandwidth to eight times as much
CANDIDATES, FOLDS = 20, 5  # of scikit-learn's search


@dataclass(frozen=True)
class Work:
    """n keys in d coordinates, one bandwidth each."""

    n: int
    d: int
    at_most: float | None = None  # goal in seconds
    rivals: tuple[str, ...] = ()
    rounds: int = 3

    @property
    def name(self) -> str:
        return f"bandwidth, n = {self.n:,}, d = {self.d}"

    def problem(self) -> tuple[np.ndarray, np.ndarray]:
        """Normal keys; a sine of the first coordinate, squares of the others, noise."""
        rng = np.random.default_rng(self.n + self.d)
        x = rng.normal(size=(self.n, self.d))
        y = np.sin(3 * x[:, 0]) + (x[:, 1:] ** 2).sum(axis=1) / 2 + 0.3 * rng.normal(size=self.n)
        return x, y


@dataclass
class Row:
    """Measurements of one work."""

    seconds: list[float] = field(default_factory=list)
    bandwidth: list[float] = field(default_factory=list)
    score: float = 0.0
    looked_at: int = 0
    grid: float = 0.0  # the least loss of the grid
    others: dict[str, float] = field(default_factory=dict)  # seconds
    scores: dict[str, float] = field(default_factory=dict)  # losses of the bandwidths that others chose
    notes: list[str] = field(default_factory=list)

    @classmethod
    def from_json(cls, content: dict) -> Row:
        return cls(**content)

    def as_json(self) -> dict:
        return asdict(self)


def works(form: str) -> list[Work]:
    """The rows; statsmodels has part only where it takes seconds, not hours."""
    if form == "quick":
        return [
            Work(1000, 1, 0.010, (), 9),
            Work(1655, 2, 0.3, (SKLEARN,)),
            Work(100_000, 1),
            Work(100_000, 2),
            Work(10_000, 3),
        ]
    return [
        Work(1000, 1, 0.010, (STATSMODELS, SKLEARN), 15),
        Work(500, 2, None, (STATSMODELS,), 9),
        Work(1655, 2, 0.3, (SKLEARN,), 5),
        Work(100_000, 3, 30.0, (), 1),
        Work(1_000_000, 1, 2.0, (), 3),
        Work(1_000_000, 2, 12.0, (), 1),
    ]


def measure(work: Work, form: str, clock: Progress) -> Row:
    """Choose a bandwidth, compare it with a grid, and let the rivals choose."""
    x, y = work.problem()
    row = Row()
    fastnw.select_bandwidth(x[:500], y[:500])  # loads modules
    for _ in range(work.rounds):
        start = time.perf_counter()
        found = fastnw.select_bandwidth(x, y)
        row.seconds.append(time.perf_counter() - start)
    row.bandwidth, row.looked_at = found.bandwidth.tolist(), len(found.path)
    row.score = loss(x, y, found.bandwidth)
    if not np.isclose(found.score, row.score, rtol=1e-6):
        row.notes.append(f"the reported loss is {found.score:.9g}")
    row.grid = min(loss(x, y, h) for h in grid(found.bandwidth, GRID[form]))
    for name in work.rivals:
        choose, missing = RIVALS[name]
        reason = missing()
        if reason:
            row.notes.append(f"not available: {reason}")
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = time.perf_counter()
            h = choose(x, y)
            row.others[name] = time.perf_counter() - start
        row.scores[name] = loss(x, y, h)
    ours = f"{median(row.seconds):.4g} s, loss {row.score:.6g}, grid {row.grid:.6g}"
    clock.say(f"{work.name}: {ours}; {', '.join(f'{k} {v:.4g} s' for k, v in row.others.items())}")
    return row


def loss(x: np.ndarray, y: np.ndarray, h: np.ndarray) -> float:
    """Mean squared error of leave-one-out means."""
    return float(np.mean((y - fastnw.pool(x, x, y, bandwidth=h, exclude_self=True)) ** 2))


def grid(chosen: np.ndarray, count: int) -> np.ndarray:
    """About `count` bandwidths around the chosen ones, in every coordinate."""
    d = len(chosen)
    side = max(round(count ** (1 / d)), 2)
    factors = np.geomspace(1 / SPREAD, SPREAD, side)
    return chosen * np.stack(np.meshgrid(*[factors] * d), axis=-1).reshape(-1, d)


def by_statsmodels(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Local constant regression, product Gaussian, least-squares cross-validation: the same loss."""
    from statsmodels.nonparametric.kernel_regression import KernelReg

    return np.abs(KernelReg(y, x, "c" * x.shape[1], reg_type="lc", bw="cv_ls").bw)


def by_sklearn(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """One bandwidth for all coordinates out of CANDIDATES, by cross-validation over FOLDS folds."""
    from sklearn.base import BaseEstimator, RegressorMixin
    from sklearn.metrics.pairwise import rbf_kernel
    from sklearn.model_selection import GridSearchCV

    class Blocked(RegressorMixin, BaseEstimator):
        """Nadaraya-Watson in blocks of 1,000 queries."""

        def __init__(self, bandwidth: float = 1.0) -> None:
            self.bandwidth = bandwidth

        def fit(self, X, y):
            self.X_, self.y_ = X, y
            return self

        def predict(self, X):
            parts = []
            for start in range(0, len(X), 1000):
                k = rbf_kernel(X[start : start + 1000], self.X_, gamma=0.5 / self.bandwidth**2)
                parts.append(k @ self.y_ / np.maximum(k.sum(axis=1), 1e-300))
            return np.concatenate(parts)

    rule = float(x.std()) * len(x) ** (-1 / (x.shape[1] + 4))
    candidates = {"bandwidth": list(rule * np.geomspace(0.1, 3.0, CANDIDATES))}
    search = GridSearchCV(Blocked(), candidates, cv=FOLDS, scoring="neg_mean_squared_error").fit(x, y)
    return np.full(x.shape[1], search.best_params_["bandwidth"])


RIVALS: dict[str, tuple[Callable, Callable]] = {
    STATSMODELS: (by_statsmodels, lambda: PEERS[STATSMODELS].missing()),
    SKLEARN: (by_sklearn, lambda: None),
}
