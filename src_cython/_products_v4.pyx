# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Matrix products for x86-64-v4."""
include "_products.pxi"
