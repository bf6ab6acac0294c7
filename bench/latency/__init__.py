"""How long small calls take: ``python bench/report.py --latency``."""
