"""Problems aimed at the weak spot of a method: each function draws one of its class.

A key of large weight, or of many copies, stands for a cluster of many.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from robustness.draw import (
    COMPACT,
    EXPONENTIAL,
    Problem,
    finished,
    key_scales,
    matrix,
    pick,
    steps_of,
    tolerance,
    types,
    values,
    weights,
)

Rng = np.random.Generator


def cast(problem: Problem, dtype: str) -> Problem:
    arrays = {name: getattr(problem, name).astype(dtype) for name in ("queries", "keys", "values")}
    return replace(problem, **arrays)


def unit_vectors(rng: Rng, m: int, d: int) -> np.ndarray:
    made = rng.normal(size=(m, d))
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def rim_of_a_heavy_cluster(rng: Rng) -> Problem:
    """Light keys beside a heavy cluster, and few of many queries there: `fourier` sums both with one absolute error.

    The masses of the other queries are smaller yet, so that neither the lightest queries nor evenly spaced ones see it.
    """
    d, m = int(rng.integers(1, 4)), int(pick(rng, [200, 600, 2000]))
    along = np.zeros((40, d))
    along[:, 0] = np.linspace(rng.uniform(2.5, 4), rng.uniform(6, 8.5), 40)
    light, far = along[::5], 12.0 + rng.uniform(0, 4 if d == 3 else 20, (int(rng.integers(10, 40)), d))
    keys = np.concatenate([np.zeros((1, d)), light, far])
    copies = np.ones(len(keys), int)
    copies[0] = int(10.0 ** rng.uniform(2, 5))
    power = rng.uniform(-3, 0)
    powers = np.repeat([0.0, power, power - rng.uniform(0, 1.5)], [1, len(light), len(far)])
    held = np.concatenate([[1.0], np.zeros(len(light)), rng.uniform(0, 1, len(far))])
    queries = far[rng.integers(len(far), size=m)] + 0.3 * rng.normal(size=(m, d))
    evenly = set(np.linspace(0, m - 1, 64).astype(int).tolist())
    places = np.array([row for row in range(m) if row not in evenly])
    rows = np.sort(rng.choice(places, len(along), replace=False))
    queries[rows] = along
    h = 10.0 ** rng.uniform(-3, 3)
    options = {"kernel": "gaussian", "bandwidth": h, "sample_weight": 10.0**powers, **tolerance(rng)}
    options["method"] = pick(rng, ["fourier", "fourier", "auto"])
    suspects = tuple(rng.choice(rows, 2).tolist())
    problem = Problem("rim of a heavy cluster", "pool", queries * h, keys * h, held, options, 0, suspects, copies)
    return finished(rng, cast(problem, pick(rng, ["f8", "f8", "f4"])))


def products_of_masked_copies(rng: Rng) -> Problem:
    """Many coordinates, where sums go through matrix products: the own key, or a masked copy, outweighs all others."""
    d, n = int(pick(rng, [32, 40, 64, 100, 200, 300])), int(pick(rng, [6, 10, 20, 40]))
    keys = rng.normal(size=(n, d))
    keys[1::2] = keys[: 2 * (n // 2) : 2] + 10.0 ** rng.uniform(-8, 0) * rng.normal(size=(n // 2, d))
    kernel = pick(rng, ["gaussian", "gaussian", "dot"])
    if kernel == "dot":
        keys = keys / np.linalg.norm(keys, axis=1, keepdims=True) * 10.0 ** rng.uniform(-1, 2)
    keys = keys + 10.0 ** rng.uniform(-6, 2) * rng.normal(size=d)
    h = 10.0 ** rng.uniform(-2, 1) * np.sqrt(d) if kernel == "gaussian" else 10.0 ** rng.uniform(-2.5, 1)
    kind = pick(rng, ["none", "mask", "one dominates", "any"])
    options = {"kernel": kernel, "bandwidth": h, "exclude_self": True, "method": pick(rng, ["auto", "exact"])}
    if kind == "mask":
        options["sample_weight"] = (np.arange(n) % 2 == 0).astype(float)
    elif kind == "one dominates":
        options["sample_weight"] = np.where(np.arange(n) == 0, 10.0 ** rng.uniform(1, 300), 1.0)
    elif kind == "any" and (made := weights(rng, n)) is not None:
        options["sample_weight"] = made
    if rng.random() < 0.2:
        options["bandwidth"] = h * np.exp2(rng.uniform(-1, 1, d))
    problem = Problem("products", "pool", keys, keys, values(rng, n), options | tolerance(rng))
    problem = cast(problem, pick(rng, ["f8", "f4"]))
    if rng.random() < 0.4:
        del options["exclude_self"]
        near = problem.keys[rng.integers(n, size=9)]
        moved = (near * (1 + rng.uniform(-0.1, 0.1, (9, 1)))).astype(near.dtype)
        problem = replace(problem, queries=moved, options=options)
    return finished(rng, problem)


def light_beside_heavy_far(rng: Rng) -> Problem:
    """Light keys beside the queries, heavy ones far away: what `tree` leaves out, and weights that vanish."""
    d, n, kernel = int(rng.integers(1, 5)), int(pick(rng, [2, 20, 200, 700])), pick(rng, EXPONENTIAL)
    powers = rng.uniform(0, pick(rng, [10, 100, 300]))
    nats = powers * 2 * np.log(10) + rng.uniform(-30, 30)
    far = (
        np.sqrt(2 * max(nats, 1.0))
        if kernel == "gaussian"
        else max(nats, 1.0) / {"matern32": 3**0.5, "matern52": 5**0.5}.get(kernel, 1)
    )
    heavy = np.arange(n) >= max(n // 3, 1)
    keys = rng.normal(size=(n, d)) * rng.choice([0.01, 0.3, 1.0])
    keys[heavy, 0] += far
    sizes = np.where(heavy, 10.0**powers, 10.0**-powers) * rng.uniform(0.5, 1, n)
    m = int(pick(rng, [1, 5, 30]))
    queries = rng.normal(size=(m, d)) * 0.3
    queries[:, 0] += rng.choice([0.0, 0.0, 0.5], m) * far
    h = 10.0 ** rng.uniform(-3, 3)
    options = {"kernel": kernel, "bandwidth": h, "sample_weight": sizes, **tolerance(rng)} | steps_of(rng)
    if options["method"] in ("fourier", "moments") and (d > 1 or kernel == "logistic"):
        options["method"] = "tree"
    held = np.where(heavy, rng.normal(size=n), 100.0 + rng.normal(size=n))
    return finished(rng, Problem("light beside heavy", "pool", queries * h, keys * h, held, options))


def heavy_just_outside(rng: Rng) -> Problem:
    """One coordinate: heavy keys just beyond the rims of light windows, where moments that are subtracted cancel."""
    kernel = pick(rng, [*COMPACT[:-1], "laplacian", "matern32", "matern52"])
    n = int(pick(rng, [20, 100, 300]))
    keys = np.sort(rng.uniform(0, pick(rng, [3, 30, 300]), n))
    if rng.random() < 0.4:
        keys = np.round(keys * 4) / 4
    heavy = rng.random(n) < 0.3
    sizes = np.where(heavy, 10.0 ** rng.uniform(0, pick(rng, [6, 20, 200])), 1.0)
    m = int(pick(rng, [5, 40]))
    edge = keys[rng.integers(n, size=m)] + rng.choice([-1.0, 1.0], m) * (
        1 + rng.choice([-1, 0, 1, 30], m) * 10.0 ** -rng.uniform(3, 16, m)
    )
    h, offset = 10.0 ** rng.uniform(-3, 3), 10.0 ** pick(rng, [-3, 0, 4, 8])
    held = values(rng, n)
    options = {"kernel": kernel, "bandwidth": h, "sample_weight": sizes, **tolerance(rng)}
    options["method"] = pick(rng, ["moments", "moments", "tree", "auto"])
    queries, keys = (edge[:, None] + offset) * h, (keys[:, None] + offset) * h
    if rng.random() < 0.2:
        options["exclude_self"], queries = True, keys
    return finished(rng, types(rng, Problem("heavy outside", "pool", queries, keys, held, options)))


def keys_on_the_rim(rng: Rng) -> Problem:
    """Compact kernels whose window holds little but keys at u = 1, less a few roundings."""
    kernel, d = pick(rng, COMPACT), int(pick(rng, [1, 2, 3, 6]))
    n, m = int(pick(rng, [1, 2, 4, 10])), int(pick(rng, [1, 4]))
    gap = rng.choice([-1.0, 1.0, 1.0, 1.0], n) * 10.0 ** -rng.uniform(0, 17, n)
    centre = rng.normal(size=d) * 10.0 ** pick(rng, [-3, 0, 3, 6])
    queries = np.zeros((m, d)) + centre
    h = 10.0 ** rng.uniform(-3, 3)
    keys = centre + h * (1 - gap)[:, None] * unit_vectors(rng, n, d)
    options = {"kernel": kernel, "bandwidth": h, **tolerance(rng)} | steps_of(rng)
    if options["method"] in ("fourier", "moments"):
        options["method"] = "exact"
    if (made := weights(rng, n)) is not None:
        options["sample_weight"] = made
    if rng.random() < 0.3:
        options["bandwidth"] = h * np.exp2(rng.integers(-1, 2, d).astype(float))
        keys = centre + options["bandwidth"] * (1 - gap)[:, None] * unit_vectors(rng, n, d)
    return finished(rng, types(rng, Problem("rim", "pool", queries, keys, values(rng, n), options)))


def ill_conditioned(rng: Rng) -> Problem:
    """A matrix of bandwidths with cond(H) up to 1e14, keys that are ordinary once whitened; near queries and tails."""
    d, n, m = int(pick(rng, [2, 2, 3, 5])), int(pick(rng, [2, 6, 20, 50])), int(pick(rng, [1, 4]))
    kernel = pick(rng, [*EXPONENTIAL, *COMPACT, "dot", "cauchy"])
    scale = 10.0 ** pick(rng, [0, 0, -3, 4, 60, -60])
    h = matrix(rng, d, scale, 10.0 ** rng.uniform(0, 14))
    try:
        factor = np.linalg.cholesky(h)
    except np.linalg.LinAlgError:
        h, factor = np.eye(d) * scale**2, np.eye(d) * scale
    spread = 0.7 if kernel in COMPACT else 1.0
    white = spread * rng.normal(size=(n, d))
    asked = spread * rng.normal(size=(m, d))
    if rng.random() < 0.3 and kernel not in COMPACT:  # keys that nearly tie
        far, along = 10.0 ** rng.uniform(0, 10), unit_vectors(rng, 1, d)[0]
        asked = np.zeros((m, d)) + far * along
        white -= np.outer(white @ along, along) * (1 - 1 / far)
    offset = factor @ rng.normal(size=d) * 10.0 ** pick(rng, [-9, -9, 0, 3])
    options = {"kernel": kernel, "bandwidth": h, **tolerance(rng)} | steps_of(rng)
    if options["method"] == "moments" or (options["method"] == "fourier" and kernel != "gaussian"):
        options["method"] = "auto"
    if options["method"] == "tree" and kernel in ("dot", "cauchy"):
        options["method"] = "exact"
    for name, made in (("sample_weight", weights(rng, n)), ("key_scale", key_scales(rng, n))):
        if made is not None and rng.random() < 0.5:
            options[name] = made
    if options["method"] == "fourier":
        options.pop("key_scale", None)
        options["method"] = "fourier" if d <= 3 else "auto"
    problem = Problem(
        "ill-conditioned", "pool", asked @ factor.T + offset, white @ factor.T + offset, values(rng, n), options
    )
    return finished(rng, cast(problem, pick(rng, ["f8", "f8", "f8", "f4"])) if abs(np.log10(scale)) < 5 else problem)


def large_scores(rng: Rng) -> Problem:
    """`dot` of large norms, with cancelling coordinates and ties."""
    d, n, m = int(pick(rng, [1, 2, 3, 8, 64])), int(pick(rng, [2, 5, 40])), int(pick(rng, [1, 5]))
    size = 10.0 ** rng.uniform(-2, pick(rng, [2, 5, 10, 100]))
    keys, queries = rng.normal(size=(n, d)), size * rng.normal(size=(m, d))
    if rng.random() < 0.5:
        keys[n // 2 :] = keys[: n - n // 2] + rng.normal(size=(n - n // 2, d)) / size
    keys = keys + 10.0 ** pick(rng, [-9, 0, 4]) * rng.normal(size=d)
    options = {"kernel": "dot", "bandwidth": 10.0 ** rng.uniform(-2, 2), **tolerance(rng)}
    if rng.random() < 0.3:
        options["bandwidth"] = 10.0 ** rng.uniform(-2, 2, d)
    options["method"], options["backend"] = pick(rng, ["auto", "exact"]), pick(rng, ["auto", "compiled", "reference"])
    for name, made in (("sample_weight", weights(rng, n)), ("key_scale", key_scales(rng, n))):
        if made is not None:
            options[name] = made
    problem = Problem("large scores", "pool", queries, keys, values(rng, n), options)
    return finished(rng, cast(problem, pick(rng, ["f8", "f8", "f4"])) if size < 1e10 else problem)


def far_tails(rng: Rng) -> Problem:
    """Queries up to 1e30 bandwidths away, of which several keys are as near as the nearest."""
    d, n, m = int(pick(rng, [1, 2, 3, 5])), int(pick(rng, [2, 3, 8, 30])), int(pick(rng, [1, 3]))
    kernel = pick(rng, [*EXPONENTIAL, "cauchy", "gaussian"])
    far = 10.0 ** rng.uniform(0, pick(rng, [4, 10, 20, 30, 140]), (m, 1))
    along = unit_vectors(rng, 1, d)
    keys = rng.normal(size=(n, d)) * rng.choice([1.0, 1e-3])
    kind = pick(rng, ["any", "plane", "powers of two", "weights"])
    if kind == "plane":  # all at about the same distance along the direction, so across it decides
        keys = keys - np.outer(keys @ along[0], along[0]) * (1 - 1 / far.max())
    queries = far * along
    h = 1.0
    if kind == "powers of two":  # differences that are exact, and cancel
        h = np.array([3.0, 1.0, 2.0, 1.0, 5.0])[:d] if d > 1 else 1.0
        keys = np.outer(np.arange(n), np.where(np.arange(d) % 2, -1.0, 1.0))
        queries = np.exp2(np.round(np.log2(far))) * np.square(np.broadcast_to(h, d))
    options = {"kernel": kernel, "bandwidth": h, **tolerance(rng)} | steps_of(rng)
    if options["method"] in ("fourier", "moments") and (d > 1 or kernel in ("logistic", "cauchy")):
        options["method"] = "exact"
    if options["method"] == "tree" and kernel == "cauchy":
        options["method"] = "auto"
    if kind == "weights":
        options["sample_weight"] = 10.0 ** rng.uniform(-300, 300, n)
    elif (made := weights(rng, n)) is not None:
        options["sample_weight"] = made
    if rng.random() < 0.2 and options["method"] in ("auto", "exact", "tree"):
        options["key_scale"] = 1 + rng.choice([0.0, 1e-12, 1e-3], n) * rng.normal(size=n)
    unit = 10.0 ** pick(rng, [0, 0, 0, 5, -5, 100, -100])
    options["bandwidth"] = options["bandwidth"] * unit
    return finished(rng, Problem("far tails", "pool", queries * unit, keys * unit, values(rng, n), options))


def own_key_only(rng: Rng) -> Problem:
    """Leave-one-out where a query's own key, or its copies, is all there is."""
    n, d, kernel = int(pick(rng, [1, 2, 3, 12, 60])), int(pick(rng, [1, 2, 5])), pick(rng, [*EXPONENTIAL, *COMPACT])
    places = rng.normal(size=(max(n // 3, 1), d)) * pick(rng, [1, 30, 1e4])
    keys = places[rng.integers(len(places), size=n)] + pick(rng, [0.0, 1e-9, 0.1]) * rng.normal(size=(n, d))
    options = {"kernel": kernel, "bandwidth": 10.0 ** rng.uniform(-1, 1), "exclude_self": True, **tolerance(rng)}
    options |= steps_of(rng)
    if options["method"] == "moments" and (d > 1 or kernel in ("gaussian", "logistic", "cosine")):
        options["method"] = "tree"
    if options["method"] == "fourier":
        options["method"] = "fourier" if kernel == "gaussian" and d <= 2 and np.ptp(keys) < 50 else "auto"
    if (made := weights(rng, n)) is not None:
        options["sample_weight"] = made
    return finished(rng, types(rng, Problem("own key only", "pool", keys, keys, values(rng, n), options)))


ATTACKS = [
    rim_of_a_heavy_cluster,
    products_of_masked_copies,
    light_beside_heavy_far,
    heavy_just_outside,
    keys_on_the_rim,
    ill_conditioned,
    large_scores,
    far_tails,
    own_key_only,
]
