"""The pictures in docs/: throughput by dimension, time by number of keys and of queries, share of the ceiling."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import matplotlib as mpl
import numpy as np
from sklearn.isotonic import isotonic_regression

mpl.use("Agg")  # before pyplot: no display is needed
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from bench import cases, lowdim
from bench.measure import Timing, share

COLOURS = {
    cases.FASTNW: "#c1121f",
    cases.FASTNW_EXACT: "#f08a8f",
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


def draw(timings: list[Timing], sweeps: dict[str, list[Timing]], folder: Path) -> dict[Path, str]:
    """Write every picture there are data for; returns the paths, and what each shows."""
    works = {case.name: case for case in (*cases.BY_DIMENSION, *cases.BY_KEYS)}
    by_dimension = [(works[t.case].d, t) for t in sweeps.get("by_dimension", []) if t.seconds]
    by_keys = [(works[t.case].n, t) for t in sweeps.get("by_keys", []) if t.seconds]
    ceilings = [t for t in timings if t.system == cases.CEILING]
    drawn = {}
    for name, title, picture, data in (
        ("bench_by_dimension", "Throughput of each system by dimension", _by_dimension, by_dimension),
        ("bench_by_keys", "Time of each system by number of keys", _by_keys, by_keys),
        ("bench_ceiling", "Share of what the processor's pipes allow", _ceiling_share, timings if ceilings else []),
    ):
        if data:
            figure = picture(data)
            drawn[folder / f"{name}.png"] = title
            figure.savefig(folder / f"{name}.png", dpi=130)
            plt.close(figure)
    return drawn


def _by_dimension(points: list[tuple[int, Timing]]) -> plt.Figure:
    figure, ax = plt.subplots(figsize=(9.5, 6), layout="constrained")
    _lines(ax, {(d, t.system): t.median_rate for d, t in points}, {t.system: t.what for _, t in points})
    dimensions = sorted({d for d, _ in points})
    ax.set_xticks(dimensions, map(str, dimensions))
    ax.set_xlabel("coordinates d")
    ax.set_ylabel("query–key pairs a second")
    ax.set_title(
        "Throughput: Gaussian, float32, 10,000 queries, 100,000 keys, one value (dashed: densities)", loc="left"
    )
    return figure


def _by_keys(points: list[tuple[int, Timing]]) -> plt.Figure:
    figure, ax = plt.subplots(figsize=(9.5, 6), layout="constrained")
    # systems that were given fewer queries: as if they went on at their rate
    seconds = {(n, t.system): median(t.seconds) * t.m_asked / t.m for n, t in points if t.system != cases.CEILING}
    _lines(ax, seconds, {t.system: t.what for _, t in points})
    ax.set_xlabel("keys n")
    ax.set_ylabel("seconds")
    ax.set_title("Time for 10,000 queries: Gaussian, float32, d = 3, one value (dashed: densities)", loc="left")
    return figure


def _lines(ax: Axes, heights: dict[tuple[int, str], float], what: dict[str, str]) -> None:
    """One line a system, with its name at its end."""
    _label_ends(ax, _plot(ax, heights, what))


def _plot(ax: Axes, heights: dict[tuple[int, str], float], what: dict[str, str]) -> dict[str, tuple[float, float]]:
    """One line a system on log axes, dashed where it only does densities; returns where each ends."""
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
            label=system,
        )
        ends[system] = (xs[-1], ys[-1])
    ax.grid(which="major", color="#e5e5e5", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    return ends


def _label_ends(ax: Axes, ends: dict[str, tuple[float, float]]) -> None:
    """Names right of the axes, each joined to its line's end, moved apart as little as keeps them from touching."""
    ax.set_ylim(*ax.get_ylim())  # what is placed now must stay where it is
    ax.set_xlim(*ax.get_xlim())
    to_axes = ax.transData + ax.transAxes.inverted()
    systems = sorted(ends, key=lambda system: ends[system][1])
    wanted = [to_axes.transform(ends[system])[1] for system in systems]
    # least squares under "at least a gap between neighbours" is an isotonic regression
    gaps = LABEL_GAP * np.arange(len(systems))
    places = isotonic_regression(wanted - gaps, y_min=0, y_max=1 - gaps[-1]) + gaps
    for system, place in zip(systems, places, strict=True):
        colour = COLOURS[system]
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6, "relpos": (0, 0.5), "shrinkA": 1}
        ax.annotate(
            system,
            ends[system],
            xytext=(1.05, place),
            textcoords="axes fraction",
            color=colour,
            fontweight="bold" if system == cases.FASTNW else "normal",
            va="center",
            annotation_clip=False,
            arrowprops=line,
        )


def draw_large_n(growth: list[Timing], rivals: list[Timing], path: Path) -> None:
    """A panel for each dimension: seconds against n = m, with slopes to compare with."""
    panels: dict[int, list[Timing]] = {}
    for timing in (*growth, *rivals):
        if timing.seconds:
            panels.setdefault(int(timing.case.split(",")[0].removeprefix("d=")), []).append(timing)
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.4 * len(panels) + 0.6, 5.6), sharey=True, squeeze=False, layout="constrained"
    )
    entries = {}
    for ax, (d, timings) in zip(axes[0], sorted(panels.items()), strict=True):
        # systems that were given fewer queries: as if they went on at their rate
        seconds = {(round(t.pairs / t.m), t.system): median(t.seconds) * t.m_asked / t.m for t in timings}
        _plot(ax, seconds, {t.system: t.what for t in timings})
        h = lowdim.BANDWIDTHS[d]
        ax.set_title(f"d = {d}, bandwidth {h:g}", loc="left", fontsize=11)
        ax.set_xlabel("keys n = queries m")
        entries |= {line.get_label(): line for line in ax.get_lines()}
    for ax in axes[0]:  # when the shared limits are known
        _slopes(ax)
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


def _slopes(ax: Axes) -> None:
    """Guides through the lower left and the upper left of the axes, where no system is."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    ax.set_ylim(low, high)
    xs = np.geomspace(left, right, 50)
    for power, name, start in ((1, "∝ n", 1.7 * low), (2, "∝ n²", high / 400)):
        ys = start * (xs / left) ** power
        inside = ys < 0.7 * high
        ax.plot(xs[inside], ys[inside], color="#9a9a9a", linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
        ax.text(xs[inside][-1], ys[inside][-1], f" {name}", color="#777777", fontsize=9, va="bottom", ha="right")
    ax.set_xlim(left, right)


def _ceiling_share(timings: list[Timing]) -> plt.Figure:
    """Bars: which share of what the pipes allow fastnw and the strongest peer reach."""
    by_case: dict[str, list[Timing]] = {}
    for timing in timings:
        by_case.setdefault(timing.case, []).append(timing)
    named = [case for case in cases.CASES if share(by_case.get(case.name, []), cases.FASTNW, cases.CEILING) is not None]
    figure, ax = plt.subplots(figsize=(9.5, 0.75 * len(named) + 1.8), layout="constrained")
    for offset, system in ((-0.2, cases.FASTNW), (0.2, cases.SDPA)):
        shares = [share(by_case[case.name], system, cases.CEILING) or 0.0 for case in named]
        ax.barh(np.arange(len(named)) + offset, shares, height=0.38, color=COLOURS[system], label=system)
        for i, number in enumerate(shares):
            _label_bar(ax, number, i + offset)
    aims = [(i, goal.factor) for i, case in enumerate(named) for goal in case.goals if goal.against == cases.CEILING]
    for i, factor in aims:
        ax.plot(
            [factor] * 2, [i - 0.44, i + 0.02], color="black", linewidth=2.5, label="goal" * ((i, factor) == aims[0])
        )
    ax.set_yticks(
        range(len(named)), [case.name if case.dtype in case.name else f"{case.name} {case.dtype}" for case in named]
    )
    ax.invert_yaxis()
    ax.set_xlim(0, max(1.0, ax.get_xlim()[1]))
    ax.xaxis.set_major_formatter(lambda number, _: f"{number:.0%}")
    ax.set_xlabel("share of the pairs a second that the processor's pipes allow")
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper right", ncols=3, frameon=False)
    return figure


def _label_bar(ax: Axes, number: float, height: float) -> None:
    """Inside the bar where there is room: outside stand the goals."""
    if number > 0:
        inside = number > 0.12
        place = {"ha": "right", "color": "white"} if inside else {"ha": "left", "color": "black"}
        ax.text(number + (-0.01 if inside else 0.01), height, f"{number:.0%}", va="center", **place)
