"""Presents arrays that support only DLPack as arrays with ``__cuda_array_interface__``.

The structures are those of dlpack.h (https://dmlc.github.io/dlpack/latest/c_api.html) before version 1.0, which every
producer returns unless the consumer requests another version.
"""

from __future__ import annotations

import ctypes
from typing import Any

CUDA, CUDA_MANAGED = 2, 13  # kDLCUDA, kDLCUDAManaged
LEGACY_STREAM = 1  # the default stream; the producer makes it wait until the array is written
KINDS = {0: "i", 1: "u", 2: "f", 6: "b"}  # kDLInt, kDLUInt, kDLFloat, kDLBool


class _Tensor(ctypes.Structure):
    """The structure DLTensor. The members of its device and its type are fields here: there is no padding."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class Interface:
    """An array's DLPack capsule as ``__cuda_array_interface__``. The object keeps the memory alive.

    Raises
    ------
    TypeError
        NumPy has no type for the elements.
    """

    def __init__(self, array: Any) -> None:
        # The capsule is not renamed to "used_dltensor": the producer stays the owner and frees the memory with it.
        self._capsule = array.__dlpack__(stream=LEGACY_STREAM)
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        tensor = _Tensor.from_address(pointer(self._capsule, b"dltensor"))
        if tensor.code not in KINDS or tensor.lanes != 1 or tensor.bits not in (8, 16, 32, 64):
            raise TypeError(
                f"{type(array).__name__} must hold numbers of a type that NumPy has. Convert it to float32 or float64."
            )
        size = tensor.bits // 8
        strides = tuple(tensor.strides[i] * size for i in range(tensor.ndim)) if tensor.strides else None
        self.__cuda_array_interface__ = {
            "shape": tuple(tensor.shape[: tensor.ndim]),
            "typestr": f"{'|' if size == 1 else '<'}{KINDS[tensor.code]}{size}",
            "data": ((tensor.data or 0) + tensor.byte_offset, True),
            "strides": strides,
            "version": 2,
        }


def device_of(array: Any) -> int | None:
    """The number of the CUDA device that the array reports, or None."""
    query = getattr(type(array), "__dlpack_device__", None)
    if query is None or not hasattr(type(array), "__dlpack__"):
        return None
    try:
        kind, index = query(array)
    except Exception:  # the library may raise an error of its own, as for tensors that require gradients
        return None
    return int(index) if int(kind) in (CUDA, CUDA_MANAGED) else None
