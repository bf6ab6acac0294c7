"""A kernel's formula as text for a compiler, found by calling it with a variable that notes what is done to it.

So one line of NumPy in `kernels`, or in a user's program, serves arrays, Numba and CUDA; constants take the compute
type, where a compiler would widen float32 to float64; powers become products; and an expression is computed once.
A formula that branches is called once for each way that it can take, and the ways become choices between their results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastnw.kernels.standins import Untraceable, narrow, on_variables

__all__ = ["ARITHMETIC", "FUNCTIONS", "ONE", "Traced", "Untraceable", "trace"]

LOG2E = 1.4426950408889634
MOST_FACTORS = 16  # of an integer power written as products
MOST_BRANCHES = 64  # calls of a formula that branches
ARITHMETIC = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}
COMPARISONS = {
    "less": "<",
    "less_equal": "<=",
    "greater": ">",
    "greater_equal": ">=",
    "equal": "==",
    "not_equal": "!=",
}
# NumPy adds, multiplies and compares truth values as truth values.
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
# What a formula may call, by NumPy's names; `FUNCTIONS` is what a compiler has to have.
FUNCTIONS = (*ONE, "absolute", "maximum", "minimum", "power")
ALIASES = {"true_divide": "divide", "fabs": "absolute", "float_power": "power"}
FLOAT64, INT64, TRUTH = np.dtype(np.float64), np.dtype(np.int64), np.dtype(np.bool_)
ON_INTEGERS = ("add", "subtract", "multiply", "negative", "positive", "absolute", "maximum", "minimum", "square")


class _Branch(BaseException):
    """The formula asks whether a condition holds. No `Exception`, which the formula might catch."""


@dataclass(eq=False)
class _Text:
    """The lines so far, each a name and an expression; and which conditions hold on the way that is being followed.

    `plain` text has the formula's own operations, one for one: no constants multiplied beforehand, no powers as
    products, no divisions as products.
    """

    plain: bool = False
    lines: dict[str, str] = field(default_factory=dict)  # expression: name
    constants: dict[str, tuple[str, float]] = field(default_factory=dict)  # by text: NaN and -0.0 are keys, too
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
                raise Untraceable(f"{type(value).__name__} is no float64")
            return self.constant(value)
        raise Untraceable(f"{type(value).__name__} is no number")


class Variable(np.lib.mixins.NDArrayOperatorsMixin):
    """A number that is not known yet, of the type that NumPy would give it.

    `factors`: a constant and the name of another variable, if it is their product. `weak`: it may be one of Python's
    numbers, which take the type of what they meet: ``max(u2, 0.1) * np.float32(3)``.
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
        raise Untraceable("it makes an array of its argument")

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
        raise Untraceable(f"numpy.{function.__name__} is not known to it")

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
        # NumPy gives both sides one type: 0.1 beside np.float32(0.2) is rounded to float32
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
            raise Untraceable(f"numpy.{name} computes in {dtype} there")
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
        if name == "exp" and not self.text.plain:  # with its constant factors in one
            scale, of = inputs[0].factors or (1.0, inputs[0].name)
            return self._new(f"exp2({self._new(f'{self.text.constant(scale * LOG2E)} * {of}').name})")
        if name == "power":
            return self._power(*inputs)
        if name in ("fmax", "fmin"):  # they pass over NaN, of which these formulas should have none
            name = "maximum" if name == "fmax" else "minimum"
        if name in FUNCTIONS and len(inputs) == (1 if name in ONE or name == "absolute" else 2):
            return self._new(f"{name}({', '.join(map(operand, inputs))})", dtype)
        raise Untraceable(f"numpy.{name} is not known to it")

    def _both(self, word: str, left: Any, right: Any) -> Variable:
        """`left` and, or or, `right`: one of them may be a truth value that is known."""
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
            # a division takes as long as ten products
            return self._arithmetic("multiply", (left, 1.0 / float(right)), dtype)
        if name == "multiply" and any(
            not isinstance(a, Variable) and a == 0 and b.name == "u2" for a, b in ((left, right), (right, left))
        ):
            return self._new(self.text.constant(0.0))  # how formulas make a constant of any shape: u2 * 0 + 1
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
            most = 2 if self.text.plain else MOST_FACTORS
            if exponent.is_integer() and 1 <= exponent <= most:
                half = self._power(base, exponent // 2) if exponent > 1 else None
                squared = half * half if half is not None else base
                return squared * base if exponent > 1 and exponent % 2 else squared
        return self._new(f"power({self.text.operand(base)}, {self.text.operand(exponent)})")


def _invertible(value: Any) -> bool:
    """Whether a product with the reciprocal is as good as a division."""
    return 1e-300 < abs(float(value)) < 1e300


def _sample(value: Any) -> Any:
    """What stands for the value where NumPy is asked for the type of a result."""
    return np.ones(1, value.dtype) if isinstance(value, Variable) else value


def _is_weak(value: Any) -> bool:
    return value.weak if isinstance(value, Variable) else not isinstance(value, (np.generic, np.ndarray))


def _refuse_narrow(inputs: tuple[Any, ...]) -> None:
    if any(isinstance(value, Variable) and value.weak for value in inputs) and any(map(_is_narrow, inputs)):
        raise Untraceable("a number of Python's takes another type than float64 there")


def _is_narrow(value: Any) -> bool:
    return value.dtype.itemsize < 8 and not value.logical if isinstance(value, Variable) else narrow(value)


def _dtype(value: Any) -> np.dtype[Any]:
    return value.dtype if isinstance(value, Variable) else np.asarray(value).dtype


def _type_of(ufunc: np.ufunc, inputs: tuple[Any, ...]) -> np.dtype[Any]:
    """The type that NumPy computes it in, which depends on those of constants."""
    with np.errstate(all="ignore"):
        return np.dtype(ufunc(*map(_sample, inputs)).dtype)


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


def trace(formula: Callable[..., Any], plain: bool = False) -> Traced:
    """The formula's text; if `plain`, with the formula's own operations, one for one.

    Raises
    ------
    Untraceable
        With the reason.
    """
    text = _Text(plain)
    try:
        name = _ways(text, on_variables(formula), [])
    except Untraceable:
        raise
    except Exception as error:  # whatever the formula does with what is not a number
        raise Untraceable(f"{type(error).__name__}: {error}") from error
    lines = _needed([f"{name} = {expression}" for expression, name in text.lines.items()], name)
    used = {value for line in lines for value in _tokens(line)} | {name}
    constants = {c: value for c, value in text.constants.values() if c in used}
    return Traced(lines, constants, name)


def _ways(text: _Text, formula: Callable[..., Any], calls: list[int]) -> str:
    """The name of the result: where the formula branches, a choice between those of both ways."""
    calls.append(1)
    if len(calls) > MOST_BRANCHES:
        raise Untraceable("it branches on its argument too often")
    try:
        result = formula(Variable(text, "u2"))
    except _Branch as branch:
        condition, holds = branch.args[0], text.holds
        text.holds = {**holds, condition: True}
        yes = _ways(text, formula, calls)
        text.holds = {**holds, condition: False}
        no = _ways(text, formula, calls)
        return yes if yes == no else text.name(f"{yes} if {condition} else {no}")
    if isinstance(result, Variable):
        result = result._as_number(result)
    return text.operand(result)


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
