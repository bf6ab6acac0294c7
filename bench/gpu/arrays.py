"""Calls with arrays that are on the card, and the bytes that leave it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import fastnw
from bench.gpu.peers import Problem
from fastnw.backends.cuda.interop import taken_in
from fastnw.core.array import DeviceArray

SLACK_BYTES = 1 << 20  # for reductions


def placed(problem: Problem) -> list[Any]:
    """Queries, keys and values as tensors of torch, or as arrays of Numba where torch finds no card."""
    arrays = (problem.queries, problem.keys, problem.values)
    if importlib.util.find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            return [torch.from_numpy(a).cuda() for a in arrays]
    from numba import cuda

    return [cuda.to_device(a) for a in arrays]


def pooled(problem: Problem) -> Callable[[], Any]:
    """A certified call whose arguments and result are on the card."""
    arrays = placed(problem)
    if not all(isinstance(array, DeviceArray) for array in taken_in("cuda", *arrays)):
        raise RuntimeError("arrays on the card were copied to the host")
    return lambda: fastnw.pool(*arrays, bandwidth=problem.bandwidth, progress=False)


def bytes_to_host(call: Callable[[], Any]) -> int:
    """Bytes that a call copies from the card."""
    from numba import cuda

    kind, copies = type(cuda.device_array(1)), [0]
    copy = kind.copy_to_host

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        copies.append(self.size * self.dtype.itemsize)
        return copy(self, *arguments, **options)

    kind.copy_to_host = counted
    try:
        call()
    finally:
        kind.copy_to_host = copy
    return sum(copies)


def most_bytes(problem: Problem) -> int:
    """Bytes that may leave the card: a few numbers for each query and value, and none for a key."""
    return 64 * len(problem.queries) * (2 + problem.values.shape[1]) + SLACK_BYTES
