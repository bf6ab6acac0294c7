"""Arrays of other frameworks, in and out: one adaptor (`Framework`) for each.

No framework is imported here. An array is recognised by the package that defines its type, and the framework itself is
found in ``sys.modules``. A backend for a device registers an adaptor for arrays that no framework here owns. Tensors
that require gradients are read like any other; results do not require gradients, so ``backward`` on them raises.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Restore = Callable[[Any], Any]


class Framework:
    """How the arrays of one framework become NumPy's, and how results become the framework's.

    Attributes
    ----------
    name : str
        The name of the package.
    packages : tuple of str
        The top-level packages that define the types of its arrays.
    """

    name: str
    packages: tuple[str, ...]

    @property
    def module(self) -> Any:
        return sys.modules[self.name]

    @property
    def namespace(self) -> Any:
        """The module with ``exp``, ``maximum`` and similar functions for its arrays."""
        return self.module

    def owns(self, array: Any) -> bool:
        return _package(array) in self.packages and self.name in sys.modules

    def to_numpy(self, array: Any) -> Any:
        """The array on the host; without a copy if it lies there and the framework allows that."""
        return np.asarray(array)

    def restorer(self, array: Any) -> Restore:
        """A function that turns results into arrays of this framework, on the device of `array`."""
        raise NotImplementedError

    def on_cuda(self, array: Any) -> bool:
        """Whether the array lies in the memory of an NVIDIA GPU."""
        return has_cuda_interface(array)

    def device_index(self, array: Any) -> int | None:
        """The number of the CUDA device, or None if the framework does not tell."""
        return None

    def ready(self, array: Any) -> Any:
        """An array on a CUDA device, after all writes to it; None if other libraries cannot read it there."""
        return array


class Torch(Framework):
    name, packages = "torch", ("torch",)

    def to_numpy(self, array: Any) -> Any:
        array = array.detach().cpu()
        # NumPy has no bfloat16
        return (array.float() if array.dtype == self.module.bfloat16 else array).numpy()

    def restorer(self, array: Any) -> Restore:
        torch, device = self.module, array.device

        def restore(result: Any) -> Any:
            if is_numba_array(result):
                return torch.as_tensor(result, device=device)  # holds a reference to numba's array, the owner
            return torch.from_numpy(np.ascontiguousarray(result)).to(device)

        return restore

    def on_cuda(self, array: Any) -> bool:
        return bool(array.is_cuda)

    def device_index(self, array: Any) -> int | None:
        return int(array.device.index)

    def ready(self, array: Any) -> Any:
        array = array.detach()
        if array.dtype == self.module.bfloat16:  # some versions of torch present bfloat16 as float16
            return None
        self.module.cuda.current_stream(array.device).synchronize()  # torch's interface does not name the stream
        return array


class Jax(Framework):
    name, packages = "jax", ("jax", "jaxlib")

    @property
    def namespace(self) -> Any:
        return self.module.numpy

    def restorer(self, array: Any) -> Restore:
        jax, device = self.module, next(iter(array.devices()))
        # through the host: JAX would take only the pointer from a device array's interface and not keep its owner
        return lambda result: jax.device_put(to_numpy(result), device)

    def device_index(self, array: Any) -> int | None:
        return int(next(iter(array.devices())).local_hardware_id)

    def ready(self, array: Any) -> Any:
        return array.block_until_ready()


class TensorFlow(Framework):
    name, packages = "tensorflow", ("tensorflow",)

    def restorer(self, array: Any) -> Restore:
        tensorflow, device = self.module, array.device

        def restore(result: Any) -> Any:
            with tensorflow.device(device):
                return tensorflow.convert_to_tensor(to_numpy(result))

        return restore


class MXNet(Framework):
    name, packages = "mxnet", ("mxnet",)

    @property
    def namespace(self) -> Any:
        return self.module.np

    def to_numpy(self, array: Any) -> Any:
        return array.asnumpy()  # always a copy

    def restorer(self, array: Any) -> Restore:
        mxnet, context = self.module, array.ctx
        legacy = not isinstance(array, mxnet.np.ndarray)  # MXNet has a NumPy interface and an older one

        def restore(result: Any) -> Any:
            result = to_numpy(result)
            restored = mxnet.np.array(result, dtype=result.dtype, ctx=context)
            return restored.as_nd_ndarray() if legacy else restored

        return restore


class CuPy(Framework):
    name, packages = "cupy", ("cupy",)

    def to_numpy(self, array: Any) -> Any:
        return array.get()

    def restorer(self, array: Any) -> Restore:
        cupy, device = self.module, array.device

        def restore(result: Any) -> Any:
            with device:
                return cupy.asarray(result)

        return restore

    def device_index(self, array: Any) -> int | None:
        return int(array.device.id)


_FRAMEWORKS: tuple[Framework, ...] = (Torch(), Jax(), TensorFlow(), MXNet(), CuPy())
_DEVICES: list[Framework] = []


def register(adaptor: Framework) -> None:
    """Adds the adaptor of a device backend, which is asked about arrays that no framework owns."""
    _DEVICES.append(adaptor)


def framework(array: Any) -> Framework | None:
    """The adaptor of the framework that the array belongs to; None for NumPy's arrays and anything else."""
    package = _package(array)
    for adaptor in _FRAMEWORKS:
        if package in adaptor.packages:
            return adaptor if adaptor.owns(array) else None
    if isinstance(array, np.ndarray):
        return None
    return next((adaptor for adaptor in _DEVICES if adaptor.owns(array)), None)


def to_numpy(array: Any) -> Any:
    """The host array of a framework's array; bfloat16, which NumPy does not have, as float32.

    Anything that belongs to no framework is returned unchanged. The host memory of torch, JAX and TensorFlow is read in
    place.
    """
    adaptor = framework(array)
    array = array if adaptor is None else adaptor.to_numpy(array)
    is_bfloat16 = isinstance(array, np.ndarray) and array.dtype.name == "bfloat16"
    return array.astype(np.float32) if is_bfloat16 else array


def restorer(*arrays: Any) -> Restore:
    """A function that turns results into the kind, and moves them to the device, of the first framework's array.

    A result on a CUDA device becomes an array of torch or CuPy without a copy.
    """
    for array in arrays:
        adaptor = framework(array)
        if adaptor is not None:
            return adaptor.restorer(array)
    return to_numpy


def namespace(array: Any) -> Any:
    """The module with ``exp``, ``maximum`` and similar functions for such arrays; NumPy for unknown ones."""
    adaptor = framework(array)
    return np if adaptor is None else adaptor.namespace


def on_cuda(array: Any) -> bool:
    """Whether the array lies in the memory of an NVIDIA GPU."""
    adaptor = framework(array)
    return has_cuda_interface(array) if adaptor is None else adaptor.on_cuda(array)


def is_numba_array(array: Any) -> bool:
    """Whether this is an array that numba has placed on a CUDA device."""
    return _package(array) == "numba" and hasattr(array, "copy_to_host")


def has_cuda_interface(array: Any) -> bool:
    try:
        return hasattr(array, "__cuda_array_interface__")
    except Exception:  # the property may raise an error of the library's own, as for arrays on the host
        return False


def _package(array: Any) -> str:
    return type(array).__module__.partition(".")[0]
