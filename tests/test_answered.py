"""Who listens learns how many queries were handed on, and to which method."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

import fastnw
from fastnw import methods


def problem(m, n, far):
    """Standard normal queries and keys, and `far` queries more where nothing but `exact` is sure of its digits."""
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(n, 1))
    return np.concatenate([rng.normal(size=(m, 1)), np.full((far, 1), 40.0)]), keys, np.sin(3 * keys[:, 0])


def test_fourier_says_what_it_hands_on():
    with methods.answered() as counts:
        fastnw.pool(*problem(500, 2000, 0), bandwidth=0.5, method="fourier")
    few = counts["exact"]
    assert few < 50
    with methods.answered() as counts:
        fastnw.pool(*problem(500, 2000, 7), bandwidth=0.5, method="fourier")
    assert counts == {"exact": few + 7}


def test_moments_say_what_they_hand_on():
    queries, keys, values = [[0.2], [1.5], [2 - 1e-9]], [[-1.0], [0.0], [0.5], [1.0]], [0.0, 1.0, 2.0, 5.0]
    with methods.answered() as counts:
        fastnw.pool(queries, keys, values, kernel="epanechnikov", method="moments")
    assert counts == {"exact": 1}  # the last, whose only key is at the rim of its window
    with methods.answered() as counts:
        fastnw.pool(queries, [*keys, [1e200]], [*values, 9.0], kernel="laplacian", method="moments")
    assert counts == {"exact": 3}  # squares overflow


def test_exact_hands_nothing_on_and_nobody_listens_afterwards():
    with methods.answered() as outer, methods.answered() as inner:
        fastnw.pool(*problem(50, 200, 7), bandwidth=0.5, method="exact")
        methods.note("tree", 2)
    assert outer == inner == {"tree": 2}
    methods.note("tree", 2)
    assert outer == inner == {"tree": 2}
    assert not methods._listeners


def test_notes_of_many_threads_are_all_counted():
    with methods.answered() as counts, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: methods.note("exact", 1), range(4000)))
    assert counts == {"exact": 4000}
