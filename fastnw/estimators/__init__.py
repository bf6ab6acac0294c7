"""scikit-learn estimators: regression, classification, density; ``persistence`` writes them to files."""

from fastnw.estimators.density import KernelDensity
from fastnw.estimators.regression import NadarayaWatsonClassifier, NadarayaWatsonRegressor

__all__ = ["KernelDensity", "NadarayaWatsonClassifier", "NadarayaWatsonRegressor"]
