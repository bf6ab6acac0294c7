"""A k-d tree of the keys: pairs that cannot matter are skipped."""
