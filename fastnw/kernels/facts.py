"""The facts about a kernel that other modules decide by.

Code asks for a fact ("is the exponent a quadratic form?"), never for a kernel's name. A user's kernel has facts, too:
the defaults below say that nothing is known beyond its formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

Formula = Callable[..., Any]
# A number as a sum of two float64 (`fastnw.arithmetic.doubledouble`).
Pair = tuple[Any, Any]


@dataclass(frozen=True)
class Facts:
    """What is known about a kernel κ as a function of the squared scaled distance u².

    Attributes
    ----------
    built_in : bool
        Whether the kernel belongs to the registry. A user's kernel does not, whatever its name is.
    support : float or None
        κ is 0 beyond this u. None: κ is positive everywhere.
    monotone : bool
        Whether κ never increases with u.
    works_on_logs : bool
        Whether a formula for log κ exists, so that sums can be shifted by their largest term.
    inner_product : bool
        Whether κ is a function of the scaled inner product instead of u².
    quadratic_form : bool
        Whether log κ is a quadratic form of the coordinates of query and key.
    has_spectrum : bool
        Whether the Fourier transform of κ decays so fast that few modes represent κ.
    heavy_tailed : bool
        Whether κ decays like a power of u.
    discontinuous : bool
        Whether κ jumps at the rim of its support.
    constant : bool
        Whether κ does not depend on u.
    window : (int, int) or None
        (p, r) of κ = (1 − u^p)^r within u ≤ 1.
    exponential_polynomial : (tuple of float, float) or None
        (a, s) of κ = (Σ_j a_j (s·u)^j)·exp(−s·u).
    log_ratio : callable or None
        log κ(u) − log κ(u₀) from (u − u₀, u₀), without cancellation, for u₀ up to 1e307. For an inner product, u and
        u₀ are products.
    edge : callable or None
        κ as a function of 1 − u², accurate where κ vanishes at u = 1.
    sensitivity : float or None
        The largest |dκ/du²|·u²: the absolute error of κ per relative error of u². None where errors are bounded
        through −log κ, and for a user's kernel.
    derivative : callable or None
        −2 dκ/du², or −2 d log κ/du² for a kernel that works on logs: the factor by which κ follows the squared distance
        in gradients and in error bounds.
    precise_derivative : callable or None
        −2 d log κ/du² from (u², u), in double-double arithmetic.
    derivative_at_infinity : (pair, int) or None
        (c, p) with −2 d log κ/du² ≈ c·u^p as u goes to infinity.
    max_density_dim : float
        ∫κ is finite in up to this many dimensions.
    relative_cost : float
        The time to evaluate κ, in units of the Gaussian's, or of a polynomial in u² for a kernel without exp.
    compiled_code : int or None
        The kernel's number in the compiled tiles (the enum of ``src_cython``). None if no compiled code evaluates it.
    aliases : tuple of str
        Other names under which the registry finds the kernel.
    """

    built_in: bool = False
    support: float | None = None
    monotone: bool = False
    works_on_logs: bool = False
    inner_product: bool = False
    quadratic_form: bool = False
    has_spectrum: bool = False
    heavy_tailed: bool = False
    discontinuous: bool = False
    constant: bool = False
    window: tuple[int, int] | None = None
    exponential_polynomial: tuple[tuple[float, ...], float] | None = None
    log_ratio: Formula | None = None
    edge: Formula | None = None
    sensitivity: float | None = None
    derivative: Formula | None = None
    precise_derivative: Callable[[Pair, Pair], Pair] | None = None
    derivative_at_infinity: tuple[tuple[float, float], int] | None = None
    max_density_dim: float = math.inf
    relative_cost: float = 1.0
    compiled_code: int | None = None
    aliases: tuple[str, ...] = ()


class HasFormulas(Protocol):
    """What the analysis of a kernel's formulas reads of a `Kernel`."""

    @property
    def profile(self) -> Formula: ...

    @property
    def log_profile(self) -> Formula | None: ...

    @property
    def facts(self) -> Facts: ...

    def __hash__(self) -> int: ...
