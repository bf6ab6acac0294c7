"""The ladder of how_it_works.md: queries fall from rung to rung until a bound certifies them.

Run ``python docs/drawings/ladder.py`` to write ladder.svg again.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

RUNGS = (
    ("fourier", "fast Fourier transforms:\ntime like queries + keys"),
    ("tree", "skips keys that are too\nfar away to count"),
    ("exact, float64", "sums every pair"),
    ("tails, double-double", "exponents relative to\nthe leading key"),
)
OPEN = (18, 7, 3, 1)  # queries that reach each rung; the drawing is a sketch, not a measurement
BLUE, GREEN, ORANGE, GREY = "#0072B2", "#009E73", "#D55E00", "0.35"


def draw(path: Path) -> None:
    """Write the drawing."""
    mpl.rcParams["svg.hashsalt"] = "fastnw"  # the same file each time
    figure = Figure(figsize=(9.6, 6.0))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 9.6), ylim=(-0.7, 5.3))
    ax.axis("off")
    ax.text(4.05, 5.0, "a panel of queries", ha="center", color=GREY, fontsize=11)
    ax.text(8.1, 5.0, "certified: bound ≤ promise", ha="center", color=GREEN, fontsize=11)
    for rung, (name, does) in enumerate(RUNGS):
        y = 3.9 - 1.3 * rung
        box = FancyBboxPatch((2.3, y - 0.1), 3.5, 0.2, boxstyle="round,pad=0.06", facecolor=BLUE, edgecolor="none")
        ax.add_patch(box)
        ax.text(2.05, y + 0.14, name, ha="right", va="center", fontsize=12, weight="bold", color=BLUE)
        ax.text(2.05, y - 0.3, does, ha="right", va="center", fontsize=9, color=GREY)
        _queries(ax, OPEN[rung], 4.05, y + 0.42)
        closed = OPEN[rung] - (OPEN[rung + 1] if rung + 1 < len(OPEN) else 0)
        _arrow(ax, (6.0, y), (6.9, y), GREEN)
        _queries(ax, closed, 8.1, y, GREEN)
        if rung + 1 < len(RUNGS):
            _arrow(ax, (4.05, y - 0.2), (4.05, y - 0.68), ORANGE)
            ax.text(4.2, y - 0.42, "bound too large", fontsize=9, color=ORANGE, va="center")
    _arrow(ax, (4.05, -0.2), (4.05, -0.5), ORANGE)
    ax.text(4.2, -0.42, "no rung left: true bound and AccuracyWarning", fontsize=9, color=ORANGE, va="center")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _queries(ax, count, x, y, colour="black"):
    """A row of dots, one for each query."""
    ax.plot([x + 0.17 * (i - (count - 1) / 2) for i in range(count)], [y] * count, "o", markersize=6, color=colour)


def _arrow(ax, start, end, colour):
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=15, linewidth=1.8, color=colour))


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".svg"))
