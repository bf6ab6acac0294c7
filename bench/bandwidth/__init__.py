"""The choice of bandwidths: ``python bench/report.py --bandwidth``."""
