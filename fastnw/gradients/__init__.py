"""Computes gradients of kernel-weighted means and masses as sums over pairs of queries and keys."""
