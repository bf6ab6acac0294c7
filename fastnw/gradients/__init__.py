"""Gradients of kernel-weighted means and masses, summed pair by pair."""
