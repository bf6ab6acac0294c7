"""NVIDIA GPUs through numba-cuda, an optional extra: all code for the device."""
