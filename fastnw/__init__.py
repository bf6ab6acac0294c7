"""Kernel-weighted prediction: Nadaraya-Watson regression, classification, density, attention pooling.

Names are loaded when first used: ``import fastnw`` takes a fraction of a second and imports neither scikit-learn, numba
nor matplotlib.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastnw._version import __version__ as __version__

if TYPE_CHECKING:
    from fastnw import bandwidth, d2l, kernels, plotting, widths
    from fastnw.attention import attention_weights
    from fastnw.bandwidth.adaptive import Abramson, NearestNeighbours
    from fastnw.bandwidth.learn import LearnedBandwidth, learn_bandwidth
    from fastnw.bandwidth.result import BandwidthSelection
    from fastnw.bandwidth.select import select_bandwidth
    from fastnw.config import show_config
    from fastnw.core.plan import Plan
    from fastnw.core.warnings import AccuracyWarning, BandwidthWarning, EmptyWindowWarning, VersionWarning
    from fastnw.estimators import KernelDensity, NadarayaWatsonClassifier, NadarayaWatsonRegressor
    from fastnw.estimators.persistence import load, save
    from fastnw.functions import density, plan, pool
    from fastnw.kernels import Kernel
    from fastnw.relative import relative_representation

_HOMES = {
    "pool": "functions",
    "density": "functions",
    "plan": "functions",
    "attention_weights": "attention",
    "Plan": "core.plan",
    "Kernel": "kernels",
    "show_config": "config",
    "AccuracyWarning": "core.warnings",
    "BandwidthWarning": "core.warnings",
    "EmptyWindowWarning": "core.warnings",
    "VersionWarning": "core.warnings",
    "load": "estimators.persistence",
    "save": "estimators.persistence",
    "NadarayaWatsonRegressor": "estimators",
    "NadarayaWatsonClassifier": "estimators",
    "KernelDensity": "estimators",
    "select_bandwidth": "bandwidth.select",
    "BandwidthSelection": "bandwidth.result",
    "learn_bandwidth": "bandwidth.learn",
    "LearnedBandwidth": "bandwidth.learn",
    "Abramson": "bandwidth.adaptive",
    "NearestNeighbours": "bandwidth.adaptive",
    "relative_representation": "relative",
}
_MODULES = ("kernels", "bandwidth", "d2l", "estimators", "plotting", "widths", "torch", "jax")

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
