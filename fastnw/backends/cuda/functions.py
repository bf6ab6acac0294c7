"""The functions that formulas call on the device, and the formula of a kernel as lines of a device function.

Fast-math is off: this module names each approximation. The errors of ``ex2.approx``, ``sqrt.approx`` and
``div.approx`` are at most two units in the last place. They flush results below 1e-38 to 0, which the bounds of the
methods include.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import config, cuda, types

from fastnw.kernels import formula_texts
from fastnw.kernels.kernel import Kernel
from fastnw.kernels.tracing import ONE, Traced
from fastnw.kernels.user_formulas import scalar

LOG2E = 1.4426950408889634
SIMULATED = bool(getattr(config, "ENABLE_CUDASIM", False))

# Number of terms of the sine's series. Built-in kernels need it up to π/2 only, where libdevice's range reduction would
# waste time.
SINE_TERMS = {"float32": 6, "float64": 12}
APPROXIMATE = {
    "exp2": ("llvm.nvvm.ex2.approx.ftz.f", 1),
    "sqrt": ("llvm.nvvm.sqrt.approx.ftz.f", 1),
    "divide": ("llvm.nvvm.div.approx.ftz.f", 2),
}
LIBDEVICE = {
    **{name: name for name in ONE},
    **{"arctan": "atan", "arcsin": "asin", "arccos": "acos"},
    **{"absolute": "fabs", "maximum": "fmax", "minimum": "fmin", "power": "pow"},
}


@cache
def functions(dtype: str, built_in: bool) -> dict[str, Any]:
    """The functions that the text of a formula may call, by name."""
    real = getattr(np, dtype)
    if SIMULATED:
        names = {name: _silent(getattr(np, name)) for name in LIBDEVICE}
        names |= {"divide": _silent(np.divide), "select": lambda condition, yes, no: yes if condition else no}
        return names | {"real": real, "double": np.float64, "short": np.int32}
    from numba.cuda import libdevice

    suffix = "f" if dtype == "float32" else ""
    callables = {name: getattr(libdevice, target + suffix) for name, target in LIBDEVICE.items()}
    callables |= {"divide": _operation("fdiv"), "select": _select()}
    if dtype == "float32":
        callables |= {name: _device_intrinsic(*facts) for name, facts in APPROXIMATE.items()}
    if built_in:
        callables["sin"] = _sine(SINE_TERMS[dtype])
    return callables | {"real": real, "double": np.float64, "short": np.int32}


def _silent(function: Callable[..., Any]) -> Callable[..., Any]:
    """Silences NumPy's warnings: a device gives none, and both sides of a choice are computed."""

    def call(*values: Any) -> Any:
        with np.errstate(all="ignore"):
            return function(*values)

    return call


def _device_intrinsic(target: str, operands: int) -> Any:
    """The float32 function that LLVM calls `target`."""
    from llvmlite import ir
    from numba.cuda.extending import intrinsic

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType()] * operands)
        function = builder.module.globals.get(target) or ir.Function(builder.module, kind, target)
        return builder.call(function, args)

    def unary(typingctx, x):  # type: ignore[no-untyped-def]
        return types.float32(types.float32), codegen

    def binary(typingctx, x, y):  # type: ignore[no-untyped-def]
        return types.float32(types.float32, types.float32), codegen

    return intrinsic(unary if operands == 1 else binary)


def _operation(name: str) -> Any:
    """The LLVM instruction `name` on two numbers of one type. Python's division would test for zero."""
    from numba.cuda.extending import intrinsic

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return getattr(builder, name)(*args)

    def binary(typingctx, x, y):  # type: ignore[no-untyped-def]
        return x(x, x), codegen

    return intrinsic(binary)


def _select() -> Any:
    """`yes` if `condition` else `no`, without a branch, which takes numba much longer to compile."""
    from numba.cuda.extending import intrinsic

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(*args)

    def select(typingctx, condition, yes, no):  # type: ignore[no-untyped-def]
        return yes(types.boolean, yes, yes), codegen

    return intrinsic(select)


def _sine(terms: int) -> Any:
    """x − x³/3! + …, for 0 ≤ x ≤ π/2."""
    from numba.cuda.extending import intrinsic

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (x,) = args
        square = builder.fmul(x, x)
        value = x.type(0.0)
        for k in range(terms - 1, 0, -1):
            factor = (-1) ** k / math.factorial(2 * k + 1)
            factor = float(np.float32(factor)) if str(x.type) == "float" else factor
            value = builder.fmul(square, builder.fadd(value, x.type(factor)))
        return builder.fadd(x, builder.fmul(x, value))

    def unary(typingctx, x):  # type: ignore[no-untyped-def]
        return x(x), codegen

    return intrinsic(unary)


@dataclass(frozen=True)
class Formula:
    """A formula for a device function: its text, or the Python function to call if it has no text.

    The caller multiplies u² by ``leading`` first. With one bandwidth the factor costs nothing there.
    """

    traced: Traced | None
    function: Callable[..., Any] | None
    leading: float = 1.0

    def lines(self, argument: str, result: str, tag: str) -> list[str]:
        """Assignments that compute ``result`` from ``argument``. Names of intermediate results end in ``tag``."""
        if self.traced is None:
            return [f"{result} = real(formula({argument}))"]
        names = {"u2": argument} | {line.partition(" = ")[0]: "" for line in self.traced.lines}
        names |= {name: f"{name}{tag}" for name in names if name != "u2"}
        if self.traced.result in names and self.traced.result != "u2":
            names[self.traced.result] = result

        def renamed(line: str) -> str:
            return re.sub(r"\b[a-z]\w*\b", lambda word: names.get(word.group(), word.group()), line)

        lines = [_by_name(renamed(line)) for line in self.traced.lines]
        if self.traced.result not in names or self.traced.result == "u2":
            lines.append(f"{result} = {renamed(self.traced.result)}")
        return lines

    def scope(self, dtype: str, built_in: bool) -> dict[str, Any]:
        """The globals that the lines need."""
        real = getattr(np, dtype)
        scope = dict(functions(dtype, built_in))
        if self.traced is not None:
            scope |= {name: real(value) for name, value in self.traced.constants.items()}
        elif self.function is not None:
            scope["formula"] = cuda.jit(device=True)(self.function)
        return scope


def _by_name(line: str) -> str:
    """Writes divisions and choices as calls of functions whose precision and form are defined here."""
    line = re.sub(r"^(\w+) = (\w+) / (\w+)$", r"\1 = divide(\2, \3)", line)
    return re.sub(r"^(\w+) = (\w+) if (\w+) else (\w+)$", r"\1 = select(\3, \2, \4)", line)


def formula(kernel: Kernel, log: bool, take_factor: bool) -> Formula:
    """The formula of κ(u²), or of its logarithm. ``take_factor`` moves a constant factor of u² to ``leading``."""
    chosen = kernel.log_profile if log else kernel.profile
    assert chosen is not None
    traced = formula_texts.of(kernel, log)
    if traced is None:
        raw = scalar(chosen)
        return Formula(None, getattr(raw, "py_func", raw))
    return _without_factor(traced) if take_factor else Formula(traced, None)


def _without_factor(traced: Traced) -> Formula:
    uses = [line for line in traced.lines if re.search(r"\bu2\b", line)]
    match = re.fullmatch(r"(\w+) = (?:(c\d+) \* u2|u2 \* (c\d+))", uses[0]) if len(uses) == 1 else None
    if match is None or traced.result == "u2":
        return Formula(traced, None)
    name, factor = match.group(1), match.group(2) or match.group(3)
    lines = tuple(re.sub(rf"\b{name}\b", "u2", line) for line in traced.lines if line is not uses[0])
    result = "u2" if traced.result == name else traced.result
    return Formula(Traced(lines, traced.constants, result), None, traced.constants[factor])
