"""Builds a module of tiles for each kernel, compute type and number of coordinates. Numba caches them on disk."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import linecache
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
import numpy as np
from numba.core.dispatcher import Dispatcher

from fastnw.backends.numba import functions
from fastnw.kernels import formula_texts, sensitivity, tracing
from fastnw.kernels.kernel import Kernel
from fastnw.kernels.user_formulas import scalar
from fastnw.runtime._constants import (
    EXP_CLAMP_NATS,
    FIRST_STRIP_KEYS,
    MAX_SEQUENTIAL_KEYS,
    MAX_STRIP_KEYS,
    MAX_VECTOR_ELEMENTS,
    MIN_UNSHIFTED_MASS,
)

TEMPLATE = Path(__file__).with_name("tiles.py")
# Functions that `functions` defines so that built-in kernels vectorise. All others are Numba's own.
VECTORISED = ("exp2", "sin", "cos")
PYTHON_NAMES = {"absolute": "abs", "power": "pow"}
# Functions that a formula's text calls get this prefix, so that they do not clash with names of the template.
CALLED_PREFIX = "text_"
# Built-in profiles are evaluated at u² of at most this, where their exponential has reached its clamp.
MAX_BUILT_IN_U2 = {"float32": 1e6, "float64": 1e8}

# One thread compiles at a time, since Numba's compiler is not safe for several. A later caller finds the result cached.
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):
    # A fork waits until no thread compiles. Otherwise the child would inherit this lock and Numba's own in the locked
    # state, with no thread to release them.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def tiles(kernel: Kernel, dtype: Any, d: int) -> ModuleType:
    """The module for a kernel and type, for d = 1, 2 or 3 coordinates with one bandwidth; any number if d is 0."""
    with _lock:
        return _tiles(kernel, np.dtype(dtype).name, d)


@lru_cache(maxsize=512)
def _tiles(kernel: Kernel, dtype: str, d: int) -> ModuleType:
    texts, user_functions = _formulas(kernel)
    text = _with_kernel(TEMPLATE.read_text(encoding="utf-8"), kernel, texts, dtype, d)
    try:
        return _import_module(text, user_functions)
    except Exception:  # a damaged file of Numba's cache may raise anything
        _delete_cached()
    try:
        return _import_module(text, user_functions)
    except Exception:  # if the compiler raised it, the next line raises it again
        return _in_memory(text, user_functions, cached=False)


def _import_module(text: str, user_functions: dict[str, Any]) -> ModuleType:
    if user_functions:
        return _in_memory(text, user_functions)
    # The version of Numba is part of the name, because its cache keeps the results of one version only.
    hashed = text + Path(functions.__file__).read_text(encoding="utf-8") + numba.__version__
    name = f"fastnw_tiles_{hashlib.sha256(hashed.encode()).hexdigest()[:24]}"
    folder = _cache_folder() if functions.EXACT["cache"] else None
    path = _write(folder / f"{name}.py", text) if folder else None
    if path is None:
        return _in_memory(text, {})
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _delete_cached() -> None:
    """Deletes the files that Numba has cached for this package, because one of them may be damaged."""
    modules = [functions, *(module for name, module in sys.modules.items() if name.startswith("fastnw_tiles_"))]
    for module in modules:
        stem = module.__name__.rpartition(".")[2]
        folders = {f.stats.cache_path for f in list(vars(module).values()) if isinstance(f, Dispatcher)}
        for file in (file for folder in folders if folder for file in Path(folder).glob(f"{stem}.*.nb[ic]")):
            with contextlib.suppress(OSError):
                file.unlink()


def refusal(kernel: Kernel) -> str | None:
    """Why Numba cannot compile a user's kernel, with the line of its source, or None if it can."""
    with _lock:
        return _refusal(kernel)


@lru_cache(maxsize=128)
def _refusal(kernel: Kernel) -> str | None:
    if kernel.is_opaque:
        reason = TypeError("it refers to an object whose changes cannot be seen")
        return f"Numba cannot compile kernel {kernel.name!r}: {_located(scalar(kernel.profile), reason)}"
    for log in (False, True) if kernel.log_profile is not None else (False,):
        text = formula_texts.of(kernel, log)
        if text is not None:
            if formula_texts.tests_equality(text):
                return f"kernel {kernel.name!r} tests for equality, which the rounding of u² decides"
            continue
        formula = scalar(kernel.log_profile if log and kernel.log_profile else kernel.profile)
        try:
            compiled = _jitted(formula)
            compiled.compile((numba.float64,))
        except Exception as error:  # Numba's own errors, and those that its passes raise by accident
            return f"Numba cannot compile kernel {kernel.name!r}: {_located(formula, error)}"
        try:
            if not formula_texts.agrees(kernel, log, compiled):
                return f"Numba does not compute kernel {kernel.name!r} as Python does"
        except Exception as error:
            return f"Numba cannot run kernel {kernel.name!r}: {_located(formula, error)}"
    return None


def _jitted(formula: Callable[..., Any]) -> Any:
    if hasattr(formula, "py_func"):
        return formula  # Numba has compiled it already
    return numba.njit(error_model="numpy", nogil=True)(formula)


def _located(formula: Callable[..., Any], error: Exception) -> str:
    """The file and line of the user's function where compiling failed, that line's text, and the compiler's reason."""
    location = getattr(error, "loc", None)
    code = getattr(formula, "__code__", None)
    if location is not None and code is not None and location.filename == code.co_filename:
        file, line = location.filename, location.line
    elif code is not None:
        file, line = code.co_filename, code.co_firstlineno
    else:
        return f"{type(formula).__name__} is no Python function"
    messages = [text.strip() for text in str(getattr(error, "msg", error)).splitlines() if text.strip()]
    return f'File "{file}", line {line}: {linecache.getline(file, line).strip()} ({"; ".join(messages[:2])})'


def _formulas(kernel: Kernel) -> tuple[dict[str, tracing.Traced | None], dict[str, Any]]:
    """The text of both formulas, and the user's functions for formulas that have no text."""
    texts, user_functions = {}, {}
    for log, name in enumerate(("profile", "log_profile")):
        formula = kernel.log_profile if log else kernel.profile
        # Without a proof of its rounding errors, a formula is computed as it was written.
        texts[name] = None if formula is None else formula_texts.of(kernel, bool(log), plain=kernel.needs_pair_bounds)
        if formula is not None and texts[name] is None:
            user_functions[f"own_{name}"] = _jitted(scalar(formula))
    return texts, user_functions


def _with_kernel(text: str, kernel: Kernel, texts: dict[str, tracing.Traced | None], dtype: str, d: int) -> str:
    """The template with the lines between its two marks replaced by those of this kernel.

    Constants of the extension are written as literals, because Numba's cache does not see that an imported constant
    has changed.
    """
    before, _, rest = text.partition("# <kernel>\n")
    _, _, after = rest.partition("# </kernel>\n")
    compact, logs, users, rough = (
        kernel.support is not None,
        kernel.works_on_logs,
        not kernel.facts.built_in,
        kernel.needs_pair_bounds,
    )
    lines = _names(dtype, users, rough)
    profile = texts["profile"]
    profile, folded = _folded(profile) if logs and not compact and not rough else (profile, 1.0)
    if users:
        cap = float(np.finfo(dtype).max) if rough else sensitivity.MAX_U2[dtype]
    else:
        cap = 0.0 if folded != 1.0 or not logs else MAX_BUILT_IN_U2[dtype]
    least = -8 * float(np.finfo(dtype).eps) / 2 * float(kernel.profile(np.zeros(1))[0]) if users else 0.0
    support = float(kernel.support) ** 2 if kernel.support is not None else 0.0
    lines += [
        f"LOGS, COMPACT, ROUGH, INNER, USERS = {logs}, {compact}, {rough}, {kernel.inner_product}, {users}",
        f"FUSED, D, STRIP_KEYS = {d > 0}, {d}, {_strip_keys()}",
        f"FIRST_STRIP_KEYS, MAX_SEQUENTIAL_KEYS = {FIRST_STRIP_KEYS}, {MAX_SEQUENTIAL_KEYS}",
        f"MAX_VECTOR_ELEMENTS, MIN_UNSHIFTED_MASS = {MAX_VECTOR_ELEMENTS}, {MIN_UNSHIFTED_MASS!r}",
        f"EXP_CLAMP_NATS = {EXP_CLAMP_NATS[dtype]!r}",
        f"FOLDED, CAP, SUPPORT2, LEAST = F({folded!r}), F({cap!r}), F({support!r}), F({least!r})",
        _function("profile", profile, rough),
        _function("log_profile", texts["log_profile"] if logs else _UNUSED, rough),
    ]
    return before + "\n".join(lines) + after


def _names(dtype: str, users: bool, rough: bool) -> list[str]:
    """Imports of the functions that the template and a formula's text call. Built-in κ never exceed κ(0)."""
    typed = {name: f"{name}_{dtype}" for name in VECTORISED}
    typed["exp2"] = f"exp2_whole_{dtype}" if users else f"exp2_falling_{dtype}"
    module = "fastnw.backends.numba.functions"
    lines = [f"from {module} import EXACT", f"from {module} import {typed['exp2']} as exp2", f"F = np.{dtype}"]
    for name in tracing.FUNCTIONS:
        if name in PYTHON_NAMES:
            lines.append(f"{CALLED_PREFIX}{name} = {PYTHON_NAMES[name]}")
        elif name in ("maximum", "minimum"):
            lines.append(f"from {module} import {name} as {CALLED_PREFIX}{name}")
        elif name in VECTORISED and (not users or (name == "exp2" and not rough)):
            # The sines of `functions` are accurate for arguments up to 1e3 (1e5 in float64) only.
            lines.append(f"from {module} import {typed[name]} as {CALLED_PREFIX}{name}")
        else:
            lines.append(f"from numpy import {name} as {CALLED_PREFIX}{name}")
    return lines


@lru_cache(maxsize=1)
def _strip_keys() -> int:
    """Number of keys that are summed in the compute type before the sums are added to float64.

    MAX_STRIP_KEYS are 256 float32 (512 float64) terms in each lane of a vector of 16 bytes. Vectors of 32 bytes take
    twice as many keys with as many terms in a lane, which saves 3 % of the time at d = 3.
    """
    from llvmlite.binding import get_host_cpu_features

    features = get_host_cpu_features() if not os.environ.get("NUMBA_CPU_NAME") else {}
    return MAX_STRIP_KEYS * (2 if features.get("avx2") else 1)


_UNUSED = tracing.Traced((), {}, "u2")


def _function(name: str, traced: tracing.Traced | None, rough: bool = False) -> str:
    """The text of a function for the formula, in float64 where its rounding errors are unknown (`rough`)."""
    if traced is None:
        return f"@njit(**EXACT)\ndef {name}(u2):\n    return F(own_{name}(float(u2)))\n"
    real = "np.float64" if rough else "F"
    renamed = {constant: f"{name}_{constant}" for constant in traced.constants}
    constants = "".join(f"{renamed[c]} = {real}({str(value)!r})\n" for c, value in traced.constants.items())
    lines = [re.sub(r"\b(\w+)\(", rf"{CALLED_PREFIX}\1(", line) for line in traced.lines]
    body = tracing.Traced(tuple(lines), traced.constants, traced.result).source(name)
    for constant in sorted(renamed, key=len, reverse=True):
        body = _replaced(body, constant, renamed[constant])
    if rough:
        body = body.replace("(u2):\n", "(u2):\n    u2 = np.float64(u2)\n", 1)
        body = re.sub(r"return (\w+)\n$", r"return F(\1)\n", body)
    # A product and a sum must keep their two roundings there.
    flags = "**{**EXACT, 'fastmath': False}" if rough else "**EXACT"
    return f"{constants}@njit({flags})\n{body}"


def _replaced(text: str, word: str, by: str) -> str:
    return re.sub(rf"\b{word}\b", by, text)


def _folded(traced: tracing.Traced | None) -> tuple[tracing.Traced | None, float]:
    """The formula without a leading product of u² and a constant, and that constant; 1 if u² is used elsewhere."""
    if traced is None or not traced.lines:
        return traced, 1.0
    name, _, expression = traced.lines[0].partition(" = ")
    constant, _, factor = expression.partition(" * ")
    words = " ".join(traced.lines[1:]).split()
    if factor != "u2" or constant not in traced.constants or "u2" in words or any("(u2" in word for word in words):
        return traced, 1.0
    lines = tuple(_replaced(line, name, "u2") for line in traced.lines[1:])
    return tracing.Traced(lines, traced.constants, traced.result), traced.constants[constant]


def _in_memory(text: str, scope: dict[str, Any], cached: bool = True) -> ModuleType:
    """A module that is written to no file: for kernels that exist in this process only, or where no folder is writable.

    Unless `cached`, it does not read what Numba has cached of `functions` either.
    """
    module = ModuleType("fastnw_tiles")
    module.__dict__.update(scope)
    if not cached:
        text = text.replace(f"from {functions.__name__} import", f"from {_uncached_math()} import")
    text = text.replace("import EXACT\n", "import EXACT as CACHED\nEXACT = CACHED | {'cache': False}\n", 1)
    exec(compile(text.replace('"cache": True', '"cache": False'), "<fastnw tiles>", "exec"), module.__dict__)
    return module


def _uncached_math() -> str:
    """The name of a copy of the module `functions` that does not read Numba's cache."""
    name = f"{functions.__name__}_uncached"
    if name not in sys.modules:
        module = ModuleType(name)
        text = Path(functions.__file__).read_text(encoding="utf-8").replace('"cache": _cacheable()', '"cache": False')
        exec(compile(text, f"<{name}>", "exec"), module.__dict__)
        sys.modules[name] = module
    return name


def _cache_folder() -> Path | None:
    """The folder for modules: ``NUMBA_CACHE_DIR`` or the user's cache. None if it is not writable."""
    base = os.environ.get("NUMBA_CACHE_DIR")
    if not base:
        if sys.platform == "win32":
            base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            base = str(Path.home() / "Library" / "Caches")
        else:
            base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base) / "fastnw"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return None


def _write(path: Path, text: str) -> Path | None:
    """Writes the file unless it has that text already: a new time stamp would invalidate Numba's cache of it."""
    try:
        if path.exists() and path.read_text(encoding="utf-8") == text:
            return path
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
            file.write(text)
        os.replace(file.name, path)
    except OSError:
        return None
    return path
