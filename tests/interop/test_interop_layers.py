"""Arrays on a CUDA device are recognised by every part of the package that reads arrays of frameworks."""

from __future__ import annotations

import re
from pathlib import Path

import fresh
import pytest

import fastnw

PACKAGE = Path(fastnw.__file__).parent
READERS = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if re.search(r"frameworks\.(to_numpy|restorer)\(", path.read_text(encoding="utf8"))
    # it reads bandwidths for callers that are in this list themselves
    and path.name != "validate.py"
)


@pytest.mark.parametrize("module", READERS)
def test_who_reads_arrays_knows_those_on_a_device(module):
    program = f"""
    import importlib
    importlib.import_module("{module}")
    from fastnw.interop import frameworks
    class OnDevice:
        __cuda_array_interface__ = {{}}
    print(frameworks.framework(OnDevice()) is not None and frameworks.on_cuda(OnDevice()))
    """
    assert fresh.run(program) == "True"


@pytest.mark.parametrize("room", ["kernels", "arithmetic", "runtime", "interop"])
def test_the_lowest_rooms_import_nothing_above_them(room):
    below = {"kernels": {"kernels", "arithmetic", "runtime"}, "arithmetic": {"arithmetic", "runtime"}}
    allowed = below.get(room, {room})
    for path in (PACKAGE / room).rglob("*.py"):
        text = path.read_text(encoding="utf8")
        imported = set(re.findall(r"(?:from|import) fastnw\.(\w+)", text)) | set(
            re.findall(r"from fastnw import (\w+)", text)
        )
        assert imported <= allowed, path
