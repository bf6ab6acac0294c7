"""Arrays that already lie on a CUDA device: which calls run there, and how device functions read them in place."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnw.backends.cuda import backend
from fastnw.backends.cuda.device_array import CudaArray
from fastnw.interop import dlpack, frameworks
from fastnw.interop.frameworks import Framework, Restore, is_numba_array


class DeviceArrays(Framework):
    """Arrays of numba, and of libraries without an adaptor that support ``__cuda_array_interface__`` or DLPack."""

    name, packages = "numba", ()

    @property
    def namespace(self) -> Any:
        return np

    def owns(self, array: Any) -> bool:
        return is_numba_array(array) or frameworks.has_cuda_interface(array) or dlpack.device_of(array) is not None

    def to_numpy(self, array: Any) -> Any:
        return CudaArray(_numba_view(array)).host

    def restorer(self, array: Any) -> Restore:
        cuda = _numba_cuda(array)
        return lambda result: result if is_numba_array(result) else cuda.to_device(np.ascontiguousarray(result))

    def on_cuda(self, array: Any) -> bool:
        return True

    def device_index(self, array: Any) -> int | None:
        if is_numba_array(array):
            context = getattr(getattr(array, "gpu_data", None), "context", None)
            return None if context is None else int(context.device.id)
        return None if frameworks.has_cuda_interface(array) else dlpack.device_of(array)


frameworks.register(DeviceArrays())


def backend_for(name: str, *arrays: Any) -> str:
    """The name of the backend: ``"cuda"`` for ``"auto"`` and an array on a CUDA device if that backend is available."""
    # Arrays come first: `name` is not validated yet, and comparing an array with a string may not give a truth value.
    if not any(frameworks.on_cuda(array) for array in arrays) or name != "auto":
        return name
    return "cuda" if backend.missing() is None else name


def taken_in(name: str, *arrays: Any) -> tuple[Any, ...]:
    """The arrays as `CudaArray` if the backend is ``"cuda"`` and one of them lies on a device, else as host arrays.

    If one lies on the device, the others are copied there. All are copied to the host if one lies on another device
    than the current one, or if device functions cannot read it (it has no numbers, or neither one nor two dimensions).
    None stays None.
    """
    if any(frameworks.on_cuda(array) for array in arrays) and name == "cuda" and backend.missing() is None:
        placed = [None if array is None else _on_device(array) for array in arrays]
        if all((copy is None) == (array is None) for copy, array in zip(placed, arrays, strict=True)):
            return tuple(placed)
    return tuple(map(frameworks.to_numpy, arrays))


def _on_device(array: Any) -> CudaArray | None:
    """The array on the current device, copied only if it lies on the host; None if it cannot be read there."""
    adaptor = frameworks.framework(array)
    if adaptor is None or not adaptor.on_cuda(array):
        array = np.asarray(frameworks.to_numpy(array))
        return CudaArray(_numba_cuda(array).to_device(np.ascontiguousarray(array))) if _readable(array) else None
    array = adaptor.ready(array)
    if array is None:
        return None
    index = adaptor.device_index(array)
    if index is not None and index != _numba_cuda(array).get_current_device().id:
        return None
    view = _numba_view(array)
    return CudaArray(view) if _readable(view) else None


def _readable(array: Any) -> bool:
    dtype = np.dtype(array.dtype)
    return len(array.shape) in (1, 2) and dtype.kind in "biuf" and dtype.itemsize <= 8 and dtype.isnative


def _numba_view(array: Any) -> Any:
    """numba's view of an array on the device."""
    if is_numba_array(array):
        return array
    # torch, JAX and CuPy support the interface too
    return _numba_cuda(array).as_cuda_array(array if frameworks.has_cuda_interface(array) else dlpack.Interface(array))


def _numba_cuda(array: Any) -> Any:
    """The module numba.cuda.

    Raises
    ------
    ValueError
        CUDA cannot be used here.
    """
    missing = backend.missing()
    if missing is not None:
        raise ValueError(
            f"A {type(array).__name__} on a CUDA device needs the CUDA backend, but {missing}. Pass host arrays."
        )
    from numba import cuda

    return cuda
