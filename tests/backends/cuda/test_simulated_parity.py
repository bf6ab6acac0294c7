"""Every kernel on simulated CUDA against the naive loops of oracle.py, as `test_parity` has it for other backends."""

from __future__ import annotations

import pytest
from cases import KERNELS, Case
from parity import check

pytestmark = pytest.mark.filterwarnings("ignore::fastnw.EmptyWindowWarning")

CASES = [
    Case("d1 vector weights", m=9, n=70, d=1, bandwidth="vector", weights=True, columns=1),
    Case("d2 columns", m=11, n=70, columns=3),
    Case("d2 matrix weights scale", m=9, n=70, bandwidth="matrix", weights=True, key_scale=True, columns=2),
    Case("d3 tiles", m=23, n=600, d=3),  # several tiles of keys, the last a part of one; several queries a thread
    Case("d3 vector scale", m=9, n=150, d=3, bandwidth="vector", key_scale=True),
    Case("d3 without self", m=40, n=40, d=3, exclude_self=True),
    Case("d9 weights columns", m=7, n=40, d=9, weights=True, columns=11),  # parts of coordinates, chunks of values
    Case("one key", m=7, n=1, d=2),
    Case("one query", m=1, n=300, d=3),
    Case("at 1e4", m=7, n=50, d=2, centre=1e4),
]
WIDE = [
    Case("d33 weights scale", m=5, n=30, d=33, weights=True, key_scale=True),
    Case("d34 columns without self", m=9, n=9, d=34, bandwidth="vector", columns=10, exclude_self=True),
]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_exact(kernel, case, dtype):
    check(kernel, case, dtype, "cuda", "exact")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", WIDE, ids=lambda case: case.name)
def test_many_coordinates(kernel, case, dtype):
    check(kernel, case, dtype, "cuda", "exact")


@pytest.mark.parametrize("kernel", KERNELS)
def test_far_from_the_origin(kernel):
    check(kernel, Case("at 1e8 vector weights", m=7, n=50, d=3, centre=1e8, weights=True), "float64", "cuda", "exact")


def test_products_of_many_coordinates(dtype):
    check("gaussian", Case("d40", m=9, n=40, d=40), dtype, "cuda", "exact")
    check("gaussian", Case("d40 columns", m=9, n=40, d=40, columns=9, weights=True), dtype, "cuda", "exact")
