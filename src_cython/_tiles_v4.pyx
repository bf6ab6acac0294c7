# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Tiles for x86-64-v4."""
include "_tiles.pxi"
