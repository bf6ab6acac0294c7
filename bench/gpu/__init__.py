"""On an NVIDIA GPU: ``python bench/gpu.py``."""
