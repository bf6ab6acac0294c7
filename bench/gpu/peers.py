"""Other systems on the same card, with arguments and results on the card."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Call = Callable[[], Any]

CHUNK_PAIRS = 1 << 28  # 1 GiB of float32


@dataclass(frozen=True)
class Problem:
    """Host arrays and a Gaussian bandwidth."""

    queries: np.ndarray
    keys: np.ndarray
    values: np.ndarray  # (n, c)
    bandwidth: float


def missing(module: str) -> str | None:
    """The reason why a peer cannot run, or None."""
    for name in ("torch", module):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed"
    import torch

    return None if torch.cuda.is_available() else "torch finds no GPU"


def _on_card(problem: Problem) -> list[Any]:
    import torch

    return [torch.from_numpy(a).cuda() for a in (problem.queries, problem.keys, problem.values)]


def keops(problem: Problem) -> Call:
    """Σ exp(−|q − k|²/2h²) (1, v), shifted by its maximum, as KeOps' documentation does it."""
    from pykeops.torch import LazyTensor

    queries, keys, values = _on_card(problem)
    q, k, v = LazyTensor(queries[:, None, :]), LazyTensor(keys[None, :, :]), LazyTensor(values[None, :, :])

    def call() -> Any:
        scores = -((q - k) ** 2).sum(-1) * (0.5 / problem.bandwidth**2)
        return scores.sumsoftmaxweight(v, axis=1)

    return call


def torch_chunked(problem: Problem) -> Call:
    """cdist, softmax and a product, in blocks of queries."""
    import torch

    queries, keys, values = _on_card(problem)
    rows, scale = max(CHUNK_PAIRS // len(keys), 1), -0.5 / problem.bandwidth**2

    def call() -> Any:
        with torch.inference_mode():
            parts = [
                torch.cdist(part, keys).square_().mul_(scale).softmax(dim=1) @ values for part in queries.split(rows)
            ]
            return torch.cat(parts)

    return call


def torch_sdpa(problem: Problem) -> Call:
    """Fused attention over [k, −|k|²/2] against [q, 1], values padded to the same head."""
    import torch

    d, c = problem.keys.shape[1], problem.values.shape[1]
    head = -(-max(d + 1, c) // 8) * 8
    q, k, v = (np.zeros((len(a), head), a.dtype) for a in (problem.queries, problem.keys, problem.values))
    q[:, :d], q[:, d] = problem.queries, 1
    k[:, :d], k[:, d] = problem.keys, -0.5 * (problem.keys.astype(float) ** 2).sum(axis=1)
    v[:, :c] = problem.values
    q_, k_, v_ = (torch.from_numpy(a).cuda()[None, None] for a in (q, k, v))
    scale = 1 / problem.bandwidth**2

    def call() -> Any:
        with torch.inference_mode():
            out = torch.nn.functional.scaled_dot_product_attention(q_, k_, v_, scale=scale)
            return out[0, 0, :, :c]

    return call


PEERS: dict[str, tuple[str, Callable[[Problem], Call]]] = {
    "KeOps": ("pykeops", keops),
    "torch, chunked": ("torch", torch_chunked),
    "torch SDPA": ("torch", torch_sdpa),
}
