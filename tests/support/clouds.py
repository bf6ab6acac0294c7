"""Problems for hypothesis: keys of every shape, bandwidths of every size, queries near and far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fastnw import kernels

WINDOWS = ["boxcar", "triangular", "epanechnikov", "biweight", "triweight", "tricube"]
EXPONENTIALS = ["laplacian", "matern32", "matern52"]
DECAYING = ["gaussian", "logistic", *EXPONENTIALS]

# Kernels, numbers of coordinates, and whether key scales: what each method is there for. The rest it refuses.
WORK: dict[str, tuple[list[str], list[int], bool]] = {
    "moments": (WINDOWS + EXPONENTIALS, [1], False),
    "fourier": (["gaussian"], [1, 2, 3], False),
    "tree": ([k for k in kernels.names() if k not in ("constant", "cauchy", "dot")], [1, 2, 3, 5], True),
}
MODES = 3e5  # of Fourier series: more take longer than a test may

ORDINARY = ["normal", "uniform", "clusters", "duplicates", "lattice", "collinear"]
# a heap: most keys at the end of a long line of others, where few queries are; what holds there is not seen elsewhere
EXTREME = [*ORDINARY, "constant", "cauchy", "heap"]


@dataclass(frozen=True)
class Cloud:
    """A problem as `fastnw.pool` takes it."""

    queries: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    options: dict[str, Any] = field(default_factory=dict)  # kernel, bandwidth, …
    about: str = ""

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # what hypothesis prints of a failure
        printer.text(f"{self.about}, {self.options}")

    @property
    def present(self) -> np.ndarray:
        """(n,) Keys with positive weight."""
        weights = self.options.get("sample_weight")
        return np.ones(len(self.keys), bool) if weights is None else weights > 0

    @property
    def spread(self) -> float:
        """Largest range of a column of the values, over keys with weight."""
        values = self.values[self.present].astype(np.float64)
        return float(np.ptp(values, axis=0).max()) if len(values) else 0.0


def layout(name: str, n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """(n, d) keys of about unit extent, but for heavy tails."""
    shapes = {
        "normal": lambda: rng.normal(size=(n, d)),
        "uniform": lambda: rng.uniform(-2, 2, size=(n, d)),
        "clusters": lambda: (
            3 * rng.normal(size=(4, d))[rng.integers(0, 4, n)]
            + 10.0 ** rng.uniform(-4, 0, 4)[rng.integers(0, 4, n), None] * rng.normal(size=(n, d))
        ),
        "duplicates": lambda: rng.normal(size=(max(n // 12, 1), d))[rng.integers(0, max(n // 12, 1), n)],
        "lattice": lambda: rng.integers(-8, 9, size=(n, d)) / 4,
        "collinear": lambda: rng.normal(size=(n, 1)) * rng.normal(size=d),
        "constant": lambda: np.zeros((n, d)) + rng.normal(size=d),
        "cauchy": lambda: rng.standard_cauchy(size=(n, d)),
        "heap": lambda: np.where(
            np.arange(n)[:, None] % 10 > 0, rng.normal(size=(n, d)), -(10.0 ** rng.uniform(1, 5)) * rng.random((n, d))
        ),
    }
    return shapes[name]()


def affordable(method: str, keys: np.ndarray, h: float) -> float:
    """A bandwidth that the method takes for these keys, or half of it; `fourier` resolves their whole extent."""
    while method == "fourier" and np.prod(2 * (2 * np.ptp(keys, axis=0) / h + 10)) > MODES:
        h *= 4
    return h


def form(shape: str, h: float, d: int, rng: np.random.Generator) -> Any:
    """A bandwidth of about h as a number, one for each coordinate, or a matrix."""
    if shape == "number":
        return h
    if shape == "vector":
        return h * np.exp2(rng.uniform(-1, 1, d))
    rotation, _ = np.linalg.qr(rng.normal(size=(d, d)))
    matrix = h * h * (rotation * np.exp2(rng.uniform(-2, 2, d))) @ rotation.T
    return (matrix + matrix.T) / 2


def weights_of(kind: str, n: int, rng: np.random.Generator) -> np.ndarray | None:
    """Some of them 0; `steep` ones over twelve powers of ten."""
    if kind == "none":
        return None
    weights = rng.gamma(0.7, size=n) if kind == "gamma" else 10.0 ** rng.uniform(-12, 0, n)
    return weights * (rng.random(n) > 0.1)


@st.composite
def ordinary(draw: st.DrawFn, method: str, most: int) -> Cloud:
    """What a method is made for: queries among the keys, windows with many of them."""
    names, dimensions, _ = WORK[method]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape, d = draw(st.sampled_from(ORDINARY)), draw(st.sampled_from(dimensions))
    n, columns = draw(st.sampled_from([most, most // 3, most // 10])), draw(st.sampled_from([0, 3]))
    keys = layout(shape, n, d, rng)
    h = affordable(method, keys, draw(st.sampled_from([0.1, 0.3, 1.0, 10.0])) * np.std(keys))
    queries = keys[rng.integers(0, n, 300)] + 0.4 * h / np.sqrt(d) * rng.normal(size=(300, d))
    options = {"kernel": draw(st.sampled_from(names)), "bandwidth": h}
    if draw(st.booleans()):
        options["sample_weight"] = weights_of("gamma", n, rng)
    values = np.sin(3 * keys.sum(axis=1) / np.std(keys))[:, None] + rng.normal(size=(n, max(columns, 1)))
    return Cloud(queries, keys, values if columns else values[:, 0], options, f"{shape}, n = {n}, d = {d}")


@st.composite
def anything(draw: st.DrawFn, method: str, most: int, *, single: bool = False) -> Cloud:
    """Every option, every size; in float32 if `single`."""
    names, dimensions, scales = WORK[method]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape, d = draw(st.sampled_from(EXTREME)), draw(st.sampled_from(dimensions))
    n = draw(st.sampled_from([1, 2, 5, 17, 90, most // 3, most]))
    keys = layout(shape, n, d, rng)
    size = np.std(keys) if np.ptp(keys, axis=0).any() else 1.0
    h = affordable(method, keys, size * draw(st.sampled_from([1e-6, 1e-3, 0.01, 0.1, 0.5, 2.0, 1e3, 1e6])))
    own = draw(st.integers(0, 4)) == 0 and n <= 1000
    far = draw(st.sampled_from([0.0, 0.0, 5.0, 40.0, 1e3, 1e6, 1e9]))
    queries = keys.copy() if own else keys[rng.integers(0, n, 300)]
    away = rng.normal(size=queries.shape)
    away /= np.sqrt(np.square(away).sum(axis=1, keepdims=True))
    moved = rng.choice([0.0, 0.4, 1.0, far], (len(queries), 1))
    queries = queries + h * moved * away if not own or draw(st.booleans()) else queries
    if shape == "heap" and not own:
        queries[4:] = -abs(queries[4:]) - 5.0
    offset = draw(st.sampled_from([0.0, 0.0, 1e8]))
    options = {"kernel": draw(st.sampled_from(names))}
    options["bandwidth"] = form(draw(st.sampled_from(["number", "number", "vector", "matrix"])), h, d, rng)
    options["sample_weight"] = weights_of(draw(st.sampled_from(["none", "none", "gamma", "steep"])), n, rng)
    options["key_scale"] = rng.uniform(0.5, 2.0, n) if scales and draw(st.booleans()) else None
    options["exclude_self"] = own
    options["tol"] = draw(st.sampled_from([None, None, 1e-3, 1e-6, 1e-10])) if not single else None
    columns = draw(st.sampled_from([0, 3, 40]))
    values = 10.0 ** draw(st.sampled_from([-3, 0, 3])) * rng.normal(size=(n, columns) if columns else n)
    values = values + draw(st.sampled_from([0.0, 100.0]))
    dtype = np.float32 if single else np.float64
    arrays = ((queries + offset).astype(dtype), (keys + offset).astype(dtype), values.astype(dtype))
    options = {key: value for key, value in options.items() if value is not None and value is not False}
    return Cloud(*arrays, options, f"{shape}, n = {n}, d = {d}, queries {far:g} away, offset {offset:g}")


@st.composite
def refused(draw: st.DrawFn, method: str) -> Cloud:
    """Something that the method is not there for."""
    names, dimensions, scales = WORK[method]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    choices = ["kernel", "tol"] + ["coordinates"] * (max(dimensions) < 5) + ["key_scale"] * (not scales)
    which, d, n = draw(st.sampled_from(choices)), draw(st.sampled_from(dimensions)), 30
    options: dict[str, Any] = {"kernel": names[0], "bandwidth": 0.5}
    if which == "kernel":
        options["kernel"] = draw(st.sampled_from([k for k in kernels.names() if k not in names]))
    if which == "tol":
        options["tol"] = 0
    if which == "coordinates":
        d = draw(st.integers(max(dimensions) + 1, 8))
    if which == "key_scale":
        options["key_scale"] = rng.uniform(0.5, 2.0, n)
    keys = rng.normal(size=(n, d))
    return Cloud(keys, keys, rng.normal(size=n), options, which)
