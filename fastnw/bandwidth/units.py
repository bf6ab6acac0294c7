"""Values in units of their spread: a search in them takes the same path whatever the user's units are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastnw.bandwidth.criteria import Floats
from fastnw.core.problem import Problem


@dataclass(frozen=True)
class Units:
    """What a search's scores are in the user's units: score · factor² + offset.

    Attributes
    ----------
    factor : float
        A power of two, so that no digit is lost; not squared, which could overflow where the score does not.
    offset : float
    """

    factor: float = 1.0
    offset: float = 0.0

    def score(self, value: Any) -> Any:
        """Of one score or of an array."""
        with np.errstate(over="ignore"):
            return value * self.factor * self.factor + self.offset


def normalised(problem: Problem, kind: str) -> tuple[Floats, Units]:
    """Values (n, c) about their middle, over a power of two, and the units of the loss `kind`.

    The squared errors of several outputs are added, so that one power of two serves them all: the widest output's half
    range comes to between 1 and 2. AICc adds the logarithms of theirs, and every output gets its own. Indicators of
    classes stay as they are.
    """
    values = problem.values.astype(np.float64)
    if kind not in ("squares", "aicc"):
        return values, Units()
    centre, half = (np.asarray(part, np.float64) for part in problem.values_centre)
    exponents = np.where(half > 0, np.frexp(half)[1] - 1, 0)
    if kind == "squares":
        exponents[:] = exponents.max(initial=-1074, where=half > 0) if np.any(half > 0) else 0
        units = Units(factor=math.ldexp(1.0, int(exponents[0])))
    else:
        units = Units(offset=2.0 * math.log(2.0) * float(exponents.sum()))
    return np.ldexp(values - centre, -exponents), units


def geometric_mean(bandwidths: np.ndarray) -> float:
    """Of positive numbers; a power of two as their factor is one of the mean, to the last bit."""
    mantissas, exponents = np.frexp(bandwidths)
    whole, rest = divmod(int(exponents.sum()), len(bandwidths))
    return float(np.ldexp(np.exp(np.log(mantissas).mean() + rest / len(bandwidths) * np.log(2.0)), whole))
