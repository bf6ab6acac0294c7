"""``fastnw info``: prints the configuration."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no arguments: the command has none."""


def run(args: argparse.Namespace) -> int:
    """Print what `fastnw.show_config` prints."""
    from fastnw.config import show_config

    show_config()
    return 0
