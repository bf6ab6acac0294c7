"""Benchmarks: ``python bench/report.py`` compares systems, ``pytest bench --benchmark-only`` times fastnw alone."""
