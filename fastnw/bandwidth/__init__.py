"""Bandwidths from data: by the rules of Scott and Silverman, by a criterion, by descent; adaptive widths.

``rules``, ``adaptive``
    Reference rules; a factor of the bandwidth for each key.
``criteria``, ``rows``
    The losses and the registry of criteria; the rows that a bandwidth is chosen for.
``fits``
    Means and masses at the keys for one bandwidth after another, with gradients.
``search``, ``select``, ``result``
    The search for the least loss; `fastnw.select_bandwidth` and what it returns.
``descent``, ``learn``
    Gradient descent on mini-batches; `fastnw.learn_bandwidth`, for bandwidths or a metric.
``picture``, ``progress``
    Pictures of a result, and the progress bar.
"""

from fastnw.bandwidth.criteria import CRITERIA
from fastnw.bandwidth.rules import RULES, rule_bandwidth

__all__ = ["CRITERIA", "RULES", "rule_bandwidth"]
