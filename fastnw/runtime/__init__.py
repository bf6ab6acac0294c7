"""The machine: its instruction sets and cores, the threads that run tiles, and how subnormal numbers are treated."""
