"""Traces a kernel's formula: calls it with a symbolic variable, and records each operation as text for a compiler.

One line of NumPy in the registry, or in a user's program, thus serves arrays, Numba and CUDA. In the text, constants
take the type in which the kernel is computed (a compiler would widen float32 to float64), powers become products, and
each expression is computed once. A formula that branches is called once for each path, and the text selects between the
results of the paths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastnw.kernels.standins import Untraceable, narrow, on_variables

__all__ = ["ARITHMETIC", "FUNCTIONS", "ONE", "Traced", "Untraceable", "trace"]

LOG2E = 1.4426950408889634
MAX_POWER = 16  # largest integer power that is written as products
MAX_PATHS = 64  # of a formula that branches
ARITHMETIC = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}
COMPARISONS = {
    "less": "<",
    "less_equal": "<=",
    "greater": ">",
    "greater_equal": ">=",
    "equal": "==",
    "not_equal": "!=",
}
# The sum, the product and the extremes of truth values are truth values in NumPy.
LOGICAL = {"logical_and": "and", "bitwise_and": "and", "logical_or": "or", "bitwise_or": "or"}
ON_TRUTH = {"add": "or", "maximum": "or", "multiply": "and", "minimum": "and"}
NOT = ("logical_not", "invert")
ONE = (
    "exp",
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
# The functions that a formula may call, by NumPy's names. A compiler must provide all of them.
FUNCTIONS = (*ONE, "absolute", "maximum", "minimum", "power")
ALIASES = {"true_divide": "divide", "fabs": "absolute", "float_power": "power"}
FLOAT64, INT64, TRUTH = np.dtype(np.float64), np.dtype(np.int64), np.dtype(np.bool_)
ON_INTEGERS = ("add", "subtract", "multiply", "negative", "positive", "absolute", "maximum", "minimum", "square")


class _Branch(BaseException):
    """Signals that the formula tests a condition. It is not an `Exception`, since the formula might catch that."""


@dataclass(eq=False)
class _Text:
    """The lines recorded so far, and the conditions that hold on the present path.

    Attributes
    ----------
    plain : bool
        Whether to keep the operations of the formula one for one: constants are not combined, and powers and divisions
        are not replaced by products.
    lines : dict
        The name of each expression.
    constants : dict
        Name and value of each constant by its text, which distinguishes NaN and -0.0.
    holds : dict
        Whether a condition holds, by its name.
    """

    plain: bool = False
    lines: dict[str, str] = field(default_factory=dict)
    constants: dict[str, tuple[str, float]] = field(default_factory=dict)
    holds: dict[str, bool] = field(default_factory=dict)

    def name(self, expression: str) -> str:
        return self.lines.setdefault(expression, f"t{len(self.lines)}")

    def constant(self, value: Any) -> str:
        value = float(value)
        return self.constants.setdefault(repr(value), (f"c{len(self.constants)}", value))[0]

    def operand(self, value: Any) -> str:
        if isinstance(value, Variable):
            return value.name
        if isinstance(value, (bool, int, float, np.number, np.bool_)) or (
            isinstance(value, np.ndarray) and value.ndim == 0
        ):
            if isinstance(value, (complex, np.complexfloating)) or getattr(value, "dtype", FLOAT64).itemsize > 8:
                raise Untraceable(f"{type(value).__name__} is not a float64")
            return self.constant(value)
        raise Untraceable(f"{type(value).__name__} is not a number")


class Variable(np.lib.mixins.NDArrayOperatorsMixin):
    """A symbolic number with the type that NumPy would give it.

    Attributes
    ----------
    factors : (float, str) or None
        A constant and the name of another variable, if this variable is their product.
    weak : bool
        Whether it may be a Python number, which takes the type of its operand: ``max(u2, 0.1) * np.float32(3)``.
    """

    def __init__(
        self, text: _Text, name: str, dtype: np.dtype[Any] = FLOAT64, factors: tuple[float, str] | None = None
    ) -> None:
        self.text, self.name, self.dtype, self.factors, self.weak = text, name, dtype, factors, False

    @property
    def logical(self) -> bool:
        return self.dtype == TRUTH

    def __bool__(self) -> bool:
        condition = self if self.logical else self != 0
        if condition.name not in self.text.holds:
            raise _Branch(condition.name)
        return self.text.holds[condition.name]

    def __float__(self) -> float:
        raise Untraceable("it needs a number, not an expression")

    __int__ = __index__ = __float__

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise Untraceable("it converts its argument to an array")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Variable:
        if method != "__call__" or options:
            raise Untraceable(f"numpy.{ufunc.__name__} is called with options")
        _refuse_narrow(inputs)
        result = self._apply(ufunc.__name__, inputs, _type_of(ufunc, inputs))
        result.weak = all(_is_weak(value) for value in inputs)
        return result

    def __array_function__(self, function: Callable[..., Any], _: Any, inputs: Any, options: Any) -> Any:
        if options:
            raise Untraceable(f"numpy.{function.__name__} is called with options")
        if function is np.where and len(inputs) == 3:
            return self._where(*inputs)
        if function is np.clip and len(inputs) == 3 and all(bound is not None for bound in inputs[1:]):
            return np.minimum(np.maximum(inputs[0], inputs[1]), inputs[2])
        raise Untraceable(f"numpy.{function.__name__} is not supported")

    def _new(
        self, expression: str, dtype: np.dtype[Any] = FLOAT64, factors: tuple[float, str] | None = None
    ) -> Variable:
        return Variable(self.text, self.text.name(expression), dtype, factors)

    def _where(self, condition: Any, yes: Any, no: Any) -> Variable:
        if not isinstance(condition, Variable):
            raise Untraceable("numpy.where needs a condition on the argument")
        if not condition.logical:
            condition = condition != 0
        _refuse_narrow((yes, no))
        # NumPy gives both choices one type: it rounds 0.1 to float32 if the other one is np.float32(0.2)
        sample = np.where(np.ones(1, bool), *(_sample(value) for value in (yes, no)))
        yes, no = (v if isinstance(v, Variable) else np.asarray(v).astype(sample.dtype)[()] for v in (yes, no))
        if sample.dtype == TRUTH:
            yes, no = (self._as_number(value) for value in (yes, no))
            return self._new(f"{self.text.operand(yes)} if {condition.name} else {self.text.operand(no)}") != 0
        return self._new(f"{self.text.operand(yes)} if {condition.name} else {self.text.operand(no)}", sample.dtype)

    def _apply(self, name: str, inputs: tuple[Any, ...], dtype: np.dtype[Any]) -> Variable:
        name = ALIASES.get(name, name)
        operand, on_truth = self.text.operand, all(_dtype(value) == TRUTH for value in inputs)
        if name in NOT and on_truth:
            return self._new(f"not {self.name}", TRUTH)
        if dtype == TRUTH and on_truth and name in {**LOGICAL, **ON_TRUTH}:
            return self._both(LOGICAL.get(name) or ON_TRUTH[name], *inputs)
        if name in COMPARISONS and all(_dtype(v) in (FLOAT64, INT64, TRUTH) for v in inputs if isinstance(v, Variable)):
            left, right = (operand(self._as_number(value)) for value in inputs)
            return self._new(f"{left} {COMPARISONS[name]} {right}", TRUTH)
        if dtype != FLOAT64 and not (dtype == INT64 and name in ON_INTEGERS):
            raise Untraceable(f"numpy.{name} would compute in {dtype}")
        inputs = tuple(self._as_number(value) for value in inputs)
        if name in ARITHMETIC:
            return self._arithmetic(name, inputs, dtype)
        if name == "negative":
            return self._arithmetic("multiply", (inputs[0], -1.0), dtype)
        if name == "positive":
            return inputs[0]
        if name == "square":
            return inputs[0] * inputs[0]
        if name == "reciprocal":
            return 1.0 / inputs[0]
        if name == "exp" and not self.text.plain:  # exp(c·x) = exp2(c·log2(e)·x): one product for all constant factors
            scale, of = inputs[0].factors or (1.0, inputs[0].name)
            return self._new(f"exp2({self._new(f'{self.text.constant(scale * LOG2E)} * {of}').name})")
        if name == "power":
            return self._power(*inputs)
        if name in (
            "fmax",
            "fmin",
        ):  # they differ from maximum and minimum only for NaN, which a profile must not produce
            name = "maximum" if name == "fmax" else "minimum"
        if name in FUNCTIONS and len(inputs) == (1 if name in ONE or name == "absolute" else 2):
            return self._new(f"{name}({', '.join(map(operand, inputs))})", dtype)
        raise Untraceable(f"numpy.{name} is not supported")

    def _both(self, word: str, left: Any, right: Any) -> Variable:
        """``left and right`` or ``left or right``, of which one may be a known truth value."""
        if not isinstance(left, Variable):
            left, right = right, left
        if isinstance(right, Variable):
            return self._new(f"{left.name} {word} {right.name}", TRUTH)
        if bool(right) == (word == "and"):
            return left
        zero = self.text.constant(0.0)
        return self._new(f"{zero} {'==' if right else '<'} {zero}", TRUTH)

    def _arithmetic(self, name: str, inputs: tuple[Any, Any], dtype: np.dtype[Any]) -> Variable:
        left, right = inputs
        if name == "divide" and not self.text.plain and not isinstance(right, Variable) and _invertible(right):
            # a division costs as much as ten products
            return self._arithmetic("multiply", (left, 1.0 / float(right)), dtype)
        if name == "multiply" and any(
            not isinstance(a, Variable) and a == 0 and b.name == "u2" for a, b in ((left, right), (right, left))
        ):
            return self._new(
                self.text.constant(0.0)
            )  # formulas write constants as u2 * 0 + 1, to give them the shape of u2
        factors = self._factors(left, right) if name == "multiply" else None
        operand = self.text.operand
        return self._new(f"{operand(left)} {ARITHMETIC[name]} {operand(right)}", dtype, factors)

    def _as_number(self, value: Any) -> Any:
        if isinstance(value, Variable) and value.logical:
            one, zero = self.text.constant(1.0), self.text.constant(0.0)
            return self._new(f"{one} if {value.name} else {zero}", INT64)
        return value

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
            if exponent < 0 and exponent.is_integer() and not self.text.plain:
                return 1.0 / self._power(base, -exponent)
            limit = 2 if self.text.plain else MAX_POWER
            if exponent.is_integer() and 1 <= exponent <= limit:
                half = self._power(base, exponent // 2) if exponent > 1 else None
                squared = half * half if half is not None else base
                return squared * base if exponent > 1 and exponent % 2 else squared
        return self._new(f"power({self.text.operand(base)}, {self.text.operand(exponent)})")


def _invertible(value: Any) -> bool:
    """Whether a division by `value` may become a product with the reciprocal."""
    return 1e-300 < abs(float(value)) < 1e300


def _sample(value: Any) -> Any:
    """A concrete value of the same type, with which NumPy determines the type of a result."""
    return np.ones(1, value.dtype) if isinstance(value, Variable) else value


def _is_weak(value: Any) -> bool:
    return value.weak if isinstance(value, Variable) else not isinstance(value, (np.generic, np.ndarray))


def _refuse_narrow(inputs: tuple[Any, ...]) -> None:
    if any(isinstance(value, Variable) and value.weak for value in inputs) and any(map(_is_narrow, inputs)):
        raise Untraceable("a Python number takes another type than float64 in it")


def _is_narrow(value: Any) -> bool:
    return value.dtype.itemsize < 8 and not value.logical if isinstance(value, Variable) else narrow(value)


def _dtype(value: Any) -> np.dtype[Any]:
    return value.dtype if isinstance(value, Variable) else np.asarray(value).dtype


def _type_of(ufunc: np.ufunc, inputs: tuple[Any, ...]) -> np.dtype[Any]:
    """The type in which NumPy computes the function, which depends on the types of constants."""
    with np.errstate(all="ignore"):
        return np.dtype(ufunc(*map(_sample, inputs)).dtype)


@dataclass(frozen=True)
class Traced:
    """A formula as a list of single assignments ``name = expression``, starting from ``u2``."""

    lines: tuple[str, ...]
    constants: dict[str, float]
    result: str

    def source(self, name: str) -> str:
        """The source of a Python function of that name. The module must define its constants and functions."""
        body = "".join(f"    {line}\n" for line in self.lines)
        return f"def {name}(u2):\n{body}    return {self.result}\n"


def trace(formula: Callable[..., Any], plain: bool = False) -> Traced:
    """Traces a formula.

    Parameters
    ----------
    formula : callable
    plain : bool
        Whether to keep the operations of the formula one for one.

    Raises
    ------
    Untraceable
        The formula cannot be written as text; the message says why.
    """
    text = _Text(plain)
    try:
        name = _paths(text, on_variables(formula), [])
    except Untraceable:
        raise
    except Exception as error:  # the formula may fail in any way for an argument that is not a number
        raise Untraceable(f"{type(error).__name__}: {error}") from error
    lines = _needed([f"{name} = {expression}" for expression, name in text.lines.items()], name)
    used = {value for line in lines for value in _tokens(line)} | {name}
    constants = {c: value for c, value in text.constants.values() if c in used}
    return Traced(lines, constants, name)


def _paths(text: _Text, formula: Callable[..., Any], calls: list[int]) -> str:
    """The name of the result. If the formula branches, the result is a selection between those of both paths."""
    calls.append(1)
    if len(calls) > MAX_PATHS:
        raise Untraceable("it branches on its argument too often")
    try:
        result = formula(Variable(text, "u2"))
    except _Branch as branch:
        condition, holds = branch.args[0], text.holds
        text.holds = {**holds, condition: True}
        yes = _paths(text, formula, calls)
        text.holds = {**holds, condition: False}
        no = _paths(text, formula, calls)
        return yes if yes == no else text.name(f"{yes} if {condition} else {no}")
    if isinstance(result, Variable):
        result = result._as_number(result)
    return text.operand(result)


def _tokens(text: str) -> set[str]:
    return set("".join(c if c.isalnum() else " " for c in text).split())


def _needed(lines: list[str], result: str) -> tuple[str, ...]:
    """The lines on which the result depends."""
    wanted, kept = {result}, []
    for line in reversed(lines):
        name, _, expression = line.partition(" = ")
        if name in wanted:
            wanted |= _tokens(expression)
            kept.append(line)
    return tuple(reversed(kept))
