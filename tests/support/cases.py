"""Seeded problems, as data: one table for parity tests and benchmarks alike."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from fastnw import kernels

KERNELS = kernels.names()
LOG_KERNELS = [name for name in KERNELS if kernels.get(name).works_on_logs]
COMPACT_KERNELS = [name for name in KERNELS if kernels.get(name).support is not None]
PREFIX_SUM_KERNELS = [
    name for name, kernel in kernels.built_in() if kernel.facts.window or kernel.facts.exponential_polynomial
]


@dataclass(frozen=True)
class Case:
    """One problem: its size, the shape of its bandwidth and which options it uses."""

    name: str
    m: int = 40
    n: int = 150
    d: int = 2
    columns: int = 0  # 0: values (n,)
    bandwidth: str = "number"  # or "vector", "matrix"
    weights: bool = False
    key_scale: bool = False
    exclude_self: bool = False  # the queries are the keys
    centre: float = 0.0

    @cache  # noqa: B019 (a handful of frozen cases)
    def problem(self, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Queries, keys, values of that type, and keyword arguments for `fastnw.pool` and the oracle alike."""
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        keys = (self.centre + rng.normal(size=(self.n, self.d))).astype(dtype)
        # a little wider than the keys: some windows of compact kernels are sparse or empty
        queries = keys if self.exclude_self else (self.centre + 1.3 * rng.normal(size=(self.m, self.d))).astype(dtype)
        values = np.sin(2 * (keys - self.centre).sum(axis=1)) + 0.3 * rng.normal(size=self.n)
        if self.columns:
            values = values[:, None] * np.linspace(1, 3, self.columns) + rng.normal(size=(self.n, self.columns))
        options: dict[str, Any] = {"bandwidth": spread_bandwidth(self.bandwidth, self.d, rng)}
        if self.weights:
            options["sample_weight"] = rng.gamma(1.0, size=self.n) * (rng.random(self.n) > 0.1)
        if self.key_scale:
            options["key_scale"] = rng.uniform(0.5, 2.0, size=self.n)
        if self.exclude_self:
            options["exclude_self"] = True
        return queries, keys, values.astype(dtype), options


def spread_bandwidth(shape: str, d: int, rng: np.random.Generator) -> Any:
    """A bandwidth that leaves a few keys of a standard normal cloud in a compact kernel's window."""
    h = 0.35 * d**0.9
    if shape == "number":
        return h
    if shape == "vector":
        return h * np.linspace(0.7, 1.4, d)
    rotation, _ = np.linalg.qr(rng.normal(size=(d, d)))
    return h * h * (rotation * np.linspace(0.5, 2.0, d)) @ rotation.T


CASES = [
    Case("d1", d=1),
    Case("d1 vector weights", d=1, bandwidth="vector", weights=True, columns=1),
    Case("d1 matrix scale", d=1, bandwidth="matrix", key_scale=True),
    Case("d2", columns=3),
    Case("d2 matrix weights scale", bandwidth="matrix", weights=True, key_scale=True, columns=2),
    Case("d3 vector scale", d=3, bandwidth="vector", key_scale=True),
    Case("d3 without self", m=60, n=60, d=3, exclude_self=True),
    Case("d4 matrix", d=4, bandwidth="matrix"),
    Case("d5 weights", d=5, weights=True, columns=9),
    Case("d8 vector without self", m=70, n=70, d=8, bandwidth="vector", weights=True, exclude_self=True),
    Case("d17", d=17),
    Case("d17 matrix weights scale", d=17, bandwidth="matrix", weights=True, key_scale=True, columns=4),
    Case("one key", m=7, n=1, d=2),
    Case("one query", m=1, n=300, d=3),
    Case("many keys", m=30, n=2500, d=3, weights=True),
    # long enough for strips that go through the fused loops: one function each for the first few d, with one bandwidth
    # or several, with and without weights, and for one value, several and many
    Case("d1 long", m=21, n=1500, d=1),
    Case("d1 long weights scale", m=21, n=1500, d=1, weights=True, key_scale=True),
    Case("d2 long", m=21, n=1500, d=2),
    Case("d2 long vector", m=9, n=1500, d=2, bandwidth="vector"),
    Case("d3 long", m=21, n=1500, d=3),
    Case("d3 long vector columns", m=21, n=1500, d=3, bandwidth="vector", columns=3),
    Case("d3 long without self", m=700, n=700, d=3, exclude_self=True),
    Case("d4 long", m=21, n=1500, d=4),
    Case("d4 long vector", m=21, n=1500, d=4, bandwidth="vector"),
    Case("d5 long weights columns", m=21, n=1500, d=5, weights=True, columns=37),
    Case("d9 long matrix scale", m=21, n=1500, d=9, bandwidth="matrix", key_scale=True),
    Case("d60 long", m=21, n=900, d=60),
    Case("d60 long columns", m=21, n=900, d=60, columns=70),
    Case("many queries", m=700, n=33, d=2, bandwidth="vector"),
]
CENTRED = [
    Case("at 1e4", d=2, centre=1e4),
    Case("at 1e4 vector weights", d=3, centre=1e4, bandwidth="vector", weights=True),
    Case("at 1e4 matrix scale", d=3, centre=1e4, bandwidth="matrix", key_scale=True),
]
CENTRED_FAR = [  # float32 has no digits left for a unit cloud there
    Case("at 1e8", d=2, centre=1e8),
    Case("at 1e8 vector weights", d=3, centre=1e8, bandwidth="vector", weights=True),
    Case("at 1e8 matrix scale", d=3, centre=1e8, bandwidth="matrix", key_scale=True),
]
