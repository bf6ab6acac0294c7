"""`show_config`: the description of the installation for bug reports."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from importlib import metadata

from fastnw._version import __version__
from fastnw.runtime.hardware import cpu_levels, n_threads

REQUIRED = ("numpy", "scipy", "scikit-learn", "numba", "finufft", "joblib", "narwhals", "threadpoolctl", "tqdm")
EXTRAS = {"plot": ("matplotlib",), "io": ("pyarrow",), "cuda": ("numba-cuda",), "torch": ("torch",), "jax": ("jax",)}
VARIABLES = ("FASTNW_CPU", "FASTNW_NUM_THREADS", "OMP_NUM_THREADS")


def show_config() -> None:
    """Print versions, instruction set, threads, backends and extras."""
    rows = [
        ("fastnw", __version__),
        ("python", f"{platform.python_implementation()} {platform.python_version()}"),
    ]
    rows += [("platform", platform.platform())]
    rows += [("processor", _or_fault(lambda: f"runs {', '.join(cpu_levels()) or platform.machine()}"))]
    rows += [("instruction set", _or_fault(_instruction_set))]
    rows += [("threads", _or_fault(lambda: str(n_threads())))]
    rows += _backends()
    rows += [(name, _version(name)) for name in REQUIRED]
    for extra, packages in EXTRAS.items():
        rows += [(f"{name} (extra {extra})", _version(name, extra)) for name in packages]
    rows += [(name, os.environ[name]) for name in VARIABLES if name in os.environ]
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:<{width}}  {value}" for name, value in rows))


def _or_fault(row: Callable[[], str]) -> str:
    """Return the text of a row, or the error of an environment variable, so that the report itself cannot fail."""
    try:
        return row()
    except ValueError as fault:
        return str(fault)


def _instruction_set() -> str:
    from fastnw.backends.compiled import (
        backend as compiled,  # its import selects the set, or raises for an invalid FASTNW_CPU
    )

    return f"{compiled.isa()} (built: {', '.join(compiled.levels()) or 'none'})"


def _backends() -> list[tuple[str, str]]:
    try:
        from fastnw import backends
    except ValueError as fault:
        return [("backends", str(fault))]
    return [(f"backend {name}", status) for name, status in backends.available().items()]


def _version(package: str, extra: str | None = None) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed" if extra is None else f"not installed: pip install 'fastnw[{extra}]'"
