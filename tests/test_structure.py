"""Rules of the package's structure that its source shows: imports of `core`, and capabilities of backends."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fastnw"
if not PACKAGE.is_dir():
    pytest.skip("the source is not beside the tests", allow_module_level=True)

FRAMEWORKS = {"cupy", "finufft", "jax", "matplotlib", "mxnet", "numba", "pandas", "sklearn", "tensorflow", "torch"}
BACKENDS = {"backend", "tiles", "module"}  # names of variables that hold a backend or a part of one


def parsed():
    """Every module of the package by its dotted name."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path, ast.parse(path.read_text())


MODULES = {name: (path, tree) for name, path, tree in parsed()}


def imported(tree):
    """Dotted names that a module imports, lazily and for typing too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def place(path, node):
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def test_core_imports_no_framework():
    found = [
        (name, module)
        for name, (_, tree) in MODULES.items()
        if name.startswith("fastnw.core")
        for module in imported(tree)
        if module.partition(".")[0] in FRAMEWORKS
    ]
    assert not found


def test_a_backend_is_not_probed():
    """Its capabilities are data."""
    found = [
        place(path, node)
        for path, tree in MODULES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("hasattr", "getattr")
        and set(re.findall(r"\w+", ast.unparse(node.args[0]))) & BACKENDS
    ]
    assert not found
