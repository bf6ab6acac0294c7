"""How much the time of a pair depends on the data: ``python bench/report.py --steadiness``."""
