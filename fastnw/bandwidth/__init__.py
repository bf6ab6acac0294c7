"""Bandwidths from data: by the rules of Scott and Silverman, by a criterion, by descent; adaptive widths.

``rules``, ``adaptive``
    Reference rules, and factors of the bandwidth for single keys.
``criteria``
    The losses, functions of the means and masses at the keys.
``fits``, ``sums``, ``multi_bandwidth``, ``spectral``, ``own_classes``
    Means, masses and gradients at one bandwidth after another.
``search``, ``select``, ``result``, ``picture``
    Where the loss is least; `fastnw.select_bandwidth`, what it returns, and the picture of that.
``learn``, ``parameters``
    `fastnw.learn_bandwidth`: descent on mini-batches, for the widths or the metric.
"""

from fastnw.bandwidth.rules import CRITERIA, RULES, rule_bandwidth

__all__ = ["CRITERIA", "RULES", "rule_bandwidth"]
