"""What `method="auto"` chooses and predicts: ``python bench/report.py --planner``."""
