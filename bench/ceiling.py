"""What the processor's pipes allow: ``ceiling.c`` does a pair's arithmetic on registers, and nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from bench.cases import Case
from fastnw._hardware import n_threads

SOURCE = Path(__file__).with_name("ceiling.c")
# the kernels' own vectors and exp2 are in src_cython
FLAGS = ["-O3", "-march=native", "-pthread", "-I", str(SOURCE.parents[1] / "src_cython")]


@dataclass(frozen=True)
class Ceiling:
    """What was measured on all threads together.

    `instructions` counts vector instructions a step, by the pipes they run on where the program could be disassembled;
    `share_of_pipes` is the share of their slots that the program filled (1: nothing is left).
    """

    pairs_per_second: float
    instructions: dict[str, float]
    share_of_pipes: float
    clock_hz: float


def ceiling(case: Case, seconds: float = 1.0) -> Ceiling | None:
    """Run the program for the case's type and d; None where `missing` says why."""
    program = _program()[0]
    if program is None:
        return None
    options = {"--type": case.dtype, "--d": case.d, "--threads": n_threads(), "--seconds": seconds}
    arguments = [str(part) for option in options.items() for part in option]
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=60 + 10 * seconds, check=True
        )
        found = json.loads(done.stdout)
        instructions = {key: found[key] for key in ("vector_instructions_per_step", "pairs_per_step") if key in found}
        if "function" in found:
            instructions |= loop_instructions(program, found["function"]) or {}
        share = found["pipes_share"] if "pipes_share" in found else _share_of_pipes(found, instructions)
        return Ceiling(float(found["pairs_per_second"]), instructions, share, float(found.get("clock_hz", "nan")))
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return None  # it refuses types and d that it has no kernel for


def _share_of_pipes(found: dict, instructions: dict[str, float]) -> float:
    """Share of the cycles in which the busier kind of pipe works; NaN where that cannot be told.

    As on Zen 4: two pipes multiply and two add, each 32 bytes wide, so that 64 bytes take one twice as long.
    """
    try:
        steps = found["pairs_per_second"] / found["threads"] / found["pairs_per_step"]
        cycles = max(instructions["multiply"], instructions["add"]) / 2 * max(found["vector_bytes"] / 32, 1)
        share = cycles * steps / found["clock_hz"]
    except (KeyError, ZeroDivisionError):
        return float("nan")
    return share if share <= 1.1 else float("nan")  # more: the pipes are wider, or there are more of them


def missing() -> str | None:
    """Why there is no ceiling here, or None."""
    return _program()[1]


@lru_cache(maxsize=1)
def _program() -> tuple[str | None, str | None]:
    """The compiled program, or why there is none."""
    return compile_program(SOURCE)


def compile_program(source: Path) -> tuple[str | None, str | None]:
    """Path of the program, or why there is none; it goes with this process."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "cc", "gcc", "clang"))), None)
    if not source.exists():
        return None, f"{source.name} is not there"
    if compiler is None:
        return None, "no C compiler was found"
    program = str(Path(_folder().name) / source.stem)
    command = [compiler, *FLAGS, str(source), "-o", program, "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return None, f"{source.name} does not compile: {(done.stderr.splitlines() or ['no message'])[0]}"
    return program, None


@lru_cache(maxsize=1)
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="ceiling-")


# Where a vector instruction of x86 runs. The first pattern that fits counts; a memory operand is a load on top.
# Zen and Intel's server cores alike have two pipes that multiply; Zen has two others that only add.
PIPES = {
    "multiply": r"vf(n?madd|n?msub|maddsub|msubadd)|vmul|vmax|vmin",
    "add": r"vadd|vsub|vrndscale|vround|vscalef|vcvt|vreduce|vgetexp|vgetmant",
    "shuffle": r"vperm|vshuf|vunpck|vpunpck|vpshuf|vpalign|valign|vinsert|vextract|vcompress|vexpand",
    "load": r"vmov|vbroadcast|vpbroadcast|vlddqu",
    "integer": r"vp",
    "other": r"v",
}
LINE = re.compile(r"^\s*([0-9a-f]+):\s+(?:(?:notrack|bnd|rep\w*|lock)\s+)*([a-z]\w*)\s*(.*)$")


@cache
def loop_instructions(program: str, function: str) -> dict[str, int] | None:
    """Vector instructions by pipe in the innermost loop of a function; None without objdump, x86 or such a loop.

    A loop runs from a backward jump's target to the jump, an innermost one has no other inside. Of several (a compiler
    adds loops for what is left over) the one with the most vector instructions counts.
    """
    lines = _disassembly(program, function)
    counts = [_count(lines[first : last + 1]) for first, last in _innermost_loops(lines)]
    best = max(counts, key=lambda count: sum(count.values()), default={})
    return best if sum(best.values()) else None


def _disassembly(program: str, function: str) -> list[tuple[int, str, str]]:
    """(address, mnemonic, operands) of a function's instructions."""
    objdump = shutil.which("objdump")
    if objdump is None:
        return []
    command = [objdump, "--no-show-raw-insn", f"--disassemble={function}", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = (LINE.match(line) for line in done.stdout.splitlines())
    return [(int(line[1], 16), line[2], line[3]) for line in found if line]


def _innermost_loops(lines: list[tuple[int, str, str]]) -> list[tuple[int, int]]:
    """Index of the first and last instruction of each loop that holds no other."""
    where = {address: index for index, (address, _, _) in enumerate(lines)}
    loops = []
    for index, (address, mnemonic, operands) in enumerate(lines):
        target = re.match(r"([0-9a-f]+)\b", operands) if mnemonic.startswith("j") else None
        if target and int(target[1], 16) <= address and int(target[1], 16) in where:
            loops.append((where[int(target[1], 16)], index))
    return [
        (first, last)
        for first, last in loops
        if not any((a, b) != (first, last) and first <= a and b <= last for a, b in loops)
    ]


def _count(lines: list[tuple[int, str, str]]) -> dict[str, int]:
    counts = dict.fromkeys(PIPES, 0)
    for _, mnemonic, operands in lines:
        pipe = next((pipe for pipe, pattern in PIPES.items() if re.match(pattern, mnemonic)), None)
        if pipe is None:
            continue
        sources = operands.split("#")[0].rsplit(",", 1)[0]  # AT&T order: what is written comes last
        reads_memory = "(" in sources
        stores = "(" in operands.split("#")[0] and not reads_memory
        if pipe == "load" and not reads_memory:
            # a move between registers takes no pipe on most cores, a broadcast from one is a shuffle
            pipe = "other" if stores or mnemonic.startswith("vmov") else "shuffle"
        counts[pipe] += 1
        if reads_memory and pipe != "load":
            counts["load"] += 1
    return counts
