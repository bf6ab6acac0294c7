"""These tests run numba-cuda's simulator, which has to be chosen before numba is imported: `test_cuda.py` starts them in
a process of their own, as does ``NUMBA_ENABLE_CUDASIM=1 pytest tests/cuda``."""

from __future__ import annotations

import importlib.util
import os

import pytest

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1" and importlib.util.find_spec("numba_cuda") is not None


def pytest_collection_modifyitems(items):
    if not SIMULATED:
        why = pytest.mark.skip(reason="the CUDA simulator has not been chosen: NUMBA_ENABLE_CUDASIM=1, numba-cuda")
        for item in items:
            if "simulated" in item.nodeid:
                item.add_marker(why)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return request.param
