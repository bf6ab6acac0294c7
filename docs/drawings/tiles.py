"""The tiles of how_it_works.md: one query block meets one key block after another and takes its state along.

Run ``python docs/drawings/tiles.py`` to write tiles.svg again.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

QUERY_BLOCKS, KEY_BLOCKS = 4, 5
NOW = (1, 2)  # the tile that is being summed
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "0.35"


def draw(path: Path) -> None:
    """Write the drawing."""
    mpl.rcParams["svg.hashsalt"] = "fastnw"  # the same file each time
    figure = Figure(figsize=(9.6, 5.2))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 9.6), ylim=(-0.3, 4.9))
    ax.axis("off")
    left, top, side = 1.5, 3.7, 0.82
    for row in range(QUERY_BLOCKS):
        for column in range(KEY_BLOCKS):
            corner = (left + side * column, top - side * (row + 1))
            colour = ORANGE if (row, column) == NOW else "#9ecae1" if (row, column) < NOW else "0.92"
            ax.add_patch(Rectangle(corner, side - 0.06, side - 0.06, facecolor=colour, edgecolor="none"))
        y = top - side * (row + 0.53)
        ax.text(left - 0.15, y, f"queries {row}", ha="right", va="center", fontsize=10, color=GREY)
    for column in range(KEY_BLOCKS):
        ax.text(left + side * (column + 0.46), top + 0.1, f"keys {column}", ha="center", fontsize=10, color=GREY)
    y = top - side * (NOW[0] + 0.53)
    _arrow(ax, (left + 0.1, y), (left + side * NOW[1], y), "-|>", "-", "black")
    ax.text(left + side * (NOW[1] + 0.46), y, "tile", ha="center", va="center", color="white", weight="bold")
    ax.text(left, top + 0.7, "blue: summed   orange: being summed   grey: still to come", fontsize=10, color=GREY)
    _arrow(ax, (left + side * (NOW[1] + 1) - 0.06, y), (6.22, 2.35), "-", ":", ORANGE)
    _state(ax)
    below = "Memory: a panel of queries with its state and a span of packed keys, never a matrix of queries × keys."
    ax.text(4.8, 0.0, below, ha="center", va="center", fontsize=10, color=BLUE)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _state(ax):
    """The box that says what the state is."""
    box = FancyBboxPatch((6.35, 1.05), 3.0, 2.55, boxstyle="round,pad=0.1", facecolor="white", edgecolor=ORANGE)
    ax.add_patch(box)
    ax.text(7.85, 3.4, "the state, one row a query", ha="center", va="center", weight="bold", color=ORANGE)
    rows = (
        ("shift", "exponent taken out"),
        ("mass", "Σ w κ / exp(shift)"),
        ("total", "Σ w κ v / exp(shift)"),
        ("mass_error", "bound on mass's error"),
        ("total_error", "bound on total's error"),
    )
    for i, (name, meaning) in enumerate(rows):
        ax.text(6.4, 2.95 - 0.4 * i, name, fontsize=9, family="monospace", va="center")
        ax.text(7.5, 2.95 - 0.4 * i, meaning, fontsize=9, color=GREY, va="center")


def _arrow(ax, start, end, style, line, colour):
    arrow = FancyArrowPatch(
        start, end, arrowstyle=style, linestyle=line, mutation_scale=15, linewidth=1.8, color=colour
    )
    ax.add_patch(arrow)


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".svg"))
