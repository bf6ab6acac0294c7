"""``pytest bench --benchmark-only``: fastnw alone, each answer checked against NumPy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.lib import truth
from bench.lib.cases import Case
from bench.lib.systems import FASTNW
from bench.peers.adaptors import PEERS
from bench.peers.cases import CASES

pytest.importorskip("pytest_benchmark", reason="pip install 'fastnw[bench]'")

MAX_PAIRS = 1e8  # of a call, so that the suite takes under two minutes


def scaled(case: Case) -> Case:
    """The case with fewer queries, and for the few-query cases with fewer keys."""
    work = max(case.d + case.c, 8) / 8
    if case.fitted:
        return replace(case, n=min(case.n, int(MAX_PAIRS / work / case.m)))
    return case.with_queries(max(1, min(case.m, int(MAX_PAIRS / work / case.n))))


@pytest.mark.parametrize("case", [pytest.param(scaled(case), id=case.name) for case in CASES])
def test_pool(benchmark, case):
    peer = PEERS[FASTNW]
    work = peer.prepare(case)
    answer = benchmark.pedantic(work, rounds=5, warmup_rounds=1)
    benchmark.extra_info["pairs"] = case.m * case.n
    assert truth.error(case, answer, peer.what()) <= peer.tolerance[case.dtype]
