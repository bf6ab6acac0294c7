"""``method="exact"`` takes at most 64 MiB over inputs and outputs, whatever grows: queries, keys, coordinates, values.

Each case runs in a fresh process, so that no memory freed earlier hides what it takes. Small calls of the same kind,
in at most 100 coordinates, come first: modules and thread stacks are there by then, and no memory that would hide more.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import fresh
import pytest

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read and reset through Linux's /proc"),
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="this kernel cannot reset peak memory"),
]

LIMIT = 64  # MiB

PREAMBLE = """
import numpy as np
import fastnw

def status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(key + ":")) / 1024

def peak(call):
    '''MiB that `call` takes at its highest beyond what is resident before.'''
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    before = status("VmRSS")
    assert status("VmHWM") - before < 4, "the peak was not reset"
    call()
    return status("VmHWM") - before

rng = np.random.default_rng(0)
def normal(*shape):
    return rng.standard_normal(shape, dtype=dtype)
"""


@dataclass(frozen=True)
class Case:
    """`m` queries, `n` keys, `d` coordinates, `columns` values; the rest is Python for the process to evaluate."""

    name: str
    m: int
    n: int
    d: int = 3
    columns: int = 0
    dtype: str = "float32"
    options: str = ""
    arrange: str = ""  # statements that change queries and keys
    slow: bool = False

    def program(self):
        return f"""{PREAMBLE}
dtype = np.{self.dtype}
def problem(m, n, arranged=True, d={self.d}):
    queries, keys = normal(m, d), normal(n, d)
    if arranged:
        {self.arrange or "pass"}
    return queries, keys, normal({f"n, {self.columns}" if self.columns else "n"})

for m, n, arranged in ((3, 5, True), (4000, 300, False), (2, 2000, False)):
    fastnw.pool(*problem(m, n, arranged, {min(self.d, 100)}), method="exact", {self.options})
arrays = problem({self.m}, {self.n})
out = np.zeros({f"({self.m}, {self.columns})" if self.columns else self.m}, dtype)
taken = peak(lambda: fastnw.pool(*arrays, out=out, method="exact", {self.options}))
assert np.isfinite(out).all()
print(taken)
"""


MATRIX = "bandwidth=np.diag(np.arange(1.0, {d} + 1))"
CASES = [
    Case("very many coordinates", m=33, n=80, d=30_000),
    Case("very many coordinates float64", m=33, n=40, d=30_000, dtype="float64", options='kernel="laplacian"'),
    Case("spans of many coordinates", m=300, n=3_000, d=3_000, dtype="float64", options='kernel="laplacian"'),
    Case("products, very many coordinates", m=500, n=600, d=30_000, options="bandwidth=170.0"),
    Case("twice, very many coordinates", m=500, n=600, d=30_000),
    Case("very many values", m=300, n=900, columns=10_000),
    Case("products, very many values", m=300, n=900, d=64, columns=10_000, slow=True),
    Case("products, one query", m=1, n=300_000, d=64, columns=64, options="bandwidth=4.0"),
    Case("products", m=3_000, n=30_000, d=200, columns=64, options="bandwidth=14.0"),
    Case("many keys", m=2_000, n=2_000_000),
    Case("many keys in float64", m=500, n=2_000_000, dtype="float64", slow=True),
    Case("many queries", m=2_000_000, n=2_000),
    Case("very many queries", m=12_000_000, n=2, d=1, slow=True),
    Case("many queries in d = 100", m=200_000, n=20, d=100, dtype="float64"),
    Case("many queries in a matrix", m=300_000, n=20, d=40, options=MATRIX.format(d=40)),
    Case("many inner products", m=200_000, n=20, d=60, options="kernel='dot', bandwidth=1000.0"),
    Case("many values", m=2_000, n=20_000, columns=300),
    Case("weights and scales", m=200, n=1_000_000, options="sample_weight=2.0, kernel='triangular', bandwidth=9.0"),
    Case("the reference", m=100, n=1_000_000, options="backend='reference'"),
    Case("float32 gives way to float64", m=300, n=1_000_000, arrange="queries += 12"),
    Case("far tails", m=300, n=300_000, dtype="float64", arrange="queries += 1e6"),
    Case(
        "ties in far tails",
        m=64,
        n=6_000,
        d=60,
        dtype="float64",
        arrange="queries += 1e6; keys *= 1e-9",
        slow=True,  # with 16 threads it is quick
    ),
    Case(
        "ties in far tails of a matrix",
        m=2,
        n=4_200,
        d=24,
        dtype="float64",
        arrange="queries += 1e6; keys *= 1e-9",
        options="bandwidth=np.eye(24)",
    ),
    Case(
        "ties in far tails on 16 threads",
        m=512,
        n=2_500,
        d=40,
        dtype="float64",
        arrange="queries += 1e6; keys *= 1e-9",
        options="n_jobs=16",
    ),
    Case(
        "far tails in d = 768 on 16 threads",
        m=512,
        n=2_000,
        d=768,
        dtype="float64",
        arrange="queries += 1e6",
        options="n_jobs=16",
    ),
    Case("many values on 16 threads", m=500, n=40_000, columns=300, options="n_jobs=16"),
    Case("a matrix on 16 threads", m=500, n=100_000, d=40, options="n_jobs=16, " + MATRIX.format(d=40)),
    Case(
        "edges of windows on 16 threads",
        m=512,
        n=1_100,
        d=40,
        columns=2,
        dtype="float64",
        arrange="queries[:] = 0; keys /= np.linalg.norm(keys, axis=1, keepdims=True) * (1 + 1e-12)",
        options="kernel='triweight', n_jobs=16, empty=0.0",
    ),
    Case("20,000 queries, 2,000,000 keys", m=20_000, n=2_000_000, slow=True),
    Case("20,000 queries, 2,000,000 keys in float64", m=20_000, n=2_000_000, dtype="float64", slow=True),
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] * case.slow, id=case.name) for case in CASES]
)
def test_exact(case):
    taken = float(fresh.run(case.program(), timeout=600))
    print(f"{case.name}: {taken:.1f} MiB")
    assert taken <= LIMIT


def test_the_largest_weights_need_no_weights_of_all_pairs():
    """5,000 x 200,000 of them would be 8 GB."""
    program = f"""{PREAMBLE}
dtype = np.float64
fastnw.attention_weights(normal(200, 3), normal(5000, 3), top_k=10)
queries, keys = normal(5_000, 3), normal(200_000, 3)
print(peak(lambda: fastnw.attention_weights(queries, keys, top_k=10)))
"""
    taken = float(fresh.run(program))
    print(f"{taken:.1f} MiB")
    assert taken <= 100


def test_density_takes_no_copy_of_the_keys_scales():
    """A copy takes 115 MiB; without any it is 50 to 67, most of it what the allocator keeps for its threads."""
    program = f"""{PREAMBLE}
dtype = np.float32
fastnw.density(normal(20, 3), normal(500, 3), key_scale=np.ones(500))
queries, keys, scale = normal(5, 1), normal(30_000_000, 1), np.ones(30_000_000, np.float32)
print(peak(lambda: fastnw.density(queries, keys, key_scale=scale)))
"""
    assert float(fresh.run(program)) <= 100


def test_the_mean_for_empty_windows_takes_no_copy_of_the_values():
    program = f"""{PREAMBLE}
dtype = np.float32
options = dict(kernel="boxcar", empty="mean")
fastnw.pool(normal(20, 1) + 100, normal(500, 1), normal(500), sample_weight=np.ones(500), **options)
queries, keys, values, weights = normal(5, 1) + 100, normal(20_000_000, 1), normal(20_000_000), abs(normal(20_000_000))
print(peak(lambda: fastnw.pool(queries, keys, values, sample_weight=weights, **options)))
"""
    assert float(fresh.run(program)) <= LIMIT
