"""The CUDA backend: all code for NVIDIA GPUs. It needs numba-cuda, an optional extra."""
