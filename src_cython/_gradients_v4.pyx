# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Gradients for x86-64-v4."""
include "_gradients.pxi"
