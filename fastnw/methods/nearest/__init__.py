"""The nearest key, for windows that are empty."""
