"""Functions of a kernel's formula that vectorise under LLVM: Numba's own `exp` is a call, one number at a time.

Nothing here may be reordered: the range reduction adds a large number and takes it away again. So only contraction to
fused products is allowed, and what is inlined into loops that may reorder their sums keeps that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic


def _cacheable() -> bool:
    """Whether Numba finds a place for what it compiles: there may be none beside a read-only installation."""
    try:
        njit(cache=True)(_nothing)
    except RuntimeError:
        return False
    return True


def _nothing() -> None: ...


EXACT: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}, "nogil": True, "cache": _cacheable()}


@intrinsic
def _scaled(typingctx: Any, p: Any, shifter: Any) -> Any:
    """p times 2 to the integer in the last bits of `shifter`. In LLVM's words: Numba widens int32 sums to int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        single = signature.return_type == types.float32
        integer = ir.IntType(32 if single else 64)
        bits, last = (builder.bitcast(argument, integer) for argument in arguments)
        exponent = builder.shl(last, ir.Constant(integer, 23 if single else 52))
        return builder.bitcast(builder.add(bits, exponent), arguments[0].type)

    return p(p, shifter), generate


@intrinsic
def _signed(typingctx: Any, x: Any, shifter: Any) -> Any:
    """x, negated if the last bit of `shifter` is set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        single = signature.return_type == types.float32
        integer = ir.IntType(32 if single else 64)
        bits, last = (builder.bitcast(argument, integer) for argument in arguments)
        sign = builder.shl(last, ir.Constant(integer, 31 if single else 63))
        return builder.bitcast(builder.xor(bits, sign), arguments[0].type)

    return x(x, shifter), generate


# 2^f on |f| <= 1/2, of least relative error: 9e-8 before rounding with five terms (float32), 4e-17 with eleven.
# "falling": for y <= 0, which spares a step (3 % at d = 3). Estrin's order, for shorter chains: a tenth slower.
@njit(**EXACT)
def exp2_falling_float32(y):
    """2^y; below −126 it stays at 1e-38."""
    one = np.float32
    y = one(-126.0) if y < one(-126.0) else y
    shifter = y + one(12582912.0)
    f = y - (shifter - one(12582912.0))
    p = f * one(1.326472731e-3) + one(9.671512991e-3)
    p = f * p + one(5.550733581e-2)
    p = f * p + one(2.402224243e-1)
    p = f * p + one(6.931470037e-1)
    p = f * p + one(1.0)
    return _scaled(p, shifter)


@njit(**EXACT)
def exp2_falling_float64(y):
    """2^y; below −1020 it stays at 1e-307."""
    y = -1020.0 if y < -1020.0 else y
    shifter = y + 6755399441055744.0
    f = y - (shifter - 6755399441055744.0)
    p = f * 4.4549605981865184e-10 + 7.0725859492692237e-9
    p = f * p + 1.0178062445845774e-7
    p = f * p + 1.3215442587921690e-6
    p = f * p + 1.5252733829836118e-5
    p = f * p + 1.5403530441736050e-4
    p = f * p + 1.3333558146416935e-3
    p = f * p + 9.6181291076068885e-3
    p = f * p + 5.5504108664821594e-2
    p = f * p + 2.4022650695910098e-1
    p = f * p + 6.9314718055994531e-1
    p = f * p + 1.0
    return _scaled(p, shifter)


@njit(**EXACT)
def exp2_float32(y):
    """2^y; beyond 127.4 it stays at 2e38."""
    return exp2_falling_float32(np.float32(127.4) if y > np.float32(127.4) else y)


@njit(**EXACT)
def exp2_float64(y):
    """2^y; beyond 1023.4 it stays at 1e308."""
    return exp2_falling_float64(1023.4 if y > 1023.4 else y)


# For users' formulas: 0 below the normal numbers and infinity above them, as NumPy has it.
@njit(**EXACT)
def exp2_whole_float32(y):
    one = np.float32
    inside = exp2_falling_float32(one(127.4) if y > one(127.4) else y)
    inside = one(0.0) if y < one(-125.0) else inside
    return one(np.inf) if y > one(127.4) else inside


@njit(**EXACT)
def exp2_whole_float64(y):
    inside = exp2_falling_float64(1023.4 if y > 1023.4 else y)
    inside = 0.0 if y < -1020.0 else inside
    return np.inf if y > 1023.4 else inside


@njit(**EXACT)
def maximum(a, b):
    """NumPy's, of numbers of one type: NaN if one of them is."""
    return a if (a >= b or a != a) else b


@njit(**EXACT)
def minimum(a, b):
    return a if (a <= b or a != a) else b


# x less its nearest multiple of pi (for the cosine: of odd halves), which is taken away in parts: right to a rounding
# or two for |x| up to 1e3 (float32; 1e5), as good as kernels need. sin(f)/f in f^2 at Chebyshev nodes: 7e-9, 3e-19.
@njit(**EXACT)
def _reduced_float32(x, half):
    one = np.float32
    shifter = (x * one(0.31830988618) + half) + one(12582912.0)
    r = (shifter - one(12582912.0)) - half
    f = ((x - r * one(3.140625)) - r * one(9.6750259399e-4)) - r * one(1.5099580e-7)
    z = f * f
    p = z * one(2.60510763e-6) - one(1.980901741e-4)
    p = z * p + one(8.33305017e-3)
    p = z * p - one(1.666665795e-1)
    return _signed(f + f * (z * p), shifter)


@njit(**EXACT)
def _reduced_float64(x, half):
    shifter = (x * 0.31830988618379067 + half) + 6755399441055744.0
    r = (shifter - 6755399441055744.0) - half
    f = (x - r * 3.1415926218032837) - r * 3.178650954705639e-8
    z = f * f
    p = z * 2.72157494229834428e-15 - 7.64302655797163266e-13
    p = z * p + 1.60589408784865599e-10
    p = z * p - 2.50521068905695195e-8
    p = z * p + 2.75573192112296066e-6
    p = z * p - 1.98412698412086752e-4
    p = z * p + 8.33333333333318638e-3
    p = z * p - 1.66666666666666653e-1
    return _signed(f + f * (z * p), shifter)


@njit(**EXACT)
def sin_float32(x):
    return _reduced_float32(x, np.float32(0.0))


@njit(**EXACT)
def sin_float64(x):
    return _reduced_float64(x, 0.0)


@njit(**EXACT)
def cos_float32(x):
    return _reduced_float32(x, np.float32(0.5))


@njit(**EXACT)
def cos_float64(x):
    return _reduced_float64(x, 0.5)
