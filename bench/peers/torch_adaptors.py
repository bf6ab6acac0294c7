"""Adaptors of PyTorch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from bench.lib import systems
from bench.peers.adaptor import BY_PRODUCT, Peer, Work, query_blocks
from fastnw.runtime.hardware import n_threads

ENOUGH_SECONDS = 0.2  # of trials of one layout


class TorchCdist(Peer):
    name = systems.CDIST
    module = "torch"
    note = "blocks of cdist, softmax, product"
    tolerance = BY_PRODUCT

    def prepare(self, case):
        import torch

        torch.set_num_threads(n_threads())
        queries, keys, values = tensors(*case.problem())
        scale = -0.5 / case.bandwidth**2

        def call():
            with torch.inference_mode():
                means = [
                    torch.cdist(queries[rows], keys).square_().mul_(scale).softmax(dim=1) @ values
                    for rows in query_blocks(case.m, case.n)
                ]
                return torch.cat(means).numpy()

        return Work(call)


def tensors(*arrays: np.ndarray) -> list[Any]:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of read-only arrays, and nothing here writes to them
        return [torch.from_numpy(array) for array in arrays]


class TorchSDPA(Peer):
    """Fused attention. In |q − k|² = |q|² + |k|² − 2 q·k the first term cancels, so only −|k|²/2 joins the product.

    It joins as one more coordinate, [k, −|k|²/2] against [q, 1], or as an additive mask, the same for every query.
    Queries, keys and values must have one head dimension for the fused kernel, so they are padded to it; the fastest
    of a few layouts is taken for each case. Packing is done before, for the queries too: only attention is timed.
    """

    name = systems.SDPA
    module = "torch"
    note = "keys, values and queries packed before; the fastest layout of several; loses digits far from the origin"
    tolerance = BY_PRODUCT
    first_queries = 256
    trial_queries = 1024  # fewer would not show its speed, as it splits the queries into blocks

    def prepare(self, case):
        import torch

        torch.set_num_threads(n_threads())
        trial = case.with_queries(min(case.m, self.trial_queries))
        layouts = self.layouts(case)
        best = min(layouts, key=lambda layout: _seconds(self.packed(trial, *layout)))
        masked, head = best
        return Work(self.packed(case, *best), f"head {head}, |k|² as {'a mask' if masked else 'a coordinate'}")

    def layouts(self, case):
        """The layouts to try: whether −|k|²/2 is a mask, and the head dimension."""
        with_coordinate = {(False, _round_up(max(case.d + 1, case.c), multiple)) for multiple in (8, 16)}
        with_mask = {(True, _round_up(max(case.d, case.c), multiple)) for multiple in (1, 8)}
        return sorted(with_coordinate | with_mask)

    def packed(self, case, masked, head):
        import torch

        queries, keys, values = case.problem()
        minus_half_square = -0.5 * (keys.astype(float) ** 2).sum(axis=1)
        scale = 1 / case.bandwidth**2  # replaces attention's 1/√d
        q, k, v = (_padded(array, head) for array in (queries, keys, values))
        mask = None
        if masked:
            row = torch.from_numpy((scale * minus_half_square).astype(case.dtype))
            mask = row.expand(case.m, case.n)  # a view, as every query reads the same row
        else:
            q[:, case.d] = 1
            k[:, case.d] = minus_half_square
        q, k, v = (torch.from_numpy(array)[None, None] for array in (q, k, v))

        def call():
            with torch.inference_mode():
                out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
                return out[0, 0, :, : case.c].numpy()

        return call


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _padded(array: np.ndarray, columns: int) -> np.ndarray:
    wide = np.zeros((len(array), columns), array.dtype)
    wide[:, : array[0].size] = array.reshape(len(array), -1)
    return wide


def _seconds(call: Callable[[], Any]) -> float:
    """The least of up to three calls, after one to warm up."""
    call()
    times = []
    while len(times) < 3 and sum(times) < ENOUGH_SECONDS:
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return min(times)
