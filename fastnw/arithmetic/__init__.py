"""Arithmetic with more digits than float64 has."""
