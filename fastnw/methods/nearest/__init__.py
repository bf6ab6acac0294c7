"""The nearest keys of queries whose windows are empty."""
