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


# The files that take longest, longest first. pytest-xdist hands out whole files, those with the most tests first: a
# long one with few tests would begin last and keep one worker busy when all others are done.
LONGEST_FILES = (
    "test_numba.py",
    "test_drawn_problems.py",
    "test_memory.py",
    "test_selection.py",
    "test_relative_weights.py",
    "test_tree.py",
    "test_torch.py",
    "test_many_classes.py",
    "test_conditions.py",
)


def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
