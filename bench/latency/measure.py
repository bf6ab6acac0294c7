"""Systems take turns; a turn is some calls in a row, each timed on its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from statistics import median, quantiles

from bench.latency.works import Ask, FirstUse, Work, check, problem, systems
from bench.lib.timing import rotated

TURNS = {"quick": 8, "full": 40}
CALLS = 20  # a turn
MAX_TURN_SECONDS = 0.1  # slower systems get fewer calls
PROCESSES = {"quick": 5, "full": 15}  # of a first use


@dataclass
class Row:
    """Seconds of each call of a system on a work: by the clock, and by this process's share of the processors."""

    work: str
    system: str
    seconds: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def processor_median(self) -> float:
        return median(self.processor_seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """First and ninth decile."""
        deciles = quantiles(self.seconds, n=10)
        return deciles[0], deciles[-1]

    def as_json(self) -> dict:
        """Deciles instead of thousands of numbers."""
        return {
            "work": self.work,
            "system": self.system,
            "calls": len(self.seconds),
            "median": self.median,
            "deciles": list(self.spread),
            "processor_median": self.processor_median,
        }


def measure(work: Work, form: str) -> list[Row]:
    """One row a system; every answer is checked before it is timed."""
    asked = systems(work)
    for name, ask in asked.items():
        check(work, name, ask)
    rows = {name: Row(work.name, name) for name in asked}
    for turn in range(TURNS[form]):
        for name in rotated(list(asked), turn):
            _take_turn(work, asked[name], rows[name])
    return list(rows.values())


def _take_turn(work: Work, ask: Ask, row: Row) -> None:
    queries = problem(work)[0]
    ask(queries[-1])  # finds its code and data in the caches again
    end = time.perf_counter() + MAX_TURN_SECONDS
    for call in range(CALLS):
        query = queries[(len(row.seconds) + call) % len(queries)]
        processor, start = time.process_time(), time.perf_counter()
        ask(query)
        row.seconds.append(time.perf_counter() - start)
        row.processor_seconds.append(time.process_time() - processor)
        if time.perf_counter() > end:
            break


PROGRAM = """
import time
{before}
processor, start = time.process_time(), time.perf_counter()
{timed}
print(time.perf_counter() - start, time.process_time() - processor)
"""


def measure_first_use(use: FirstUse, form: str) -> list[Row]:
    """One row a system, one process a number."""
    rows = {name: Row(use.name, name) for name in use.timed}
    for turn in range(PROCESSES[form]):
        for name in rotated(list(rows), turn):
            program = PROGRAM.format(before=use.imported_before, timed=use.timed[name])
            command = [sys.executable, "-I", "-c", program]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
            seconds, processor_seconds = map(float, done.stdout.split())
            rows[name].seconds.append(seconds)
            rows[name].processor_seconds.append(processor_seconds)
    return list(rows.values())
