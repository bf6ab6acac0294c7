"""The pictures beside the page: throughput by dimension, time by number of keys, share of the ceiling."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import numpy as np
from matplotlib.axes import Axes
from sklearn.isotonic import isotonic_regression

from bench.lib.lines import COLOURS, plot_lines, plt
from bench.lib.systems import CEILING, FASTNW, SDPA
from bench.peers import cases
from bench.peers.compare import Timing, share

LABEL_GAP = 0.045  # height of a line of text, in heights of the axes


def draw(timings: list[Timing], sweeps: dict[str, list[Timing]], folder: Path) -> dict[Path, str]:
    """Write every picture for which there are data; returns the title of each path."""
    works = {case.name: case for case in (*cases.BY_DIMENSION, *cases.BY_KEYS)}
    by_dimension = [(works[t.case].d, t) for t in sweeps.get("by_dimension", []) if t.seconds]
    by_keys = [(works[t.case].n, t) for t in sweeps.get("by_keys", []) if t.seconds]
    ceilings = [t for t in timings if t.system == CEILING]
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
    # Systems that were given fewer queries are drawn as if they went on at their rate.
    seconds = {(n, t.system): median(t.seconds) * t.m_asked / t.m for n, t in points if t.system != CEILING}
    _lines(ax, seconds, {t.system: t.what for _, t in points})
    ax.set_xlabel("keys n")
    ax.set_ylabel("seconds")
    ax.set_title("Time for 10,000 queries: Gaussian, float32, d = 3, one value (dashed: densities)", loc="left")
    return figure


def _lines(ax: Axes, heights: dict[tuple[int, str], float], what: dict[str, str]) -> None:
    """One line for each system, with its name at the end."""
    _label_ends(ax, plot_lines(ax, heights, what))


def _label_ends(ax: Axes, ends: dict[str, tuple[float, float]]) -> None:
    """Put the names right of the axes, joined to the lines' ends, and move them apart just enough not to touch."""
    ax.set_ylim(*ax.get_ylim())  # labels are placed by the final limits
    ax.set_xlim(*ax.get_xlim())
    to_axes = ax.transData + ax.transAxes.inverted()
    systems = sorted(ends, key=lambda system: ends[system][1])
    wanted = [to_axes.transform(ends[system])[1] for system in systems]
    # Least squares with at least a gap between neighbours is an isotonic regression.
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
            fontweight="bold" if system == FASTNW else "normal",
            va="center",
            annotation_clip=False,
            arrowprops=line,
        )


def _ceiling_share(timings: list[Timing]) -> plt.Figure:
    """Bars of the shares of the ceiling that fastnw and the strongest peer reach."""
    by_case: dict[str, list[Timing]] = {}
    for timing in timings:
        by_case.setdefault(timing.case, []).append(timing)
    named = [case for case in cases.CASES if share(by_case.get(case.name, []), FASTNW, CEILING) is not None]
    figure, ax = plt.subplots(figsize=(9.5, 0.75 * len(named) + 1.8), layout="constrained")
    for offset, system in ((-0.2, FASTNW), (0.2, SDPA)):
        shares = [share(by_case[case.name], system, CEILING) or 0.0 for case in named]
        ax.barh(np.arange(len(named)) + offset, shares, height=0.38, color=COLOURS[system], label=system)
        for i, number in enumerate(shares):
            _label_bar(ax, number, i + offset)
    aims = [(i, goal.factor) for i, case in enumerate(named) for goal in case.goals if goal.against == CEILING]
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
    """Write the share inside the bar where it fits, because the goals are marked outside."""
    if number > 0:
        inside = number > 0.12
        place = {"ha": "right", "color": "white"} if inside else {"ha": "left", "color": "black"}
        ax.text(number + (-0.01 if inside else 0.01), height, f"{number:.0%}", va="center", **place)
