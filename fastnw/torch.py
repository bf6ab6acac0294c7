"""`fastnw.pool` for PyTorch tensors, with gradients."""

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
    "fastnw.torch.pool has no forward-mode derivatives: use reverse mode (backward, torch.func.grad, vjp or jacrev)."
)
_NO_SECOND = "fastnw.torch.pool has no second derivatives."
_NARROW = (torch.float16, torch.bfloat16, torch.float32)
# Arguments of an operator cannot be Python objects, so a user's kernel is passed as a numbered name. Entries are never
# removed, because a compiled graph may refer to them.
_KERNELS: dict[Kernel, str] = {}
_BY_NAME: dict[str, Kernel] = {}


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
    """Compute `fastnw.pool` of tensors, with gradients by queries, keys, values, bandwidth and sample_weight.

    Gradients sum all pairs in float64 and O(m + n) memory by the formulas of `fastnw.gradients.sums`; far from all keys
    they are as accurate as the means. Derivatives are of first order and in reverse mode: `backward`,
    `torch.func.grad`, `vjp`, `jacrev` and `vmap` (one call for each part of a batch). `torch.compile` compiles the
    function without a graph break, also for a user's kernel; apply transforms to the compiled function, not within it.
    Tensors on other devices are copied to the host, and results to the device of the queries. Computations in bfloat16
    and float16 use float32.

    Parameters
    ----------
    queries : (m, d) tensor
    keys : (n, d) tensor
    values : (n,) or (n, c) tensor
    bandwidth : float or tensor of shape (), (d,) or (d, d)
        The gradient by a matrix is symmetric, as the matrix must be.
    sample_weight : (n,) tensor, optional
    return_mass : bool
        Whether to return log Σ w κ, which is differentiable too.
    kernel, exclude_self, method, backend, tol, n_jobs
        As in `fastnw.pool`.

    Returns
    -------
    result : (m,) or (m, c) tensor
        float32 if queries, keys and floating values are float32 or narrower, otherwise float64. NaN in empty windows,
        which have no gradient.
    log_mass : (m,) tensor
        If requested.

    Raises
    ------
    ValueError, TypeError
        As in `fastnw.pool`.
    NotImplementedError
        A second or forward-mode derivative is requested (`torch.func.jvp`, `jacfwd`, `hessian`, dual tensors).

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
        pooled = _eager_pool
    elif forward_ad._current_level < 0:
        pooled = _pool
    else:  # the operator would drop tangents without an error
        raise NotImplementedError(_NO_FORWARD_MODE)
    mean, log_mass = pooled(
        queries,
        keys,
        values,
        bandwidth,
        sample_weight,
        _registered_name(kernel),
        bool(exclude_self),
        method,
        backend,
        tol,
        n_jobs,
    )
    return (mean, log_mass.to(mean.dtype)) if return_mass else mean


@torch.compiler.assume_constant_result
def _registered_name(kernel: str | Kernel) -> str:
    """Return the name of a built-in kernel, or register a user's kernel under a numbered name."""
    kernel = kernels.get(kernel)
    if kernel.facts.built_in:
        return kernel.name
    if kernel not in _KERNELS:
        _KERNELS[kernel] = f"{kernel.name} #{len(_KERNELS)}"
        _BY_NAME[_KERNELS[kernel]] = kernel
    return _KERNELS[kernel]


def _choices(kernel: str, *others: Any) -> Choices:
    return Choices(_BY_NAME[kernel] if kernel in _BY_NAME else kernels.get(kernel), *others)


# Schemas are explicit, and name the arguments of the operators.
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
    """Compute the gradients in the order of the inputs; an empty tensor replaces one that is not needed."""
    tensors, (needed, kernel, exclude_self, backend, n_jobs) = arguments[:5], arguments[5:]
    all_gradients = gradients(
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
        for x, gradient in zip(tensors, all_gradients, strict=True)
    )


@_pool_backward.register_fake
def _(mean_grad: Tensor, log_mass_grad: Tensor, mean: Tensor, log_mass: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    tensors, needed = arguments[:5], arguments[5]
    pairs = zip(tensors, needed, strict=True)
    return tuple(x.new_empty(x.shape) if is_needed else mean_grad.new_empty(0) for x, is_needed in pairs)


def _save_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Save the tensors and options that the backward pass needs."""
    kernel, exclude_self, _method, backend, _tol, n_jobs = inputs[5:]
    ctx.save_for_backward(*output, *inputs[:5])
    ctx.choices = (kernel, exclude_self, backend, n_jobs)


def _backward(ctx: Any, mean_grad: Tensor, log_mass_grad: Tensor) -> tuple[Tensor | None, ...]:
    return _needed_gradients(ctx, _pool_backward(mean_grad, log_mass_grad, *_saved(ctx)))


def _saved(ctx: Any) -> tuple[Any, ...]:
    """Return what `_save_context` saved, as arguments of `_pool_backward`."""
    return (*ctx.saved_tensors, list(ctx.needs_input_grad[:5]), *ctx.choices)


def _needed_gradients(ctx: Any, gradients: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Return one entry per argument of `_pool`: the gradient, or None if it is not needed or does not exist."""
    pairs = zip(gradients, ctx.needs_input_grad[:5], strict=True)
    return (*(gradient if is_needed else None for gradient, is_needed in pairs), *([None] * 6))


def _no_second_derivatives(ctx: Any, *grads: Any) -> None:
    raise NotImplementedError(_NO_SECOND)


@torch.compiler.disable  # also for its callees, because a transform may run a compiled function eagerly
def _eager_pool(*inputs: Any) -> Any:
    return _Pool.apply(*inputs)


@torch.compiler.disable
def _map_batch(function: Any, info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, Any]:
    """Apply the function to each part of a batch: the rule of `torch.vmap`."""

    def part(i: int) -> list[Any]:
        return [
            x.select(dim, i) if isinstance(x, Tensor) and dim is not None else x
            for x, dim in zip(inputs, in_dims, strict=True)
        ]

    results = zip(*(function(*part(i)) for i in range(info.batch_size)), strict=True)
    stacked = tuple(torch.stack(outputs) for outputs in results)
    return stacked, (0,) * len(stacked)


_pool.register_autograd(_backward, setup_context=_save_context)
_pool_backward.register_autograd(_no_second_derivatives)
if hasattr(torch.library, "register_vmap"):  # since torch 2.5

    @torch.library.register_vmap(_pool)
    def _(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _map_batch(_pool, info, in_dims, *inputs)

    @torch.library.register_vmap(_pool_backward)
    def _(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _map_batch(_pool_backward, info, in_dims, *inputs)


# Compiled graphs use the operators. Eager calls use the autograd functions below, because an operator cannot raise an
# error for forward-mode derivatives: it would drop the tangents.
class _Pool(torch.autograd.Function):
    """The operator `_pool` with errors for unsupported derivatives."""

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return _pool(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _save_context(ctx, inputs, output)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _needed_gradients(ctx, _PoolBackward.apply(*grads, *_saved(ctx)))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(_NO_FORWARD_MODE)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _map_batch(_Pool.apply, info, in_dims, *inputs)


class _PoolBackward(torch.autograd.Function):
    """The operator `_pool_backward` with errors for unsupported derivatives."""

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
        return _map_batch(_PoolBackward.apply, info, in_dims, *inputs)


def _to_numpy(tensor: Tensor | None) -> Any:
    """Convert a tensor to a host array; bfloat16, which NumPy does not have, to float32."""
    if tensor is None:
        return None
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
