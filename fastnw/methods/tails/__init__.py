"""Far queries: exponents relative to the leading key, in more digits than float64 has."""
