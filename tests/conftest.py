from __future__ import annotations

import os
from contextlib import nullcontext

import frameworks
import pytest
from hypothesis import HealthCheck, settings

from fastnw.backends.compiled import backend as compiled

# The backend fixture holds for all examples of a test, which is what is wanted here.
_common = {"deadline": None, "max_examples": 25, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
settings.register_profile("dev", **_common)
settings.register_profile("ci", derandomize=True, **_common)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

frameworks.require_listed()

LEVELS = list(compiled.levels())


@pytest.fixture(params=LEVELS)
def level(request):
    """Every instruction set level this machine can run, in use during the test."""
    with compiled.use_level(request.param):
        yield request.param


@pytest.fixture(params=["reference", *(f"compiled-{level}" for level in LEVELS)])
def backend(request):
    """Every backend of this machine's CPU; the compiled one at every instruction set level."""
    name, _, level = request.param.partition("-")
    with compiled.use_level(level) if level else nullcontext():
        yield name


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return request.param
