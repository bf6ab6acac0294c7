"""Kernel-weighted prediction: Nadaraya-Watson regression, classification, density, attention pooling.

Names are loaded when first used: ``import fastnw`` takes a fraction of a second and imports neither scikit-learn, numba
nor matplotlib.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.1"

if TYPE_CHECKING:
    from fastnw import bandwidth, d2l, kernels, plotting, widths
    from fastnw._config import show_config
    from fastnw._plan import Plan
    from fastnw._pool import density, plan, pool
    from fastnw._warnings import AccuracyWarning, BandwidthWarning, EmptyWindowWarning, VersionWarning
    from fastnw._weights import attention_weights
    from fastnw.estimators import KernelDensity, NadarayaWatsonClassifier, NadarayaWatsonRegressor
    from fastnw.kernels import Kernel
    from fastnw.persistence import load, save
    from fastnw.relative import relative_representation
    from fastnw.selection.learn import LearnedBandwidth, learn_bandwidth
    from fastnw.selection.result import BandwidthSelection
    from fastnw.selection.select import select_bandwidth
    from fastnw.widths import Abramson, NearestNeighbours

_HOMES = {
    "pool": "_pool",
    "density": "_pool",
    "plan": "_pool",
    "attention_weights": "_weights",
    "Plan": "_plan",
    "Kernel": "kernels",
    "show_config": "_config",
    "AccuracyWarning": "_warnings",
    "BandwidthWarning": "_warnings",
    "EmptyWindowWarning": "_warnings",
    "VersionWarning": "_warnings",
    "load": "persistence",
    "save": "persistence",
    "NadarayaWatsonRegressor": "estimators",
    "NadarayaWatsonClassifier": "estimators",
    "KernelDensity": "estimators",
    "select_bandwidth": "selection.select",
    "BandwidthSelection": "selection.result",
    "learn_bandwidth": "selection.learn",
    "LearnedBandwidth": "selection.learn",
    "Abramson": "widths",
    "NearestNeighbours": "widths",
    "relative_representation": "relative",
}
_MODULES = ("kernels", "bandwidth", "d2l", "plotting", "widths", "torch", "jax")

__all__ = [
    "Abramson",
    "AccuracyWarning",
    "BandwidthSelection",
    "BandwidthWarning",
    "EmptyWindowWarning",
    "Kernel",
    "KernelDensity",
    "LearnedBandwidth",
    "NadarayaWatsonClassifier",
    "NadarayaWatsonRegressor",
    "NearestNeighbours",
    "Plan",
    "VersionWarning",
    "attention_weights",
    "bandwidth",
    "d2l",
    "density",
    "kernels",
    "learn_bandwidth",
    "load",
    "plan",
    "plotting",
    "pool",
    "relative_representation",
    "save",
    "select_bandwidth",
    "show_config",
    "widths",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"fastnw.{_HOMES[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"fastnw.{name}")
    else:
        raise AttributeError(f"module 'fastnw' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
