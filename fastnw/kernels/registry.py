"""The kernels: each one's formula and facts, once. Everything else reads them from here.

A profile κ is a function of the *squared* scaled distance u² (of the scaled inner product for ``dot``), unnormalised,
with κ(0) = 1. Compact kernels live on u ≤ ``support``; their formula is only asked for there. Formulas are written with
NumPy functions on plain expressions, so that one line serves arrays here and scalars in a compiler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastnw.kernels import sensitivity, user_formulas

Formula = Callable[..., Any]

MOST_VERSIONS = 16  # of a user's kernel whose globals change, that are remembered
SQRT3, SQRT5 = math.sqrt(3.0), math.sqrt(5.0)


@dataclass(frozen=True)
class Facts:
    """What is known of a built-in kernel beyond its profile."""

    aliases: tuple[str, ...] = ()
    # log κ(u) − log κ(u₀) from (u − u₀, u₀), without cancellation, up to u₀ = 1e307; scores for inner products.
    log_ratio: Formula | None = None
    # κ from 1 − u², where κ goes to 0 at u = 1: given that difference accurately, all of κ's digits.
    edge: Formula | None = None
    # Largest |dκ/du²|·u²: the absolute error of κ for a relative error of u². None: bounded through −log κ instead.
    sensitivity: float | None = None
    # −2 dκ/du², over κ for kernels that work on logs: what an error, or a gradient, of the squared distance multiplies.
    slope: Formula | None = None
    inner_product: bool = False
    # (p, r) of κ = (1 − u^p)^r within u ≤ 1
    window: tuple[int, int] | None = None
    max_density_dim: float = math.inf  # ∫κ is finite for d up to this


@dataclass(frozen=True, eq=False, init=False)
class Kernel:
    """A radial kernel κ given by its profile; pass it wherever a kernel's name is accepted.

    Parameters
    ----------
    name : str
        Shown in errors and plans.
    profile : callable
        Scalar function of u² ≥ 0: finite, non-negative, κ(0) > 0. One that also works on arrays is called on arrays.
    support : float, optional
        κ is taken as 0 beyond this u, in bandwidths. ``None``: positive everywhere.
    log_profile : callable, optional
        log κ as a function of u². With it, sums are shifted by their largest term and do not underflow.
    monotone : bool, default False
        A promise that κ does not increase with u. Without it only ``method="exact"`` runs the kernel.

    Raises
    ------
    TypeError
        If `profile` or `log_profile` is not callable.
    ValueError
        If the profile is not finite and non-negative on a grid within the support, or κ(0) is not positive. Calls raise
        it for distances beyond the grid.

    Notes
    -----
    Globals, closures, defaults and attributes that the functions read may change between calls. Where a proof of the
    formula's errors is found, it is compiled for the data's type; elsewhere (it jumps, or cannot be written out as one
    expression) it is computed in float64.

    Examples
    --------
    >>> import fastnw
    >>> student = fastnw.Kernel("student", lambda u2: 1 / (1 + u2) ** 2)
    >>> fastnw.pool([[0.0]], [[-1.0], [1.0]], [1.0, 3.0], kernel=student)
    array([2.])
    """

    name: str
    profile: Formula
    support: float | None
    log_profile: Formula | None
    monotone: bool
    facts: Facts | None  # None for a user's kernel

    def __init__(
        self,
        name: str,
        profile: Formula,
        *,
        support: float | None = None,
        log_profile: Formula | None = None,
        monotone: bool = False,
        _facts: Facts | None = None,
    ) -> None:
        if _facts is None:
            profile, log_profile = user_formulas.checked(name, profile, support, log_profile)
        for field, value in (
            ("name", name),
            ("profile", profile),
            ("support", support),
            ("log_profile", log_profile),
            ("monotone", monotone),
            ("facts", _facts),
        ):
            object.__setattr__(self, field, value)
        if _facts is None:
            first = user_formulas.mark(profile, log_profile)
            object.__setattr__(self, "_versions", {first: self} if first else {})

    def current(self) -> Kernel:
        """The kernel of what the formulas refer to *now*.

        All that is kept for a kernel object stays right: it belongs to one state of what the formulas refer to.

        Returns
        -------
        Kernel
            This one, or another if a global, a closure, a default or an attribute has changed.
        """
        if self.facts is not None:
            return self
        versions: dict[str, Kernel] = self.__dict__.setdefault("_versions", {})
        now = user_formulas.mark(self.profile, self.log_profile)
        if now in versions:
            return versions[now]
        profile, log_profile = (f and user_formulas.scalar(f) for f in (self.profile, self.log_profile))
        assert profile is not None
        other = Kernel(self.name, profile, support=self.support, log_profile=log_profile, monotone=self.monotone)
        if now is not None:
            if len(versions) >= MOST_VERSIONS:
                versions.pop(next(iter(versions)), None)
            versions[now] = other
            object.__setattr__(other, "_versions", versions)
        return other

    @property
    def is_opaque(self) -> bool:
        """Whether its formulas refer to what cannot be watched for changes."""
        return self.facts is None and not self.__dict__.get("_versions")

    @property
    def works_on_logs(self) -> bool:
        return self.log_profile is not None

    @property
    def inner_product(self) -> bool:
        return self.facts is not None and self.facts.inner_product

    @property
    def aliases(self) -> tuple[str, ...]:
        return self.facts.aliases if self.facts else ()

    @property
    def window_sensitivity(self) -> float:
        """Bound on |Δκ| of a key in the window, per error of u²; 0 for kernels that need no such bound.

        The sensitivity is that to a relative error. One more covers a whitened coordinate's absolute error, for which
        |dκ/du| ≤ 2, and the profile's own rounding. For a user's kernel it is proven.
        """
        if self.support is None:
            return 0.0
        if self.facts is None:
            proofs = [proof for dtype in ("float64", "float32") if (proof := sensitivity.proof(self, dtype))]
            at_zero = float(self.profile(np.zeros(1))[0])
            return 0.0 if self.is_rough else max(proof.a for proof in proofs) + at_zero
        return 1.0 + self.facts.sensitivity if self.facts.sensitivity else 0.0

    @property
    def jumps(self) -> bool:
        """Whether it is a built-in kernel that is not 0 at the rim of its support."""
        return self.support is not None and self.facts is not None and self.facts.sensitivity == 0

    @property
    def is_rough(self) -> bool:
        """Whether an error of u² can only be bounded key by key: a user's kernel that jumps, or without text."""
        if self.facts is not None:
            return False
        return sensitivity.proof(self) is None

    @property
    def steepness(self) -> tuple[float, float, float]:
        """(a, b, log κmax): a relative error of u² times a + b·(log κmax − log κ) bounds that of κ. Not for compact or
        rough kernels.

        For built-ins that decay exponentially b = 1 (with equality for the Gaussian); the 1.2 is for whitened
        coordinates, whose error does not vanish with u: |d log κ/du| is at most √5, or u.
        """
        if self.facts is None:
            proofs = [proof for dtype in ("float64", "float32") if (proof := sensitivity.proof(self, dtype))]
            if self.is_rough:
                return np.inf, np.inf, 0.0
            return max(p.a for p in proofs), max(p.b for p in proofs), max(p.log_peak for p in proofs)
        return (1.2, 1.0, 0.0) if self.works_on_logs else (1.0 if self.facts.sensitivity else 0.0, 0.0, 0.0)

    @property
    def fits_float32(self) -> bool:
        """Whether its errors are bounded in float32, where an error of u² is wide enough to hide a feature."""
        return self.facts is not None or sensitivity.proof(self, "float32") is not None

    def rounding(self, dtype: np.dtype[Any], as_written: bool) -> tuple[float, float]:
        """The rounding of a user's formula that no error of u² stands for: relative to κ, and absolute.

        Parameters
        ----------
        dtype : dtype
            In which the formula is computed.
        as_written : bool
            Whether NumPy computes it; compiled texts are computed so, too, where nothing is proven of them.

        Returns
        -------
        relative, absolute : float
        """
        if self.facts is not None:
            return 0.0, 0.0
        proof = None if as_written else sensitivity.proof(self, dtype.name)
        return sensitivity.rounding(self) if proof is None else (0.0, proof.floor)

    def normalisable(self, d: int) -> bool:
        """Whether ∫κ(|x|)dx over ℝ^d is known to be finite (a user's kernel: settled by quadrature)."""
        return self.facts is None or d <= self.facts.max_density_dim

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> Any:
        """A built-in kernel is pickled by its name: its formulas have none. A user's is made again from its parts."""
        if self.facts is not None:
            return get, (self.name,)
        formulas = [f and user_formulas.scalar(f) for f in (self.profile, self.log_profile)]
        return _again, (self.name, formulas[0], self.support, formulas[1], self.monotone)


def _again(name: str, profile: Formula, support: float | None, log_profile: Formula | None, monotone: bool) -> Kernel:
    return Kernel(name, profile, support=support, log_profile=log_profile, monotone=monotone)


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


def _logistic_slope(u2: Any) -> Any:
    u = np.maximum(np.sqrt(u2), 1e-150)
    return np.tanh(u / 2.0) / u


def _matern52_slope(u2: Any) -> Any:
    z = SQRT5 * np.sqrt(u2)
    return (5.0 / 3.0) / (1.0 + z * (z / (1.0 + z)) / 3.0)


def _one_minus_u(y: Any) -> Any:
    """1 − u from 1 − u²."""
    return y / (1.0 + np.sqrt(1.0 - y))


def _log(formula_of_z: Formula, scale: float) -> Formula:
    return lambda u2: formula_of_z(scale * np.sqrt(u2))


def _builtin(name: str, profile: Formula, *aliases: str, **facts: Any) -> Kernel:
    shape = {key: facts.pop(key) for key in ("support", "log_profile") if key in facts}
    return Kernel(name, profile, monotone=True, _facts=Facts(aliases=aliases, **facts), **shape)


_KERNELS = {
    kernel.name: kernel
    for kernel in (
        _builtin(
            "gaussian",
            lambda u2: np.exp(-0.5 * u2),
            log_profile=lambda u2: -0.5 * u2,
            log_ratio=lambda delta, u0: -delta * (u0 + delta / 2),
            slope=lambda u2: u2 * 0.0 + 1.0,
        ),
        _builtin(
            "boxcar",
            lambda u2: u2 * 0.0 + 1.0,
            "uniform",
            "tophat",
            support=1.0,
            window=(1, 0),
            sensitivity=0.0,
            edge=np.ones_like,
            slope=lambda u2: u2 * 0.0,
        ),
        _builtin(
            "triangular",
            lambda u2: 1.0 - np.sqrt(u2),
            "linear",
            support=1.0,
            window=(1, 1),
            sensitivity=0.5,
            edge=_one_minus_u,
            slope=lambda u2: 1.0 / np.sqrt(u2),
        ),
        _builtin(
            "epanechnikov",
            lambda u2: 1.0 - u2,
            support=1.0,
            window=(2, 1),
            sensitivity=1.0,
            edge=lambda y: y,
            slope=lambda u2: u2 * 0.0 + 2.0,
        ),
        _builtin(
            "biweight",
            lambda u2: (1.0 - u2) ** 2,
            "quartic",
            support=1.0,
            window=(2, 2),
            sensitivity=0.5,
            edge=lambda y: y**2,
            slope=lambda u2: 4.0 * (1.0 - u2),
        ),
        _builtin(
            "triweight",
            lambda u2: (1.0 - u2) ** 3,
            support=1.0,
            window=(2, 3),
            sensitivity=4 / 9,
            edge=lambda y: y**3,
            slope=lambda u2: 6.0 * (1.0 - u2) ** 2,
        ),
        _builtin(
            "tricube",
            lambda u2: (1.0 - u2 * np.sqrt(u2)) ** 3,
            window=(3, 3),
            support=1.0,
            sensitivity=2 / 3,
            edge=lambda y: (_one_minus_u(y) * (2.0 - y + np.sqrt(1.0 - y))) ** 3,
            slope=lambda u2: 9.0 * np.sqrt(u2) * (1.0 - u2 * np.sqrt(u2)) ** 2,
        ),
        # cos(πu/2) written as a sine, which keeps its digits where κ goes to 0
        _builtin(
            "cosine",
            lambda u2: np.sin(0.5 * math.pi * (1.0 - u2) / (1.0 + np.sqrt(u2))),
            support=1.0,
            sensitivity=math.pi / 4,
            edge=lambda y: np.sin(0.5 * math.pi * _one_minus_u(y)),
            slope=lambda u2: 0.25 * math.pi**2 * np.sinc(0.5 * np.sqrt(u2)),
        ),
        _builtin(
            "laplacian",
            lambda u2: np.exp(-np.sqrt(u2)),
            "exponential",
            log_profile=lambda u2: -np.sqrt(u2),
            log_ratio=lambda delta, u0: -delta,
            slope=lambda u2: 1.0 / np.sqrt(u2),
        ),
        _builtin(
            "matern32",
            lambda u2: (1.0 + SQRT3 * np.sqrt(u2)) * np.exp(-SQRT3 * np.sqrt(u2)),
            log_profile=_log(lambda z: np.log1p(z) - z, SQRT3),
            log_ratio=_matern32_log_ratio,
            slope=lambda u2: 3.0 / (1.0 + SQRT3 * np.sqrt(u2)),
        ),
        _builtin(
            "matern52",
            lambda u2: (1.0 + SQRT5 * np.sqrt(u2) + 5.0 * u2 / 3.0) * np.exp(-SQRT5 * np.sqrt(u2)),
            # 1 + z + z²/3 in two factors, since z² overflows before u² does
            log_profile=_log(lambda z: np.log1p(z) + np.log1p(z * (z / (1.0 + z)) / 3.0) - z, SQRT5),
            log_ratio=_matern52_log_ratio,
            slope=_matern52_slope,
        ),
        _builtin(
            "cauchy",
            lambda u2: 1.0 / (1.0 + u2),
            max_density_dim=1,
            sensitivity=0.25,
            log_ratio=_cauchy_log_ratio,
            slope=lambda u2: 2.0 / (1.0 + u2) ** 2,
        ),
        _builtin(
            "logistic",
            lambda u2: 4.0 * np.exp(-np.sqrt(u2)) / (1.0 + np.exp(-np.sqrt(u2))) ** 2,
            log_profile=_log(lambda u: math.log(4.0) - u - 2.0 * np.log1p(np.exp(-u)), 1.0),
            log_ratio=_logistic_log_ratio,
            slope=_logistic_slope,
        ),
        _builtin(
            "constant",
            lambda u2: np.where(u2 > 0.0, 1.0, 1.0),  # u² times 0 is NaN where u² overflows
            max_density_dim=0,
            sensitivity=0.0,
            slope=lambda u2: u2 * 0.0,
        ),
        _builtin(
            "dot",
            lambda score: np.exp(score),
            log_profile=lambda score: score,
            log_ratio=lambda delta, score0: delta,
            inner_product=True,
            max_density_dim=0,
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
