"""The traced texts of a kernel's formulas, used only if they reproduce the values of the formulas."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from fastnw.kernels import tracing
from fastnw.kernels.facts import HasFormulas
from fastnw.kernels.user_formulas import scalar

# Relative difference up to which a text reproduces its formula: far above rounding, far below a wrong branch.
TEXT_RTOL = 1e-9
PROBES = 1.0003 * np.concatenate([[0.0], np.linspace(0.0, 12.0, 61)[1:] ** 2, np.geomspace(1e-9, 1e9, 73)])


@lru_cache(maxsize=512)
def of(kernel: HasFormulas, log: bool = False, plain: bool = False) -> tracing.Traced | None:
    """The text of κ, or of its logarithm; None if the formula cannot be traced or the text computes something else.

    The latter happens for a formula that tests the type of its argument: for numbers it may take another branch than
    the traced one.
    """
    formula = kernel.log_profile if log else kernel.profile
    assert formula is not None
    try:
        traced = tracing.trace(scalar(formula), plain)
    except tracing.Untraceable:
        return None
    return traced if kernel.facts.built_in or agrees(kernel, log, _evaluated(traced)) else None


def agrees(kernel: HasFormulas, log: bool, computed: Any) -> bool:
    """Whether `computed`, a function of one number, gives the same results as the formula."""
    formula = scalar(kernel.log_profile if log and kernel.log_profile else kernel.profile)
    probes = PROBES if kernel.facts.support is None else PROBES[kernel.facts.support**2 > PROBES]
    with np.errstate(all="ignore"):
        for u2 in probes:
            try:
                expected = float(formula(u2))
            except Exception:  # the formula may not accept so large a number
                continue
            if not np.isclose(float(computed(u2)), expected, rtol=TEXT_RTOL, atol=1e-300, equal_nan=True):
                return False
    return True


def tests_equality(traced: tracing.Traced) -> bool:
    """Whether the text tests for equality other than u² = 0: κ at a single u² > 0 cannot be bounded."""
    zeros = {name for name, value in traced.constants.items() if value == 0}
    for line in traced.lines:
        words = line.partition(" = ")[2].split()
        if len(words) == 3 and words[1] in ("==", "!="):
            sides = {words[0], words[2]}
            if not ("u2" in sides and sides & zeros) and not sides <= set(traced.constants):
                return True
    return False


def _evaluated(traced: tracing.Traced) -> Any:
    scope: dict[str, Any] = {name: getattr(np, name) for name in tracing.FUNCTIONS}
    scope |= {name: np.float64(value) for name, value in traced.constants.items()}
    exec(traced.source("formula"), scope)
    return scope["formula"]
