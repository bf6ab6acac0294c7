"""The choice of an instruction set: each has extension modules of its own, and one is chosen when this is imported."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType

from fastnw.runtime.hardware import cpu_levels


@lru_cache(maxsize=1)
def levels() -> tuple[str, ...]:
    """The instruction sets that were built and that the processor runs, lowest first."""
    return tuple(level for level in ("plain", *cpu_levels()) if module("tiles", level) is not None)


@lru_cache(maxsize=16)
def module(kind: str, level: str) -> ModuleType | None:
    """The extension module of "tiles", "products" or "gradients" for an instruction set, or None if there is none."""
    try:
        return importlib.import_module(f"fastnw.backends.compiled._{kind}_{level}")
    except ModuleNotFoundError:
        return None


_active: str | None = levels()[-1] if levels() else None


def active() -> str | None:
    """The instruction set in use, or None if none was built for this processor."""
    return _active


def active_module(kind: str) -> ModuleType:
    """The extension module of that kind for the instruction set in use."""
    found = None if _active is None else module(kind, _active)
    assert found is not None, f"there is no module of {kind} for {_active}"
    return found


@contextmanager
def use_level(level: str) -> Iterator[None]:
    """Use another of `levels` for a while. Tests need it; it is not for threads that run side by side."""
    global _active
    if level not in levels():
        raise ValueError(f"Expected one of the instruction sets {', '.join(levels())}, got {level!r}.")
    before, _active = _active, level
    try:
        yield
    finally:
        _active = before
