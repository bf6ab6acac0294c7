"""The base of the systems' adaptors, which are in adaptors.py and torch_adaptors.py."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from bench.lib.cases import Case

BLOCK = 2**22  # numbers in a block of pairs, 16 MiB in float32
EXACT = {"float32": 1e-4, "float64": 1e-9}  # largest allowed error, in ranges of the values
BY_PRODUCT = {"float32": 1e-3, "float64": 1e-9}  # |q|² + |k|² − 2 q·k loses digits


@dataclass(frozen=True)
class Work:
    """A call to be timed, and a note on what was prepared before it."""

    call: Callable[[], np.ndarray]
    note: str = ""

    def __call__(self) -> np.ndarray:
        return self.call()


class Peer:
    """A system that sums a Gaussian exactly; adaptors override what differs."""

    name: str
    module: str = "numpy"
    tolerance = EXACT
    first_queries = 16  # the fewest that are timed, if the case has as many
    note: str = ""  # explains the comparison to the reader

    def what(self) -> str:
        """What the system computes: "regression", or "density" alone."""
        return "regression"

    def missing(self) -> str | None:
        """Why the system cannot be used here, or None."""
        try:
            importlib.import_module(self.module)
        except Exception as error:  # importing a compiled package may raise anything
            return f"{self.module} cannot be imported ({type(error).__name__}: {error})".splitlines()[0]
        return None

    def refuses(self, case: Case) -> str | None:
        """Why the system cannot do this case, or None."""
        return None if case.kernel == "gaussian" else f"the adaptor has no {case.kernel} kernel"

    def answers(self, case: Case) -> Case:
        """The case whose right answer the system has to give."""
        return case

    def prepare(self, case: Case) -> Work:
        raise NotImplementedError


def query_blocks(m: int, numbers_a_query: int) -> Iterator[slice]:
    size = max(1, BLOCK // numbers_a_query)
    return (slice(start, start + size) for start in range(0, m, size))
