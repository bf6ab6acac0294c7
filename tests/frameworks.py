"""Frameworks that tests need: skipped by name where one is missing, unless FASTNW_FRAMEWORKS says that it is there."""

from __future__ import annotations

import importlib
import os

import pytest


def module(name):
    """The framework's module; FASTNW_FRAMEWORKS lists, separated by commas, those that may not be missing."""
    if name in os.environ.get("FASTNW_FRAMEWORKS", "").split(","):
        return importlib.import_module(name)
    return pytest.importorskip(name, reason=f"{name} is not installed")
