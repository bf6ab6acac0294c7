"""Exponentials and sines that LLVM vectorises. Numba's own `exp` is a function call for each number.

Their operations must not be reordered, because the range reduction adds a large number and subtracts it again. So the
only fast-math flag is contraction to fused multiply-adds. The functions keep it when they are inlined into loops that
may reorder their sums.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic


def _cacheable() -> bool:
    """Whether Numba finds a folder for its cache. A read-only installation may offer none."""
    try:
        njit(cache=True)(_nothing)
    except RuntimeError:
        return False
    return True


def _nothing() -> None: ...


EXACT: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}, "nogil": True, "cache": _cacheable()}


@intrinsic
def _scaled(typingctx: Any, p: Any, shifter: Any) -> Any:
    """p times 2 to the integer in the last bits of `shifter`. Numba would widen int32 to int64; LLVM does not."""

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


# Polynomials for 2^f on |f| <= 1/2 with the smallest maximum of the relative error: 9e-8 before rounding (float32) and
# 4e-17 (float64). The "falling" functions require y <= 0, which saves 3 % of the time at d = 3. Estrin's evaluation
# order has shorter dependency chains and was a tenth slower.
@njit(**EXACT)
def exp2_falling_float32(y):
    """2^y for y <= 0. Below y = −126 the result stays at 1e-38."""
    real = np.float32
    y = real(-126.0) if y < real(-126.0) else y
    shifter = y + real(12582912.0)
    f = y - (shifter - real(12582912.0))
    p = f * real(1.326472731e-3) + real(9.671512991e-3)
    p = f * p + real(5.550733581e-2)
    p = f * p + real(2.402224243e-1)
    p = f * p + real(6.931470037e-1)
    p = f * p + real(1.0)
    return _scaled(p, shifter)


@njit(**EXACT)
def exp2_falling_float64(y):
    """2^y for y <= 0. Below y = −1020 the result stays at 1e-307."""
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
    """2^y. Above y = 127.4 the result stays at 2e38."""
    return exp2_falling_float32(np.float32(127.4) if y > np.float32(127.4) else y)


@njit(**EXACT)
def exp2_float64(y):
    """2^y. Above y = 1023.4 the result stays at 1e308."""
    return exp2_falling_float64(1023.4 if y > 1023.4 else y)


# For users' formulas: 0 below the normal numbers and infinity above them, as in NumPy.
@njit(**EXACT)
def exp2_whole_float32(y):
    real = np.float32
    inside = exp2_falling_float32(real(127.4) if y > real(127.4) else y)
    inside = real(0.0) if y < real(-125.0) else inside
    return real(np.inf) if y > real(127.4) else inside


@njit(**EXACT)
def exp2_whole_float64(y):
    inside = exp2_falling_float64(1023.4 if y > 1023.4 else y)
    inside = 0.0 if y < -1020.0 else inside
    return np.inf if y > 1023.4 else inside


@njit(**EXACT)
def maximum(a, b):
    """The larger of two numbers of one type; NaN if one of them is NaN, as in NumPy."""
    return a if (a >= b or a != a) else b


@njit(**EXACT)
def minimum(a, b):
    """The smaller of two numbers of one type; NaN if one of them is NaN, as in NumPy."""
    return a if (a <= b or a != a) else b


# The sine of x minus its nearest multiple of pi (for the cosine: odd multiple of pi/2). The multiple is subtracted in
# three parts (float64: two), which leaves one or two rounding errors for |x| <= 1e3 (float64: 1e5): enough for kernels.
# The polynomial interpolates sin(f)/f in f^2 at Chebyshev nodes with errors of 7e-9 (float64: 3e-19).
@njit(**EXACT)
def _reduced_sin_float32(x, half):
    real = np.float32
    shifter = (x * real(0.31830988618) + half) + real(12582912.0)
    r = (shifter - real(12582912.0)) - half
    f = ((x - r * real(3.140625)) - r * real(9.6750259399e-4)) - r * real(1.5099580e-7)
    z = f * f
    p = z * real(2.60510763e-6) - real(1.980901741e-4)
    p = z * p + real(8.33305017e-3)
    p = z * p - real(1.666665795e-1)
    return _signed(f + f * (z * p), shifter)


@njit(**EXACT)
def _reduced_sin_float64(x, half):
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
    return _reduced_sin_float32(x, np.float32(0.0))


@njit(**EXACT)
def sin_float64(x):
    return _reduced_sin_float64(x, 0.0)


@njit(**EXACT)
def cos_float32(x):
    return _reduced_sin_float32(x, np.float32(0.5))


@njit(**EXACT)
def cos_float64(x):
    return _reduced_sin_float64(x, 0.5)
