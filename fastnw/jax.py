"""`fastnw.pool` for JAX arrays, with gradients."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

try:
    import jax
    import jax.numpy as jnp
    from jax.custom_derivatives import SymbolicZero
except ImportError as error:  # pragma: no cover
    raise ImportError("fastnw.jax needs JAX: pip install 'fastnw[jax]'") from error

from fastnw import kernels
from fastnw.gradients.differentiable import Choices, forward, gradients
from fastnw.kernels.kernel import Kernel

__all__ = ["pool"]

Inputs = tuple[Any, ...]  # queries, keys, values, bandwidth, sample_weight


def pool(
    queries: Any,
    keys: Any,
    values: Any,
    *,
    kernel: str | Kernel = "gaussian",
    bandwidth: Any = 1.0,
    sample_weight: Any = None,
    exclude_self: bool = False,
    method: str = "auto",
    backend: str = "auto",
    tol: float | None = None,
    return_mass: bool = False,
    n_jobs: int | None = None,
) -> Any:
    """Compute `fastnw.pool` of JAX arrays, with gradients by queries, keys, values, bandwidth and sample_weight.

    The computation runs on the host in a callback, also under `jax.jit`, `jax.grad` and `jax.vmap` (one call for each
    part of a batch). Gradients are of first order and in reverse mode. They sum all pairs in float64 and O(m + n)
    memory by the formulas of `fastnw.gradients.sums`.

    Parameters
    ----------
    queries : (m, d) array
    keys : (n, d) array
    values : (n,) or (n, c) array
    bandwidth : float or array of shape (), (d,) or (d, d)
        The gradient by a matrix is symmetric, as the matrix must be.
    sample_weight : (n,) array, optional
    return_mass : bool
        Whether to return log Σ w κ, which is differentiable too.
    kernel, exclude_self, method, backend, tol, n_jobs
        As in `fastnw.pool`; static under `jax.jit`.

    Returns
    -------
    result : (m,) or (m, c) array
        float32 if queries, keys and floating values are float32 or narrower, otherwise float64 (where JAX has enabled
        that). NaN in empty windows, which have no gradient.
    log_mass : (m,) array
        If requested.

    Raises
    ------
    TypeError
        A forward-mode derivative is requested (`jax.jvp`, `jax.jacfwd`).
    NotImplementedError
        A second derivative is requested.
    ValueError, TypeError
        A shape or an option is invalid. Invalid numbers raise `jax.errors.JaxRuntimeError` in the callback, with the
        same message.

    Warns
    -----
    EmptyWindowWarning, AccuracyWarning

    Examples
    --------
    >>> import jax, fastnw.jax
    >>> loss = lambda h: fastnw.jax.pool([[0.0]], [[0.0], [2.0]], [0.0, 1.0], bandwidth=h)[0]
    >>> round(float(jax.grad(loss)(2.0)), 4)
    0.1175
    """
    choices = Choices(kernels.get(kernel), bool(exclude_self), method, backend, tol, n_jobs)
    inputs = tuple(None if x is None else jnp.asarray(x) for x in (queries, keys, values, bandwidth, sample_weight))
    dtype = _checked_dtype(choices, inputs)
    mean, high, low = _pool(choices, dtype, inputs)
    return (mean, (high + low).astype(dtype)) if return_mass else mean


def _checked_dtype(choices: Choices, inputs: Inputs) -> Any:
    """Return the dtype of the result; raises for invalid shapes, which are known before the numbers are."""
    templates: list[Any] = [
        None if x is None else np.broadcast_to(np.ones((), _numpy_dtype(x)), x.shape) for x in inputs
    ]
    if np.ndim(templates[3]) == 2:
        templates[3] = np.eye(*np.shape(templates[3]))
    dtype = choices.problem(templates).dtype
    return dtype if jax.config.jax_enable_x64 else np.dtype(np.float32)


def _numpy_dtype(x: Any) -> Any:
    return np.dtype(np.float32) if x.dtype == jnp.bfloat16 else x.dtype


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _pool(choices: Choices, dtype: Any, inputs: Inputs) -> tuple[Any, Any, Any]:
    """Compute means, and log masses in two parts: their sum has the digits of float64 even if JAX disables it."""

    def call(*inputs: Any) -> tuple[Any, Any, Any]:
        mean, log_mass = forward(choices, _on_host(inputs))
        high = log_mass.astype(dtype)
        with np.errstate(invalid="ignore"):  # −inf in empty windows
            low = np.where(np.isfinite(high), log_mass - high, 0.0)
        return mean.astype(dtype), high, low.astype(dtype)

    m = inputs[0].shape[0]
    mass_shape = jax.ShapeDtypeStruct((m,), dtype)
    shapes = (jax.ShapeDtypeStruct((m, *inputs[2].shape[1:]), dtype), mass_shape, mass_shape)
    return jax.pure_callback(call, shapes, *inputs, vmap_method="sequential")


def _forward(choices: Choices, dtype: Any, primals: Inputs) -> tuple[tuple[Any, Any, Any], Any]:
    inputs = tuple(None if x is None else x.value for x in primals)
    # The flags of differentiated inputs must be known while tracing, so they are encoded in the tree structure.
    needed = tuple(() if x is not None and x.perturbed else None for x in primals)
    outputs = _pool(choices, dtype, inputs)
    return outputs, (inputs, outputs, needed)


def _backward(choices: Choices, dtype: Any, residuals: Any, cotangents: tuple[Any, Any, Any]) -> tuple[Inputs]:
    inputs, outputs, flags = residuals
    needed = [flag is not None and jnp.issubdtype(x.dtype, jnp.floating) for flag, x in zip(flags, inputs, strict=True)]
    mean_bar, mass_bar, _ = (
        jnp.zeros(x.shape, dtype) if isinstance(x, SymbolicZero) else x for x in cotangents
    )  # the low part is added to the high part, so both have the same cotangent

    def host(inputs: Inputs, outputs: tuple[Any, Any, Any], *bars: Any) -> list[Any]:
        mean, high, low = _on_host(outputs)
        log_mass = high.astype(np.float64) + low
        results = gradients(choices, _on_host(inputs), (mean, log_mass), tuple(_on_host(bars)), needed)
        return [np.asarray(g, x.dtype) for g, x in zip(results, inputs, strict=True) if g is not None]

    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x, is_needed in zip(inputs, needed, strict=True) if is_needed]

    @jax.custom_jvp
    def call(*arguments: Any) -> Any:
        return jax.pure_callback(host, shapes, *arguments, vmap_method="sequential")

    call.defjvp(_no_second_derivatives)
    results = iter(call(inputs, outputs, mean_bar, mass_bar))
    return (tuple(next(results) if is_needed else None for is_needed in needed),)


def _no_second_derivatives(*_: Any) -> Any:
    raise NotImplementedError("fastnw.jax.pool has no second derivatives.")


_pool.defvjp(_forward, _backward, symbolic_zeros=True)


def _on_host(arrays: Any) -> list[Any]:
    return [None if x is None else np.asarray(x, _numpy_dtype(x)) for x in arrays]
