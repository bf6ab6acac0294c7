"""Adaptive widths: a factor λ of the bandwidth for each key, wider where keys are few."""

from fastnw.bandwidth.adaptive import Abramson, NearestNeighbours

__all__ = ["Abramson", "NearestNeighbours"]
