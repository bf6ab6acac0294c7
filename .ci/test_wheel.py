"""Runs a part of the test suite on the installed fastnw, at each of its instruction sets, in a fraction of a minute.

Run it with the interpreter that has fastnw and the imports of the tests, from any folder but the source tree.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import fastnw
from fastnw.backends.compiled import backend as compiled

ROOT = Path(__file__).resolve().parent.parent
# These tests import pytest, pytest-timeout, hypothesis, mpmath and pandas.
TESTS = (
    "test_import.py::test_every_public_name_is_there",
    "test_import.py::test_no_openmp_runtime_is_linked",
    "test_state.py",
    "test_largest.py",
    "test_answered.py",
    "test_parity.py::test_the_extension_is_built",
    "test_parity.py::test_exact_far_from_the_origin",
    "test_parity.py::test_types_and_shapes",
    "test_parity.py::test_empty_filled",
    "test_products.py::test_far_queries_are_handed_on",
    "test_products.py::test_values_far_from_0_are_normalised_first",
    "test_gradients.py::test_every_gradient_is_a_derivative",
    "test_gradients.py::test_tails",
    "test_tree.py::test_far_tails_are_handed_on",
    "test_moments.py::test_against_the_naive_loops",
    "test_fourier.py",
    "test_kernel_density.py",
)


def _path(test: str) -> str:
    """A test's file, in whatever folder of tests/ it is, and its name there."""
    name, *within = test.split("::")
    return "::".join([str(next((ROOT / "tests").rglob(name))), *within])


def main() -> int:
    if not Path(fastnw.__file__).is_relative_to(sysconfig.get_path("platlib")):
        print(f"{fastnw.__file__} is not an installed fastnw", file=sys.stderr)
        return 2
    levels = compiled.levels()
    print(f"fastnw {fastnw.__version__}, Python {sys.version.split()[0]}, instruction sets: {', '.join(levels)}")
    if not levels:
        print("this fastnw has no compiled backend", file=sys.stderr)
        return 1
    command = [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider"]
    command += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    command += [str(_path(test)) for test in TESTS]
    for level in levels:
        print(f"--- {level}", flush=True)
        environment = os.environ | ({} if level == "plain" else {"FASTNW_CPU": level})
        status = subprocess.run(command, env=environment, check=False).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
