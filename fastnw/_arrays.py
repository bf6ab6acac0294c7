"""Arrays of other frameworks, in and out. None of them is imported here: a framework is known by its arrays' module."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Restore = Callable[[Any], Any]


def to_numpy(array: Any) -> Any:
    """A host array for torch, JAX, TensorFlow and CuPy arrays (without a copy where the framework shares host memory);
    anything else as it is."""
    kind = _framework(array)
    if kind == "torch":
        return array.detach().cpu().numpy()
    if kind == "cupy":
        return array.get()
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
    return lambda result: result


def _on_cupy(cupy: Any, device: Any, result: Any) -> Any:
    with device:
        return cupy.asarray(result)


def _framework(array: Any) -> str | None:
    module = type(array).__module__.partition(".")[0]
    if module == "jaxlib":
        module = "jax"
    return module if module in ("torch", "jax", "tensorflow", "cupy") and module in sys.modules else None
