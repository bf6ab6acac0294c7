"""The machine: its instruction sets and cores, the threads that run tiles, and the treatment of subnormal numbers."""
