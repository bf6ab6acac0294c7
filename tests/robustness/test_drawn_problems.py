"""1,000 drawn problems, each compared with sums of 60 digits; with ``-m slow`` 51,000 more.

``FASTNW_FUZZ_SEED=7`` draws others. What failed is named by its seed and index; ``python tests/robustness/fuzz.py
--seed 0 --index 4711`` prints that problem and a smaller one with the same fault.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
from oracle import LONGER, mp_pool

import fastnw
from robustness import judge as judging
from robustness.draw import BUILT_IN, EXPONENTIAL, Problem, draw, draw_for_numba
from robustness.fuzz import search, told
from robustness.judge import judge
from robustness.truth import Oracle

SEED = int(os.environ.get("FASTNW_FUZZ_SEED", "0"))
PARTS, PART = 4, 250  # tests, and problems in each
LONG_PARTS, LONG_PART = 20, 2550

needs_long_double = pytest.mark.skipif(not LONGER, reason="long double has no more digits than double here")


def holds(indices: range, draw: Callable[[int, int], Problem] = draw) -> None:
    outcomes, found = search(SEED, indices, draw)
    print(f"seed {SEED}, problems {indices.start} to {indices.stop - 1}")
    assert not found, told(SEED, outcomes, found)
    assert outcomes["held"] > len(indices) / 2


@needs_long_double
@pytest.mark.parametrize("part", range(PARTS))
def test_every_certificate_holds(part):
    holds(range(part * PART, (part + 1) * PART))


@needs_long_double
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(LONG_PARTS))
def test_every_certificate_holds_in_many_more(part):
    first = PARTS * PART + part * LONG_PART
    holds(range(first, first + LONG_PART))


@needs_long_double
@pytest.mark.parametrize(
    "problems", [pytest.param(40, id="quick"), pytest.param(2000, id="long", marks=[pytest.mark.slow])]
)
def test_every_certificate_of_numba_holds(problems):
    holds(range(problems), draw_for_numba)


def test_all_kernels_are_drawn():
    assert sorted(BUILT_IN) == sorted(fastnw.kernels.names())


@pytest.mark.parametrize("kernel", [*EXPONENTIAL, "dot", "cauchy"])
@pytest.mark.parametrize("far", [1.0, 1e6])
def test_the_oracle_agrees_with_another(kernel, far):
    rng = np.random.default_rng(3)
    keys, queries, values = rng.normal(size=(9, 2)), far * rng.normal(size=(2, 2)), rng.normal(size=9)
    options = {"kernel": kernel, "bandwidth": np.array([[2.0, 1.0], [1.0, 3.0]]), "sample_weight": rng.uniform(0, 1, 9)}
    expected, log_mass = mp_pool(queries, keys, values, digits=80, **options)
    oracle = Oracle(Problem("", "pool", queries, keys, values, options))
    with mpmath.workdps(80):
        for row in range(2):
            (way,) = oracle.at(row).ways
            assert abs(float(way.f[0]) - expected[row]) <= 1e-16
            assert abs(float(way.log_mass) - log_mass[row]) <= 1e-15 * max(abs(log_mass[row]), 1)


TAMPERED = {
    "certificate": lambda f, log_mass, error: (f + 3 * error + 1e-9, log_mass, error),
    "mass": lambda f, log_mass, error: (f, log_mass + 1e-6, error),
    "nan": lambda f, log_mass, error: (f * np.nan, log_mass, error),
    "range": lambda f, log_mass, error: (f + 1e9, log_mass, error + 1e10),
    "warning": lambda f, log_mass, error: (f, log_mass, error + 1.0),
    "empty": lambda f, log_mass, error: (f * np.nan, log_mass * 0 - np.inf, error * np.nan),
}


@needs_long_double
@pytest.mark.parametrize("kind", TAMPERED)
def test_a_wrong_answer_is_seen(kind, monkeypatch):
    rng = np.random.default_rng(5)
    arrays = rng.normal(size=(4, 2)), rng.normal(size=(30, 2)), rng.normal(size=30)
    problem = Problem("", "pool", *arrays, {"kernel": "gaussian", "bandwidth": 0.7})
    assert judge(problem).outcome == "held"
    pool = fastnw.pool
    monkeypatch.setattr(judging.fastnw, "pool", lambda *args, **options: TAMPERED[kind](*pool(*args, **options)))
    assert kind in dict(judge(problem).faults)


def test_a_number_names_a_problem():
    one, again, other = draw(1, 5), draw(1, 5), draw(1, 6)
    assert one.keys.tobytes() == again.keys.tobytes()
    assert str(one) == str(again)
    assert str(one) != str(other)
