"""`pool` for JAX arrays, with gradients."""

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
    """`fastnw.pool` for JAX arrays, differentiable by queries, keys, values, bandwidth and sample_weight.

    The computation runs on the host, in a callback, also under `jax.jit`, `jax.grad` and `jax.vmap` (which calls it for
    each part of the batch). Derivatives are of first order and in reverse mode. Gradients sum all pairs in float64, in
    O(m + n) memory, by the formulas of `fastnw.gradients.sums`.

    Parameters
    ----------
    queries : (m, d) array
        The points at which to predict.
    keys : (n, d) array
        The points with known values.
    values : (n,) or (n, c) array
        The values of the keys.
    bandwidth : float or array of shape (), (d,) or (d, d)
        The bandwidth. The derivative by a matrix is symmetric, as the matrix must be.
    sample_weight : (n,) array, optional
        The weights of the keys.
    return_mass : bool
        Whether to return log Σ w κ, too, which is differentiable.
    kernel, exclude_self, method, backend, tol, n_jobs
        As in `fastnw.pool`; static under `jax.jit`.

    Returns
    -------
    result : (m,) or (m, c) array
        The means: float32 if queries, keys and floating values are float32 or narrower, or if JAX has not enabled
        64 bits; otherwise float64. They are NaN in empty windows, which have no gradient.
    log_mass : (m,) array
        log Σ w κ, with `return_mass`.

    Raises
    ------
    TypeError
        For forward-mode derivatives (`jax.jvp`, `jax.jacfwd`).
    NotImplementedError
        For second derivatives.
    ValueError, TypeError
        For invalid shapes and options, as in `fastnw.pool`. For invalid numbers, the callback raises a
        `jax.errors.JaxRuntimeError` with the same message.

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
    """Return the dtype of the result. This validates the shapes before the callback, so that errors keep their type."""
    like: list[Any] = [None if x is None else np.broadcast_to(np.ones((), _numpy_dtype(x)), x.shape) for x in inputs]
    if np.ndim(like[3]) == 2:
        like[3] = np.eye(*np.shape(like[3]))
    dtype = choices.problem(like).dtype
    return dtype if jax.config.jax_enable_x64 else np.dtype(np.float32)


def _numpy_dtype(x: Any) -> Any:
    return np.dtype(np.float32) if x.dtype == jnp.bfloat16 else x.dtype


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _pool(choices: Choices, dtype: Any, inputs: Inputs) -> tuple[Any, Any, Any]:
    """Return means, and log masses as two parts, whose sum has the digits of float64 although JAX may have 32 bits."""

    def call(*inputs: Any) -> tuple[Any, Any, Any]:
        mean, log_mass = forward(choices, _on_host(inputs))
        high = log_mass.astype(dtype)
        with np.errstate(invalid="ignore"):  # -inf of empty windows
            low = np.where(np.isfinite(high), log_mass - high, 0.0)
        return mean.astype(dtype), high, low.astype(dtype)

    m = inputs[0].shape[0]
    one = jax.ShapeDtypeStruct((m,), dtype)
    shapes = (jax.ShapeDtypeStruct((m, *inputs[2].shape[1:]), dtype), one, one)
    return jax.pure_callback(call, shapes, *inputs, vmap_method="sequential")


def _forward(choices: Choices, dtype: Any, primals: Inputs) -> tuple[tuple[Any, Any, Any], Any]:
    inputs = tuple(None if x is None else x.value for x in primals)
    # Tracing hides numbers, not structure: () marks an input that is differentiated, None one that is not.
    needed = tuple(() if x is not None and x.perturbed else None for x in primals)
    outputs = _pool(choices, dtype, inputs)
    return outputs, (inputs, outputs, needed)


def _backward(choices: Choices, dtype: Any, saved: Any, cotangents: tuple[Any, Any, Any]) -> tuple[Inputs]:
    inputs, outputs, marks = saved
    needed = [mark is not None and jnp.issubdtype(x.dtype, jnp.floating) for mark, x in zip(marks, inputs, strict=True)]
    mean_bar, mass_bar, _ = (
        jnp.zeros(x.shape, dtype) if isinstance(x, SymbolicZero) else x for x in cotangents
    )  # the cotangent of the low part equals that of the high part, since their sum is used

    def host(inputs: Inputs, outputs: tuple[Any, Any, Any], *bars: Any) -> list[Any]:
        mean, high, low = _on_host(outputs)
        log_mass = high.astype(np.float64) + low
        computed = gradients(choices, _on_host(inputs), (mean, log_mass), tuple(_on_host(bars)), needed)
        return [np.asarray(g, x.dtype) for g, x in zip(computed, inputs, strict=True) if g is not None]

    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x, is_needed in zip(inputs, needed, strict=True) if is_needed]

    @jax.custom_jvp
    def call(*arguments: Any) -> Any:
        return jax.pure_callback(host, shapes, *arguments, vmap_method="sequential")

    call.defjvp(_no_second_derivatives)
    needed_gradients = iter(call(inputs, outputs, mean_bar, mass_bar))
    return (tuple(next(needed_gradients) if is_needed else None for is_needed in needed),)


def _no_second_derivatives(*_: Any) -> Any:
    raise NotImplementedError("fastnw.jax.pool has no second derivatives.")


_pool.defvjp(_forward, _backward, symbolic_zeros=True)


def _on_host(arrays: Any) -> list[Any]:
    return [None if x is None else np.asarray(x, _numpy_dtype(x)) for x in arrays]
