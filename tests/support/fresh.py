"""A fresh interpreter, for what an import, a fork, an interrupt or memory used before would spoil."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

# Settings of this process that would change what is tested.
CLEARED = ("FASTNW_CPU", "FASTNW_NUM_THREADS", "OMP_NUM_THREADS")


def environment(**variables):
    """This process's environment with fastnw's variables unset, then `variables` set."""
    return {name: value for name, value in os.environ.items() if name not in CLEARED} | variables


def command(program):
    """Warnings are errors, as they are in the tests; isolated, so that what is installed is imported, not a source tree
    that happens to be the current folder. An isolated one would not read PYTHON_GIL, for a free-threaded build."""
    gil = ["-X", f"gil={os.environ['PYTHON_GIL']}"] if os.environ.get("PYTHON_GIL") else []
    return [sys.executable, "-I", *gil, "-W", "error", "-c", textwrap.dedent(program)]


def run(program, timeout=120, **variables):
    """What `program` printed, without the last line's end; fails if it does."""
    done = attempt(program, timeout, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def attempt(program, timeout=120, **variables):
    """The finished process, whatever its exit status."""
    return subprocess.run(
        command(program), capture_output=True, text=True, timeout=timeout, env=environment(**variables), check=False
    )
