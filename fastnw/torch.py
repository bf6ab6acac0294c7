"""`pool` for PyTorch tensors, with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

try:
    import torch
    from torch import Tensor
    from torch.autograd import forward_ad
except ImportError as error:  # pragma: no cover
    raise ImportError("fastnw.torch needs PyTorch: pip install 'fastnw[torch]'") from error

from fastnw import kernels
from fastnw.gradients.differentiable import Choices, forward, gradients
from fastnw.kernels.kernel import Kernel

__all__ = ["pool"]

_NO_FORWARD_MODE = (
    "fastnw.torch.pool has no forward-mode derivatives. Use reverse mode: backward, torch.func.grad, vjp or jacrev."
)
_NO_SECOND = "fastnw.torch.pool has no second derivatives."
_NARROW = (torch.float16, torch.bfloat16, torch.float32)
# The arguments of an operator cannot be Python objects, so a user's kernel is passed by a numbered name. These
# dictionaries keep every kernel, because a compiled graph may hold its name for as long as the process lives.
_KERNELS: dict[Kernel, str] = {}
_BY_NUMBER: dict[str, Kernel] = {}


def pool(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    kernel: str | Kernel = "gaussian",
    bandwidth: float | Tensor = 1.0,
    sample_weight: Tensor | None = None,
    exclude_self: bool = False,
    method: str = "auto",
    backend: str = "auto",
    tol: float | None = None,
    return_mass: bool = False,
    n_jobs: int | None = None,
) -> Any:
    """`fastnw.pool` for tensors, differentiable by queries, keys, values, bandwidth and sample_weight.

    Gradients sum all pairs in float64, in O(m + n) memory, by the formulas of `fastnw.gradients.sums`. For queries far
    from all keys, they are as accurate as the means. Derivatives are of first order and in reverse mode: `backward`,
    `torch.func.grad`, `vjp`, `jacrev` and `vmap` (one call for each part of a batch). `torch.compile` compiles calls
    without a graph break, with a user's kernel too; apply transforms to the compiled function, not inside it. Tensors
    on other devices are copied to the host, and the results go to the device of the queries. bfloat16 and float16 are
    computed in float32.

    Parameters
    ----------
    queries : (m, d) tensor
        The points at which to predict.
    keys : (n, d) tensor
        The points with known values.
    values : (n,) or (n, c) tensor
        The values of the keys.
    bandwidth : float or tensor of shape (), (d,) or (d, d)
        The bandwidth. The derivative by a matrix is symmetric, as the matrix must be.
    sample_weight : (n,) tensor, optional
        The weights of the keys.
    return_mass : bool
        Whether to return log Σ w κ, too, which is differentiable.
    kernel, exclude_self, method, backend, tol, n_jobs
        As in `fastnw.pool`.

    Returns
    -------
    result : (m,) or (m, c) tensor
        The means: float32 if queries, keys and floating values are float32 or narrower, otherwise float64. They are NaN
        in empty windows, which have no gradient.
    log_mass : (m,) tensor
        log Σ w κ, with `return_mass`.

    Raises
    ------
    ValueError, TypeError
        As in `fastnw.pool`.
    NotImplementedError
        For second derivatives and for forward mode (`torch.func.jvp`, `jacfwd`, `hessian`, dual tensors).

    Warns
    -----
    EmptyWindowWarning, AccuracyWarning

    Examples
    --------
    >>> import torch, fastnw.torch
    >>> h = torch.tensor(2.0, requires_grad=True)
    >>> keys, values = torch.tensor([[0.0], [2.0]]), torch.tensor([0.0, 1.0])
    >>> fastnw.torch.pool(torch.zeros(1, 1), keys, values, bandwidth=h).backward()
    >>> round(h.grad.item(), 4)
    0.1175
    """
    if not isinstance(bandwidth, Tensor):
        bandwidth = torch.as_tensor(bandwidth, dtype=torch.float64)
    if not torch.compiler.is_compiling():
        pooled = _eagerly
    elif forward_ad._current_level < 0:
        pooled = _pool
    else:  # the operator would ignore the tangents
        raise NotImplementedError(_NO_FORWARD_MODE)
    mean, log_mass = pooled(
        queries,
        keys,
        values,
        bandwidth,
        sample_weight,
        _named(kernel),
        bool(exclude_self),
        method,
        backend,
        tol,
        n_jobs,
    )
    return (mean, log_mass.to(mean.dtype)) if return_mass else mean


@torch.compiler.assume_constant_result
def _named(kernel: str | Kernel) -> str:
    """Return the name by which the operators know the kernel."""
    kernel = kernels.get(kernel)
    if kernel.facts.built_in:
        return kernel.name
    if kernel not in _KERNELS:
        _KERNELS[kernel] = f"{kernel.name} #{len(_KERNELS)}"
        _BY_NUMBER[_KERNELS[kernel]] = kernel
    return _KERNELS[kernel]


def _choices(kernel: str, *others: Any) -> Choices:
    return Choices(_BY_NUMBER[kernel] if kernel in _BY_NUMBER else kernels.get(kernel), *others)


# Schemas are written out, and name the arguments of the operators.
_INPUTS = "Tensor queries, Tensor keys, Tensor values, Tensor bandwidth, Tensor? sample_weight"


@torch.library.custom_op(
    "fastnw::pool",
    mutates_args=(),
    schema=f"({_INPUTS}, str kernel, bool exclude_self, str method, str backend, float? tol, int? n_jobs) "
    "-> (Tensor, Tensor)",
)
def _pool(*arguments: Any) -> tuple[Tensor, Tensor]:
    inputs, choices = arguments[:5], arguments[5:]
    mean, log_mass = forward(_choices(*choices), [_to_numpy(x) for x in inputs])
    device = inputs[0].device
    return torch.from_numpy(mean).to(device), torch.from_numpy(log_mass).to(device)


@_pool.register_fake
def _(queries: Tensor, keys: Tensor, values: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    narrow = all(x.dtype in _NARROW for x in (queries, keys)) and (
        not values.is_floating_point() or values.dtype in _NARROW
    )
    m = queries.shape[0]
    mean = queries.new_empty((m, *values.shape[1:]), dtype=torch.float32 if narrow else torch.float64)
    return mean, queries.new_empty((m,), dtype=torch.float64)


@torch.library.custom_op(
    "fastnw::pool_backward",
    mutates_args=(),
    schema=f"(Tensor mean_grad, Tensor log_mass_grad, Tensor mean, Tensor log_mass, {_INPUTS}, bool[] needed, "
    "str kernel, bool exclude_self, str backend, int? n_jobs) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _pool_backward(
    mean_grad: Tensor, log_mass_grad: Tensor, mean: Tensor, log_mass: Tensor, *arguments: Any
) -> tuple[Tensor, ...]:
    """Return the gradients in the order of the inputs, with an empty tensor for each that is not needed."""
    tensors, (needed, kernel, exclude_self, backend, n_jobs) = arguments[:5], arguments[5:]
    computed = gradients(
        _choices(kernel, exclude_self, "auto", backend, None, n_jobs),
        [_to_numpy(x) for x in tensors],
        (_to_numpy(mean), _to_numpy(log_mass)),
        (_to_numpy(mean_grad), _to_numpy(log_mass_grad)),
        needed,
    )
    return tuple(
        mean_grad.new_empty(0)
        if gradient is None
        else torch.from_numpy(np.ascontiguousarray(gradient).reshape(x.shape)).to(x.device, x.dtype)
        for x, gradient in zip(tensors, computed, strict=True)
    )


@_pool_backward.register_fake
def _(mean_grad: Tensor, log_mass_grad: Tensor, mean: Tensor, log_mass: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    tensors, needed = arguments[:5], arguments[5]
    pairs = zip(tensors, needed, strict=True)
    return tuple(x.new_empty(x.shape) if is_needed else mean_grad.new_empty(0) for x, is_needed in pairs)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    kernel, exclude_self, _method, backend, _tol, n_jobs = inputs[5:]
    ctx.save_for_backward(*output, *inputs[:5])
    ctx.choices = (kernel, exclude_self, backend, n_jobs)


def _backward(ctx: Any, mean_grad: Tensor, log_mass_grad: Tensor) -> tuple[Tensor | None, ...]:
    return _gradients_of_inputs(ctx, _pool_backward(mean_grad, log_mass_grad, *_saved(ctx)))


def _saved(ctx: Any) -> tuple[Any, ...]:
    return (*ctx.saved_tensors, list(ctx.needs_input_grad[:5]), *ctx.choices)


def _gradients_of_inputs(ctx: Any, gradients: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    pairs = zip(gradients, ctx.needs_input_grad[:5], strict=True)
    return (*(gradient if is_needed else None for gradient, is_needed in pairs), *([None] * 6))


def _no_second_derivatives(ctx: Any, *grads: Any) -> None:
    raise NotImplementedError(_NO_SECOND)


@torch.compiler.disable  # a compiled function may run eagerly under a transform; nothing below is compiled then
def _eagerly(*inputs: Any) -> Any:
    return _Pool.apply(*inputs)


@torch.compiler.disable
def _call_for_each_part(function: Any, info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, Any]:
    """The rule for `torch.vmap`: call the function for each part of the batch."""

    def part(i: int) -> list[Any]:
        return [
            x.select(dim, i) if isinstance(x, Tensor) and dim is not None else x
            for x, dim in zip(inputs, in_dims, strict=True)
        ]

    results = zip(*(function(*part(i)) for i in range(info.batch_size)), strict=True)
    stacked = tuple(torch.stack(outputs) for outputs in results)
    return stacked, (0,) * len(stacked)


_pool.register_autograd(_backward, setup_context=_save_for_backward)
_pool_backward.register_autograd(_no_second_derivatives)
if hasattr(torch.library, "register_vmap"):  # since torch 2.5

    @torch.library.register_vmap(_pool)
    def _(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _call_for_each_part(_pool, info, in_dims, *inputs)

    @torch.library.register_vmap(_pool_backward)
    def _(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _call_for_each_part(_pool_backward, info, in_dims, *inputs)


# Compiled graphs call the operators. Eager calls go through these functions, which refuse tangents: an operator without
# a rule for forward mode ignores them.
class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(*inputs: Any) -> Any:
        return _pool(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _save_for_backward(ctx, inputs, output)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _gradients_of_inputs(ctx, _PoolBackward.apply(*grads, *_saved(ctx)))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(_NO_FORWARD_MODE)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _call_for_each_part(_Pool.apply, info, in_dims, *inputs)


class _PoolBackward(torch.autograd.Function):
    @staticmethod
    def forward(*inputs: Any) -> Any:
        return _pool_backward(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(_NO_SECOND)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(_NO_SECOND)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _call_for_each_part(_PoolBackward.apply, info, in_dims, *inputs)


def _to_numpy(tensor: Tensor | None) -> Any:
    if tensor is None:
        return None
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
