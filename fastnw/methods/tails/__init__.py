"""Far queries: exponents relative to a leading key, with more digits than float64 has."""
