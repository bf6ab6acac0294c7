"""Classes of problems that drawing found to be answered wrongly, each drawn more often here than by chance."""

from __future__ import annotations

import numpy as np
import pytest

from robustness.draw import BUILT_IN, COMPACT, EXPONENTIAL, Problem
from robustness.judge import judge

BACKENDS = ["compiled", "reference"]


def held(problem):
    verdict = judge(problem)
    assert verdict.outcome == "held", (str(problem), verdict.faults)
    assert not verdict.warned


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kernel", [*EXPONENTIAL, "cauchy"])
def test_a_heavy_key_that_is_much_farther_than_a_light_one(kernel, backend):
    """Relative to the far key, u of the near one is a small difference of large numbers, and κ of it too."""
    rng = np.random.default_rng(BUILT_IN.index(kernel))
    decay = {"matern32": 3**0.5, "matern52": 5**0.5}.get(kernel, 1.0)
    for _ in range(40):
        powers, d = rng.uniform(100, 290), int(rng.integers(1, 5))
        nats = 2 * powers * np.log(10) + rng.uniform(-12, 12)
        far = {"gaussian": np.sqrt(2 * nats), "cauchy": 10.0 ** min(powers, 150)}.get(kernel, nats / decay)
        keys = 0.5 * rng.normal(size=(5, d))
        keys[3:, 0] += far
        sizes = 10.0 ** np.where(np.arange(5) < 3, -powers, powers) * rng.uniform(0.5, 1, 5)
        queries = rng.normal(size=(2, d)) * 10.0 ** rng.uniform(-3, 0)
        values = 100.0 * (np.arange(5) < 3) + rng.normal(size=5)
        options = {"kernel": kernel, "bandwidth": 1.0, "sample_weight": sizes, "method": "exact", "backend": backend}
        held(Problem("heavy and far", "pool", queries, keys, values, options))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kernel", COMPACT)
def test_near_keys_of_windows_that_are_summed_with_more_digits(kernel, backend):
    """Key scales whose squares overflow, or heavy keys on the rim, bring a window to `tails`; its other keys are at
    u = 1e-12 to 1, where 1 − u² tells little of u."""
    rng = np.random.default_rng(COMPACT.index(kernel))
    for _ in range(25):
        d, n = int(rng.integers(1, 4)), 6
        directions = rng.normal(size=(n, d))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        u = 10.0 ** rng.uniform(-12, 0, (n, 1))
        scales = 10.0 ** np.where(rng.random(n) < 0.5, rng.uniform(100, 150), 0.0)
        options = {"kernel": kernel, "bandwidth": 1.0, "key_scale": scales, "method": "exact", "backend": backend}
        held(Problem("near keys", "pool", np.zeros((1, d)), 0.999 * u * directions, rng.normal(size=n), options))
        gaps = np.where(np.arange(n) < 2, 10.0 ** -rng.uniform(13, 15, n), 1 - u[:, 0])[:, None]
        sizes = np.where(np.arange(n) < 2, 10.0 ** rng.uniform(8, 30), 1.0)
        options = {"kernel": kernel, "bandwidth": 1.0, "sample_weight": sizes, "method": "exact", "backend": backend}
        if kernel != "boxcar":
            held(Problem("heavy rim", "pool", np.zeros((1, d)), (1 - gaps) * directions, rng.normal(size=n), options))


@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize("kernel", ["user stretched", "user two scales"])
def test_a_users_kernel_beside_keys_without_weight(kernel, backend):
    """Keys near the query without weight, all others so far that κ is e^-1000 and less of theirs."""
    rng = np.random.default_rng(0)
    for ask in ("pool", "density", "weights") * 4:
        keys = rng.normal(size=(8, 2))
        keys[4:] += rng.uniform(2e3, 2e4)
        options = {"kernel": kernel, "bandwidth": 1.0, "sample_weight": (np.arange(8) > 3) * rng.uniform(0.1, 1, 8)}
        options |= {"method": "exact", "backend": backend}
        values = rng.normal(size=8) if ask == "pool" else None
        verdict = judge(Problem("masked", ask, rng.normal(size=(3, 2)), keys, values, options))
        assert verdict.outcome == "held", verdict.faults


@pytest.mark.parametrize("ask", ["pool", "weights"])
@pytest.mark.parametrize("backend", [*BACKENDS, "numba"])
def test_the_constant_kernel_needs_no_distances(ask, backend):
    rng = np.random.default_rng(1)
    for size, scale in ((1e200, 1.0), (1.0, 1e-160), (1e200, 1e-200), (1e-200, 1e160)):
        keys = size * rng.normal(size=(5, 2))
        options = {"kernel": "constant", "bandwidth": 1.0, "key_scale": np.full(5, scale), "backend": backend}
        values = rng.normal(size=5) if ask == "pool" else None
        held(Problem("constant", ask, np.concatenate([keys, -keys]), keys, values, options))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("own", [False, True])
def test_tiny_values_and_light_weights_in_many_coordinates(dtype, own):
    """Matrix products sum values as they are, and 1e-250 times a weight of 1e-159 of the largest vanishes."""
    rng = np.random.default_rng(7)
    smallest = 36 if dtype == "float32" else 298
    for _ in range(40):
        n, d = int(rng.integers(6, 20)), int(rng.choice([40, 64, 100]))
        keys = rng.normal(size=(n, d)).astype(dtype)
        sizes = np.where(np.arange(n) == 0, 10.0 ** rng.uniform(0, 200), 1.0)
        values = (rng.normal(size=n) * 10.0 ** -rng.uniform(smallest - 20, smallest)).astype(dtype)
        options = {"kernel": str(rng.choice(["gaussian", "dot"])), "bandwidth": 2 * np.sqrt(d), "sample_weight": sizes}
        queries = keys if own else np.concatenate([keys[1:], keys[1:]]) + keys[:1]
        held(Problem("tiny values", "pool", queries, keys, values, options | {"exclude_self": own}))


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_a_users_kernel_where_some_squares_overflow(backend):
    """u²/(1 + u²) is NaN at infinite u²: other keys of the window count nevertheless."""
    rng = np.random.default_rng(2)
    for ask in ("pool", "density", "weights") * 3:
        keys, scales = rng.normal(size=(8, 2)), np.where(np.arange(8) < 4, 1e-156, 10.0 ** rng.uniform(0, 100, 8))
        options = {"kernel": "user two scales", "bandwidth": 1.0, "key_scale": scales, "backend": backend}
        if ask == "density":
            del options["key_scale"]
            keys[:4] *= 1e160
        values = rng.normal(size=8) if ask == "pool" else None
        problem = Problem("overflow", ask, 3 + rng.normal(size=(3, 2)), keys, values, options | {"method": "exact"})
        verdict = judge(problem)  # that nothing certifies it where key scales leave the range may be said
        assert verdict.outcome == "held", verdict.faults
