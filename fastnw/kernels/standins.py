"""Stand-ins for functions that accept only numbers (those of `math`, ``max``, ``min``), for tracing a formula."""

from __future__ import annotations

import builtins
import dis
import functools
import math
import types
from collections.abc import Callable
from typing import Any

import numpy as np

# NumPy's names of functions that `math` calls otherwise.
NUMPY_NAMES = {"atan": "arctan", "asin": "arcsin", "acos": "arccos", "pow": "power", "fabs": "absolute"}


class Untraceable(Exception):
    """The formula cannot be written as text: it calls an unknown function, or needs a number."""


def on_variables(formula: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of the formula, and of the functions that it calls, in which stand-ins replace functions of numbers."""
    return _replaced(formula, {})


def python_function(value: Any) -> Any:
    """The Python function behind a function that Numba has compiled; any other value unchanged."""
    return getattr(value, "py_func", value)


@functools.lru_cache(maxsize=1024)
def global_names(code: types.CodeType) -> frozenset[str]:
    """The names of the globals that the code, or a function nested in it, reads."""
    read = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return frozenset(
        read.union(*(global_names(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)))
    )


@functools.lru_cache(maxsize=1024)
def attribute_names(code: types.CodeType) -> frozenset[str]:
    """All names that the code, or a function nested in it, reads: globals and attributes."""
    inner = (attribute_names(inner) for inner in code.co_consts if isinstance(inner, types.CodeType))
    return frozenset(code.co_names).union(*inner)


def _replaced(value: Any, done: dict[int, Any]) -> Any:
    value = python_function(value)
    if value is math:
        return _MATH
    if isinstance(value, types.BuiltinFunctionType):
        try:
            return _STANDINS.get(value, value)
        except TypeError:  # a method of an unhashable object
            return value
    if isinstance(value, types.FunctionType) and not _of_a_library(value):
        return done[id(value)] if id(value) in done else _copied(value, done)
    if isinstance(value, types.MethodType):
        return types.MethodType(_replaced(value.__func__, done), value.__self__)
    if isinstance(value, functools.partial):
        return functools.partial(_replaced(value.func, done), *value.args, **value.keywords)
    call = vars(type(value)).get("__call__")  # of an instance of a user's class
    if isinstance(call, types.FunctionType) and not _of_a_library(call):
        return types.MethodType(_replaced(call, done), value)
    return value


def _of_a_library(function: types.FunctionType) -> bool:
    return str(function.__module__).partition(".")[0] in ("numpy", "scipy", "numba")


def _copied(function: types.FunctionType, done: dict[int, Any]) -> types.FunctionType:
    scope: dict[str, Any] = {"__builtins__": builtins, "__name__": function.__module__}
    cells = tuple(types.CellType() for _ in function.__closure__ or ())
    copy = types.FunctionType(function.__code__, scope, function.__name__, None, cells)
    done[id(function)] = copy
    wanted = global_names(function.__code__)
    for name in wanted & function.__globals__.keys():
        scope[name] = _replaced(function.__globals__[name], done)
    for name, standin in _BUILTINS.items():
        if name in wanted and name not in function.__globals__:
            scope[name] = standin
    for cell, original in zip(cells, function.__closure__ or (), strict=True):
        cell.cell_contents = _replaced(original.cell_contents, done)
    copy.__defaults__ = tuple(_replaced(value, done) for value in function.__defaults__ or ()) or None
    defaults = function.__kwdefaults__ or {}
    copy.__kwdefaults__ = {name: _replaced(value, done) for name, value in defaults.items()} or None
    return copy


def _any_variable(*values: Any) -> bool:
    return any(isinstance(value, np.lib.mixins.NDArrayOperatorsMixin) for value in values)


def narrow(value: Any) -> bool:
    """Whether NumPy computes in fewer than 64 bits when this number meets a Python number."""
    return isinstance(value, np.generic) and value.itemsize < 8 and not isinstance(value, np.bool_)


def _standin(function: Callable[..., Any], ufunc: np.ufunc | None) -> Callable[..., Any]:
    """Calls `function` for numbers, for which NumPy might choose another type, and `ufunc` for variables."""

    def call(*values: Any, **options: Any) -> Any:
        if not _any_variable(*values):
            return function(*values, **options)
        if ufunc is None or options:
            raise Untraceable(f"{function.__module__}.{function.__name__} is not known to it")
        result = ufunc(*values)
        result.weak = True  # `math` returns Python numbers
        return result

    return call


def _extreme(function: Callable[..., Any], ufunc: np.ufunc) -> Callable[..., Any]:
    """Python's ``max`` or ``min`` for variables and numbers."""

    def call(*values: Any, **options: Any) -> Any:
        values = tuple(values[0]) if len(values) == 1 and not _any_variable(*values) else values
        if options or not _any_variable(*values):
            return function(values, **options)
        if any(narrow(value) for value in values):
            raise Untraceable(f"{function.__name__} returns a number of another type than float64")
        result = functools.reduce(ufunc, values)
        result.weak = not all(isinstance(value, np.lib.mixins.NDArrayOperatorsMixin) for value in values)
        return result

    return call


def _of_math(name: str) -> Any:
    function, ufunc = getattr(math, name), getattr(np, NUMPY_NAMES.get(name, name), None)
    if not callable(function):
        return function
    return _standin(function, ufunc if isinstance(ufunc, np.ufunc) else None)


_MATH = types.SimpleNamespace(**{name: _of_math(name) for name in dir(math) if not name.startswith("_")})
_BUILTINS = {"max": _extreme(max, np.maximum), "min": _extreme(min, np.minimum)}
_STANDINS: dict[Any, Any] = {getattr(math, name): standin for name, standin in vars(_MATH).items() if callable(standin)}
_STANDINS |= {max: _BUILTINS["max"], min: _BUILTINS["min"]}
