"""A digest of a function and of all values that it refers to, by which cached results notice a change.

A user's function may read globals, closures, defaults and attributes, and call other functions that do. All of these
may change between two calls.
"""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from fastnw.kernels.standins import attribute_names, global_names, python_function

PLAIN = (int, float, complex, bool, str, bytes, type(None), type(Ellipsis), np.number, np.bool_)
LIBRARIES = ("numpy", "scipy", "numba", "math", "builtins", "fastnw")


class Opaque(Exception):
    """The function refers to an object whose state cannot be read. The message names its type."""


def fingerprint(*functions: Callable[..., Any] | None) -> str:
    """A digest of the functions' code and of all values that they refer to.

    Raises
    ------
    Opaque
        The state of a value is not visible from Python.
    """
    walk = _Walk()
    for function in functions:
        walk.add(function, frozenset())
    return walk.digest.hexdigest()


class _Walk:
    """A digest in progress, and the objects visited so far, so that recursion ends."""

    def __init__(self) -> None:
        self.digest = hashlib.blake2b(digest_size=20)
        self.seen: dict[int, int] = {}
        self.alive: list[Any] = []  # an id identifies an object only while the object exists

    def put(self, *parts: Any) -> None:
        for part in parts:
            text = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
            self.digest.update(len(text).to_bytes(8, "little") + text)

    def add(self, value: Any, wanted: frozenset[str]) -> None:
        """Adds a value. Of a module, only the names in `wanted`, which the surrounding code reads, are added."""
        value = python_function(value)
        if isinstance(value, PLAIN):
            self.put(type(value).__qualname__, value.tobytes() if isinstance(value, np.generic) else repr(value))
            return
        key = id(value)
        if key in self.seen and not isinstance(value, types.ModuleType):
            self.put("seen", self.seen[key])
            return
        self.seen[key] = len(self.seen)
        self.alive.append(value)
        self.put(type(value).__module__, type(value).__qualname__)
        if isinstance(value, types.ModuleType):
            self._module(value, wanted)
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.CodeType):
            self._code(value)
        elif isinstance(value, (tuple, list)):
            self._all(value, wanted)
        elif isinstance(value, (set, frozenset)):
            self._all(sorted(value, key=repr), wanted)
        elif isinstance(value, dict):
            self._all([part for item in value.items() for part in item], wanted)
        elif isinstance(value, np.ndarray) and value.dtype != object:
            self.put(value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes())
        else:
            self._object(value, wanted)

    def _all(self, values: Any, wanted: frozenset[str]) -> None:
        self.put(len(values))
        for value in values:
            self.add(value, wanted)

    def _module(self, module: types.ModuleType, wanted: frozenset[str]) -> None:
        self.put(module.__name__)
        if module.__name__.partition(".")[0] in LIBRARIES:
            return
        for name in sorted(wanted & vars(module).keys()):
            self.put(name)
            self.add(vars(module)[name], wanted)

    def _function(self, function: types.FunctionType) -> None:
        if str(function.__module__).partition(".")[0] in LIBRARIES[:3]:
            self.put(function.__module__, function.__qualname__)
            return
        wanted = attribute_names(function.__code__)
        self.add(function.__code__, wanted)
        self.add(function.__defaults__, wanted)
        self.add(function.__kwdefaults__, wanted)
        for cell in function.__closure__ or ():
            try:
                self.add(cell.cell_contents, wanted)
            except ValueError:  # the cell is not set yet
                self.put("empty")
        for name in sorted(global_names(function.__code__) & function.__globals__.keys()):
            self.put(name)
            self.add(function.__globals__[name], wanted)

    def _code(self, code: types.CodeType) -> None:
        self.put(code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_flags)
        self._all(code.co_consts, frozenset())

    def _object(self, value: Any, wanted: frozenset[str]) -> None:
        """Adds the parts of a method, a partial function, a class or an instance of a user's class."""
        if isinstance(value, (types.BuiltinFunctionType, np.ufunc)) or (
            isinstance(value, type) and value.__module__.partition(".")[0] in LIBRARIES
        ):
            self.put(getattr(value, "__qualname__", value.__name__))
            if isinstance(getattr(value, "__self__", None), (types.ModuleType, type(None))):
                return
            if not isinstance(value, types.BuiltinFunctionType):
                return
            self.add(value.__self__, wanted)
            return
        if isinstance(value, types.MethodType):
            self._all([value.__func__, value.__self__], wanted)
        elif isinstance(value, types.SimpleNamespace):
            self._all([vars(value)], wanted)
        elif isinstance(value, functools.partial):
            self._all([value.func, value.args, value.keywords], wanted)
        elif type(value).__module__ == "numpy" and callable(value):
            self.put(repr(value))  # functions with NumPy's array-function dispatch
        elif isinstance(value, type):
            self._class(value)
        elif hasattr(value, "__dict__") and type(value).__module__ not in LIBRARIES and _is_plain_class(type(value)):
            state = {name: part for name, part in vars(value).items() if name != "_versions"}  # the cache of a Kernel
            self._all([state, type(value)], wanted)
        else:
            raise Opaque(f"{type(value).__module__}.{type(value).__qualname__}")

    def _class(self, cls: type) -> None:
        for base in cls.__mro__[:-1]:
            self.put(base.__qualname__)
            for name, member in sorted(vars(base).items()):
                if name not in ("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__"):
                    self.put(name)
                    self.add(getattr(member, "__func__", getattr(member, "fget", member)), frozenset())


def _is_plain_class(cls: type) -> bool:
    """Whether the ``__dict__`` of an instance holds all of its state."""
    return all(base is object or base.__flags__ & (1 << 9) for base in cls.__mro__) and not any(
        "__slots__" in vars(base) for base in cls.__mro__
    )
