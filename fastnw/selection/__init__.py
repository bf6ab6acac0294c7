"""Bandwidths from data by a criterion: what `fastnw.select_bandwidth` does.

``criteria``
    The losses, functions of the means and masses at the keys.
``fits``, ``sums``, ``spectrum``
    Means, masses and gradients at one bandwidth after another: by the planner's methods, or from Fourier coefficients.
``search``
    Where the loss is least.
``select``
    The public function; ``result`` what it returns.
``learn``
    `fastnw.learn_bandwidth`: descent on mini-batches, for the widths or the metric of ``parameters``.
"""
