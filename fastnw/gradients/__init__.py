"""Gradients of kernel-weighted means and masses as sums over pairs."""
