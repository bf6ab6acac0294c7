"""Adaptive widths: a bandwidth factor λ for each key, larger in regions with few keys."""

from fastnw.bandwidth.adaptive import Abramson, NearestNeighbours

__all__ = ["Abramson", "NearestNeighbours"]
