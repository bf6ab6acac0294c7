"""Many keys and queries in few coordinates: ``python bench/report.py --lowdim``."""
