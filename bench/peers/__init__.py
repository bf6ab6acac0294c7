"""fastnw beside its peers: ``python bench/report.py``."""
