"""The method "tree": a k-d tree of the keys, by which pairs that cannot matter are skipped."""
