"""The command ``fastnw``: `main` runs it."""

from fastnw.cli.command import main

__all__ = ["main"]
