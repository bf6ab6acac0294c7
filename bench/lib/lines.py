"""Lines of systems on log axes, each system in its colour."""

from __future__ import annotations

import matplotlib as mpl

mpl.use("Agg")  # before pyplot is imported, as no display is needed
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from bench.lib import systems

__all__ = ["COLOURS", "plot_lines", "plt"]

COLOURS = {
    systems.FASTNW: "#c1121f",
    systems.FASTNW_EXACT: "#f08a8f",
    systems.CEILING: "#000000",
    systems.SDPA: "#1f77b4",
    systems.KEOPS: "#2ca02c",
    systems.CDIST: "#17a2b8",
    systems.NUMPY: "#7f7f7f",
    systems.NUMPY_PRODUCT: "#444444",
    systems.RBF_KERNEL: "#e08214",
    systems.SKLEARN_KDE: "#b8860b",
    systems.KERNEL_REG: "#9467bd",
    systems.MLPACK: "#8c564b",
    systems.KDEPY: "#d65fa3",
}


def plot_lines(ax: Axes, heights: dict[tuple[int, str], float], what: dict[str, str]) -> dict[str, tuple[float, float]]:
    """Draw a line for each system on log axes, dashed for densities; returns the end of each line."""
    ax.set_xscale("log", base=10)
    ax.set_yscale("log")
    ax.minorticks_off()
    ends = {}
    for system in dict.fromkeys(system for _, system in heights):
        xs = sorted(x for x, other in heights if other == system)
        ys = [heights[x, system] for x in xs]
        highlighted = system == systems.FASTNW
        ax.plot(
            xs,
            ys,
            color=COLOURS[system],
            linestyle=":" if system == systems.CEILING else "--" if what[system] == "density" else "-",
            marker="o",
            markersize=5 if highlighted else 3.5,
            linewidth=2.8 if highlighted else 1.4,
            zorder=3 if highlighted else 2,
            label=system,
        )
        ends[system] = (xs[-1], ys[-1])
    ax.grid(which="major", color="#e5e5e5", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    return ends
