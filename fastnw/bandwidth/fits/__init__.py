"""Means and masses at the keys for one bandwidth after another, and the gradient of a loss.

``fitter``
    What all of these offer: means and masses at a bandwidth, the same at several, a gradient.
``planned``
    By the method that the planner chooses at each bandwidth.
``spectral``
    By Fourier transforms that serve many bandwidths; for the Gaussian in up to three coordinates.
``at_keys``, ``multi_bandwidth``, ``own_classes``
    The parts of ``planned``: fits at one bandwidth; at several multiples of one bandwidth in one pass over the pairs;
    the shares of each row's own class where there are many classes.
"""
