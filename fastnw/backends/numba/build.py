"""Modules of tiles, one for a kernel, compute type and number of coordinates: written once, then cached by Numba."""

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
VECTORISED = ("exp2", "sin", "cos")  # by functions, in built-in kernels; the others are Numba's
OTHERS = {"absolute": "abs", "power": "pow"}
# Names in a formula's text get this prefix, so that none is one of the template's.
OF_TEXT = "text_"
CAPS = {"float32": (1e6, 1e30), "float64": (1e8, 1e150)}  # of u²: where exp is clamped, and for all else

_lock = threading.RLock()  # Numba's compiler is not for two threads at once; whoever comes later finds it done
if hasattr(os, "register_at_fork"):
    # a fork waits for who compiles: the child would find this lock, and Numba's own, held by nobody who could release
    # them, and a compiler halfway
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def tiles(kernel: Kernel, dtype: Any, d: int) -> ModuleType:
    """The module for that kernel and type; for d = 1, 2 or 3 coordinates with one bandwidth, or any number (0)."""
    with _lock:
        return _tiles(kernel, np.dtype(dtype).name, d)


@lru_cache(maxsize=512)
def _tiles(kernel: Kernel, dtype: str, d: int) -> ModuleType:
    texts, own = _functions(kernel)
    text = _with_kernel(TEMPLATE.read_text(encoding="utf-8"), kernel, texts, dtype, d)
    try:
        return _made(text, own)
    except Exception:  # whatever reading half a file of Numba's cache raises
        _forget()
    try:
        return _made(text, own)
    except Exception:  # or the compiler, which then does so here, too
        return _in_memory(text, own, cached=False)


def _made(text: str, own: dict[str, Any]) -> ModuleType:
    if own:
        return _in_memory(text, own)
    # each version of Numba its own: its cache keeps one version's results
    everything = text + Path(functions.__file__).read_text(encoding="utf-8") + numba.__version__
    name = f"fastnw_tiles_{hashlib.sha256(everything.encode()).hexdigest()[:24]}"
    folder = _folder() if functions.EXACT["cache"] else None
    path = _written(folder / f"{name}.py", text) if folder else None
    if path is None:
        return _in_memory(text, {})
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _forget() -> None:
    """Delete what Numba has cached of ours, which may be damaged."""
    ours = [functions, *(module for name, module in sys.modules.items() if name.startswith("fastnw_tiles_"))]
    for module in ours:
        stem = module.__name__.rpartition(".")[2]
        places = {f.stats.cache_path for f in list(vars(module).values()) if isinstance(f, Dispatcher)}
        for file in (file for place in places if place for file in Path(place).glob(f"{stem}.*.nb[ic]")):
            with contextlib.suppress(OSError):
                file.unlink()


def refusal(kernel: Kernel) -> str | None:
    """Why Numba cannot compile a user's kernel, with the line, or None."""
    with _lock:
        return _refusal(kernel)


@lru_cache(maxsize=128)
def _refusal(kernel: Kernel) -> str | None:
    if kernel.is_opaque:
        reason = TypeError("it refers to an object whose changes cannot be seen")
        return f"Numba cannot compile kernel {kernel.name!r}: {_place(scalar(kernel.profile), reason)}"
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
        except Exception as error:  # its own errors, and whatever its passes stumble over
            return f"Numba cannot compile kernel {kernel.name!r}: {_place(formula, error)}"
        try:
            if not formula_texts.agrees(kernel, log, compiled):
                return f"Numba does not compute kernel {kernel.name!r} as Python does"
        except Exception as error:
            return f"Numba cannot run kernel {kernel.name!r}: {_place(formula, error)}"
    return None


def _jitted(formula: Callable[..., Any]) -> Any:
    if hasattr(formula, "py_func"):
        return formula  # Numba's already
    return numba.njit(error_model="numpy", nogil=True)(formula)


def _place(formula: Callable[..., Any], error: Exception) -> str:
    """Where it went wrong in the user's file, that line, and the compiler's reason."""
    location = getattr(error, "loc", None)
    code = getattr(formula, "__code__", None)
    if location is not None and code is not None and location.filename == code.co_filename:
        file, line = location.filename, location.line
    elif code is not None:
        file, line = code.co_filename, code.co_firstlineno
    else:
        return f"{type(formula).__name__} is no Python function"
    said = [text.strip() for text in str(getattr(error, "msg", error)).splitlines() if text.strip()]
    return f'File "{file}", line {line}: {linecache.getline(file, line).strip()} ({"; ".join(said[:2])})'


def _functions(kernel: Kernel) -> tuple[dict[str, tracing.Traced | None], dict[str, Any]]:
    """Both formulas as text; those that have none, as functions of the user's."""
    texts, own = {}, {}
    for log, name in enumerate(("profile", "log_profile")):
        formula = kernel.log_profile if log else kernel.profile
        # without a proof of its errors, a formula is computed as it was written
        texts[name] = None if formula is None else formula_texts.of(kernel, bool(log), plain=kernel.needs_pair_bounds)
        if formula is not None and texts[name] is None:
            own[f"own_{name}"] = _jitted(scalar(formula))
    return texts, own


def _with_kernel(text: str, kernel: Kernel, texts: dict[str, tracing.Traced | None], dtype: str, d: int) -> str:
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
        cap = 0.0 if folded != 1.0 or not logs else CAPS[dtype][0]
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
        _function("log_profile", texts["log_profile"] if logs else _NONE, rough),
    ]
    return before + "\n".join(lines) + after


def _names(dtype: str, users: bool, rough: bool) -> list[str]:
    """What the template calls, and what a formula's text does. Built-in kernels never rise above κ(0)."""
    of = {name: f"{name}_{dtype}" for name in VECTORISED}
    of["exp2"] = f"exp2_whole_{dtype}" if users else f"exp2_falling_{dtype}"
    made = "fastnw.backends.numba.functions"
    lines = [f"from {made} import EXACT", f"from {made} import {of['exp2']} as exp2", f"F = np.{dtype}"]
    for name in tracing.FUNCTIONS:
        if name in OTHERS:
            lines.append(f"{OF_TEXT}{name} = {OTHERS[name]}")
        elif name in ("maximum", "minimum"):
            lines.append(f"from {made} import {name} as {OF_TEXT}{name}")
        elif name in VECTORISED and (not users or (name == "exp2" and not rough)):
            # those sines are right for arguments up to 1e3 (1e5 in float64) only
            lines.append(f"from {made} import {of[name]} as {OF_TEXT}{name}")
        else:
            lines.append(f"from numpy import {name} as {OF_TEXT}{name}")
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


_NONE = tracing.Traced((), {}, "u2")


def _function(name: str, traced: tracing.Traced | None, rough: bool = False) -> str:
    """The formula as a function; in float64 if there is no proof for another type."""
    if traced is None:
        return f"@njit(**EXACT)\ndef {name}(u2):\n    return F(own_{name}(float(u2)))\n"
    real = "np.float64" if rough else "F"
    renamed = {constant: f"{name}_{constant}" for constant in traced.constants}
    constants = "".join(f"{renamed[c]} = {real}({str(value)!r})\n" for c, value in traced.constants.items())
    lines = [re.sub(r"\b(\w+)\(", rf"{OF_TEXT}\1(", line) for line in traced.lines]
    body = tracing.Traced(tuple(lines), traced.constants, traced.result).source(name)
    for constant in sorted(renamed, key=len, reverse=True):
        body = _replaced(body, constant, renamed[constant])
    if rough:
        body = body.replace("(u2):\n", "(u2):\n    u2 = np.float64(u2)\n", 1)
        body = re.sub(r"return (\w+)\n$", r"return F(\1)\n", body)
    # nor may a product and a sum be contracted to one rounding then
    flags = "**{**EXACT, 'fastmath': False}" if rough else "**EXACT"
    return f"{constants}@njit({flags})\n{body}"


def _replaced(text: str, word: str, by: str) -> str:
    return re.sub(rf"\b{word}\b", by, text)


def _folded(traced: tracing.Traced | None) -> tuple[tracing.Traced | None, float]:
    """Without a first product of u² with a constant, if u² is used nowhere else, and that constant."""
    if traced is None or not traced.lines:
        return traced, 1.0
    name, _, expression = traced.lines[0].partition(" = ")
    constant, _, of = expression.partition(" * ")
    others = " ".join(traced.lines[1:]).split()
    if of != "u2" or constant not in traced.constants or "u2" in others or any("(u2" in word for word in others):
        return traced, 1.0
    lines = tuple(_replaced(line, name, "u2") for line in traced.lines[1:])
    return tracing.Traced(lines, traced.constants, traced.result), traced.constants[constant]


def _in_memory(text: str, scope: dict[str, Any], cached: bool = True) -> ModuleType:
    """For kernels that only exist in this process, or where nothing can be written; if not `cached`, without what Numba
    has cached of `functions`, too."""
    module = ModuleType("fastnw_tiles")
    module.__dict__.update(scope)
    if not cached:
        text = text.replace(f"from {functions.__name__} import", f"from {_uncached_math()} import")
    text = text.replace("import EXACT\n", "import EXACT as CACHED\nEXACT = CACHED | {'cache': False}\n", 1)
    exec(compile(text.replace('"cache": True', '"cache": False'), "<fastnw tiles>", "exec"), module.__dict__)
    return module


def _uncached_math() -> str:
    """The name of a copy of `functions` that reads no cache."""
    name = f"{functions.__name__}_uncached"
    if name not in sys.modules:
        module = ModuleType(name)
        text = Path(functions.__file__).read_text(encoding="utf-8").replace('"cache": _cacheable()', '"cache": False')
        exec(compile(text, f"<{name}>", "exec"), module.__dict__)
        sys.modules[name] = module
    return name


def _folder() -> Path | None:
    """Where modules are kept: ``NUMBA_CACHE_DIR`` or the user's cache; None if nothing can be written there."""
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


def _written(path: Path, text: str) -> Path | None:
    """The file with that text. One that is there stays: a new time stamp would void what Numba has cached."""
    try:
        if path.exists() and path.read_text(encoding="utf-8") == text:
            return path
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
            file.write(text)
        os.replace(file.name, path)
    except OSError:
        return None
    return path
