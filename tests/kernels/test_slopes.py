"""The kernels' slopes, against mpmath's derivative of each formula as the specification writes it."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest

import fastnw
from fastnw import kernels
from fastnw.kernels.derivative import derivative

# κ of u
FORMULAS = {
    "gaussian": lambda u: mp.e ** (-(u**2) / 2),
    "boxcar": lambda u: mp.mpf(1),
    "triangular": lambda u: 1 - u,
    "epanechnikov": lambda u: 1 - u**2,
    "biweight": lambda u: (1 - u**2) ** 2,
    "triweight": lambda u: (1 - u**2) ** 3,
    "tricube": lambda u: (1 - u**3) ** 3,
    "cosine": lambda u: mp.cos(mp.pi * u / 2),
    "laplacian": lambda u: mp.e ** (-u),
    "matern32": lambda u: (1 + mp.sqrt(3) * u) * mp.e ** (-mp.sqrt(3) * u),
    "matern52": lambda u: (1 + mp.sqrt(5) * u + 5 * u**2 / 3) * mp.e ** (-mp.sqrt(5) * u),
    "cauchy": lambda u: 1 / (1 + u**2),
    "logistic": lambda u: 4 / (mp.e**u + 2 + mp.e ** (-u)),
    "constant": lambda u: mp.mpf(1),
}
KINKED = ("triangular", "laplacian")


def test_every_radial_kernel_is_tried():
    assert set(FORMULAS) == {name for name, kernel in kernels.built_in() if not kernel.inner_product}


@pytest.mark.parametrize("name", FORMULAS)
def test_slopes_are_derivatives(name):
    kernel, formula = kernels.get(name), FORMULAS[name]
    u = np.linspace(0.05, 0.97 if kernel.support else 12.0, 40)
    with mp.workdps(40):
        of_square = (lambda s: mp.log(formula(mp.sqrt(s)))) if kernel.works_on_logs else lambda s: formula(mp.sqrt(s))
        expected = [float(-2 * mp.diff(of_square, mp.mpf(float(x)) ** 2)) for x in u]
    np.testing.assert_allclose(derivative(kernel, u**2), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", FORMULAS)
def test_at_the_centre_and_beyond_the_support(name):
    kernel = kernels.get(name)
    at = derivative(kernel, np.array([0.0, 1e-24, 1.1, 1e200]))
    assert np.all(np.isfinite(at[[0, 2, 3]]))
    assert np.all(at >= 0)
    if name in KINKED:
        assert at[0] == 0
    else:
        np.testing.assert_allclose(at[0], at[1], rtol=1e-10, atol=1e-10)
    if kernel.support:
        assert at[2] == at[3] == 0


@pytest.mark.parametrize("support", [None, 2.0])
def test_users_profiles_are_differentiated(support):
    def bump(u2):
        return (1 - u2 / 4) ** 2 if support else 1 / (1 + u2) ** 2

    kernel = fastnw.Kernel("mine", bump, support=support)
    u2 = np.linspace(0, 4.0 if support else 30.0, 50)
    expected = (1 - u2 / 4) if support else 4 / (1 + u2) ** 3
    np.testing.assert_allclose(derivative(kernel, u2), expected, rtol=0, atol=1e-9)


def test_a_users_logarithm_is_differentiated():
    kernel = fastnw.Kernel("mine", lambda u2: np.exp(-0.5 * u2), log_profile=lambda u2: -0.5 * u2)
    np.testing.assert_allclose(derivative(kernel, np.array([0.0, 1.0, 1e3, 1e6])), 1.0, rtol=1e-9)
