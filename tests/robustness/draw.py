"""Random problems: every kernel, method, backend, bandwidth, weight, type and tolerance, drawn independently.

`draw(seed, index)` always gives the same problem. Half of the problems come from `general`, the others from `attacks`,
which aims at the weak spot of one method at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

COMPACT = ["boxcar", "triangular", "epanechnikov", "biweight", "triweight", "tricube", "cosine"]
EXPONENTIAL = ["gaussian", "laplacian", "matern32", "matern52", "logistic"]
BUILT_IN = [*COMPACT, *EXPONENTIAL, "cauchy", "constant", "dot"]
USER = ["user student", "user bump", "user power", "user stretched", "user two scales"]
NUMBA = ["gaussian", "epanechnikov", "user power"]

# What a forced method takes; anything else it refuses.
TAKES = {
    "auto": BUILT_IN,
    "exact": BUILT_IN,
    "tree": [*COMPACT, *EXPONENTIAL],
    "moments": [*COMPACT[:-1], "laplacian", "matern32", "matern52"],
    "fourier": ["gaussian"],
}
LARGEST = 1e300


@dataclass(frozen=True)
class Problem:
    """One call of fastnw.

    Attributes
    ----------
    family : str
        What drew it.
    ask : str
        "pool", "density" or "weights".
    queries, keys, values : arrays
        As the function takes them; `values` only for "pool".
    options : dict
        Keyword arguments of the function. A user's kernel stands there by its name.
    level : int
        Which of the machine's instruction set levels runs it, counted from the highest.
    suspects : tuple of int
        Queries that are checked with all digits in any case.
    copies : (n,) integers, optional
        How many of each key fastnw gets: thousands, which the oracle counts as one of so much more weight.
    """

    family: str
    ask: str
    queries: np.ndarray
    keys: np.ndarray
    values: np.ndarray | None
    options: dict[str, Any]
    level: int = 0
    suspects: tuple[int, ...] = ()
    copies: np.ndarray | None = None

    def __str__(self) -> str:
        options = {name: _short(value) for name, value in self.options.items()}
        values = "" if self.values is None else f", values {self.values.dtype}{self.values.shape}"
        return (
            f"{self.ask} of {self.family}: queries {self.queries.dtype}{self.queries.shape}, "
            f"keys {self.keys.dtype}{self.keys.shape}{values}, {options}, level {self.level}, copies {self.copies}"
        )


def _short(value: Any) -> Any:
    if not isinstance(value, np.ndarray) or value.size <= 4:
        return value
    return f"{value.dtype}{value.shape} from {value.min():.3g} to {value.max():.3g}"


def draw(seed: int, index: int) -> Problem:
    """The problem of that number."""
    from robustness import attacks

    rng = np.random.default_rng([seed, index])
    make = general if rng.random() < 0.5 else pick(rng, attacks.ATTACKS)
    with np.errstate(all="ignore"):
        return finite(make(rng))


def draw_for_numba(seed: int, index: int) -> Problem:
    """The same for the Numba backend: in float64 and not fused, so that each kernel is compiled once, in seconds."""
    rng = np.random.default_rng([seed, index, 1])
    with np.errstate(all="ignore"):
        while (problem := general(rng)).options["method"] in ("moments", "fourier") or problem.keys.shape[1] < 4:
            pass
        kernel = pick(rng, NUMBA)
        options = problem.options | {"kernel": kernel, "backend": "numba"}
        if options["method"] == "tree" and kernel not in TAKES["tree"]:
            options["method"] = "exact"
        problem = replace(problem, queries=problem.queries.astype("f8"), keys=problem.keys.astype("f8"))
        return finite(replace(problem, options=options))


def pick(rng: np.random.Generator, options: Any) -> Any:
    return options[int(rng.integers(len(options)))]


def finite(problem: Problem) -> Problem:
    """The same with coordinates, values and weights that their types can hold."""

    def held(array: np.ndarray | None, low: float) -> np.ndarray | None:
        if array is None or array.dtype.kind != "f":
            return array
        edge = min(LARGEST, float(np.finfo(array.dtype).max) / 8)
        return np.clip(np.nan_to_num(array, nan=1.0, posinf=edge, neginf=low), max(low, -edge), edge).astype(
            array.dtype
        )

    options = dict(problem.options)
    for name, low in (("sample_weight", 0.0), ("key_scale", 1e-300)):
        if name in options:
            options[name] = held(options[name], low)
    if "key_scale" in options:
        least = float(np.finfo(options["key_scale"].dtype).tiny)
        options["key_scale"] = np.maximum(options["key_scale"], options["key_scale"].dtype.type(least))
    arrays = {name: held(getattr(problem, name), -np.inf) for name in ("queries", "keys", "values")}
    return replace(problem, options=options, **arrays)


# --- one property at a time


def layout(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """(n, d) keys of about unit extent, but for heavy tails."""
    name = pick(
        rng, ["normal", "normal", "uniform", "clusters", "copies", "lattice", "line", "one place", "cauchy", "sorted"]
    )
    if name == "clusters":
        size = 10.0 ** rng.uniform(-5, 0, 4)
        which = rng.integers(0, 4, n)
        return 3 * rng.normal(size=(4, d))[which] + size[which, None] * rng.normal(size=(n, d))
    if name == "copies":
        return rng.normal(size=(max(n // 6, 1), d))[rng.integers(0, max(n // 6, 1), n)]
    if name == "sorted":
        keys = rng.normal(size=(n, d))
        return keys[np.argsort(keys[:, 0])]
    made = {
        "normal": lambda: rng.normal(size=(n, d)),
        "uniform": lambda: rng.uniform(-2, 2, (n, d)),
        "lattice": lambda: rng.integers(-8, 9, (n, d)) / 4,
        "line": lambda: rng.normal(size=(n, 1)) * rng.normal(size=d),
        "one place": lambda: np.zeros((n, d)) + rng.normal(size=d),
        "cauchy": lambda: rng.standard_cauchy((n, d)),
    }
    return made[name]()


def weights(rng: np.random.Generator, n: int) -> np.ndarray | None:
    """w ≥ 0 over up to 600 powers of ten."""
    name = pick(
        rng,
        ["none"] * 5
        + [
            "uniform",
            "lognormal",
            "importance",
            "powers",
            "mask",
            "one dominates",
            "constant",
            "integers",
            "few",
            "all 0",
        ],
    )
    if name == "none":
        return None
    made = {
        "uniform": lambda: rng.uniform(0, 1, n),
        "lognormal": lambda: np.exp(3 * rng.normal(size=n)),
        "importance": lambda: np.exp(np.clip(150 * rng.normal(size=n), -690, 690)),
        "powers": lambda: 10.0 ** rng.uniform(-300, 300, n),
        "mask": lambda: (rng.random(n) < 0.6).astype(float),
        "one dominates": lambda: np.where(np.arange(n) == rng.integers(n), 10.0 ** rng.uniform(2, 300), 1.0),
        "constant": lambda: np.full(n, 10.0 ** rng.uniform(-300, 300)),
        "integers": lambda: rng.integers(0, 9, n),
        "few": lambda: rng.gamma(0.3, size=n) * (rng.random(n) < 0.2),
        "all 0": lambda: np.zeros(n) if rng.random() < 0.2 else np.ones(n),
    }
    return made[name]()


def key_scales(rng: np.random.Generator, n: int) -> np.ndarray | None:
    name = pick(rng, ["none", "none", "none", "none", "ordinary", "wide", "extreme"])
    made = {
        "none": lambda: None,
        "ordinary": lambda: rng.uniform(0.5, 2.0, n),
        "wide": lambda: 10.0 ** rng.uniform(-4, 4, n),
        "extreme": lambda: 10.0 ** rng.uniform(-160, 160, n),
    }
    return made[name]()


def matrix(rng: np.random.Generator, d: int, h: float, cond: float) -> np.ndarray:
    """A symmetric positive definite H of that size and about that condition number."""
    rotation, _ = np.linalg.qr(rng.normal(size=(d, d)))
    sizes = np.concatenate([[1.0], cond ** -rng.random(max(d - 2, 0)), [1 / cond] * (d > 1)])
    made = (rotation * sizes) @ rotation.T
    return h * h * (made + made.T) / 2


def bandwidth(rng: np.random.Generator, d: int, h: float) -> Any:
    shape = pick(rng, ["number", "number", "vector", "matrix", "uneven"])
    if shape == "number":
        return h
    if shape == "vector":
        return h * np.exp2(rng.uniform(-1, 1, d))
    if shape == "uneven":
        return h * 10.0 ** rng.uniform(-6, 6, d)
    return matrix(rng, d, h, 10.0 ** pick(rng, [0, 1, 2, 3, rng.uniform(0, 14)])) if 1e-150 < h < 1e150 else h


def values(rng: np.random.Generator, n: int) -> np.ndarray:
    """(n,) or (n, c), columns of sizes of their own."""
    columns = pick(rng, [None, None, None, 1, 2, 3, 5, 17])
    made = rng.normal(size=(n, columns or 1))
    kind = pick(rng, ["plain", "plain", "plain", "offset", "sizes", "constant", "binary", "extreme", "outlier"])
    if kind == "offset":
        made = made + 10.0 ** rng.uniform(0, 12)
    elif kind == "sizes":
        made = (made + rng.normal(size=columns or 1)) * 10.0 ** rng.uniform(-100, 100, columns or 1)
    elif kind == "constant":
        made[:, -1] = rng.normal() * 10.0 ** rng.uniform(-100, 100)
    elif kind == "binary":
        made = (made > 0).astype(float)
    elif kind == "extreme":
        made = made * 10.0 ** pick(rng, [-300, -250, 250, 298])
    elif kind == "outlier":
        made[rng.integers(n)] *= 10.0 ** rng.uniform(2, 15)
    return made if columns else made[:, 0]


def tolerance(rng: np.random.Generator) -> dict[str, float]:
    tol = pick(rng, [None, None, None, 0.0, 1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12])
    return {} if tol is None else {"tol": tol}


def steps_of(rng: np.random.Generator) -> dict[str, Any]:
    """The method and the backend."""
    method = pick(rng, ["auto", "auto", "exact", "tree", "moments", "fourier"])
    # method 'moments' and 'fourier' run compiled code only
    compiled_only = method in ("moments", "fourier")
    backend = "auto" if compiled_only else pick(rng, ["auto", "auto", "auto", "compiled", "reference"])
    return {"method": method, "backend": backend}


def types(rng: np.random.Generator, problem: Problem) -> Problem:
    """The same in the types that users have."""
    kind = pick(
        rng, ["f8"] * 5 + ["f4"] * 3 + ["f2", "f8 keys, f4 queries", "int keys", "int values", "small int values"]
    )
    of_coordinates, of_values = {"f4": ("f4", "f4"), "f2": ("f2", "f2")}.get(kind, ("f8", "f8"))
    queries, keys, made = problem.queries.astype(of_coordinates), problem.keys.astype(of_coordinates), problem.values
    if kind == "f8 keys, f4 queries":
        queries = queries.astype("f4")
    if kind == "int keys":
        keys = np.round(np.clip(4 * keys, -(2**40), 2**40)).astype(pick(rng, ["i8", "i4", "i2"]))
    if made is not None:
        made = made.astype(of_values)
        if kind == "int values":
            made = np.round(np.clip(made, -(2**40), 2**40)).astype("i8")
        if kind == "small int values":
            made = np.round(np.clip(made, 0, 100)).astype(pick(rng, ["u1", "i1", "?"]))
            queries, keys = queries.astype("f4"), keys.astype("f4")
    options = dict(problem.options)
    if "sample_weight" in options and kind == "f4" and rng.random() < 0.5:
        options["sample_weight"] = np.clip(options["sample_weight"], 0, 1e38).astype("f4")
    if options.get("exclude_self") and queries.dtype != keys.dtype:
        queries = keys
    return replace(problem, queries=queries, keys=keys, values=made, options=options)


def finished(rng: np.random.Generator, problem: Problem) -> Problem:
    """The last choices: what is asked for, and at which instruction set level."""
    ask = pick(rng, ["pool"] * 7 + ["density"] * 2 + ["weights"])
    if ask == "weights":
        options = {name: value for name, value in problem.options.items() if name != "tol"}
        problem = replace(problem, options=options)
    return replace(
        problem, ask=ask, values=problem.values if ask == "pool" else None, level=int(pick(rng, [0, 0, 0, 1, 2, 3]))
    )


def queries_near(rng: np.random.Generator, keys: np.ndarray, m: int, h: float) -> np.ndarray:
    """Queries among, beside and far from the keys, some of them as far from one key as from another."""
    d = keys.shape[1]
    near = keys[rng.integers(len(keys), size=m)]
    direction = rng.normal(size=(m, d))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    kind = pick(rng, ["among", "among", "on", "near", "rim", "far", "tie", "mixed"])
    if kind == "on":
        return near.copy()
    if kind == "among":
        return near + h * rng.uniform(0, 1, (m, 1)) * direction
    if kind == "near":
        return near + h * 10.0 ** rng.uniform(-12, 0, (m, 1)) * direction
    if kind == "rim":
        return near + h * (1 + rng.integers(-20, 21, (m, 1)) * 10.0 ** -rng.integers(4, 17, (m, 1))) * direction
    if kind == "far":
        return near + h * 10.0 ** rng.uniform(0, pick(rng, [2, 4, 10, 30]), (m, 1)) * direction
    if kind == "tie":
        other = keys[rng.integers(len(keys), size=m)]
        apart = other - near
        across = direction - apart * ((direction * apart).sum(1) / np.maximum((apart**2).sum(1), 1e-300))[:, None]
        return (near + other) / 2 + h * 10.0 ** rng.uniform(-1, pick(rng, [1, 4, 9]), (m, 1)) * across
    return near + h * 10.0 ** rng.uniform(-3, 4, (m, 1)) * direction


def general(rng: np.random.Generator) -> Problem:
    """Everything drawn on its own."""
    options = steps_of(rng)
    kernel = pick(rng, TAKES[options["method"]] if rng.random() < 0.97 else BUILT_IN)
    if options["backend"] in ("auto", "reference") and options["method"] in ("auto", "exact") and rng.random() < 0.1:
        kernel = pick(rng, USER)
    most_d = {"moments": 1, "fourier": 3}.get(options["method"], 0)
    d = int(rng.integers(1, most_d + 1)) if most_d else int(pick(rng, [1, 1, 2, 2, 3, 4, 5, 8, 20, 40]))
    n = int(pick(rng, [1, 2, 3, 5, 10, 30, 60, 150, 300])) if rng.random() < 0.98 else 1500
    own = rng.random() < 0.15 and n <= 300
    m = n if own else int(pick(rng, [1, 2, 5, 15, 40]))
    keys = layout(rng, n, d)
    h = 10.0 ** pick(rng, [-2.0, -1.0, -0.5, 0.0, 0.0, 0.5, 2.0, rng.uniform(-6, 6)])
    if options["method"] == "fourier":  # its series resolves the whole extent of the keys
        while np.prod(2 * (2 * np.ptp(keys, axis=0) / h + 10)) > 2e4:
            h *= 2
    queries = keys if own and rng.random() < 0.8 else queries_near(rng, keys, m, h)
    if kernel == "dot":
        h = h * 10.0 ** pick(rng, [0, 0, -2, -6, 6])
    offset = h * 10.0 ** pick(rng, [-9, -9, 0, 2, 4, 8]) * rng.normal(size=d)
    unit = 10.0 ** pick(rng, [0.0] * 8 + [3.0, -5.0, 100.0, -100.0, 148.0, -148.0, 280.0, -280.0])
    if kernel == "dot":
        unit = 1.0 if rng.random() < 0.8 else unit
    queries, keys, h = (queries + offset) * unit, (keys + offset) * unit, float(np.clip(h * unit, 1e-300, 1e300))
    options |= {"kernel": kernel, "bandwidth": bandwidth(rng, d, h), **tolerance(rng)}
    if np.ndim(options["bandwidth"]) == 1:
        options["bandwidth"] = np.clip(options["bandwidth"], 1e-305, 1e305)
    if own:
        options["exclude_self"] = True
        queries = queries[:n] if len(queries) >= n else keys
    for name, made in (("sample_weight", weights(rng, n)), ("key_scale", key_scales(rng, n))):
        if made is not None and not (name == "key_scale" and options["method"] in ("moments", "fourier")):
            options[name] = made
    problem = Problem("general", "pool", queries, keys, values(rng, n), options)
    return finished(rng, types(rng, problem))
