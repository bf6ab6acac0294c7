"""Formulas as text: the same numbers as the formula itself, for the built-ins and for what users write."""

from __future__ import annotations

import math
from math import exp as exponential

import numpy as np
import pytest

from fastnw import kernels
from fastnw.kernels.tracing import FUNCTIONS, Untraceable, trace

U2 = np.concatenate([np.linspace(0, 1, 101), np.geomspace(1e-12, 40, 50)])
WIDTH = 3.0


def user(u2, *, power=2):
    return 1 / (1 + u2 / WIDTH) ** power


WRITTEN = {
    "student": lambda u2: 1 / (1 + u2) ** 2,
    "math.exp": lambda u2: math.exp(-u2 / 2),
    "from math": lambda u2: exponential(-u2),
    "a module's constant and a default": user,
    "sech": lambda u2: 1 / np.cosh(np.sqrt(u2)),
    "roots": lambda u2: 1 / (1 + u2**0.5 + u2**1.5) ** 0.5,
    "negative power": lambda u2: (1 + u2) ** -3,
    "real power": lambda u2: (1 + u2) ** -1.7,
    "max": lambda u2: max(0.0, 1 - u2) ** 3 + 1e-3,
    "where": lambda u2: np.where(u2 < 1, 1 - u2 / 2, 0.5 / np.maximum(u2, 1)),
    "clip": lambda u2: np.clip(2 - u2, 0.25, 1.0),
    "a condition": lambda u2: (u2 <= 1) * 1.0 + 0.5,
    "both": lambda u2: np.where((u2 > 0.2) & (u2 < 0.7), 2.0, 1.0),
    "not": lambda u2: np.where(~np.less(u2, 0.5), 2.0, 1.0),
    "constant": lambda u2: 1.0,
    "a constant of any shape": lambda u2: u2 * 0 + 2.0,
    "wave": lambda u2: 1.5 + np.sin(u2) * np.cos(u2),
    "logarithms": lambda u2: 1 + np.log1p(u2) + math.log(2 + u2),
    "abs": lambda u2: abs(u2 - 1) + math.fabs(u2) + 1,
    "negated": lambda u2: -(-1 - u2) + +u2,
    "square": lambda u2: np.square(1 + u2) * np.reciprocal(2 + u2),
}


def evaluate(traced, u2):
    """The text's values, its functions being NumPy's."""
    scope = {name: getattr(np, name) for name in FUNCTIONS} | dict(traced.constants)
    exec(traced.source("profile"), scope)
    return np.vectorize(scope["profile"], otypes=[np.float64])(u2)


@pytest.mark.parametrize("kernel", kernels.names())
@pytest.mark.parametrize("which", ["profile", "log_profile"])
def test_built_ins(kernel, which):
    formula = getattr(kernels.get(kernel), which)
    if formula is None:
        return
    u2 = U2[U2 <= 1] if kernels.get(kernel).support else U2
    # constants in exponents are multiplied beforehand: a rounding or two of the exponent
    np.testing.assert_allclose(evaluate(trace(formula), u2), formula(u2), rtol=2e-14, atol=1e-15)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_users_write(name):
    formula = WRITTEN[name]
    expected = [float(formula(float(x))) for x in U2]
    np.testing.assert_allclose(evaluate(trace(formula), U2), expected, rtol=2e-14, atol=1e-15)


@pytest.mark.parametrize(
    ("formula", "reason"),
    [
        (lambda u2: 1.0 if int(u2) < 1 else 0.5, "number"),
        (lambda u2: float(u2), "number"),
        (lambda u2: math.gamma(1 + u2), "gamma"),
        (lambda u2: np.interp(u2, [0, 1], [1, 0]), "interp"),
        (lambda u2: np.sum(u2), "sum"),
        (lambda u2: np.add(u2, 1, dtype=np.float32), "options"),
        (lambda u2: [u2], "list"),
        (lambda u2: undefined + u2, "NameError"),  # noqa: F821
    ],
)
def test_what_has_no_text_says_why(formula, reason):
    with pytest.raises(Untraceable, match=reason):
        trace(formula)


def test_functions_are_the_known_ones_and_lines_are_needed():
    for name in kernels.names():
        traced = trace(kernels.get(name).profile)
        text = traced.source("profile")
        for line in traced.lines:
            target = line.split(" = ")[0]
            assert target == traced.result or text.count(target) > 1
        called = {word.split("(")[0] for word in text.split() if "(" in word} - {"profile"}
        assert called <= set(FUNCTIONS)


def test_an_exponential_takes_its_constants_at_once():
    assert len(trace(kernels.get("gaussian").profile).lines) == 2
    assert list(trace(kernels.get("gaussian").profile).constants.values()) == [pytest.approx(-0.5 / math.log(2))]
