"""Reference rules, and the integrals of kernels that they and densities rest on."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import oracle
import pandas as pd
import pytest
from cases import KERNELS
from scipy import stats

import fastnw
from fastnw import kernels
from fastnw.bandwidth import rule_bandwidth, rules
from fastnw.kernels import integrals

NORMALISABLE = [k for k in KERNELS if k not in ("constant", "dot", "cauchy")]
# Härdle (1991), Smoothing Techniques, table 3.2: four decimals
PUBLISHED = {"gaussian": 0.7764, "epanechnikov": 1.7188, "biweight": 2.0362, "triweight": 2.3122, "boxcar": 1.3510}


@pytest.fixture(params=["scott", "silverman"])
def rule(request):
    return request.param


def factor(rule, n, d):
    """The rules as Scott (1992, eq. 6.42) and Silverman (1986, sec. 4.3) print them, for unit spread."""
    return n ** (-1 / (d + 4)) * (1 if rule == "scott" else (4 / (d + 2)) ** (1 / (d + 4)))


@pytest.mark.parametrize("d", [1, 2, 3, 10, 50])
@pytest.mark.parametrize("kernel", NORMALISABLE)
def test_normalising_constants_match_closed_forms(kernel, d):
    # 1e-12 is promised; the oracle's gamma functions take part of it
    expected = math.log(oracle.normalising_constant(kernel, d))
    assert integrals.log_integral(kernels.get(kernel), d) == pytest.approx(expected, rel=0, abs=1e-12)


@pytest.mark.parametrize("d", [301, 784])
def test_normalising_constants_in_hundreds_of_dimensions(d):
    with mpmath.workdps(40):
        log_sphere = mpmath.log(2 * mpmath.pi ** (mpmath.mpf(d) / 2)) - mpmath.loggamma(mpmath.mpf(d) / 2)
        expected = {
            "gaussian": mpmath.mpf(d) / 2 * mpmath.log(2 * mpmath.pi),
            "boxcar": log_sphere - mpmath.log(d),
            "triweight": log_sphere + mpmath.log(mpmath.beta(mpmath.mpf(d) / 2, 4) / 2),
            "laplacian": log_sphere + mpmath.loggamma(d),
            "matern32": log_sphere - mpmath.mpf(d) / 2 * mpmath.log(3) + mpmath.loggamma(d) + mpmath.log(1 + d),
        }
    for kernel, value in expected.items():
        # log C is in the thousands: half an ulp of each of its terms comes on top of 1e-12
        assert integrals.log_integral(kernel, d) == pytest.approx(float(value), rel=0, abs=2e-12)


def test_cauchy_has_a_density_on_the_line_only():
    assert integrals.log_integral("cauchy", 1) == pytest.approx(math.log(math.pi), abs=1e-13)
    with pytest.raises(ValueError, match=r"'cauchy'.*d = 2"):
        integrals.log_integral("cauchy", 2)


@pytest.mark.parametrize("kernel", ["constant", "dot"])
def test_infinite_integrals_are_errors_that_name_the_kernel(kernel):
    with pytest.raises(ValueError, match=rf"{kernel}.*d = 1"):
        integrals.log_integral(kernel, 1)


def test_user_kernels_are_normalised_by_quadrature():
    student = fastnw.Kernel("student", lambda u2: 1 / (1 + u2) ** 2)
    for d, integral in ((1, math.pi / 2), (2, math.pi), (3, math.pi**2)):
        assert math.exp(integrals.log_integral(student, d)) == pytest.approx(integral, rel=1e-12)
    with pytest.raises(ValueError, match=r"'student'.*d = 4.*infinite"):
        integrals.log_integral(student, 4)


def test_user_kernels_with_jumps_scales_and_overflow():
    steps = fastnw.Kernel("steps", lambda u2: 1.0 if u2 < 2.25 else 0.25 if u2 < 9 else 0.0)
    assert math.exp(integrals.log_integral(steps, 2)) == pytest.approx(math.pi * (2.25 + 0.25 * 6.75), rel=1e-10)
    narrow = fastnw.Kernel("narrow", lambda u2: 1 - u2 * 1e12, support=1e-6)
    assert math.exp(integrals.log_integral(narrow, 1)) == pytest.approx(4e-6 / 3, rel=1e-12)
    # math.cosh overflows where the search for the tail's end looks
    sech = fastnw.Kernel("sech", lambda u2: 1 / math.cosh(math.sqrt(u2)))
    assert math.exp(integrals.log_integral(sech, 1)) == pytest.approx(math.pi, rel=1e-12)


def test_an_underflowing_profile_asks_for_its_logarithm():
    d = 2000
    plain = fastnw.Kernel("plain", lambda u2: np.exp(-u2 / 2))
    with pytest.raises(ValueError, match="log_profile"):
        integrals.log_integral(plain, d)
    logged = fastnw.Kernel("logged", lambda u2: np.exp(-u2 / 2), log_profile=lambda u2: -u2 / 2)
    assert integrals.log_integral(logged, d) == pytest.approx(d / 2 * math.log(2 * math.pi), rel=1e-15, abs=1e-11)


@pytest.mark.parametrize("kernel", PUBLISHED)
def test_canonical_bandwidths_are_those_published(kernel):
    assert integrals.canonical_bandwidth(kernel, 1) == pytest.approx(PUBLISHED[kernel], abs=5.1e-5)


@pytest.mark.parametrize("d", [1, 2, 5, 20])
def test_canonical_bandwidths_in_several_dimensions(d):
    gaussian = integrals.canonical_bandwidth("gaussian", d)
    assert gaussian == pytest.approx((4 * math.pi) ** (-d / 2 / (d + 4)), rel=1e-12)
    # Silverman (1986), table 4.1: the optimal constants of both kernels for normal data
    ball = math.pi ** (d / 2) / math.gamma(d / 2 + 1)
    epanechnikov = (8 / ball * (d + 4) * (2 * math.sqrt(math.pi)) ** d) ** (1 / (d + 4))
    normal = (4 / (d + 2)) ** (1 / (d + 4))
    ratio = integrals.canonical_bandwidth("epanechnikov", d) / gaussian
    assert ratio == pytest.approx(epanechnikov / normal, rel=1e-12)


@pytest.mark.parametrize("kernel", ["cauchy", "constant", "dot"])
def test_kernels_without_a_canonical_bandwidth(kernel):
    assert integrals.canonical_bandwidth(kernel, 1) is None


@pytest.mark.parametrize("d", [1, 2, 7, 300])
def test_radii_follow_their_distribution(d):
    p = np.concatenate(([0.0, 1e-12, 1.0 - 1e-12], np.linspace(1e-4, 1 - 1e-4, 999)))
    distributions = {
        "gaussian": stats.chi(d).cdf,
        "laplacian": stats.gamma(d).cdf,
        "boxcar": lambda u: u**d,
        "epanechnikov": lambda u: stats.beta(d / 2, 2).cdf(u * u),
        "triweight": lambda u: stats.beta(d / 2, 4).cdf(u * u),
        "tricube": lambda u: stats.beta(d / 3, 4).cdf(u**3),
    }
    if d == 1:
        distributions["cauchy"] = lambda u: 2 / math.pi * np.arctan(u)
    for kernel, cdf in distributions.items():
        u = integrals.sample_radius(kernel, d, p)
        np.testing.assert_allclose(cdf(u), p, rtol=0, atol=1e-9, err_msg=kernel)


def test_radii_stay_in_the_support_and_out_of_holes():
    p = np.linspace(0, 1, 2001)
    for support in (0.1, 0.3, 0.7, 1.0, 3.0, 7.7):
        disc = fastnw.Kernel("disc", lambda u2: u2 * 0 + 1, support=support)
        assert integrals.sample_radius(disc, 3, p).max() <= support
    # zero beyond 3 as well, which the table has to find out
    holed = fastnw.Kernel("holed", lambda u2: np.where(((u2 > 1) & (u2 < 4)) | (u2 > 9), 0.0, 1.0))
    u = integrals.sample_radius(holed, 1, p)
    # half of the mass lies on either side; the table's cells at a jump are a few 1e-3 wide
    assert np.mean(u <= 1.5) == pytest.approx(0.5, abs=2e-3)
    assert np.all((u < 1.01) | ((u > 1.99) & (u < 3.01)))


def test_rules_match_their_formulas(rule):
    X = np.random.default_rng(0).normal(size=(200, 3)) * [1.0, 5.0, 0.01]
    expected = X.std(axis=0, ddof=1) * factor(rule, 200, 3)
    np.testing.assert_allclose(rule_bandwidth(X, rule, "gaussian"), expected, rtol=1e-13)


def test_scott_agrees_with_scipy():
    X = np.random.default_rng(1).gamma(2.0, size=(150, 2))
    peer = stats.gaussian_kde(X.T, bw_method="scott")
    np.testing.assert_allclose(rule_bandwidth(X, "scott", "gaussian"), np.sqrt(np.diag(peer.covariance)), rtol=1e-13)


@pytest.mark.parametrize(("offset", "unit"), [(1e8, 1.0), (0.0, 1e-200), (0.0, 1e200)])
def test_data_far_from_zero_or_of_extreme_scale(offset, unit):
    X = offset + unit * np.random.default_rng(4).normal(size=(500, 2))
    long = X.astype(np.longdouble) / unit  # exact input, longer arithmetic
    expected = unit * (long - long.mean(axis=0)).std(axis=0, ddof=1).astype(float) * factor("scott", 500, 2)
    np.testing.assert_allclose(rule_bandwidth(X, "scott", "gaussian"), expected, rtol=1e-12)


def test_blocks_of_rows_change_nothing_but_rounding(monkeypatch):
    X = (1e4 + np.random.default_rng(5).normal(size=(100, 3))).astype(np.float32)
    w = np.random.default_rng(6).integers(0, 3, size=100)
    whole = rule_bandwidth(X, "scott", "gaussian", w)
    monkeypatch.setattr(rules, "_BLOCK_ELEMENTS", 20)
    np.testing.assert_allclose(rule_bandwidth(X, "scott", "gaussian", w), whole, rtol=1e-13)
    assert whole.dtype == np.float64


@pytest.mark.parametrize("kernel", PUBLISHED)
def test_other_kernels_are_rescaled_to_smooth_alike(kernel):
    X = np.random.default_rng(7).normal(size=(100, 1))
    ratio = rule_bandwidth(X, "scott", kernel) / rule_bandwidth(X, "scott", "gaussian")
    assert ratio == pytest.approx(PUBLISHED[kernel] / PUBLISHED["gaussian"], rel=2e-4)  # four decimals


@pytest.mark.parametrize("kernel", ["cauchy", "constant"])
def test_kernels_without_a_canonical_bandwidth_keep_the_gaussians(kernel):
    X = np.random.default_rng(8).normal(size=(40, 2))
    np.testing.assert_array_equal(rule_bandwidth(X, "scott", kernel), rule_bandwidth(X, "scott", "gaussian"))


def test_errors_of_rules():
    X = np.random.default_rng(9).normal(size=(20, 2))
    with pytest.raises(ValueError, match="'dot'"):
        rule_bandwidth(X, "scott", "dot")
    with pytest.raises(ValueError, match=r"'scot'.*'scott' or 'silverman'"):
        rule_bandwidth(X, "scot", "gaussian")
    with pytest.raises(ValueError, match="n_samples = 1"):
        rule_bandwidth(X[:1], "scott", "gaussian")


def test_a_column_without_spread_is_named():
    X = np.column_stack([np.arange(5.0), np.full(5, 0.1), np.arange(5.0)])
    with pytest.raises(ValueError, match=r"column 1:.*Drop"):
        rule_bandwidth(X, "scott", "gaussian")
    with pytest.raises(ValueError, match="'height'"):
        rule_bandwidth(pd.DataFrame(X, columns=["a", "height", "b"]), "scott", "gaussian")
    with pytest.raises(ValueError, match="'width'"):
        rule_bandwidth(X, "scott", "gaussian", feature_names=["a", "width", "b"])
    with pytest.raises(ValueError, match=r"column 0 \(and 2 more\)"):  # all weight on equal rows
        rule_bandwidth(X[[0, 1, 2, 1, 4]], "scott", "gaussian", [0, 3, 0, 2, 0])
