"""Arrays of other frameworks, in and out. None of them is imported here: a framework is known by its arrays' module."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Restore = Callable[[Any], Any]


def to_numpy(array: Any) -> Any:
    """A host array for arrays of torch, JAX, TensorFlow, CuPy and Numba, and for what has ``__cuda_array_interface__``
    (without a copy where the framework shares host memory); anything else as it is."""
    kind = _framework(array)
    if kind == "torch":
        return array.detach().cpu().numpy()
    if kind == "cupy":
        return array.get()
    if kind == "numba":
        return array.copy_to_host()
    if kind == "cuda":
        return _numba_cuda(array).as_cuda_array(array).copy_to_host()
    if kind in ("jax", "tensorflow"):
        return np.asarray(array)
    return array


def restorer(*arrays: Any) -> Restore:
    """A function that turns results into the kind, and onto the device, of the first framework array among `arrays`."""
    for array in arrays:
        kind = _framework(array)
        if kind == "torch":
            torch, device = sys.modules["torch"], array.device
            return lambda result: torch.from_numpy(np.ascontiguousarray(result)).to(device)
        if kind == "cupy":
            cupy, device = sys.modules["cupy"], array.device
            return lambda result: _on_cupy(cupy, device, result)
        if kind == "jax":
            jax, device = sys.modules["jax"], next(iter(array.devices()))
            return lambda result: jax.device_put(result, device)
        if kind == "tensorflow":
            tensorflow = sys.modules["tensorflow"]
            return lambda result: tensorflow.convert_to_tensor(result)
        if kind in ("numba", "cuda"):
            cuda = _numba_cuda(array)
            return lambda result: cuda.to_device(np.ascontiguousarray(result))
    return lambda result: result


def backend_for(backend: str, *arrays: Any) -> str:
    """The backend asked for; for ``"auto"`` and an array on a CUDA device, CUDA, if it runs here."""
    if backend != "auto" or not any(on_cuda(array) for array in arrays):
        return backend
    from fastnw.backends import cuda

    return "cuda" if cuda.missing() is None else backend


def on_cuda(array: Any) -> bool:
    """Whether the array lies in the memory of an NVIDIA GPU."""
    if _framework(array) == "torch":
        return bool(array.is_cuda)
    return _framework(array) in ("numba", "cuda") or _has_cuda_interface(array)


def _has_cuda_interface(array: Any) -> bool:
    try:
        return hasattr(array, "__cuda_array_interface__")
    except Exception:  # a property that refuses in words of its own, as for arrays in the host's memory
        return False


def _numba_cuda(array: Any) -> Any:
    """numba.cuda, to copy an array that no framework copies for us.

    Raises
    ------
    ValueError
        It is not there.
    """
    from fastnw.backends import cuda as backend

    missing = backend.missing()
    if missing is not None:
        raise ValueError(f"{type(array).__name__} lies on a CUDA device, and {missing}.")
    from numba import cuda

    return cuda


def _on_cupy(cupy: Any, device: Any, result: Any) -> Any:
    with device:
        return cupy.asarray(result)


def _framework(array: Any) -> str | None:
    module = type(array).__module__.partition(".")[0]
    if module == "jaxlib":
        module = "jax"
    if module in ("torch", "jax", "tensorflow", "cupy"):
        return module if module in sys.modules else None
    if module == "numba" and hasattr(array, "copy_to_host"):
        return "numba"
    return "cuda" if not isinstance(array, np.ndarray) and _has_cuda_interface(array) else None
