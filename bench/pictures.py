"""The pictures in docs/: throughput by dimension, time by number of keys, share of the ceiling."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import matplotlib as mpl

mpl.use("Agg")  # before pyplot: no display is needed
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from bench import cases
from bench.measure import Timing, share

COLOURS = {
    cases.FASTNW: "#c1121f",
    cases.CEILING: "#000000",
    cases.SDPA: "#1f77b4",
    cases.KEOPS: "#2ca02c",
    cases.CDIST: "#17a2b8",
    cases.NUMPY: "#7f7f7f",
    cases.NUMPY_PRODUCT: "#444444",
    cases.RBF_KERNEL: "#e08214",
    cases.SKLEARN_KDE: "#b8860b",
    cases.KERNEL_REG: "#9467bd",
    cases.MLPACK: "#8c564b",
    cases.KDEPY: "#d65fa3",
}
LABEL_GAP = 0.045  # of the height of the axes: room for a line of text


def draw(timings: list[Timing], sweeps: dict[str, list[Timing]], folder: Path) -> list[Path]:
    """Write every picture there are data for; returns the paths."""
    works = {case.name: case for case in (*cases.BY_DIMENSION, *cases.BY_KEYS)}
    lines = {
        "by_dimension": (_by_dimension, [(works[t.case].d, t) for t in sweeps.get("by_dimension", []) if t.seconds]),
        "by_keys": (_by_keys, [(works[t.case].n, t) for t in sweeps.get("by_keys", []) if t.seconds]),
    }
    figures = {f"bench_{name}": picture(points) for name, (picture, points) in lines.items() if points}
    if any(timing.system == cases.CEILING for timing in timings):
        figures["bench_ceiling"] = _ceiling_share(timings)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=130)
        plt.close(figure)
    return paths


def _by_dimension(points: list[tuple[int, Timing]]) -> plt.Figure:
    figure, ax = plt.subplots(figsize=(9.5, 6), layout="constrained")
    _lines(ax, {(d, t.system): t.median_rate for d, t in points}, {t.system: t.what for _, t in points})
    dimensions = sorted({d for d, _ in points})
    ax.set_xticks(dimensions, map(str, dimensions))
    ax.set_xlabel("coordinates d")
    ax.set_ylabel("query–key pairs a second")
    ax.set_title("Throughput: Gaussian, float32, 10,000 queries, 100,000 keys, one value", loc="left")
    return figure


def _by_keys(points: list[tuple[int, Timing]]) -> plt.Figure:
    figure, ax = plt.subplots(figsize=(9.5, 6), layout="constrained")
    # systems that were given fewer queries: as if they went on at their rate
    seconds = {(n, t.system): median(t.seconds) * t.m_asked / t.m for n, t in points if t.system != cases.CEILING}
    _lines(ax, seconds, {t.system: t.what for _, t in points})
    ax.set_xlabel("keys n")
    ax.set_ylabel("seconds")
    ax.set_title("Time for 10,000 queries: Gaussian, float32, d = 3, one value", loc="left")
    return figure


def _lines(ax: Axes, heights: dict[tuple[int, str], float], what: dict[str, str]) -> None:
    """One line a system on log axes, with its name at its end; dashed where it only does densities."""
    ax.set_xscale("log", base=10)
    ax.set_yscale("log")
    ax.minorticks_off()
    ends = {}
    for system in dict.fromkeys(system for _, system in heights):
        xs = sorted(x for x, other in heights if other == system)
        ys = [heights[x, system] for x in xs]
        mine = system == cases.FASTNW
        ax.plot(
            xs,
            ys,
            color=COLOURS[system],
            linestyle=":" if system == cases.CEILING else "--" if what[system] == "density" else "-",
            marker="o",
            markersize=5 if mine else 3.5,
            linewidth=2.8 if mine else 1.4,
            zorder=3 if mine else 2,
        )
        text = f"{system} (density)" if what[system] == "density" and "KDE" not in system else system
        ends[system] = (xs[-1], ys[-1], text)
    ax.grid(which="major", color="#e5e5e5", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    _label_ends(ax, ends)


def _label_ends(ax: Axes, ends: dict[str, tuple[float, float, str]]) -> None:
    """Names right of the axes, each joined to its line's end, moved apart where they would touch."""
    to_axes = ax.transData + ax.transAxes.inverted()
    ax.set_ylim(*ax.get_ylim())  # what is placed now must stay where it is
    ax.set_xlim(*ax.get_xlim())
    wanted = sorted((to_axes.transform((x, y))[1], system) for system, (x, y, _) in ends.items())
    places, lowest = {}, -1.0
    for height, system in wanted:
        lowest = max(height, lowest + LABEL_GAP)
        places[system] = lowest
    excess = max(lowest - 1.0, 0.0)
    highest = 2.0
    for _, system in reversed(wanted):  # and back down, from the top
        highest = min(places[system] - (excess if highest == 2.0 else 0.0), highest - LABEL_GAP)
        places[system] = highest
    for system, (x, y, text) in ends.items():
        ax.annotate(
            text,
            (x, y),
            xytext=(1.03, places[system]),
            textcoords="axes fraction",
            color=COLOURS[system],
            fontweight="bold" if system == cases.FASTNW else "normal",
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": COLOURS[system], "linewidth": 0.5, "alpha": 0.6, "shrinkA": 1},
        )


def _ceiling_share(timings: list[Timing]) -> plt.Figure:
    """Bars: which share of what the pipes allow fastnw and the strongest peer reach."""
    by_case: dict[str, list[Timing]] = {}
    for timing in timings:
        by_case.setdefault(timing.case, []).append(timing)
    named = [case for case in cases.CASES if share(by_case.get(case.name, []), cases.FASTNW, cases.CEILING) is not None]
    figure, ax = plt.subplots(figsize=(9.5, 0.75 * len(named) + 1.8), layout="constrained")
    for offset, system in ((-0.2, cases.FASTNW), (0.2, cases.SDPA)):
        shares = [(i, share(by_case[case.name], system, cases.CEILING)) for i, case in enumerate(named)]
        places, widths = zip(*[(i + offset, s) for i, s in shares if s is not None] or [(0, 0)], strict=True)
        bars = ax.barh(places, widths, height=0.38, color=COLOURS[system], label=system)
        ax.bar_label(bars, fmt=lambda number: f"{number:.0%}", padding=4)
    for i, case in enumerate(named):
        for goal in case.goals:
            if goal.against == cases.CEILING:
                ax.plot([goal.factor] * 2, [i - 0.42, i + 0.02], color="black", linewidth=2)
                ax.text(goal.factor, i + 0.06, "goal", ha="center", va="top", fontsize=8)
    ax.set_yticks(range(len(named)), [f"{case.name}, {case.dtype}".replace("float64, ", "") for case in named])
    ax.invert_yaxis()
    ax.set_xlim(0, 1.1)
    ax.xaxis.set_major_formatter(lambda number, _: f"{number:.0%}")
    ax.set_xlabel("share of the pairs a second that the processor's pipes allow")
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure
