"""A kernel's formula as text for a compiler, found by calling it once with a variable that notes what is done to it.

So one line of NumPy in `kernels`, or in a user's program, serves arrays, Numba and CUDA; constants take the compute
type, where a compiler would widen float32 to float64; powers become products; and an expression is computed once.
"""

from __future__ import annotations

import builtins
import math
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LOG2E = 1.4426950408889634
MOST_FACTORS = 16  # of an integer power written as products
OPERATORS = {
    "add": "+",
    "subtract": "-",
    "multiply": "*",
    "divide": "/",
    "less": "<",
    "less_equal": "<=",
    "greater": ">",
    "greater_equal": ">=",
    "equal": "==",
    "not_equal": "!=",
}
LOGICAL = {"logical_and": "and", "bitwise_and": "and", "logical_or": "or", "bitwise_or": "or"}
NOT = ("logical_not", "invert")
ONE = (
    "exp2",
    "log",
    "log1p",
    "expm1",
    "sqrt",
    "sin",
    "cos",
    "tan",
    "tanh",
    "sinh",
    "cosh",
    "arctan",
    "arcsin",
    "arccos",
)
# What a formula may call, by NumPy's names; `FUNCTIONS` is what a compiler has to have.
FUNCTIONS = (*ONE, "absolute", "maximum", "minimum", "power")
ALIASES = {"true_divide": "divide", "fabs": "absolute", "float_power": "power", "fmax": "maximum", "fmin": "minimum"}
FROM_MATH = {"atan": "arctan", "asin": "arcsin", "acos": "arccos", "pow": "power", "fabs": "absolute"}


class Untraceable(Exception):
    """The formula does what has no text: it branches on its argument, or calls what is not known here."""


@dataclass(eq=False)
class _Text:
    """The lines so far, each a name and an expression."""

    lines: dict[str, str] = field(default_factory=dict)  # expression: name
    constants: dict[float, str] = field(default_factory=dict)

    def name(self, expression: str) -> str:
        return self.lines.setdefault(expression, f"t{len(self.lines)}")

    def constant(self, value: Any) -> str:
        value = float(value)
        if math.isnan(value):
            raise Untraceable("a constant is NaN")
        return self.constants.setdefault(value, f"c{len(self.constants)}")

    def operand(self, value: Any) -> str:
        if isinstance(value, Variable):
            return value.name
        if isinstance(value, (bool, int, float, np.number, np.bool_)) or (
            isinstance(value, np.ndarray) and value.ndim == 0
        ):
            return self.constant(value)
        raise Untraceable(f"{type(value).__name__} is no number")


class Variable(np.lib.mixins.NDArrayOperatorsMixin):
    """A number that is not known yet; a condition if `logical`. `scale` × another variable, if it is that."""

    def __init__(self, text: _Text, name: str, logical: bool = False, factors: tuple[float, str] | None = None) -> None:
        self.text, self.name, self.logical, self.factors = text, name, logical, factors

    def __bool__(self) -> bool:
        raise Untraceable("it branches on its argument")

    def __float__(self) -> float:
        raise Untraceable("it needs a number, not an expression")

    __int__ = __index__ = __float__

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise Untraceable("it makes an array of its argument")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Variable:
        if method != "__call__" or options:
            raise Untraceable(f"numpy.{ufunc.__name__} is called with options")
        return self._apply(ufunc.__name__, inputs)

    def __array_function__(self, function: Callable[..., Any], _: Any, inputs: Any, options: Any) -> Variable:
        if options:
            raise Untraceable(f"numpy.{function.__name__} is called with options")
        if function is np.where and len(inputs) == 3:
            return self._where(*inputs)
        if function is np.clip and len(inputs) == 3:
            return self._apply("minimum", (self._apply("maximum", inputs[:2]), inputs[2]))
        raise Untraceable(f"numpy.{function.__name__} is not known to it")

    def _new(self, expression: str, logical: bool = False, factors: tuple[float, str] | None = None) -> Variable:
        return Variable(self.text, self.text.name(expression), logical, factors)

    def _where(self, condition: Any, yes: Any, no: Any) -> Variable:
        if not (isinstance(condition, Variable) and condition.logical):
            raise Untraceable("numpy.where needs a condition on the argument")
        return self._new(f"{self.text.operand(yes)} if {condition.name} else {self.text.operand(no)}")

    def _apply(self, name: str, inputs: tuple[Any, ...]) -> Variable:
        name = ALIASES.get(name, name)
        operand = self.text.operand
        if name in NOT and self.logical:
            return self._new(f"not {self.name}", True)
        if name not in LOGICAL:
            inputs = tuple(self._as_number(value) for value in inputs)
        if name == "divide" and not isinstance(inputs[1], Variable) and float(inputs[1]):
            return self._apply(
                "multiply", (inputs[0], 1.0 / float(inputs[1]))
            )  # a division takes as long as ten products
        if name == "multiply" and any(not isinstance(value, Variable) and value == 0 for value in inputs):
            return self._new(self.text.constant(0.0))  # how formulas make a constant of any shape: u2 * 0 + 1
        if name in OPERATORS:
            logical = name not in ("add", "subtract", "multiply", "divide")
            factors = self._factors(*inputs) if name == "multiply" else None
            return self._new(f"{operand(inputs[0])} {OPERATORS[name]} {operand(inputs[1])}", logical, factors)
        if name in LOGICAL:
            return self._new(f"{operand(inputs[0])} {LOGICAL[name]} {operand(inputs[1])}", True)
        if name == "negative":
            return self * -1.0
        if name == "positive":
            return self
        if name == "square":
            return self * self
        if name == "reciprocal":
            return 1.0 / self
        if name == "exp":  # with its constant factors in one
            scale, of = self.factors or (1.0, self.name)
            return self._new(f"exp2({self._new(f'{self.text.constant(scale * LOG2E)} * {of}').name})")
        if name == "power":
            return self._power(*inputs)
        if name in FUNCTIONS and len(inputs) == (1 if name in ONE or name == "absolute" else 2):
            return self._new(f"{name}({', '.join(map(operand, inputs))})")
        raise Untraceable(f"numpy.{name} is not known to it")

    def _as_number(self, value: Any) -> Any:
        return self._where(value, 1.0, 0.0) if isinstance(value, Variable) and value.logical else value

    def _factors(self, left: Any, right: Any) -> tuple[float, str] | None:
        if isinstance(left, Variable) and isinstance(right, Variable):
            return None
        variable, scale = (left, right) if isinstance(left, Variable) else (right, left)
        before, of = variable.factors or (1.0, variable.name)
        return before * float(scale), of

    def _power(self, base: Any, exponent: Any) -> Variable:
        if isinstance(base, Variable) and not isinstance(exponent, Variable):
            exponent = float(exponent)
            if exponent in (0.5, -0.5, 1.5, -1.5):
                root: Any = np.sqrt(base) if abs(exponent) == 0.5 else base * np.sqrt(base)
                return root if exponent > 0 else 1.0 / root
            if exponent < 0 and exponent.is_integer():
                return 1.0 / base**-exponent
            if exponent.is_integer() and 1 <= exponent <= MOST_FACTORS:
                half = self._power(base, exponent // 2) if exponent > 1 else None
                squared = half * half if half is not None else base
                return squared * base if exponent > 1 and exponent % 2 else squared
        return self._new(f"power({self.text.operand(base)}, {self.text.operand(exponent)})")


class _Math:
    """What stands for the modules `math` and `numpy` within a formula that is traced."""

    def __getattr__(self, name: str) -> Any:
        function = getattr(np, FROM_MATH.get(name, name), None)
        if function is None:
            raise Untraceable(f"math.{name} is not known to it")
        return function


_MATH = _Math()
_OF_MATH = {getattr(math, name): name for name in dir(math) if callable(getattr(math, name))}
_BUILTINS = {"abs": np.absolute, "max": np.maximum, "min": np.minimum, "pow": np.power}


def _on_variables(formula: Callable[..., Any]) -> Callable[..., Any]:
    """The formula with NumPy's functions for those of `math`, which only take numbers."""
    formula = getattr(formula, "py_func", formula)  # one that Numba has compiled
    if not isinstance(formula, types.FunctionType):
        return formula

    def replaced(value: Any) -> Any:
        if value is math:
            return _MATH
        if isinstance(value, types.BuiltinFunctionType) and value in _OF_MATH:
            return getattr(_MATH, _OF_MATH[value])
        return value

    scope = {name: replaced(value) for name, value in formula.__globals__.items() if name in _names(formula.__code__)}
    for name, function in _BUILTINS.items():
        if name not in formula.__globals__:
            scope[name] = function
    scope["__builtins__"] = builtins
    cells = tuple(types.CellType(replaced(cell.cell_contents)) for cell in formula.__closure__ or ())
    copy = types.FunctionType(formula.__code__, scope, formula.__name__, formula.__defaults__, cells)
    copy.__kwdefaults__ = formula.__kwdefaults__
    return copy


def _names(code: types.CodeType) -> set[str]:
    nested = (_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*nested)


@dataclass(frozen=True)
class Traced:
    """A formula as single assignments: lines of "name = expression" from "u2" on, their constants, and its result."""

    lines: tuple[str, ...]
    constants: dict[str, float]
    result: str

    def source(self, name: str) -> str:
        """A Python function of that name; it finds its constants and functions in its module."""
        body = "".join(f"    {line}\n" for line in self.lines)
        return f"def {name}(u2):\n{body}    return {self.result}\n"


def trace(formula: Callable[..., Any]) -> Traced:
    """The formula's text.

    Raises
    ------
    Untraceable
        With the reason.
    """
    text = _Text()
    try:
        result = _on_variables(formula)(Variable(text, "u2"))
    except Untraceable:
        raise
    except Exception as error:  # whatever the formula does with what is not a number
        raise Untraceable(f"{type(error).__name__}: {error}") from error
    if isinstance(result, Variable) and result.logical:
        result = np.where(result, 1.0, 0.0)
    name = text.operand(result)
    lines = _needed([f"{name} = {expression}" for expression, name in text.lines.items()], name)
    used = {value for line in lines for value in line.split()} | {name}
    constants = {c: value for value, c in text.constants.items() if any(c in _tokens(word) for word in used)}
    return Traced(lines, constants, name)


def _tokens(text: str) -> set[str]:
    return set("".join(c if c.isalnum() else " " for c in text).split())


def _needed(lines: list[str], result: str) -> tuple[str, ...]:
    """Without those that nothing uses."""
    wanted, kept = {result}, []
    for line in reversed(lines):
        name, _, expression = line.partition(" = ")
        if name in wanted:
            wanted |= _tokens(expression)
            kept.append(line)
    return tuple(reversed(kept))
