"""fastnw.jax: gradients against differences, and against JAX's own of the formula written with (m, n) arrays."""

from __future__ import annotations

from contextlib import contextmanager

import frameworks
import fresh
import numpy as np
import pytest
from cases import KERNELS, spread_bandwidth

import fastnw

jax = frameworks.module("jax")

import jax.numpy as jnp  # noqa: E402
from jax.test_util import check_grads  # noqa: E402

import fastnw.jax  # noqa: E402


@contextmanager
def float64(enabled):
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", enabled)
    try:
        yield enabled
    finally:
        jax.config.update("jax_enable_x64", before)


@pytest.fixture(params=[True, False], ids=["64 bits", "32 bits"])
def wide(request):
    """JAX with and without float64."""
    with float64(request.param):
        yield request.param


@pytest.fixture
def bits64():
    with float64(True):
        yield


@pytest.fixture
def bits32():
    with float64(False):
        yield


def arrays(m=6, n=9, d=2, columns=(), seed=0):
    """Queries, keys, values and weights."""
    rng = np.random.default_rng(seed)
    return [
        jnp.asarray(array)
        for array in (
            0.5 * rng.normal(size=(m, d)),
            0.5 * rng.normal(size=(n, d)),
            rng.normal(size=(n, *columns)),
            rng.gamma(2.0, size=n),
        )
    ]


def formula(queries, keys, values, weights, bandwidth):
    scaled = (queries[:, None] - keys) / bandwidth
    return jax.nn.softmax(-(scaled**2).sum(axis=-1) / 2 + jnp.log(weights), axis=1) @ values


def pooled(queries, keys, values, weights, bandwidth, **options):
    return fastnw.jax.pool(queries, keys, values, sample_weight=weights, bandwidth=bandwidth, **options)


@pytest.mark.usefixtures("bits64")
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", ["number", "vector", "matrix"])
def test_gradients_are_differences(kernel, shape):
    bandwidth = 3 * np.asarray(spread_bandwidth(shape, 2, np.random.default_rng(0)))
    root = jnp.asarray(np.linalg.cholesky(bandwidth) if shape == "matrix" else bandwidth)

    def both(queries, keys, values, weights, root):
        bandwidth = root @ root.T if shape == "matrix" else root
        return pooled(queries, keys, values, weights, bandwidth, kernel=kernel, return_mass=True)

    check_grads(both, (*arrays(columns=(2,)), root), order=1, modes=["rev"])


def test_gradients_are_those_of_the_formula(wide):
    inputs = (*arrays(30, 50, 3, (4,), seed=1), jnp.array([0.7, 1.0, 1.5]))

    def loss(f):
        return lambda *inputs: jnp.sin(f(*inputs)).sum()

    found = jax.grad(loss(pooled), argnums=range(5))(*inputs)
    expected = jax.grad(loss(formula), argnums=range(5))(*inputs)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == (np.float64 if wide else np.float32)
        # means are promised to 1e-8 and 1e-4 of a range of 5
        np.testing.assert_allclose(one, other, rtol=0, atol=(1e-7 if wide else 1e-3) * np.abs(other).max())


def test_results_are_pools(wide):
    queries, keys, values, _ = arrays(20, 30, 2, (3,))
    found, log_mass = fastnw.jax.pool(queries, keys, values, kernel="cauchy", bandwidth=0.5, return_mass=True)
    expected, expected_mass = fastnw.pool(
        *map(np.asarray, (queries, keys, values)), kernel="cauchy", bandwidth=0.5, return_mass=True
    )
    np.testing.assert_array_equal(np.asarray(found), expected)
    np.testing.assert_allclose(log_mass, expected_mass, rtol=1e-15 if wide else 1e-6)


def test_float32_arrays_where_there_are_64_bits(bits64):
    queries, keys, values, _ = (x.astype(np.float32) for x in arrays())
    found = jax.grad(lambda h: fastnw.jax.pool(queries, keys, values, bandwidth=h).sum())(0.5)
    assert fastnw.jax.pool(queries, keys, values).dtype == np.float32
    wide = (x.astype(np.float64) for x in (queries, keys, values))
    expected = jax.grad(lambda h: fastnw.jax.pool(*wide, bandwidth=h).sum())(0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_under_jit_and_vmap(wide):
    queries, keys, values, weights = arrays()
    gradient = jax.grad(lambda q, h: pooled(q, keys, values, weights, h).sum(), argnums=(0, 1))
    expected = gradient(queries, 0.5)
    for one, other in zip(jax.jit(gradient)(queries, 0.5), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    batch = jnp.stack([queries, queries + 0.1])
    mapped = jax.vmap(gradient, in_axes=(0, None))(batch, 0.5)
    np.testing.assert_array_equal(mapped[0][0], expected[0])
    np.testing.assert_array_equal(mapped[1][0], expected[1])
    assert mapped[0].shape == (2, 6, 2)


def test_integers_are_constants(bits64):
    queries, keys, _, _ = arrays()
    labels = jnp.arange(9) % 2
    found = jax.grad(lambda q: fastnw.jax.pool(q, keys, labels).sum())(queries)
    expected = jax.grad(lambda q: formula(q, keys, 1.0 * labels, jnp.ones(9), 1.0).sum())(queries)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)


def test_users_kernels(bits64):
    queries, keys, values, weights = arrays()
    mine = fastnw.Kernel("mine", lambda u2: (1 - u2) ** 2, support=1.0)

    def by_queries(kernel):
        return jax.grad(lambda q: pooled(q, keys, values, weights, 2.0, kernel=kernel).sum())(queries)

    found, expected = by_queries(mine), by_queries("biweight")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)


def test_empty_windows_have_no_gradient(wide):
    queries, keys = jnp.array([[0.0], [9.0]]), jnp.array([[0.5], [-0.2]])

    def loss(queries, keys):
        return fastnw.jax.pool(queries, keys, jnp.array([1.0, 2.0]), kernel="epanechnikov").sum()

    with pytest.warns(fastnw.EmptyWindowWarning, match="1 of 2"):
        by_queries, by_keys = jax.grad(loss, argnums=(0, 1))(queries, keys)
    assert by_queries[1] == 0
    assert by_queries[0] != 0
    assert np.all(np.isfinite(by_keys) & (by_keys != 0))


def test_tails_without_64_bits(bits32):
    """log mass is −5000 there, of which float32 has three digits after the point; the gradients are known to six."""
    queries, keys, values = jnp.array([[100.0]]), jnp.array([[0.0], [0.01]]), jnp.array([1.0, 2.0])
    found = jax.grad(lambda k: fastnw.jax.pool(queries, k, values).sum())(keys)
    k = np.asarray(keys, np.float64)[:, 0]
    share = 1 / (1 + np.exp(-((100 - k[0]) ** 2 - (100 - k[1]) ** 2) / 2))  # of the second key
    expected = share * (1 - share) * np.array([-(100 - k[0]), 100 - k[1]])
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)


def test_no_forward_mode_and_no_second_derivatives(bits64):
    queries, keys, values, _ = arrays()

    def f(h):
        return fastnw.jax.pool(queries, keys, values, bandwidth=h).sum()

    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(f, (1.0,), (1.0,))
    for forward in (jax.jacfwd(f), jax.hessian(f)):
        with pytest.raises(TypeError, match="forward-mode"):
            forward(1.0)
    for second in (jax.grad(jax.grad(f)), jax.jacrev(jax.jacrev(f)), jax.jit(jax.grad(jax.grad(f)))):
        with pytest.raises(NotImplementedError, match=r"fastnw\.jax\.pool has no second derivatives"):
            second(1.0)


def test_gradients_far_from_all_keys(bits64):
    """Two keys a millionth apart, a million bandwidths away: their exponents differ by 1."""
    queries, keys, values = jnp.array([[1e6]]), jnp.array([[0.0], [1e-6]]), jnp.array([1.0, 2.0])
    weights = jnp.array([1e200, 1e200])
    arguments = (queries, keys, values, weights, 1.0)
    found = jax.grad(lambda *inputs: pooled(*inputs).sum(), argnums=range(5))(*arguments)
    share = 1 / (1 + np.exp(-(1 - 5e-13)))  # of the second key
    slope = share * (1 - share)
    expected = (1e-6 * slope, np.array([-1e6, 1e6]) * slope, [1 - share, share], [-1e-200 * slope, 1e-200 * slope])
    for one, other in zip(found, (*expected, -2 * (1 - 5e-13) * slope), strict=True):
        np.testing.assert_allclose(np.ravel(one), np.ravel(other), rtol=1e-9)


@pytest.mark.usefixtures("bits64")
def test_bfloat16():
    """Read as float32, and float32 comes back."""
    queries, keys, values, weights = (x.astype(jnp.bfloat16) for x in arrays())
    wide = [np.asarray(x.astype(np.float32)) for x in (queries, keys, values, weights)]
    for narrow in ((queries, keys, values, weights), [np.asarray(x) for x in (queries, keys, values, weights)]):
        found = fastnw.pool(*narrow[:3], sample_weight=narrow[3])
        assert found.dtype == np.float32
        np.testing.assert_array_equal(np.asarray(found), fastnw.pool(*wide[:3], sample_weight=wide[3]))
    found = fastnw.jax.pool(queries, keys, values, sample_weight=weights)
    assert found.dtype == np.float32


def test_wrong_input_is_reported_as_by_pool(bits64):
    queries, keys, values, _ = arrays()
    with pytest.raises(ValueError, match="queries has 2 features, but keys has 1"):
        jax.jit(fastnw.jax.pool)(queries, keys[:, :1], values)
    with pytest.raises(ValueError, match="kernel"):
        fastnw.jax.pool(queries, keys, values, kernel="no such")
    with pytest.raises(jax.errors.JaxRuntimeError, match="bandwidth must be positive"):
        fastnw.jax.pool(queries, keys, values, bandwidth=-1.0)


def test_memory_does_not_grow_with_pairs():
    """One byte a pair would be 400 MB."""
    program = """
    import resource, jax, jax.numpy as jnp, fastnw.jax
    jax.config.update("jax_enable_x64", True)
    def step(m):
        x = jnp.linspace(0, 1, m)[:, None]
        loss = lambda x, h: fastnw.jax.pool(x, x, x[:, 0], bandwidth=h).sum()
        jax.block_until_ready(jax.jit(jax.grad(loss, argnums=(0, 1)))(x, 0.1))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    before = step(100)
    print(step(20_000) - before)
    """
    assert float(fresh.run(program)) < 100
