"""Users' kernels from end to end: certificates on jumps, bumps and tails, and what changes between two calls."""

from __future__ import annotations

import math
import pickle
import types
import warnings

import fresh
import numpy as np
import pytest

import fastnw

LD = np.longdouble


def truth(profile, q, keys, values, h):
    """Mean and mass in long double, u² from the numbers as they are, by the profile itself."""
    u2 = ((LD(q) - keys.astype(LD)) / LD(h)) ** 2
    kappa = np.asarray(profile(u2), LD)
    with np.errstate(invalid="ignore"):
        return (kappa * values).sum() / kappa.sum(), kappa.sum()


def check(profile, kernel, q, keys, values, h, backend, **options):
    """The certificate holds; returns it, over the values' range."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fastnw.AccuracyWarning)
        f, error = fastnw.pool(
            [[q]], keys[:, None], values, kernel=kernel, bandwidth=h, backend=backend, return_error=True, **options
        )
    expected, _ = truth(profile, q, keys, values, h)
    rounding = 2 * float(np.finfo(f.dtype).eps) * np.abs(values).max()
    assert abs(LD(f[0]) - expected) <= error[0] + rounding, (f[0], expected, error[0])
    return error[0] / np.ptp(values)


def on_edges(rng, at, h, q, n=40):
    """Keys at given u² to within a rounding, and ordinary ones, whose values differ."""
    far = q + h * np.sqrt(rng.choice(at, n // 2)) * rng.choice([-1, 1], n // 2)
    return np.concatenate([far, q + 2 * h * rng.normal(size=n - n // 2)]), np.concatenate(
        [5 * rng.normal(size=n // 2), rng.normal(size=n - n // 2)]
    )


def bumps(rng, count):
    """Profiles with features of any width, and the u² where they begin and end."""
    for _ in range(count):
        at, width, height = np.exp(rng.uniform(-2, 3)), 10.0 ** rng.uniform(-11, -1), 10.0 ** rng.uniform(0, 6)
        kind = rng.integers(4)
        if kind == 0:
            edges = (at, at * (1 + width))
            yield lambda u, e=edges, y=height: np.exp(-u) + np.where((u > e[0]) & (u < e[1]), y, 0.0), edges
        elif kind == 1:
            yield lambda u, c=at, w=at * width, y=height: np.exp(-u) + y * np.exp(-(((u - c) / w) ** 2)), (at,)
        elif kind == 2:
            yield lambda u, c=at, y=height: np.where(u <= c, 1 + y, 1 / (1 + u)), (at,)
        else:  # at one u² alone
            yield lambda u, c=at, y=height: np.where(u == c, y, 1 / (1 + u)), (at,)


def check_bumps(seed, count, backend):
    rng = np.random.default_rng(seed)
    for profile, edges in bumps(rng, count):
        kernel = fastnw.Kernel("bump", profile)
        for _ in range(3):
            q, h = rng.normal(), np.exp(rng.normal())
            check(profile, kernel, q, *on_edges(rng, edges, h, q), h, backend)


def test_certificates_of_random_bumps_and_jumps():
    check_bumps(1, 60, "reference")


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_certificates_of_bumps_in_numba(seed):
    pytest.importorskip("numba")
    rng = np.random.default_rng(10 + seed)
    lo = 1.0125 + seed
    profile = [
        lambda u: np.exp(-u) + np.where((u > lo) & (u < lo + 1e-3), 100.0, 0.0),
        lambda u: np.exp(-u) + 1e6 * np.exp(-(((u - 2.013) / 1e-7) ** 2)),
    ][seed]
    kernel = fastnw.Kernel("bump", profile)
    for _ in range(40):
        q, h = rng.normal() + 1e3 * seed, 3.7
        keys, values = on_edges(rng, [(lo, lo + 1e-3), (2.013, 2.013 + 1e-7)][seed], h, q)
        check(profile, kernel, q, keys, values, h, "numba")


@pytest.mark.slow
def test_certificates_of_many_bumps_in_numba():
    pytest.importorskip("numba")
    rng = np.random.default_rng(20)
    for profile, edges in bumps(rng, 40):
        kernel = fastnw.Kernel("bump", profile)
        if fastnw.backends.numba.backend.refusal(kernel) is None:
            for _ in range(10):
                q, h = rng.normal(), np.exp(rng.normal())
                check(profile, kernel, q, *on_edges(rng, edges, h, q), h, "numba")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30, 34))
def test_certificates_of_many_bumps(seed):
    check_bumps(seed, 500, "reference")


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_far_queries_of_a_kernel_without_a_logarithm(backend, dtype):
    """Certified as far as the profile's numbers go; beyond it, empty: never the plain mean of all values."""
    rng = np.random.default_rng(3)
    keys = rng.normal(size=300).astype(dtype)
    values = (keys + 1).astype(dtype)

    def profile(u2):
        return np.exp(-u2)

    kernel = fastnw.Kernel("far", profile)
    far = [5.0, 9.0, 9.5, 12.0, 20.0, 27.0, 28.5, 29.4]
    bounds = [check(profile, kernel, float(np.dtype(dtype).type(q)), keys, values, 1.0, backend) for q in far]
    assert max(bounds[:6]) <= 1e-4 if dtype == "float32" else 1e-8
    with pytest.warns(fastnw.EmptyWindowWarning):
        f, log_mass = fastnw.pool(
            np.array([[100.0], [1e6], [1e30]], dtype), keys[:, None], values,
            kernel=kernel, backend=backend, return_mass=True,
        )  # fmt: skip
    assert np.isnan(f).all()
    assert np.isneginf(log_mass).all()


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_power_tails_have_no_end(backend):
    """No cap on u²: at 1e60 bandwidths the keys' weights still differ."""
    keys, values = np.array([0.0, 9e59, 9.9e59]), np.array([0.0, 1.0, 2.0])
    kernel = fastnw.Kernel("tail", lambda u2: 1 / (1 + np.sqrt(u2)))
    f = fastnw.pool([[1e60]], keys[:, None], values, kernel=kernel, backend=backend)
    expected = [float(truth(lambda u: 1 / (1 + np.sqrt(u)), q, keys, values, 1.0)[0]) for q in (1e60,)]
    np.testing.assert_allclose(f, expected, rtol=1e-12)


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_a_kernel_that_jumps_at_0_raises_no_alarm(backend):
    """Where coordinates are the user's own, u² is 0 if and only if they are equal."""
    rng = np.random.default_rng(4)
    keys = np.concatenate([rng.integers(0, 4, 200).astype(float), rng.normal(size=100)])
    values = rng.normal(size=300)

    def profile(u2):
        return np.where(u2 == 0, 1.0, 0.5 * 0.3 ** np.sqrt(u2))

    kernel = fastnw.Kernel("at 0", profile)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        f, error = fastnw.pool(
            keys[:, None], keys[:, None], values, kernel=kernel, bandwidth=0.7, backend=backend, return_error=True
        )
    for i in range(0, 300, 7):
        assert abs(f[i] - truth(profile, keys[i], keys, values, 0.7)[0]) <= error[i] + 1e-15


def test_power_of_any_exponent_in_numba_by_default():
    """What `auto` takes for many pairs is what the reference says."""
    pytest.importorskip("numba")
    rng = np.random.default_rng(5)
    keys, power, exp2 = rng.normal(size=(6000, 2)), -2.5, 0.25
    kernel = fastnw.Kernel("student", lambda u2: (1 + u2) ** power + exp2 * 0)
    queries, values = np.repeat(keys[:20], 300, axis=0), keys[:, 0]
    assert fastnw.plan(queries, keys, values, kernel=kernel).backend == "numba"
    weights = (1 + ((keys[:20, None] - keys) ** 2).sum(axis=2)) ** -2.5
    got = fastnw.pool(queries, keys, values, kernel=kernel)[::300]
    np.testing.assert_allclose(got, weights @ values / weights.sum(axis=1), rtol=1e-10)


WIDTH = 1.0
SETTINGS = types.SimpleNamespace(width=1.0)


def helper(u2):
    return WIDTH * u2


class Holder:
    width = 1.0

    def __call__(self, u2):
        return math.exp(-self.width * u2)

    def of(self, u2):
        return math.exp(-self.width * u2)


def changing():
    """(profile, how to set its width) for each place where a function may keep a number."""
    width, table, box, holder = 1.0, np.array([1.0]), [1.0], Holder()

    def of_closure(u2):
        return math.exp(-width * u2)

    def set_closure(x):
        nonlocal width
        width = x

    def of_default(u2, *, w=1.0):
        return math.exp(-w * u2)

    return {
        "global": (lambda u2: math.exp(-WIDTH * u2), lambda x: globals().update(WIDTH=x)),
        "called": (lambda u2: math.exp(-helper(u2)), lambda x: globals().update(WIDTH=x)),
        "attribute": (lambda u2: math.exp(-SETTINGS.width * u2), lambda x: setattr(SETTINGS, "width", x)),
        "closure": (of_closure, set_closure),
        "array": (lambda u2: math.exp(-table[0] * u2), lambda x: table.__setitem__(0, x)),
        "list": (lambda u2: math.exp(-box[0] * u2), lambda x: box.__setitem__(0, x)),
        "default": (of_default, lambda x: of_default.__kwdefaults__.update(w=x)),
        "instance": (holder, lambda x: setattr(holder, "width", x)),
        "method": (Holder().of, lambda x: setattr(Holder, "width", x)),
    }


@pytest.mark.parametrize("place", changing())
def test_what_a_profile_refers_to_may_change(place):
    """All that is kept for a kernel follows: sums, bounds, integrals."""
    profile, set_width = changing()[place]
    keys, values = np.linspace(-2, 2, 60)[:, None], np.sin(np.arange(60.0))
    backend = "numba" if place == "closure" else "reference"
    kernel = fastnw.Kernel("changing", profile)
    try:
        for width in (1.0, 9.0, 1.0):
            set_width(width)
            weights = np.exp(-width * (0.1 - keys[:, 0]) ** 2)
            got, steep = (
                fastnw.pool([[0.1]], keys, values, kernel=kernel, backend=backend),
                kernel.current().log_sensitivity,
            )
            np.testing.assert_allclose(got, weights @ values / weights.sum(), rtol=1e-12)
            density = fastnw.density([[0.1]], keys, kernel=kernel, backend=backend)
            np.testing.assert_allclose(density, weights.mean() * math.sqrt(width / math.pi), rtol=1e-9)
            assert kernel.current() is kernel.current()
            assert steep[0] < 100
    finally:
        set_width(1.0)


def test_a_profile_that_becomes_negative_says_so():
    sign = [1.0]
    kernel = fastnw.Kernel("sign", lambda u2: sign[0] / (1 + u2))
    fastnw.pool([[0.0]], [[0.0]], [1.0], kernel=kernel)
    sign[0] = -1.0
    with pytest.raises(ValueError, match="non-negative"):
        fastnw.pool([[0.0]], [[0.0]], [1.0], kernel=kernel)


@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize("wrong", [-0.5, math.nan])
def test_a_profile_that_is_no_kernel_farther_out_says_so(backend, wrong):
    """Never a number with its own idea of what was meant."""
    kernel = fastnw.Kernel("wrong", lambda u2: np.where((u2 > 70) & (u2 < 80), wrong, 1 / (1 + u2)))
    keys = np.linspace(0, 10, 300)[:, None]
    with pytest.raises(ValueError, match="must be finite and non-negative, but is not"):
        fastnw.pool([[0.0]], keys, keys[:, 0], kernel=kernel, backend=backend)
    assert np.isfinite(fastnw.pool([[5.0]], keys, keys[:, 0], kernel=kernel, backend=backend)).all()


def test_what_cannot_be_watched_is_not_compiled():
    generator = np.random.default_rng(0)
    kernel = fastnw.Kernel("opaque", lambda u2: 1 / (1 + u2) + 0 * (generator is None))
    assert kernel.is_opaque
    with pytest.raises(ValueError, match="changes"):
        fastnw.pool([[0.0]], [[0.0]], [1.0], kernel=kernel, backend="numba")
    assert fastnw.pool([[0.0]], [[0.0]], [1.0], kernel=kernel) == 1.0


def quartic(u2):
    return 1 / (1 + u2 * u2)


def test_kernels_are_pickled_from_their_parts():
    kernel = pickle.loads(pickle.dumps(fastnw.Kernel("quartic", quartic, monotone=True)))
    assert kernel.monotone
    assert kernel.profile(np.array([1.0])) == 0.5
    assert kernel.current() is kernel


DAMAGED = """
import warnings; warnings.simplefilter("error")
import numpy as np, fastnw
queries = np.random.default_rng(0).normal(size=(60, 3))
kernel = fastnw.Kernel("quartic", lambda u2: 1 / (1 + u2 * u2) + np.exp(-u2))
print(repr(float(fastnw.pool(queries, queries, queries[:, 0], kernel=kernel, backend="numba")[0])))
"""


@pytest.mark.parametrize(
    "damage", ["truncated", *(pytest.param(name, marks=pytest.mark.slow) for name in ("empty", "other bytes"))]
)
def test_a_damaged_cache_is_compiled_again(tmp_path, damage):
    """Whatever of it is damaged: the index or the code, of the tiles or of the functions that they call."""
    pytest.importorskip("numba")
    first = fresh.run(DAMAGED, NUMBA_CACHE_DIR=str(tmp_path))
    for part, suffix in enumerate(("*.nbi", "*.nbc")):
        files = sorted(tmp_path.rglob(suffix))
        assert files
        for file in files[part::2]:
            data = file.read_bytes()
            changed = {"truncated": data[: len(data) // 2], "empty": b"", "other bytes": b"\x80\x04x" * 50}
            file.write_bytes(changed[damage])
    assert fresh.run(DAMAGED, NUMBA_CACHE_DIR=str(tmp_path)) == first
