"""Rules of the package's structure that its source shows: frameworks, capabilities, names and parameter lists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import fastnw

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, CYTHON = ROOT / "fastnw", ROOT / "src_cython"
if not (PACKAGE.is_dir() and CYTHON.is_dir()):
    pytest.skip("the source is not beside the tests", allow_module_level=True)

FRAMEWORKS = {"cupy", "finufft", "jax", "matplotlib", "mxnet", "numba", "pandas", "sklearn", "tensorflow", "torch"}
BACKEND_VARIABLES = {"backend", "tiles", "module"}  # names of variables that hold a backend or a part of one
MAX_PARAMETERS = 10
KERNEL_NAMES, BACKEND_NAMES = {*fastnw.kernels.names()}, {"compiled", "numba", "cuda", "reference"}
NAMES = KERNEL_NAMES | BACKEND_NAMES
MAY_COMPARE_NAMES = {
    "fastnw.backends.cuda.interop",  # chooses its own backend for arrays on a device
    "fastnw.bandwidth.select",  # users who choose another backend get no transforms
    "fastnw.gradients.sums",  # sums exact gradients with the reference if users choose it
    "fastnw.demo.pictures",  # a title
}


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
        and set(re.findall(r"\w+", ast.unparse(node.args[0]))) & BACKEND_VARIABLES
    ]
    assert not found


def compares_names(node):
    """Whether a comparison or a pattern is of the name of a kernel or of a backend."""
    if isinstance(node, ast.MatchValue):
        parts = [node.value]
    elif isinstance(node, ast.Compare):
        parts = [node.left, *node.comparators]
    else:
        return False
    constants = {each.value for part in parts for each in ast.walk(part) if isinstance(each, ast.Constant)}
    subjects = " ".join(ast.unparse(part) for part in parts if not isinstance(part, ast.Constant))
    is_kernel = constants & KERNEL_NAMES and re.search(r"kernel|name", subjects)
    is_backend = constants & BACKEND_NAMES and re.search(r"backend|name", subjects)
    return bool(is_kernel or is_backend or (isinstance(node, ast.MatchValue) and constants & NAMES))


def test_kernels_and_backends_are_not_told_by_name():
    """Code asks for facts and capabilities. Only the tables that hold the names compare them."""
    found = [
        place(path, node)
        for name, (path, tree) in MODULES.items()
        if name not in MAY_COMPARE_NAMES
        for node in ast.walk(tree)
        if compares_names(node)
    ]
    assert not found


def public(name, node, parents):
    """Whether users call it: of a public name or module, or a method of such a class without an underscore."""
    homes = {f"fastnw.{home}" for home in fastnw._HOMES.values()} | {f"fastnw.{home}" for home in fastnw._MODULES}
    outer = [*parents, node]
    if any(isinstance(each, ast.FunctionDef) for each in parents):
        return False
    named = all(not each.name.startswith("_") or each.name == "__init__" for each in outer)
    exported = any(hasattr(getattr(fastnw, module, None), outer[0].name) for module in ("estimators", "bandwidth"))
    return named and (name in homes or outer[0].name in fastnw.__all__ or exported)


def functions(tree, parents=()):
    """Every function with what encloses it, outermost first."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if not isinstance(node, ast.ClassDef):
                yield node, parents
            yield from functions(node, (*parents, node))
        else:
            yield from functions(node, parents)


def parameters(node):
    a = node.args
    names = [each.arg for each in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if each is not None]
    return [name for name in names if name not in ("self", "cls")]


def test_parameter_lists_are_short():
    found = [
        f"{place(path, node)} {node.name}: {len(parameters(node))}"
        for name, (path, tree) in MODULES.items()
        for node, parents in functions(tree)
        if len(parameters(node)) > MAX_PARAMETERS and not public(name, node, parents)
    ]
    assert not found


def signatures(text):
    """Name and number of parameters of each function of a Cython or C file."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*|#[^\n]*(?=\n)", " ", text, flags=re.DOTALL)
    text = re.sub(r"\bN\((\w+)\)", r"\1", text)  # the macro that appends the type to a name
    for match in re.finditer(r"(\w+)\s*\(", text):
        depth, commas, i = 1, 0, match.end()
        while depth and i < len(text):
            depth += text[i] in "([{"
            depth -= text[i] in ")]}"
            commas += depth == 1 and text[i] == ","
            i += 1
        head = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
        rest = text[i:].lstrip("\\ \n")
        cython = re.match(r"\s*(cdef|cpdef|def)\b", head) and re.match(r"(noexcept|except|nogil|:|->)", rest)
        c = re.match(r"(static|inline|void|double|float|int|long|Py_ssize_t|[A-Z]\w*)\b", head) and rest.startswith("{")
        if cython or c:
            inside = text[match.end() : i - 1].rstrip()
            yield match[1], commas + bool(inside) - inside.endswith(",")


@pytest.mark.parametrize("path", sorted(CYTHON.iterdir()), ids=lambda path: path.name)
def test_parameter_lists_of_the_extensions_are_short(path):
    assert not [f"{name}: {count}" for name, count in signatures(path.read_text()) if count > MAX_PARAMETERS]
