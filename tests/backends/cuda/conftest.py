"""These tests run numba-cuda's simulator, which has to be chosen before numba is imported. `test_cuda.py` starts them
in a process of their own, as does ``NUMBA_ENABLE_CUDASIM=1 pytest tests/backends/cuda``. Elsewhere they are not
collected."""

from __future__ import annotations

import importlib.util
import os

import pytest

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1" and importlib.util.find_spec("numba_cuda") is not None
collect_ignore_glob = [] if SIMULATED else ["test_*.py"]


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return request.param
