"""scikit-learn estimators for regression, classification and density; ``persistence`` stores them in files."""

from fastnw.estimators.density import KernelDensity
from fastnw.estimators.regression import NadarayaWatsonClassifier, NadarayaWatsonRegressor

__all__ = ["KernelDensity", "NadarayaWatsonClassifier", "NadarayaWatsonRegressor"]
