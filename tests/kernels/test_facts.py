"""The facts of kernels: they hold for the formulas, and code decides by them, not by names."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from cases import KERNELS

import fastnw
from fastnw import kernels

U = np.linspace(0.0, 1.0, 101)


def profile(kernel, u):
    with np.errstate(all="ignore"):
        return np.asarray(kernel.profile(np.asarray(u, float) ** 2), float)


def facts(name):
    return kernels.get(name).facts


@pytest.mark.parametrize("name", KERNELS)
def test_the_shape_is_that_of_the_formula(name):
    kernel = kernels.get(name)
    assert kernel.facts.built_in
    assert kernel.facts.works_on_logs == (kernel.log_profile is not None)
    if kernel.inner_product:
        return
    assert kernel.facts.monotone
    assert np.all(np.diff(profile(kernel, U)) <= 0)
    assert kernel.facts.constant == (kernel.support is None and profile(kernel, [1e6])[0] == 1)
    if kernel.support is not None:
        assert kernel.facts.discontinuous == (profile(kernel, [kernel.support])[0] > 1e-9)


@pytest.mark.parametrize("name", KERNELS)
def test_families_are_those_of_the_formula(name):
    kernel = kernels.get(name)
    if kernel.facts.window:
        p, r = kernel.facts.window
        np.testing.assert_allclose((1 - U**p) ** r, profile(kernel, U), rtol=0, atol=1e-15)
    if kernel.facts.exponential_polynomial:
        coefficients, scale = kernel.facts.exponential_polynomial
        expected = np.polyval(coefficients[::-1], scale * U) * np.exp(-scale * U)
        np.testing.assert_allclose(expected, profile(kernel, U), rtol=1e-14)
    if kernel.facts.quadratic_form:
        second = np.diff(kernel.log_profile(U if kernel.inner_product else U**2), 2)
        np.testing.assert_allclose(second, second[0], rtol=0, atol=1e-12)
    if kernel.facts.heavy_tailed:
        assert profile(kernel, [1e8])[0] / profile(kernel, [1e7])[0] == pytest.approx(1e-2, rel=1e-6)
    if kernel.facts.derivative_at_infinity:
        (constant, _), power = kernel.facts.derivative_at_infinity
        logarithmic = kernel.facts.derivative(np.array([1e20])) / (
            1.0 if kernel.works_on_logs else profile(kernel, [1e10])
        )
        assert float(logarithmic[0]) == pytest.approx(constant * 1e10**power, rel=1e-6)


@pytest.mark.parametrize("name", [name for name in KERNELS if facts(name).precise_derivative])
def test_precise_derivatives_have_the_same_first_digits(name):
    kernel, u = kernels.get(name), np.linspace(0.1, 30, 60)
    first, second = kernel.facts.precise_derivative((u**2, np.zeros(60)), (u, np.zeros(60)))
    expected = kernel.facts.derivative(u**2) / (1.0 if kernel.works_on_logs else profile(kernel, u))
    np.testing.assert_allclose(first, expected, rtol=1e-14)
    assert np.all(np.abs(second) <= np.spacing(np.abs(first)))


def test_compiled_codes_are_distinct():
    codes = [facts(name).compiled_code for name in KERNELS]
    assert sorted(codes) == list(range(len(KERNELS)))


def test_a_users_kernel_has_facts_of_its_own_whatever_its_name():
    own = fastnw.Kernel("gaussian", lambda u2: np.exp(-0.5 * u2), log_profile=lambda u2: -0.5 * u2, monotone=True)
    assert own.facts == kernels.Facts(monotone=True, works_on_logs=True)
    assert fastnw.Kernel("boxcar", lambda u2: u2 * 0 + 1.0, support=2.0).facts == kernels.Facts(support=2.0)


@pytest.mark.parametrize("name", KERNELS)
def test_built_in_kernels_stay_the_same_object(name):
    kernel = kernels.get(name)
    assert pickle.loads(pickle.dumps(kernel)) is copy.deepcopy(kernel) is kernel.current() is kernel
    assert b"fastnw.kernels" in pickle.dumps(kernel)


def test_pickles_of_the_first_version_load():
    """They name functions of the module ``fastnw.kernels``, which was one file."""
    arguments = b"(Vmine\ncnumpy\nexp\nG@\x00\x00\x00\x00\x00\x00\x00NI01\nt"
    kernel = pickle.loads(b"cfastnw.kernels\n_again\n" + arguments + b"R.")
    assert (kernel.name, kernel.profile, kernel.support, kernel.monotone) == ("mine", np.exp, 2.0, True)
    assert pickle.loads(b"cfastnw.kernels\nget\n(Vtophat\ntR.") is kernels.get("boxcar")
    assert pickle.loads(b"cfastnw.kernels\nKernel\n.") is fastnw.Kernel


def test_only_the_registry_compares_names():
    package = Path(fastnw.__file__).parent
    compares = re.compile(r"kernel\.name *(==|!=|in\b|not in\b)|\[kernel\.name\]|facts is (not )?None")
    found = [
        f"{path.relative_to(package)}:{number}: {line.strip()}"
        for path in sorted(package.rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf8").splitlines(), 1)
        if compares.search(line)
    ]
    assert not found


def test_the_codes_of_kernels_are_those_of_the_compiled_code():
    from fastnw.runtime._constants import KERNEL_CODES

    assert {name: kernel.facts.compiled_code for name, kernel in kernels.built_in()} == KERNEL_CODES
