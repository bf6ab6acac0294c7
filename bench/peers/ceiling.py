"""The rate that the processor's pipes allow: a pair's arithmetic on registers alone (ceiling_source.py).

The ceiling is the best of several orders of the same instructions. It is honest if the pipes were nearly full: the
vector instructions of its innermost loop, counted in its disassembly, need so many cycles of the pipes they run on;
`share_of_pipes` is that over the cycles that passed.
"""

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

from bench.lib.cases import Case
from bench.peers.ceiling_source import source
from fastnw.runtime._cpu import x86_level
from fastnw.runtime.hardware import n_threads

FLAGS = ["-O3", "-march=x86-64-v4", "-pthread"]
ORDERS = [(group, flag) for group in (2, 3, 4) for flag in ("-fschedule-insns2", "-fno-schedule-insns2")]
TRIAL_SECONDS, FINALISTS, TRIALS = 0.05, 3, 5  # the best orders differ by 2 % and are tried again


@dataclass(frozen=True)
class Ceiling:
    """Rates of all threads together.

    `instructions` counts vector instructions a step, by the pipes they run on; `share_of_pipes` is NaN where the
    program could not be disassembled.
    """

    pairs_per_second: float
    instructions: dict[str, int]
    share_of_pipes: float
    clock_hz: float


def ceiling(case: Case, seconds: float = 1.0) -> Ceiling | None:
    """Run the best program for the case's type and d; None where there is none."""
    if refusal(case) is not None:
        return None
    try:
        program = _best_program(case.dtype, case.d)
        found = _run(program, seconds)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    instructions = loop_instructions(program, "loop") or {}
    cycles = n_threads() * found["clock_hz"] / (found["pairs_per_second"] / found["pairs_per_step"])
    share = pipe_cycles(instructions) / cycles if instructions else float("nan")
    return Ceiling(found["pairs_per_second"], instructions, share, found["clock_hz"])


def refusal(case: Case) -> str | None:
    """Why there is no ceiling for the case, or None."""
    if case.kernel != "gaussian" or case.d > 4 or case.c != 1:
        return "written for the Gaussian, d up to 4 and one value"
    return missing()


def missing() -> str | None:
    """Why there is no ceiling here, or None."""
    if x86_level() < 4:
        return "written for AVX-512"
    return None if _compiler() else "no C compiler was found"


def pipe_cycles(instructions: dict[str, int]) -> float:
    """Cycles that Zen's four vector pipes need at least: each takes a 512-bit instruction in `cycles_each` of them.

    Two pipes multiply, two others add; a scale is two additions, a shuffle of two registers one and a quarter of any
    (measured on Zen 4, one kind at a time, and in pairs). No pipe can do more, so this is a lower bound.
    """
    multiply = instructions["multiply"]
    add = instructions["add"] + 2 * instructions["scale"]
    busiest = max(multiply, add, (multiply + add + 1.25 * instructions["shuffle"] + instructions["integer"]) / 2)
    return busiest * cycles_each() / 2


@cache
def cycles_each() -> int:
    """Two on Zen 4, whose pipes are 256 bits wide; one on Zen 5 (family 26), whose pipes are as wide as the vector."""
    try:
        family = re.search(r"^cpu family\s*:\s*(\d+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        family = None
    return 1 if family and int(family[1]) >= 26 else 2


def _run(program: str, seconds: float) -> dict[str, float]:
    command = [program, str(n_threads()), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 + 10 * seconds, check=True)
    return json.loads(done.stdout)


@cache
def _best_program(dtype: str, d: int) -> str:
    """The fastest order of the instructions, compiled."""
    programs = [_compiled(dtype, d, group, flag) for group, flag in ORDERS]
    best = {program: 0.0 for program in programs}
    for turn in range(1 + TRIALS):
        for program in programs if turn == 0 else sorted(best, key=best.__getitem__)[-FINALISTS:]:
            best[program] = max(best[program], _run(program, TRIAL_SECONDS)["pairs_per_second"])
    return max(best, key=best.__getitem__)


def _compiled(dtype: str, d: int, group: int, flag: str) -> str:
    """Path of the program, which is deleted with this process."""
    path = Path(_folder().name) / f"ceiling-{dtype}-{d}-{group}{flag}"
    return compile_program(source(dtype, d, group), path, flag)


def compile_program(text: str, path: Path, *flags: str) -> str:
    """Compile C to a program at `path`."""
    path.with_suffix(".c").write_text(text)
    command = [str(_compiler()), *FLAGS, *flags, str(path.with_suffix(".c")), "-o", str(path), "-lm"]
    subprocess.run(command, capture_output=True, text=True, check=True)
    return str(path)


def _compiler() -> str | None:
    return next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "cc", "gcc", "clang"))), None)


@lru_cache(maxsize=1)
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="ceiling-")


# Where a vector instruction of x86 runs. The first pattern that fits counts; a memory operand is a load on top.
# Zen and Intel's server cores alike have two pipes that multiply; Zen has two others that only add.
PIPES = {
    "multiply": r"vf(n?madd|n?msub|maddsub|msubadd)|vmul",
    "scale": r"vscalef",
    "add": r"vadd|vsub|vmax|vmin|vrndscale|vround|vcvt|vreduce|vgetexp|vgetmant",
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
