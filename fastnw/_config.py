"""show_config: what a bug report needs."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import fastnw
from fastnw import backends
from fastnw._hardware import cpu_levels, n_threads
from fastnw.backends import compiled

REQUIRED = ("numpy", "scipy", "scikit-learn", "numba", "finufft", "joblib", "narwhals", "threadpoolctl", "tqdm")
EXTRAS = {"plot": ("matplotlib",), "io": ("pyarrow",)}
VARIABLES = ("FASTNW_CPU", "FASTNW_NUM_THREADS", "OMP_NUM_THREADS")


def show_config() -> None:
    """Print versions, instruction set, threads, backends and extras."""
    rows = [
        ("fastnw", fastnw.__version__),
        ("python", f"{platform.python_implementation()} {platform.python_version()}"),
    ]
    rows += [("platform", platform.platform()), ("processor", f"runs {', '.join(cpu_levels()) or platform.machine()}")]
    rows += [("instruction set", f"{compiled.isa()} (built: {', '.join(compiled.levels()) or 'none'})")]
    rows += [("threads", str(n_threads()))]
    rows += [(f"backend {name}", status) for name, status in backends.available().items()]
    rows += [(name, _version(name)) for name in REQUIRED]
    for extra, packages in EXTRAS.items():
        rows += [(f"{name} (extra {extra})", _version(name, extra)) for name in packages]
    rows += [(name, os.environ[name]) for name in VARIABLES if name in os.environ]
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:<{width}}  {value}" for name, value in rows))


def _version(package: str, extra: str | None = None) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed" if extra is None else f"not installed: pip install 'fastnw[{extra}]'"
