"""``fastnw info``."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It has none."""


def run(args: argparse.Namespace) -> int:
    """Print what `fastnw.show_config` prints."""
    from fastnw import show_config

    show_config()
    return 0
