"""Kernels: `names` lists the built-in ones, `get` finds one, `Kernel` makes one from a user's profile.

``registry``, ``facts``, ``kernel``
    The table of the built-in kernels, the facts that other modules decide by, and the class `Kernel`.
``derivative``, ``precise_derivatives``, ``integrals``, ``sensitivity``
    dκ/du² in float64 and in double-double arithmetic, ∫κ over ℝ^d, and bounds on what an error of u² does to κ.
``tracing``, ``standins``, ``formula_texts``, ``intervals``
    The text of a formula for a compiler, recorded while the formula runs, and interval arithmetic on that text.
``user_formulas``, ``fingerprint``
    Checks of the functions that users pass, and a digest by which a change of them is noticed.
"""

from fastnw.kernels.facts import Facts
from fastnw.kernels.kernel import Kernel, _again  # noqa: F401  pickles of version 0.1.0 refer to _again here
from fastnw.kernels.registry import built_in, get, names

__all__ = ["Facts", "Kernel", "built_in", "get", "names"]
