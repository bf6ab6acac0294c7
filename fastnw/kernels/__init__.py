"""The kernels: `names` lists them, `get` finds one, `Kernel` makes one of a user's own profile.

``registry``
    Each kernel's formula and facts, once. Everything else in the package asks it.
``derivative``, ``integrals``, ``sensitivity``
    dκ/du², ∫ κ over ℝ^d, and how much an error of u² changes κ.
``tracing``, ``standins``, ``formula_texts``, ``intervals``
    A formula as text for a compiler, found by calling it, and the interval arithmetic on that text.
``user_formulas``, ``fingerprint``
    The functions that users pass, checked on a grid, and whether they have changed since.
"""

from fastnw.kernels.facts import Facts
from fastnw.kernels.kernel import Kernel, _again  # noqa: F401  pickles of version 0.1.0 refer to _again here
from fastnw.kernels.registry import built_in, get, names

__all__ = ["Facts", "Kernel", "built_in", "get", "names"]
