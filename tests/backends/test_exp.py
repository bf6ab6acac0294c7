"""The tiles' exponential at every instruction set level, and what a careless compiler flag would do to the process."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import mpmath
import numpy as np
import pytest
from oracle import LONGER

import fastnw
from fastnw.runtime._constants import EXP_CLAMP_NATS

# The type, where the exponential stops to fall (as the error bounds have it), and DESIGN.md's promise down to there.
KINDS = {
    "exp32": (np.float32, -EXP_CLAMP_NATS["float32"], 2e-7),
    "exp64": (np.float64, -EXP_CLAMP_NATS["float64"], 1e-15),
    "exp2 32": (np.float32, -115.0, 2e-7),
    "exp2 64": (np.float64, -995.0, 1e-15),
    "exp2 fused 32": (np.float32, -115.0, 2e-7),
    "exp2 fused 64": (np.float64, -995.0, 1e-15),
}


def base(kind):
    return 2.0 if kind.startswith("exp2") else np.e


def power(kind, x):
    """The exact one, in long double."""
    x = x.astype(np.longdouble)
    return np.exp2(x) if base(kind) == 2 else np.exp(x)


def exponential(level, kind):
    tiles = importlib.import_module(f"fastnw.backends.compiled._tiles_{level}")

    def function(x):
        out = np.empty_like(x)
        if "fused" not in kind:
            tiles.exponential(x, out, base(kind) == 2)
        elif not tiles.vector_exp2(x, out):
            pytest.skip("no fused loops without vectors")
        return out

    return function


def arguments(kind):
    """Evenly spread, near 0, at the ends and at both sides of multiples of log 2 / 2, where ranges are reduced."""
    dtype, low, _ = KINDS[kind]
    rng = np.random.default_rng(0)
    steps = -np.arange(0, -low, np.log(2) / 2 / np.log(base(kind))).astype(dtype)
    x = [
        rng.uniform(low, 0, size=100_000).astype(dtype),
        -(10.0 ** rng.uniform(-30, 0, size=20_000)).astype(dtype),
        np.nextafter(steps[1:], dtype(0)),
        np.nextafter(steps, dtype(low)),
        steps,
        np.array([0.0, low], dtype),
    ]
    return np.clip(np.concatenate(x), dtype(low), dtype(0))


@pytest.mark.parametrize("kind", KINDS)
def test_relative_error(level, kind):
    dtype, _, promise = KINDS[kind]
    x = arguments(kind)
    got = exponential(level, kind)(x)
    assert got.dtype == dtype
    if not LONGER:
        pytest.skip("long double has no more digits than double here")
    exact = power(kind, x)
    assert np.max(abs(got / exact - 1)) <= promise


@pytest.mark.parametrize("kind", KINDS)
def test_relative_error_in_mpmath(level, kind):
    _, _, promise = KINDS[kind]
    x = arguments(kind)[::97].copy()
    got = exponential(level, kind)(x)
    with mpmath.workdps(40):
        exact = [mpmath.power(2 if base(kind) == 2 else mpmath.e, mpmath.mpf(float(a))) for a in x]
        assert max(abs(mpmath.mpf(float(g)) / e - 1) for g, e in zip(got, exact, strict=True)) <= promise


def test_the_clamp_is_far_down():
    """What is left of a key there, 1e-30 and 1e-290, is nothing next to the promises, and still a normal number."""
    assert -87 < KINDS["exp32"][1] <= -70
    assert -708 < KINDS["exp64"][1] <= -670


@pytest.mark.parametrize("kind", KINDS)
def test_below_the_clamp_it_is_what_the_error_bound_counts(level, kind):
    dtype, low, promise = KINDS[kind]
    tail = np.array(
        [np.nextafter(dtype(low), dtype(-np.inf)), 2 * low, 1e4 * low, -np.finfo(dtype).max, -np.inf], dtype
    )
    if "fused" in kind:  # without a clamp on v4: NaN beyond 1e19, which callers look for
        tail = tail[:3]
    got = exponential(level, kind)(tail)
    assert np.all(got >= 0)
    assert np.all(got <= base(kind) ** low * (1 + 2 * promise))


@pytest.mark.parametrize("kind", KINDS)
def test_exact_at_0_and_decreasing(level, kind):
    dtype, low, promise = KINDS[kind]
    x = np.linspace(low, 0, 100_001, dtype=dtype)
    got = exponential(level, kind)(x)
    assert got[-1] == 1
    assert np.all(np.diff(got) >= -2 * promise * got[1:])


def test_one_body_gives_every_position_of_an_array_the_same_bits(level):
    x = np.linspace(-80, 0, 71)
    for kind, dtype in (("exp32", np.float32), ("exp64", np.float64)):
        f, a = exponential(level, kind), x.astype(dtype)
        np.testing.assert_array_equal(f(a), [f(a[i : i + 1].copy())[0] for i in range(len(a))])


def test_denormals_survive_in_this_process(level):
    fastnw.pool(np.zeros((3, 2), "f4"), np.ones((5, 2), "f4"), np.ones(5, "f4"))
    assert np.nextafter(0, 1) > 0
    assert np.nextafter(0, 1) * 1.0 > 0
    assert np.nextafter(np.float32(0), np.float32(1)) * np.float32(1) > 0


def test_denormals_survive_import_and_first_use(level):
    program = """
import numpy as np
import fastnw
assert np.nextafter(0, 1) > 0, "after import"
for dtype in ("f4", "f8"):
    keys = np.random.default_rng(0).normal(size=(3000, 2)).astype(dtype)
    fastnw.pool(keys, keys, keys[:, 0])
assert np.nextafter(0, 1) > 0, "after use"
assert (np.full(9, np.nextafter(0, 1)) * 1.0 > 0).all(), "in array arithmetic"
"""
    environment = os.environ | ({"FASTNW_CPU": level} if level != "plain" else {})
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
