"""What all benchmarks share: cases, the NumPy oracle, timing, tables, the machine, and files of results."""
