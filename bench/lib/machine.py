"""The machine and the versions that a measurement belongs to."""

from __future__ import annotations

import platform
import re
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from fastnw.runtime.hardware import cpu_levels, n_threads

PEER_PACKAGES = ("scikit-learn", "torch", "pykeops", "statsmodels", "mlpack", "KDEpy")
PACKAGES = ("fastnw", "numpy", "scipy", "finufft", *PEER_PACKAGES)


def describe() -> dict:
    """CPU, instruction set, threads, system, versions, time."""
    return {
        "cpu": _cpu_model(),
        "isa": _isa(),
        "threads": n_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "blas": _blas(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def slug(machine: dict) -> str:
    """A file name for this kind of machine: ``amd-epyc-x86-64-v4-2-threads``."""
    text = f"{machine['cpu']} {machine['isa']} {machine['threads']} threads"
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", text.lower())).strip("-")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
    name = facts.get("model name", platform.machine())
    # Virtual machines hide the model's name, but not its numbers.
    if re.fullmatch(r"[A-Za-z() ]+", name) and "model" in facts:
        name += f" family {facts.get('cpu family', '?')} model {facts['model']}"
    return name


def _isa() -> str:
    levels = cpu_levels()
    return f"x86-64-{levels[-1]}" if levels else platform.machine()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _blas() -> list[str]:
    import threadpoolctl

    return sorted(
        f"{pool.get('internal_api')} {pool.get('version')}, {pool.get('num_threads')} threads"
        for pool in threadpoolctl.threadpool_info()
    )
