"""The registry of kernels: the formulas and the facts of each, written once. All other modules read them from here.

A profile κ is a function of the *squared* scaled distance u² (of the scaled inner product for ``dot``), unnormalised,
with κ(0) = 1. The formula of a compact kernel is only evaluated for u ≤ ``support``. Formulas apply NumPy functions to
plain expressions, so that the same line serves arrays here and scalars in a compiler.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastnw.kernels import precise_derivatives
from fastnw.kernels.facts import Facts, Formula
from fastnw.kernels.kernel import Kernel

SQRT3, SQRT5 = math.sqrt(3.0), math.sqrt(5.0)


class BuiltInKernel(Kernel):
    """A kernel of the registry: its facts are written down instead of proven."""

    def __init__(self, name: str, profile: Formula, log_profile: Formula | None, facts: Facts) -> None:
        self._set(name, profile, log_profile, facts)

    def current(self) -> Kernel:
        return self

    @property
    def is_opaque(self) -> bool:
        return False

    @property
    def window_sensitivity(self) -> float:
        """The same as for a user's kernel, from the sensitivity to a relative error of u².

        The one that is added covers a whitened coordinate's absolute error, for which |dκ/du| ≤ 2, and the rounding of
        the profile.
        """
        if self.support is None or not self.facts.sensitivity:
            return 0.0
        return 1.0 + self.facts.sensitivity

    @property
    def needs_pair_bounds(self) -> bool:
        return False

    @property
    def log_sensitivity(self) -> tuple[float, float, float]:
        """The same as for a user's kernel.

        Kernels that decay exponentially have b = 1 (with equality for the Gaussian). Their a = 1.2 covers whitened
        coordinates, whose error does not vanish with u: |d log κ/du| is at most √5, or u.
        """
        if self.works_on_logs:
            return 1.2, 1.0, 0.0
        return 1.0 if self.facts.sensitivity else 0.0, 0.0, 0.0

    @property
    def fits_float32(self) -> bool:
        return True

    def rounding(self, dtype: np.dtype[Any], as_written: bool) -> tuple[float, float]:
        return 0.0, 0.0

    def __reduce__(self) -> Any:
        """Its formulas have no names to be pickled by, so the kernel is pickled by its own."""
        return get, (self.name,)


def _logistic_log_ratio(delta: Any, u0: Any) -> Any:
    return -delta + 2.0 * (np.log1p(np.exp(-u0)) - np.log1p(np.exp(-(u0 + delta))))


def _matern32_log_ratio(delta: Any, u0: Any) -> Any:
    z0, dz = SQRT3 * u0, SQRT3 * delta
    return np.log1p(dz / (1.0 + z0)) - dz


def _matern52_log_ratio(delta: Any, u0: Any) -> Any:
    # z0² and dz² overflow long before z0 and dz do; a logarithm cut off at 690 is lost in a dz of 1e150 and more
    z0, dz = SQRT5 * u0, SQRT5 * delta
    polynomial = 1.0 + z0 * (z0 / (1.0 + z0)) / 3.0  # over 1 + z0
    growth = dz / (1.0 + z0) * ((3.0 + 2.0 * z0 + dz) / (3.0 * polynomial))
    return np.log1p(np.minimum(growth, 1e300)) - dz


def _cauchy_log_ratio(delta: Any, u0: Any) -> Any:
    return 2.0 * np.log(np.hypot(1.0, u0) / np.hypot(1.0, u0 + delta))


def _logistic_derivative(u2: Any) -> Any:
    u = np.maximum(np.sqrt(u2), 1e-150)
    return np.tanh(u / 2.0) / u


def _matern52_derivative(u2: Any) -> Any:
    z = SQRT5 * np.sqrt(u2)
    return (5.0 / 3.0) / (1.0 + z * (z / (1.0 + z)) / 3.0)


def _one_minus_u(y: Any) -> Any:
    """1 − u from 1 − u²."""
    return y / (1.0 + np.sqrt(1.0 - y))


def _log(formula_of_z: Formula, scale: float) -> Formula:
    return lambda u2: formula_of_z(scale * np.sqrt(u2))


def _built_in(name: str, profile: Formula, *, log_profile: Formula | None = None, **facts: Any) -> Kernel:
    works_on_logs = log_profile is not None
    return BuiltInKernel(
        name, profile, log_profile, Facts(built_in=True, monotone=True, works_on_logs=works_on_logs, **facts)
    )


_KERNELS = {
    kernel.name: kernel
    for kernel in (
        _built_in(
            "gaussian",
            lambda u2: np.exp(-0.5 * u2),
            log_profile=lambda u2: -0.5 * u2,
            log_ratio=lambda delta, u0: -delta * (u0 + delta / 2),
            derivative=lambda u2: u2 * 0.0 + 1.0,
            quadratic_form=True,
            has_spectrum=True,
            precise_derivative=precise_derivatives.gaussian,
            derivative_at_infinity=((1.0, 0.0), 0),
            compiled_code=0,
        ),
        _built_in(
            "boxcar",
            lambda u2: u2 * 0.0 + 1.0,
            support=1.0,
            window=(1, 0),
            sensitivity=0.0,
            edge=np.ones_like,
            derivative=lambda u2: u2 * 0.0,
            aliases=(
                "uniform",
                "tophat",
            ),
            discontinuous=True,
            compiled_code=6,
        ),
        _built_in(
            "triangular",
            lambda u2: 1.0 - np.sqrt(u2),
            support=1.0,
            window=(1, 1),
            sensitivity=0.5,
            edge=_one_minus_u,
            derivative=lambda u2: 1.0 / np.sqrt(u2),
            aliases=("linear",),
            relative_cost=2.5,
            compiled_code=7,
        ),
        _built_in(
            "epanechnikov",
            lambda u2: 1.0 - u2,
            support=1.0,
            window=(2, 1),
            sensitivity=1.0,
            edge=lambda y: y,
            derivative=lambda u2: u2 * 0.0 + 2.0,
            compiled_code=8,
        ),
        _built_in(
            "biweight",
            lambda u2: (1.0 - u2) ** 2,
            support=1.0,
            window=(2, 2),
            sensitivity=0.5,
            edge=lambda y: y**2,
            derivative=lambda u2: 4.0 * (1.0 - u2),
            aliases=("quartic",),
            compiled_code=9,
        ),
        _built_in(
            "triweight",
            lambda u2: (1.0 - u2) ** 3,
            support=1.0,
            window=(2, 3),
            sensitivity=4 / 9,
            edge=lambda y: y**3,
            derivative=lambda u2: 6.0 * (1.0 - u2) ** 2,
            compiled_code=10,
        ),
        _built_in(
            "tricube",
            lambda u2: (1.0 - u2 * np.sqrt(u2)) ** 3,
            window=(3, 3),
            support=1.0,
            sensitivity=2 / 3,
            edge=lambda y: (_one_minus_u(y) * (2.0 - y + np.sqrt(1.0 - y))) ** 3,
            derivative=lambda u2: 9.0 * np.sqrt(u2) * (1.0 - u2 * np.sqrt(u2)) ** 2,
            relative_cost=2.5,
            compiled_code=11,
        ),
        # cos(πu/2) written as a sine, which keeps its digits where κ goes to 0
        _built_in(
            "cosine",
            lambda u2: np.sin(0.5 * math.pi * (1.0 - u2) / (1.0 + np.sqrt(u2))),
            support=1.0,
            sensitivity=math.pi / 4,
            edge=lambda y: np.sin(0.5 * math.pi * _one_minus_u(y)),
            derivative=lambda u2: 0.25 * math.pi**2 * np.sinc(0.5 * np.sqrt(u2)),
            relative_cost=2.5,
            compiled_code=12,
        ),
        _built_in(
            "laplacian",
            lambda u2: np.exp(-np.sqrt(u2)),
            log_profile=lambda u2: -np.sqrt(u2),
            log_ratio=lambda delta, u0: -delta,
            derivative=lambda u2: 1.0 / np.sqrt(u2),
            aliases=("exponential",),
            relative_cost=1.6,
            exponential_polynomial=((1.0,), 1.0),
            precise_derivative=precise_derivatives.laplacian,
            derivative_at_infinity=((1.0, 0.0), -1),
            compiled_code=1,
        ),
        _built_in(
            "matern32",
            lambda u2: (1.0 + SQRT3 * np.sqrt(u2)) * np.exp(-SQRT3 * np.sqrt(u2)),
            log_profile=_log(lambda z: np.log1p(z) - z, SQRT3),
            log_ratio=_matern32_log_ratio,
            derivative=lambda u2: 3.0 / (1.0 + SQRT3 * np.sqrt(u2)),
            relative_cost=2.0,
            exponential_polynomial=((1.0, 1.0), SQRT3),
            precise_derivative=precise_derivatives.matern32,
            derivative_at_infinity=(precise_derivatives.SQRT3, -1),
            compiled_code=2,
        ),
        _built_in(
            "matern52",
            lambda u2: (1.0 + SQRT5 * np.sqrt(u2) + 5.0 * u2 / 3.0) * np.exp(-SQRT5 * np.sqrt(u2)),
            # 1 + z + z²/3 in two factors, since z² overflows before u² does
            log_profile=_log(lambda z: np.log1p(z) + np.log1p(z * (z / (1.0 + z)) / 3.0) - z, SQRT5),
            log_ratio=_matern52_log_ratio,
            derivative=_matern52_derivative,
            relative_cost=2.5,
            exponential_polynomial=((1.0, 1.0, 1 / 3), SQRT5),
            precise_derivative=precise_derivatives.matern52,
            derivative_at_infinity=(precise_derivatives.SQRT5, -1),
            compiled_code=3,
        ),
        _built_in(
            "cauchy",
            lambda u2: 1.0 / (1.0 + u2),
            max_density_dim=1,
            sensitivity=0.25,
            log_ratio=_cauchy_log_ratio,
            derivative=lambda u2: 2.0 / (1.0 + u2) ** 2,
            relative_cost=3.0,
            heavy_tailed=True,
            precise_derivative=precise_derivatives.cauchy,
            derivative_at_infinity=((2.0, 0.0), -2),
            compiled_code=13,
        ),
        _built_in(
            "logistic",
            lambda u2: 4.0 * np.exp(-np.sqrt(u2)) / (1.0 + np.exp(-np.sqrt(u2))) ** 2,
            log_profile=_log(lambda u: math.log(4.0) - u - 2.0 * np.log1p(np.exp(-u)), 1.0),
            log_ratio=_logistic_log_ratio,
            derivative=_logistic_derivative,
            relative_cost=3.2,
            precise_derivative=precise_derivatives.logistic,
            derivative_at_infinity=((1.0, 0.0), -1),
            compiled_code=4,
        ),
        _built_in(
            "constant",
            lambda u2: np.where(u2 > 0.0, 1.0, 1.0),  # u² times 0 is NaN where u² overflows
            max_density_dim=0,
            sensitivity=0.0,
            derivative=lambda u2: u2 * 0.0,
            relative_cost=0.5,
            constant=True,
            compiled_code=14,
        ),
        _built_in(
            "dot",
            lambda score: np.exp(score),
            log_profile=lambda score: score,
            log_ratio=lambda delta, score0: delta,
            inner_product=True,
            max_density_dim=0,
            relative_cost=3.0,
            quadratic_form=True,
            compiled_code=5,
        ),
    )
}
_BY_NAME = {alias: kernel for kernel in _KERNELS.values() for alias in (kernel.name, *kernel.aliases)}


def names() -> list[str]:
    """The built-in kernels' names, without their aliases.

    Returns
    -------
    list of str

    Examples
    --------
    >>> import fastnw
    >>> fastnw.kernels.names()[:3]
    ['gaussian', 'boxcar', 'triangular']
    """
    return list(_KERNELS)


def built_in() -> Iterator[tuple[str, Kernel]]:
    """Each built-in kernel with its name."""
    return iter(_KERNELS.items())


def get(kernel: str | Kernel) -> Kernel:
    """The kernel of that name or alias; a `Kernel` with what its formulas refer to now.

    Parameters
    ----------
    kernel : str or Kernel

    Returns
    -------
    Kernel

    Raises
    ------
    ValueError
        Unknown name; the message lists the choices.
    TypeError
        Neither a string nor a `Kernel`.
    """
    if isinstance(kernel, Kernel):
        return kernel.current()
    if not isinstance(kernel, str):
        raise TypeError(f"kernel must be a name or a fastnw.Kernel, got {type(kernel).__name__}.")
    if kernel in _BY_NAME:
        return _BY_NAME[kernel]
    if kernel.lower() == "epanechikov":
        raise ValueError(
            "Unknown kernel 'epanechikov'. The d2l.ai chapter's function of that name, max(0, 1 - |u|), is "
            "kernel='triangular'; the kernel that the field calls Epanechnikov, 1 - u², is kernel='epanechnikov'."
        )
    choices = ", ".join(
        repr(k.name) + (f" ({', '.join(map(repr, k.aliases))})" if k.aliases else "") for k in _KERNELS.values()
    )
    raise ValueError(f"Unknown kernel {kernel!r}. Choose one of {choices}, or pass a fastnw.Kernel.")
