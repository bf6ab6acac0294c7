"""Tiles compiled by Numba at their first use, for users' kernels too."""
