"""Random formulas of u², as users write them: source text, and the function that Python makes of it."""

from __future__ import annotations

import math

import numpy as np

# What the tiles and their texts call things: a user's globals may be called the same.
GLOBALS = {
    "np": np,
    "math": math,
    "power": 1.25,
    "weight": 0.75,
    "exp2": lambda x: 1 / (2 + x * x),
    "exp": lambda x: math.exp(-abs(x)) + 0.5,
    "log": lambda x: math.log1p(abs(x)),
    "profile": 2,
    "F": np.float32(0.3),
    "t0": 0.4,
    "c0": True,
    "maximum": lambda x, y: max(x, y),
    "table": (0.5, 1.5, np.float64(2.5)),
}
CONSTANTS = (
    *("1", "2", "3", "0.1", "0.7", "1.9", "(1/3)", "(7//2)", "(-7%3)", "True", "False", "-0.0", "np.float32(0.3)"),
    *("np.float32(1.7)", "np.float64(0.6)", "np.int32(2)", "np.float16(0.1)", "math.pi", "math.tau", "np.e", "1e-9"),
    *("power", "weight", "profile", "F", "t0", "c0", "table[1]", "table[-1]"),
)
POWERS = (
    *("2", "3", "7", "17", "-1", "-3", "0", "1", "0.5", "1.5", "-0.5", "-1.5", "2.5", "-1.7", "0.3", "0.65", "(1/3)"),
    *("np.float32(1.3)", "np.int32(3)"),
)


def _number(rng: np.random.Generator, depth: int) -> str:
    if depth == 0:
        return "u2" if rng.random() < 0.55 else str(rng.choice(CONSTANTS))

    def x() -> str:
        return _number(rng, depth - 1)

    forms = [
        lambda: f"({x()} + {x()})",
        lambda: f"({x()} - {x()})",
        lambda: f"({x()} * {x()})",
        lambda: f"({x()} / (0.5 + abs({x()})))",
        lambda: f"({x()} / {rng.choice(['3', '0.7', 'math.pi', 'np.float32(1.7)'])})",
        lambda: f"(1 + abs({x()})) ** {rng.choice(POWERS)}",
        lambda: f"{rng.choice(['2', '0.5', 'np.float32(1.5)'])} ** -abs({x()})",
        lambda: f"np.where({_condition(rng, depth - 1)}, 1.0 * {x()}, {x()})",
        lambda: f"({x()} if {_condition(rng, depth - 1)} else {x()})",
        lambda: f"max({x()}, {x()}, 0.25)",
        lambda: f"min({x()}, {x()})",
        lambda: f"np.maximum({x()}, 1.0 * {x()})",
        lambda: f"np.minimum(np.inf, 1.0 * {x()})",
        lambda: f"np.clip(1.0 * {x()}, 0.1, 2.5)",
        lambda: f"abs({x()})",
        lambda: f"math.fabs({x()})",
        lambda: f"np.exp(-abs(1.0 * {x()}))",
        lambda: f"math.exp(-{rng.choice(['0.5', '2', '(1/3)'])} * abs({x()}) / 3)",
        lambda: f"np.log1p(abs(1.0 * {x()}))",
        lambda: f"math.sqrt(abs({x()}))",
        lambda: f"np.{rng.choice(['tanh', 'arctan', 'cos', 'sin', 'square'])}(1.0 * {x()})",
        lambda: f"(-{x()})",
        lambda: f"(0.5 * ({_condition(rng, depth - 1)}) + {x()})",
        lambda: f"{rng.choice(['exp2', 'exp', 'log'])}({x()})",
        lambda: f"maximum({x()}, {x()})",
    ]
    return str(forms[rng.integers(len(forms))]())


def _condition(rng: np.random.Generator, depth: int) -> str:
    left, right = _number(rng, max(depth - 1, 0)), _number(rng, 0)
    sign = rng.choice(["<", "<=", ">", ">="])
    plain = f"{left} {sign} {right}"
    forms = [
        plain,
        plain,
        f"not ({plain})",
        f"({plain} and u2 < 2.5)",
        f"({plain} or 0.35 < u2)",
        f"0.15 < u2 <= {right}",
        f"u2 {sign} 0",
    ]
    return str(rng.choice(forms))


def random_formula(rng: np.random.Generator, depth: int = 3):
    """Source of a positive profile, and its function; powers and sums of constants may raise, as Python has it."""
    while True:
        text = f"0.05 + 1 / (1 + abs({_number(rng, depth)}))"
        formula = eval(f"lambda u2, *, t1=0.5: {text}", dict(GLOBALS))
        try:
            with np.errstate(all="ignore"):
                values = [float(formula(np.float64(x))) for x in (0.0, 0.3, 1.7, 40.0)]
        except (ArithmeticError, ValueError, TypeError):
            continue
        if "u2" in text and np.all(np.isfinite(values)):
            return text, formula


def of_numbers(formula, u2):
    """What Python and NumPy make of it, one number at a time."""
    with np.errstate(all="ignore"):
        return np.array([float(formula(np.float64(x))) for x in u2])
