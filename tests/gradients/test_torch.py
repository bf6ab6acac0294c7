"""fastnw.torch: gradients against differences, and against PyTorch's own of the formula written with (m, n) arrays."""

from __future__ import annotations

import frameworks
import fresh
import numpy as np
import pytest
from cases import KERNELS, spread_bandwidth

import fastnw

torch = frameworks.module("torch")

import fastnw.torch  # noqa: E402

OPERATOR = torch.ops.fastnw.pool.default


def tensors(m=6, n=9, d=2, columns=(), dtype=torch.float64, seed=0, grad=True):
    """Queries, keys, values and weights that ask for gradients."""
    rng = np.random.default_rng(seed)
    arrays = (
        0.5 * rng.normal(size=(m, d)),
        0.5 * rng.normal(size=(n, d)),
        rng.normal(size=(n, *columns)),
        rng.gamma(2.0, size=n),
    )
    return [torch.tensor(array, dtype=dtype, requires_grad=grad) for array in arrays]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", ["number", "vector", "matrix"])
def test_gradients_are_differences(kernel, shape):
    queries, keys, values, weights = tensors(columns=(2,))
    bandwidth = 3 * np.asarray(spread_bandwidth(shape, 2, np.random.default_rng(0)))
    # only symmetric matrices are bandwidths: differences go through a factor
    root = np.linalg.cholesky(bandwidth) if shape == "matrix" else bandwidth
    root = torch.tensor(root, dtype=torch.float64, requires_grad=True)

    def pooled(queries, keys, values, weights, root):
        bandwidth = root @ root.T if shape == "matrix" else root
        return fastnw.torch.pool(
            queries, keys, values, kernel=kernel, bandwidth=bandwidth, sample_weight=weights, return_mass=True
        )

    assert torch.autograd.gradcheck(pooled, (queries, keys, values, weights, root), fast_mode=True)


def test_gradients_are_those_of_the_formula():
    queries, keys, values, weights = tensors(30, 50, 3, (4,), seed=1)
    bandwidth = torch.tensor([0.7, 1.0, 1.5], dtype=torch.float64, requires_grad=True)
    inputs = (queries, keys, values, weights, bandwidth)
    scaled = (queries[:, None] - keys) / bandwidth
    expected = torch.softmax(-(scaled**2).sum(dim=-1) / 2 + weights.log(), dim=1) @ values
    found = fastnw.torch.pool(queries, keys, values, bandwidth=bandwidth, sample_weight=weights, tol=1e-13)
    # sums of some dozen terms of order 1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    cotangent = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).reshape(found.shape)
    for one, other in zip(
        torch.autograd.grad(found, inputs, cotangent), torch.autograd.grad(expected, inputs, cotangent), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_leave_one_out():
    _, keys, values, _ = tensors(n=40)
    h = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    found = fastnw.torch.pool(keys, keys, values, bandwidth=h, exclude_self=True)
    scores = -(((keys[:, None] - keys) / h) ** 2).sum(dim=-1) / 2
    scores = scores.masked_fill(torch.eye(40, dtype=torch.bool), -torch.inf)
    expected = torch.softmax(scores, dim=1) @ values
    for one, other in zip(
        torch.autograd.grad((found - values).square().sum(), (h, keys, values)),
        torch.autograd.grad((expected - values).square().sum(), (h, keys, values)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)  # means are only promised to 1e-8


@pytest.mark.parametrize("columns", [(), (3,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_are_pools(columns, dtype):
    queries, keys, values, _ = tensors(20, 30, 2, columns, dtype)
    found = fastnw.torch.pool(queries, keys, values, kernel="cauchy", bandwidth=0.5)
    expected = fastnw.pool(*(x.detach().numpy() for x in (queries, keys, values)), kernel="cauchy", bandwidth=0.5)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.detach().numpy(), expected)


def test_float32_gradients():
    wide = tensors(20, 30, 2)
    narrow = [x.detach().float().requires_grad_() for x in wide]
    results = []
    for queries, keys, values, weights in (wide, narrow):
        h = torch.tensor(0.5, dtype=queries.dtype, requires_grad=True)
        mean = fastnw.torch.pool(queries, keys, values, bandwidth=h, sample_weight=weights)
        results.append(torch.autograd.grad(mean.square().sum(), (queries, keys, values, weights, h)))
    for expected, found in zip(*results, strict=True):
        assert found.dtype == torch.float32
        # inputs are rounded to 6e-8, means promised to 1e-4 of a range of 4
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


def test_the_operator_keeps_its_promises():
    queries, keys, values, weights = tensors()
    bandwidth = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    for inputs in ((queries, keys, values, bandwidth, weights), (queries, keys.detach(), values, bandwidth, None)):
        results = torch.library.opcheck(OPERATOR, (*inputs, "gaussian", False, "auto", "auto", None, None))
        assert set(results.values()) == {"SUCCESS"}


def test_compiled_graphs():
    queries, keys, values, _ = tensors()

    def loss(queries):
        return fastnw.torch.pool(queries, keys, values, kernel="matern52").square().sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    (found,), (expected,) = (torch.autograd.grad(f(queries), (queries,)) for f in (compiled, loss))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)


def test_users_kernels():
    queries, keys, values, _ = tensors()
    mine = fastnw.Kernel("mine", lambda u2: (1 - u2) ** 2, support=1.0)
    found, expected = (
        torch.autograd.grad(fastnw.torch.pool(queries, keys, values, kernel=k, bandwidth=2.0).sum(), (queries, keys))
        for k in (mine, "biweight")
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-8)


def test_empty_windows_have_no_gradient():
    queries = torch.tensor([[0.0], [9.0]], requires_grad=True)
    keys = torch.tensor([[0.5], [-0.2]], requires_grad=True)
    with pytest.warns(fastnw.EmptyWindowWarning, match="1 of 2"):
        mean = fastnw.torch.pool(queries, keys, torch.tensor([1.0, 2.0]), kernel="epanechnikov")
    assert mean.isnan().tolist() == [False, True]
    mean.sum().backward()
    assert queries.grad[1] == 0
    assert queries.grad[0] != 0
    assert torch.all(keys.grad.isfinite() & (keys.grad != 0))


def test_weights_of_zero_have_gradients():
    queries, keys, values, weights = tensors()
    with torch.no_grad():
        weights[0] = 0
    mean = fastnw.torch.pool(queries, keys, values, sample_weight=weights)
    by_keys, by_weights = torch.autograd.grad(mean.sum(), (keys, weights))
    assert torch.all(by_keys[0] == 0)
    kappa = torch.exp(-((queries[:, None] - keys) ** 2).sum(dim=-1) / 2)
    expected = (kappa[:, 0] * (values[0] - mean) / (kappa @ weights)).sum()
    torch.testing.assert_close(by_weights[0], expected, rtol=1e-6, atol=0)


def test_no_second_derivatives():
    queries, keys, values, _ = tensors()
    (first,) = torch.autograd.grad(fastnw.torch.pool(queries, keys, values).sum(), queries, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        first.sum().backward()


# torch's own, when forward mode is first used
forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")


@forward_mode
def test_second_derivatives_of_any_kind_raise():
    queries, keys, values, _ = tensors(grad=False)
    h = torch.tensor(1.0, dtype=torch.float64)

    def loss(h):
        return fastnw.torch.pool(queries, keys, values, bandwidth=h).square().sum()

    func = torch.func
    for second in (func.grad(func.grad(loss)), func.jacrev(func.jacrev(loss)), func.hessian(loss)):
        with pytest.raises(NotImplementedError, match=r"fastnw\.torch\.pool has no"):
            second(h)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.autograd.functional.hessian(loss, h)


@forward_mode
@pytest.mark.parametrize("place", range(5))
def test_forward_mode_raises(place):
    """By whichever input: no tangent is dropped."""
    queries, keys, values, weights = tensors(grad=False)
    inputs = [queries, keys, values, weights, torch.tensor(1.0, dtype=torch.float64)]

    def pooled(x):
        arguments = [*inputs[:place], x, *inputs[place + 1 :]]
        return fastnw.torch.pool(*arguments[:3], sample_weight=arguments[3], bandwidth=arguments[4])

    compiled, x = torch.compile(pooled, backend="aot_eager"), inputs[place]
    for function in (pooled, compiled):
        function(x)
        with pytest.raises(NotImplementedError, match="forward-mode"):
            torch.func.jvp(function, (x,), (torch.ones_like(x),))
        with pytest.raises(NotImplementedError, match="forward-mode"):
            torch.func.jacfwd(function)(x)
        for leaf in (x, x.clone().requires_grad_()):
            with torch.autograd.forward_ad.dual_level():
                dual = torch.autograd.forward_ad.make_dual(leaf, torch.ones_like(x))
                with pytest.raises(NotImplementedError, match="forward-mode"):
                    function(dual)


def test_transforms_of_reverse_mode():
    """torch.func's grad, vjp, jacrev and vmap, and batches of cotangents."""
    queries, keys, values, weights = tensors(grad=False)
    h = torch.tensor(0.7, dtype=torch.float64)

    def pooled(queries, h):
        return fastnw.torch.pool(queries, keys, values, bandwidth=h, sample_weight=weights)

    def loss(queries, h):
        return pooled(queries, h).square().sum()

    leaves = (queries.clone().requires_grad_(), h.clone().requires_grad_())
    expected = torch.autograd.grad(loss(*leaves), leaves)
    found, value = torch.func.grad_and_value(loss, argnums=(0, 1))(queries, h)
    torch.testing.assert_close(value, loss(queries, h))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    jacobian = torch.func.jacrev(pooled)(queries, h)
    rows = [torch.autograd.grad(pooled(*leaves)[i], leaves[0])[0] for i in range(len(queries))]
    assert torch.equal(jacobian, torch.stack(rows))
    vectorised = torch.autograd.functional.jacobian(lambda q: pooled(q, h), queries, vectorize=True)
    assert torch.equal(vectorised, jacobian)
    batch = torch.stack([queries, queries + 0.1], dim=1)
    for gradient, dims in ((torch.func.grad(loss), (1, None)), (torch.func.grad(loss), (1, 0))):
        widths = h if dims[1] is None else torch.stack([h, 2 * h])
        mapped = torch.func.vmap(gradient, in_dims=dims)(batch, widths)
        for i, part in enumerate(mapped):
            assert torch.equal(part, gradient(batch[:, i], widths if dims[1] is None else widths[i]))
    leaf = batch.clone().requires_grad_()
    through = torch.func.vmap(loss, in_dims=(1, None))(leaf, h).sum()
    (by_batch,) = torch.autograd.grad(through, leaf)
    assert torch.equal(by_batch[:, 0], expected[0])


def test_users_kernels_in_compiled_graphs_of_a_fresh_process():
    """A graph may be the first to meet a kernel, and may meet several of one name."""
    program = """
    import torch, fastnw, fastnw.torch
    kernels = [fastnw.Kernel("mine", lambda u2, p=p: 1 / (1 + u2) ** p) for p in (2, 3)]
    q = torch.linspace(0, 1, 20, dtype=torch.float64)[:, None].requires_grad_()
    def pooled(q, h, kernel=kernels[0]):
        return fastnw.torch.pool(q, q, q[:, 0] ** 2, kernel=kernel, bandwidth=h)
    class Layer(torch.nn.Module):
        def __init__(self, kernel):
            super().__init__()
            self.kernel, self.h = kernel, torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        def forward(self, q):
            return fastnw.torch.pool(q, q, q[:, 0] ** 2, kernel=self.kernel, bandwidth=self.h)
    compiled = torch.compile(pooled, backend="aot_eager", fullgraph=True)
    h = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    first = torch.autograd.grad(compiled(q, h).square().sum(), (q, h))
    layers = [Layer(kernel) for kernel in kernels]
    found = [torch.compile(layer, backend="aot_eager", fullgraph=True)(q) for layer in layers]
    assert all(torch.equal(a, pooled(q, h, kernel)) for a, kernel in zip(found, kernels))
    assert not torch.equal(*found)
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(pooled(q, h).square().sum(), (q, h))))
    print("right")
    """
    assert fresh.run(program).split()[-1] == "right"


def test_gradients_far_from_all_keys():
    """Against the logistic function of the difference of two keys' exponents, which is known exactly."""
    for u in (1e3, 1e6, 1e8):
        gap = 1.0 / u
        queries = torch.tensor([[u, 0.0]], dtype=torch.float64, requires_grad=True)
        keys = torch.tensor([[gap, 0.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
        weights = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
        values = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
        h = torch.tensor([1.0, 1.0], dtype=torch.float64, requires_grad=True)
        mean = fastnw.torch.pool(queries, keys, values, sample_weight=weights, bandwidth=h)
        inputs = (queries, keys, values, weights, h)
        found = torch.autograd.grad(mean.sum(), inputs)
        exponent = u * gap - gap**2 / 2  # of the first key over the second
        share = 1 / (1 + 2 * np.exp(-exponent))
        slope = share * (1 - share)
        expected = (
            [[slope * gap, 0.0]],
            [[slope * (u - gap), 0.0], [-slope * u, 0.0]],
            [share, 1 - share],
            [slope, -slope / 2],
            [-2 * slope * exponent, 0.0],
        )
        for one, other in zip(found, expected, strict=True):
            size = np.abs(other).max()
            torch.testing.assert_close(one, torch.tensor(other, dtype=torch.float64), rtol=0, atol=1e-9 * size)


def test_float32_values_far_from_zero():
    """Means of values near 1e6 are rounded to 0.06; their gradients are not."""
    queries, keys, values, _ = tensors(20, 30, 2, dtype=torch.float32)
    with torch.no_grad():
        values.copy_(torch.round(values * 8) / 8)  # what float32 holds near 2^20
    near, far = (
        torch.autograd.grad(fastnw.torch.pool(queries, keys, values + offset).sum(), (queries, keys))
        for offset in (0.0, 2.0**20)
    )
    for one, other in zip(far, near, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3 * other.abs().max().item())


def test_bfloat16():
    """Read as float32, and float32 comes back, by `fastnw.pool` and the other functions of arrays too."""
    queries, keys, values, weights = (x.bfloat16() for x in tensors(20, 30, 2, grad=False))
    wide = [x.float() for x in (queries, keys, values, weights)]
    h = torch.tensor(0.5).bfloat16()
    calls = (
        lambda q, k, v, w, **options: fastnw.pool(q, k, v, sample_weight=w, **options),
        lambda q, k, v, w, **options: fastnw.torch.pool(q, k, v, sample_weight=w, **options),
        lambda q, k, v, w, **options: fastnw.density(q, k, sample_weight=w, **options),
        lambda q, k, v, w, **options: fastnw.attention_weights(q, k, sample_weight=w, **options),
    )
    for call in calls:
        found = call(queries, keys, values, weights, bandwidth=h)
        assert found.dtype == torch.float32
        assert torch.equal(found, call(*wide, bandwidth=0.5))
    assert fastnw.pool(queries, keys, values.double()).dtype == torch.float64
    by_first, wide_first = (fastnw.select_bandwidth(k[:, :1], k[:, 0]) for k in (keys, wide[1]))
    assert by_first.score == wide_first.score
    leaf = queries.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(fastnw.torch.pool(leaf, keys, values).sum(), leaf)
    assert gradient.dtype == torch.bfloat16
    assert torch.all(gradient != 0)


def test_wrong_input_is_reported_as_by_pool():
    queries, keys, values, _ = tensors()
    with pytest.raises(ValueError, match="queries has 2 features, but keys has 1"):
        fastnw.torch.pool(queries, keys[:, :1], values)
    with pytest.raises(ValueError, match="bandwidth must be positive"):
        fastnw.torch.pool(queries, keys, values, bandwidth=torch.tensor(-1.0))
    with pytest.raises(ValueError, match="kernel"):
        fastnw.torch.pool(queries, keys, values, kernel="no such")


def test_a_linear_layer_in_front_is_learnt():
    """Of ten inputs the values depend on one combination: a projection to one coordinate is enough."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 10, generator=generator)
    y = torch.tanh(x[:, 0] - x[:, 1])
    layer = torch.nn.Linear(10, 1)
    torch.nn.init.constant_(layer.weight, 0.2)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.1)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        z = layer(x)
        loss = (fastnw.torch.pool(z, z, y, bandwidth=0.3, exclude_self=True) - y).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_memory_does_not_grow_with_pairs():
    """One byte a pair would be 400 MB."""
    program = """
    import resource, torch, fastnw.torch
    def step(m):
        x = torch.linspace(0, 1, m, dtype=torch.float64)[:, None].requires_grad_()
        h = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
        fastnw.torch.pool(x, x, x[:, 0], bandwidth=h).sum().backward()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    before = step(100)
    print(step(20_000) - before)
    """
    assert float(fresh.run(program)) < 100
