"""The class `Kernel`: a kernel's formulas, its facts, and how much an error of u² changes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastnw.kernels import sensitivity, user_formulas
from fastnw.kernels.facts import Facts, Formula

MAX_VERSIONS = 16  # versions remembered for a user's kernel whose globals change


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
    Globals, closures, defaults and attributes that the functions read may change between calls. If the errors of the
    formula can be bounded by an analysis of its text, it is compiled for the data's type. Otherwise (κ jumps, or cannot
    be written as one expression) it is computed in float64.

    Examples
    --------
    >>> import fastnw
    >>> student = fastnw.Kernel("student", lambda u2: 1 / (1 + u2) ** 2)
    >>> fastnw.pool([[0.0]], [[-1.0], [1.0]], [1.0, 3.0], kernel=student)
    array([2.])
    """

    name: str
    profile: Formula
    log_profile: Formula | None
    facts: Facts = field(repr=False)

    def __init__(
        self,
        name: str,
        profile: Formula,
        *,
        support: float | None = None,
        log_profile: Formula | None = None,
        monotone: bool = False,
    ) -> None:
        profile, log_profile = user_formulas.checked(name, profile, support, log_profile)
        facts = Facts(support=support, monotone=monotone, works_on_logs=log_profile is not None)
        self._set(name, profile, log_profile, facts)
        fingerprint = user_formulas.mark(profile, log_profile)
        object.__setattr__(self, "_versions", {fingerprint: self} if fingerprint else {})

    def _set(self, name: str, profile: Formula, log_profile: Formula | None, facts: Facts) -> None:
        for attribute, value in (
            ("name", name),
            ("profile", profile),
            ("log_profile", log_profile),
            ("facts", facts),
        ):
            object.__setattr__(self, attribute, value)

    def current(self) -> Kernel:
        """The kernel for the present state of everything that the formulas refer to.

        Results that are cached for a kernel object stay right, since each object belongs to one such state.

        Returns
        -------
        Kernel
            This object, or another one if a global, a closure, a default or an attribute has changed.
        """
        versions: dict[str, Kernel] = self.__dict__.setdefault("_versions", {})
        fingerprint = user_formulas.mark(self.profile, self.log_profile)
        if fingerprint in versions:
            return versions[fingerprint]
        profile, log_profile = (f and user_formulas.scalar(f) for f in (self.profile, self.log_profile))
        assert profile is not None
        version = Kernel(self.name, profile, support=self.support, log_profile=log_profile, monotone=self.monotone)
        if fingerprint is not None:
            if len(versions) >= MAX_VERSIONS:
                versions.pop(next(iter(versions)), None)
            versions[fingerprint] = version
            object.__setattr__(version, "_versions", versions)
        return version

    @property
    def is_opaque(self) -> bool:
        """Whether the formulas refer to objects whose changes cannot be detected."""
        return not self.__dict__.get("_versions")

    @property
    def support(self) -> float | None:
        return self.facts.support

    @property
    def monotone(self) -> bool:
        return self.facts.monotone

    @property
    def works_on_logs(self) -> bool:
        return self.facts.works_on_logs

    @property
    def inner_product(self) -> bool:
        return self.facts.inner_product

    @property
    def aliases(self) -> tuple[str, ...]:
        return self.facts.aliases

    def log(self, u2: Any) -> Any:
        """Return log κ within the support; −inf where κ is 0.

        Parameters
        ----------
        u2 : array
            u², or the scaled products for an inner product.

        Returns
        -------
        array
            Of the same shape.
        """
        return np.log(np.maximum(self.profile(u2), 0.0)) if self.log_profile is None else self.log_profile(u2)

    @property
    def window_sensitivity(self) -> float:
        """Bound on |Δκ| of a key within the support, per error of u²; 0 for kernels that need no such bound.

        For a user's kernel the bound is proven from the formula.
        """
        if self.support is None or self.needs_pair_bounds:
            return 0.0
        at_zero = float(self.profile(np.zeros(1))[0])
        return max(proof.a for proof in self._proofs()) + at_zero

    @property
    def needs_pair_bounds(self) -> bool:
        """Whether an error of u² can only be bounded pair by pair: a user's kernel that jumps or has no text."""
        return sensitivity.proof(self) is None

    @property
    def log_sensitivity(self) -> tuple[float, float, float]:
        """(a, b, log κmax): the relative error of κ is at most a + b·(log κmax − log κ) times that of u².

        Compact kernels have `window_sensitivity` instead. Kernels that need bounds for each pair have neither.
        """
        if self.needs_pair_bounds:
            return np.inf, np.inf, 0.0
        proofs = self._proofs()
        return max(p.a for p in proofs), max(p.b for p in proofs), max(p.log_peak for p in proofs)

    def _proofs(self) -> list[sensitivity.Proof]:
        return [proof for dtype in ("float64", "float32") if (proof := sensitivity.proof(self, dtype))]

    @property
    def fits_float32(self) -> bool:
        """Whether errors are bounded in float32, in which the error of u² may hide a narrow feature of κ."""
        return sensitivity.proof(self, "float32") is not None

    def rounding(self, dtype: np.dtype[Any], as_written: bool) -> tuple[float, float]:
        """The rounding error of the formula itself, which no error of u² accounts for: relative to κ, and absolute.

        Parameters
        ----------
        dtype : dtype
            The type in which the formula is computed.
        as_written : bool
            Whether NumPy computes the formula as it is written. Compiled formulas without a proof count as such, too.

        Returns
        -------
        relative, absolute : float
        """
        proof = None if as_written else sensitivity.proof(self, dtype.name)
        return sensitivity.rounding(self) if proof is None else (0.0, proof.floor)

    def normalisable(self, d: int) -> bool:
        """Whether ∫κ(|x|)dx over ℝ^d may be finite. For a user's kernel, quadrature decides later."""
        return d <= self.facts.max_density_dim

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> Any:
        formulas = [f and user_formulas.scalar(f) for f in (self.profile, self.log_profile)]
        return _again, (self.name, formulas[0], self.support, formulas[1], self.monotone)


def _again(name: str, profile: Formula, support: float | None, log_profile: Formula | None, monotone: bool) -> Kernel:
    """Makes a user's kernel from its pickled parts. Pickles refer to this function by name."""
    return Kernel(name, profile, support=support, log_profile=log_profile, monotone=monotone)
