"""Arrays of other frameworks, in and out. None of them is imported here: a framework is known by its arrays' module.

Those on a CUDA device stay there if the CUDA backend takes them (`taken_in`); everything else goes by the host. Tensors
that need gradients are data like any other: what is made of them needs none, so that ``backward`` on it raises.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from fastnw.core.array import DeviceArray
from fastnw.interop import dlpack

Restore = Callable[[Any], Any]


def taken_in(backend: str, *arrays: Any) -> tuple[Any, ...]:
    """The arrays as `DeviceArray` if the backend is CUDA's and a device has one of them, else as host arrays.

    With one on the device the others are copied there. All come by the host where one lies on another device than the
    current one, or is nothing that kernels read: another number of dimensions than 1 and 2, no numbers. None stays.
    """
    if any(on_cuda(array) for array in arrays) and backend == "cuda":
        from fastnw.backends.cuda import backend as cuda

        found = [None if array is None else _on_device(array) for array in arrays] if cuda.missing() is None else []
        if found and all((there is None) == (array is None) for there, array in zip(found, arrays, strict=True)):
            return tuple(found)
    return tuple(map(to_numpy, arrays))


def to_numpy(array: Any) -> Any:
    """A host array for arrays of torch, JAX, TensorFlow, MXNet, CuPy and Numba, and for what has
    ``__cuda_array_interface__`` or speaks DLPack on a CUDA device; anything else as it is.

    Those of torch, JAX and TensorFlow in the host's memory are read where they lie; MXNet's only come as copies, and
    bfloat16, which NumPy does not have, as float32.
    """
    kind = framework(array)
    if kind == "torch":
        array = array.detach().cpu()
        return (array.float() if array.dtype == sys.modules["torch"].bfloat16 else array).numpy()
    if kind == "mxnet":
        return array.asnumpy()
    if kind == "cupy":
        return array.get()
    if kind in ("numba", "cuda", "dlpack"):
        return DeviceArray(_numba_view(array, kind)).host
    if kind in ("jax", "tensorflow"):
        array = np.asarray(array)
    is_bfloat16 = isinstance(array, np.ndarray) and array.dtype.name == "bfloat16"
    return array.astype(np.float32) if is_bfloat16 else array


def restorer(*arrays: Any) -> Restore:
    """A function that turns results into the kind, and onto the device, of the first framework array among `arrays`.

    Numba's array on the device becomes PyTorch's or CuPy's, or stays what it is, without a copy.
    """
    for array in arrays:
        kind = framework(array)
        if kind == "torch":
            torch, device = sys.modules["torch"], array.device
            return lambda result: _on_torch(torch, device, result)
        if kind == "cupy":
            cupy, device = sys.modules["cupy"], array.device
            return lambda result: _on_cupy(cupy, device, result)
        if kind == "jax":
            jax, device = sys.modules["jax"], next(iter(array.devices()))
            # by the host: of the interface JAX takes the pointer alone, and nothing would keep its owner
            return lambda result: jax.device_put(to_numpy(result), device)
        if kind == "tensorflow":
            tensorflow, device = sys.modules["tensorflow"], array.device
            return lambda result: _on_tensorflow(tensorflow, device, to_numpy(result))
        if kind == "mxnet":
            mxnet, context = sys.modules["mxnet"], array.ctx
            old = not isinstance(array, mxnet.np.ndarray)
            return lambda result: _on_mxnet(mxnet, context, old, to_numpy(result))
        if kind in ("numba", "cuda", "dlpack"):
            cuda = _numba_cuda(array)
            return lambda result: result if framework(result) == "numba" else _placed(cuda, result)
    return to_numpy


def namespace(array: Any) -> Any:
    """The module that has ``exp``, ``maximum`` and the like for arrays of this framework; NumPy for anything else."""
    kind = framework(array)
    if kind == "jax":
        return sys.modules["jax"].numpy
    if kind == "mxnet":
        return sys.modules["mxnet"].np
    return sys.modules[kind] if kind in ("torch", "tensorflow", "cupy") else np


def backend_for(backend: str, *arrays: Any) -> str:
    """The backend asked for; for ``"auto"`` and an array on a CUDA device, CUDA, if it runs here."""
    # in this order: only a checked backend, later, is sure to be a word that can be compared
    if not any(on_cuda(array) for array in arrays) or backend != "auto":
        return backend
    from fastnw.backends.cuda import backend as cuda

    return "cuda" if cuda.missing() is None else backend


def on_cuda(array: Any) -> bool:
    """Whether the array lies in the memory of an NVIDIA GPU."""
    if framework(array) == "torch":
        return bool(array.is_cuda)
    return framework(array) in ("numba", "cuda", "dlpack") or _has_cuda_interface(array)


def _on_device(array: Any) -> DeviceArray | None:
    """The array on the current device, copied only if it lies on the host; None if kernels cannot read it there."""
    kind = framework(array)
    if not on_cuda(array):
        array = np.asarray(to_numpy(array))
        return DeviceArray(_numba_cuda(array).to_device(np.ascontiguousarray(array))) if _readable(array) else None
    if kind == "torch":
        torch, array = sys.modules["torch"], array.detach()
        if array.dtype == torch.bfloat16:  # once presented as float16
            return None
        torch.cuda.current_stream(array.device).synchronize()  # its interface does not say which stream writes
    elif kind == "jax":
        array = array.block_until_ready()
    index = _device_index(array, kind)
    if index is not None and index != _numba_cuda(array).get_current_device().id:
        return None
    view = _numba_view(array, kind)
    return DeviceArray(view) if _readable(view) else None


def _readable(array: Any) -> bool:
    dtype = np.dtype(array.dtype)
    return len(array.shape) in (1, 2) and dtype.kind in "biuf" and dtype.itemsize <= 8 and dtype.isnative


def _device_index(array: Any, kind: str | None) -> int | None:
    """The device's number, where the framework says it."""
    if kind == "torch":
        return int(array.device.index)
    if kind == "cupy":
        return int(array.device.id)
    if kind == "jax":
        return int(next(iter(array.devices())).local_hardware_id)
    if kind == "numba":
        context = getattr(getattr(array, "gpu_data", None), "context", None)
        return None if context is None else int(context.device.id)
    return dlpack.device_of(array) if kind == "dlpack" else None


def _numba_view(array: Any, kind: str | None) -> Any:
    """numba's view of an array on the device."""
    if kind == "numba":
        return array
    return _numba_cuda(array).as_cuda_array(dlpack.Interface(array) if kind == "dlpack" else array)


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
    from fastnw.backends.cuda import backend as backend

    missing = backend.missing()
    if missing is not None:
        raise ValueError(f"{type(array).__name__} lies on a CUDA device, and {missing}.")
    from numba import cuda

    return cuda


def _placed(cuda: Any, result: Any) -> Any:
    return cuda.to_device(np.ascontiguousarray(result))


def _on_torch(torch: Any, device: Any, result: Any) -> Any:
    if framework(result) == "numba":
        return torch.as_tensor(result, device=device)  # keeps numba's array, which owns the memory
    return torch.from_numpy(np.ascontiguousarray(result)).to(device)


def _on_cupy(cupy: Any, device: Any, result: Any) -> Any:
    with device:
        return cupy.asarray(result)


def _on_tensorflow(tensorflow: Any, device: Any, result: Any) -> Any:
    with tensorflow.device(device):
        return tensorflow.convert_to_tensor(result)


def _on_mxnet(mxnet: Any, context: Any, old: bool, result: Any) -> Any:
    """An array of MXNet's NumPy interface, or of the older one."""
    array = mxnet.np.array(result, dtype=result.dtype, ctx=context)
    return array.as_nd_ndarray() if old else array


def framework(array: Any) -> str | None:
    """What the array belongs to: "torch", "jax", "tensorflow", "mxnet", "cupy", "numba"; "cuda" or "dlpack" if only an
    interface tells that it lies on a CUDA device; None for NumPy's and anything else."""
    module = type(array).__module__.partition(".")[0]
    if module == "jaxlib":
        module = "jax"
    if module in ("torch", "jax", "tensorflow", "mxnet", "cupy"):
        return module if module in sys.modules else None
    if module == "numba" and hasattr(array, "copy_to_host"):
        return "numba"
    if isinstance(array, np.ndarray):
        return None
    if _has_cuda_interface(array):
        return "cuda"
    return "dlpack" if dlpack.device_of(array) is not None else None
