"""fastnw given arrays that are on the card, and what of them leaves it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import fastnw
from bench.gpu_peers import Problem
from fastnw.backends.cuda.interop import taken_in
from fastnw.core.array import DeviceArray

SLACK = 1 << 20  # bytes, of reductions


def placed(problem: Problem) -> list[Any]:
    """Queries, keys and values as torch's tensors, or Numba's arrays where torch finds no card."""
    arrays = (problem.queries, problem.keys, problem.values)
    if importlib.util.find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            return [torch.from_numpy(a).cuda() for a in arrays]
    from numba import cuda

    return [cuda.to_device(a) for a in arrays]


def pooled(problem: Problem) -> Callable[[], Any]:
    """From arrays on the card to one there, certified."""
    arrays = placed(problem)
    if not all(isinstance(array, DeviceArray) for array in taken_in("cuda", *arrays)):
        raise RuntimeError("arrays on the card are not read there")
    return lambda: fastnw.pool(*arrays, bandwidth=problem.bandwidth, progress=False)


def bytes_to_host(call: Callable[[], Any]) -> int:
    """What fastnw copies from the card in a call."""
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
    """What may leave the card: a few numbers a query and value, none a key."""
    return 64 * len(problem.queries) * (2 + problem.values.shape[1]) + SLACK
