"""Users' formulas: their texts, the bounds that are proven of them, and what Numba makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from formulas import of_numbers, random_formula

import fastnw
from fastnw.kernels import formula_texts, sensitivity
from fastnw.kernels.intervals import Arithmetic
from fastnw.kernels.tracing import FUNCTIONS, Untraceable, trace

U2 = np.concatenate([[0.0], 1.00007 * np.linspace(0.01, 6, 60), np.geomspace(1e-8, 1e5, 40)])


def evaluate(traced, u2):
    scope = {name: getattr(np, name) for name in FUNCTIONS}
    scope |= {name: np.float64(value) for name, value in traced.constants.items()}
    exec(traced.source("formula"), scope)
    return of_numbers(scope["formula"], u2)


def formulas(seed, count, depth=3):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield random_formula(rng, depth)


def check_texts(seed, count):
    refused = 0
    for text, formula in formulas(seed, count):
        expected = of_numbers(formula, U2)
        for plain in (False, True):
            try:
                traced = trace(formula, plain)
            except Untraceable:
                refused += 1
                continue
            got = evaluate(traced, U2)
            # a comparison of computed numbers may fall the other way by a rounding, at a point or two
            off = ~np.isclose(got, expected, rtol=1e-9, atol=1e-12)
            assert off.sum() <= (0 if plain else 2), (seed, text, U2[off], got[off], expected[off])
    assert refused < count / 2  # of 2 · count


def test_texts_of_random_formulas_give_their_numbers():
    check_texts(1, 300)


@pytest.mark.slow
def test_texts_of_many_random_formulas():
    for seed in range(100, 120):
        check_texts(seed, 500)


def check_bounds(seed, count):
    """Over random cells: the values, and how they change within an error of u², by sampling."""
    rng, proven = np.random.default_rng(seed), 0
    for text, formula in formulas(seed, count):
        try:
            traced = trace(formula)
        except Untraceable:
            continue
        low = rng.choice([0.0, 0.2, 1.0, 3.0, 30.0, 1e4], 12) * rng.uniform(0.9, 1.1, 12)
        high = low * (1 + 10.0 ** rng.uniform(-9, -1, 12)) + 1e-9
        x = Arithmetic.of(np.float64).over(traced, low, high)
        error = 1e-7
        for _ in range(8):
            at = low + rng.random(12) * (high - low)
            moved = np.maximum(at + error * np.maximum(at, np.sqrt(at)) * rng.uniform(-1, 1, 12), 0.0)
            before, after = of_numbers(formula, at), of_numbers(formula, moved)
            slack = 1e-14 * (1 + x.rounded)
            assert np.all((before >= x.low - slack) & (before <= x.high + slack)), (seed, text)
            assert np.all(np.abs(after - before) <= 1.02 * x.moved * error + 1e-9 * error + slack), (seed, text)
        proven += int(np.isfinite(x.moved).sum())
    assert proven > 4 * count  # of 12 · count


def test_bounds_over_cells_hold_for_random_formulas():
    check_bounds(2, 120)


@pytest.mark.slow
def test_bounds_over_cells_hold_for_many_random_formulas():
    for seed in range(200, 220):
        check_bounds(seed, 200)


def compiled(texts, dtype, rough):
    """All of them as one module of Numba's, as tiles have them."""
    from fastnw.backends.numba import build

    lines = ["import numpy as np", "from numba import njit", *build._names(dtype, True, rough)]
    lines += [build._function(f"profile{i}", text, rough) for i, text in enumerate(texts)]
    lines += ["@njit(**EXACT)", "def every(u2, out):", "    for i in range(len(u2)):"]
    lines += [f"        out[{i}, i] = profile{i}(u2[i])" for i in range(len(texts))]
    return build._in_memory("\n".join(lines), {}).every


def check_numba(seed, count, dtype):
    pytest.importorskip("numba")
    arithmetic = Arithmetic.of(dtype)
    u2 = np.unique(U2.astype(dtype))
    found = []
    for text, formula in formulas(seed, 4 * count):
        try:
            found.append((text, formula, trace(formula)))
        except Untraceable:
            continue
    found = found[:count]
    out = np.zeros((len(found), len(u2)), dtype)
    compiled([traced for *_, traced in found], dtype, rough=False)(u2, out)
    tight = 0
    for (text, formula, traced), got in zip(found, out, strict=True):
        wide = u2.astype(np.float64)
        expected, x = of_numbers(formula, wide), arithmetic.over(traced, wide, wide)
        bound = x.rounded * arithmetic.unit + x.lost + 4 * arithmetic.unit * np.abs(expected)
        # one point is a cell: where conditions may fall either way, both results lie in it
        bound = np.maximum(bound, np.where(np.isfinite(x.moved), 0.0, x.high - x.low + bound))
        assert np.all(np.abs(got - expected) <= bound), (seed, dtype, text, np.abs(got - expected) / bound)
        tight += int((bound <= 1e3 * arithmetic.unit).mean() > 0.8)
    assert tight >= len(found) / 3


def test_numba_computes_random_formulas_within_their_bounds(dtype):
    check_numba(3, 24, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(300, 312))
def test_numba_computes_many_random_formulas_within_their_bounds(dtype, seed):
    check_numba(seed, 60, dtype)


def test_numba_computes_formulas_without_a_proof_as_they_are_written():
    """In float64, for tiles of either type: to the roundings of the functions that they call."""
    pytest.importorskip("numba")
    found = [(text, formula, trace(formula, plain=True)) for text, formula in formulas(4, 24) if _has_text(formula)]
    for dtype in ("float64", "float32"):
        u2 = np.unique(U2.astype(dtype))
        out = np.zeros((len(found), len(u2)), dtype)
        compiled([traced for *_, traced in found], dtype, rough=True)(u2, out)
        for (text, formula, _), got in zip(found, out, strict=True):
            expected = of_numbers(formula, u2.astype(np.float64)).astype(dtype)
            off = ~np.isclose(got, expected, rtol=1e-11 if dtype == "float64" else 1e-6, atol=0)
            assert off.sum() <= 1, (text, u2[off], got[off], expected[off])


def _has_text(formula):
    try:
        trace(formula, plain=True)
    except Untraceable:
        return False
    return True


CONSTANTS_OF_EACH_TYPE = {
    "float32 alone": (lambda u2: np.float32(1) / (np.float32(3.3) + u2), lambda u: 1 / (float(np.float32(3.3)) + u)),
    "float32 products": (
        lambda u2: np.float32(0.1) * np.float32(3.3) + u2,
        lambda u: float(np.float32(0.1) * np.float32(3.3)) + u,
    ),
    "infinite": (lambda u2: np.minimum(np.inf, 1 / (1 + u2)), lambda u: 1 / (1 + u)),
    "NaN beside": (lambda u2: np.where(u2 < -1, np.nan, 1 / (1 + u2)), lambda u: 1 / (1 + u)),
    "integer": (lambda u2: np.int32(7) // np.int32(2) / (np.int8(2) + u2), lambda u: 3 / (2 + u)),
    "sides of one type": (
        lambda u2: np.where(u2 < 2, np.float32(0.1), 0.7) * (1.0 + u2),
        lambda u: np.where(u < 2, float(np.float32(0.1)), 0.7) * (1 + u),
    ),
    "truth values": (lambda u2: 0.5 + ((u2 < 1) + (u2 < 2)) * 1.0, lambda u: 0.5 + (u < 2)),
}


@pytest.mark.parametrize("name", CONSTANTS_OF_EACH_TYPE)
def test_constants_have_the_value_that_numpy_gives_them(name):
    formula, meant = CONSTANTS_OF_EACH_TYPE[name]
    kernel = fastnw.Kernel(name, formula)
    # where NumPy gives both sides the type of one of them, the scalar and the array agree on which
    expected = of_numbers(formula, U2)
    if name != "sides of one type":
        np.testing.assert_allclose(expected, meant(U2), rtol=1e-15)
    np.testing.assert_array_equal(np.asarray(kernel.profile(U2), float) + 0 * U2, expected)
    text = formula_texts.of(kernel, plain=True)
    assert text is None or np.allclose(evaluate(text, U2), expected, rtol=1e-15, atol=0)


def test_a_formula_that_asks_for_the_type_of_its_argument_has_no_text():
    kernel = fastnw.Kernel("asks", lambda u2: np.exp(-u2) if isinstance(u2, float) else np.exp(-2 * u2))
    assert formula_texts.of(kernel) is None


@pytest.mark.parametrize("width", [1e-2, 1e-4, 1e-7])
@pytest.mark.parametrize("kind", ["jump", "smooth", "branch"])
def test_narrow_features_have_no_sensitivity(width, kind):
    """However narrow: no grid has to meet them."""
    rng = np.random.default_rng(int(1 / width))
    for at in np.exp(rng.uniform(-3, 4, 4)):
        shapes = {
            "jump": lambda u2, at=at: np.exp(-u2) + np.where((u2 > at) & (u2 < at + width), 100.0, 0.0),
            "smooth": lambda u2, at=at: np.exp(-u2) + 100 * np.exp(-(((u2 - at) / width) ** 2)),
            "branch": lambda u2, at=at: 1 / (1 + u2) if not at < u2 < at + width else 0.5,
        }
        kernel = fastnw.Kernel(kind, shapes[kind])
        assert sensitivity.proof(kernel) is None
        assert kernel.needs_pair_bounds


def test_the_largest_numbers_are_the_formulas():
    """Sums of exponentials that overflow, polynomials times those that underflow: proven all the same."""
    for formula in (
        lambda u2: 2 / (np.exp(np.sqrt(u2)) + np.exp(-np.sqrt(u2))),
        lambda u2: (1 + np.sqrt(5 * u2) + 5 * u2 / 3) * np.exp(-np.sqrt(5 * u2)),
        lambda u2: 1 / (1 + u2**8),
    ):
        kernel = fastnw.Kernel("large", formula)
        assert sensitivity.proof(kernel, "float64") is not None
        assert sensitivity.proof(kernel, "float32") is not None
