"""The picture beside the page: seconds against the number of keys and queries."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import numpy as np
from matplotlib.axes import Axes

from bench.lib.lines import COLOURS, plot_lines, plt
from bench.lowdim.measure import BANDWIDTHS
from bench.peers.compare import Timing


def draw(growth: list[Timing], rivals: list[Timing], path: Path) -> None:
    """Draw a panel for each dimension: seconds against n = m, with lines of known slope."""
    panels: dict[int, list[Timing]] = {}
    for timing in (*growth, *rivals):
        if timing.seconds:
            panels.setdefault(int(timing.case.split(",")[0].removeprefix("d=")), []).append(timing)
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.4 * len(panels) + 0.6, 5.6), sharey=True, squeeze=False, layout="constrained"
    )
    entries = {}
    for ax, (d, timings) in zip(axes[0], sorted(panels.items()), strict=True):
        # Systems that were given fewer queries are drawn as if they went on at their rate.
        seconds = {(round(t.pairs / t.m), t.system): median(t.seconds) * t.m_asked / t.m for t in timings}
        plot_lines(ax, seconds, {t.system: t.what for t in timings})
        h = BANDWIDTHS[d]
        ax.set_title(f"d = {d}, bandwidth {h:g}", loc="left", fontsize=11)
        ax.set_xlabel("keys n = queries m")
        entries |= {line.get_label(): line for line in ax.get_lines()}
    for ax in axes[0]:  # now that the shared limits are known
        _draw_slopes(ax)
    axes[0][0].set_ylabel("seconds")
    figure.suptitle(
        "Time for n queries on n keys: Gaussian, float64 (dashed: densities; extrapolated where queries were left out)",
        fontsize=11,
        x=0.01,
        ha="left",
    )
    order = sorted(entries, key=lambda system: list(COLOURS).index(system))
    figure.legend([entries[system] for system in order], order, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw_slopes(ax: Axes) -> None:
    """Draw the slopes of n and n² through the left corners of the axes, where there is no system's line."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    ax.set_ylim(low, high)
    xs = np.geomspace(left, right, 50)
    for power, name, start in ((1, "∝ n", 1.7 * low), (2, "∝ n²", high / 400)):
        ys = start * (xs / left) ** power
        inside = ys < 0.7 * high
        ax.plot(xs[inside], ys[inside], color="#9a9a9a", linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
        ax.text(xs[inside][-1], ys[inside][-1], f" {name}", color="#777777", fontsize=9, va="bottom", ha="right")
    ax.set_xlim(left, right)
