"""The loss against the bandwidths that a search looked at, or against the steps of a descent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastnw.plotting import _axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fastnw.bandwidth.learn import LearnedBandwidth
    from fastnw.bandwidth.result import BandwidthSelection

LOSSES = {"loo": "leave-one-out loss", "aicc": "AICc"}


def draw(selection: BandwidthSelection, ax: Axes | None) -> Axes:
    """All that was looked at, a colour a coordinate, and the choice."""
    path = selection.path
    if not len(path):
        raise ValueError(f"There is nothing to draw: {selection.criterion!r} is a rule, which looks at no data points.")
    ax = _axes(ax, (6.4, 4.0))
    finite = np.isfinite(path.score)
    score, d = path.score[finite], path.bandwidth.shape[1]
    chosen = np.broadcast_to(selection.bandwidth, d)
    shared = d > 1 and np.all(np.ptp(path.bandwidth, axis=1) == 0)  # one bandwidth for all
    for j in range(1 if shared else d):
        h = path.bandwidth[finite, j]
        order = np.argsort(h)
        name = f"coordinate {j}: {chosen[j]:.3g}" if d > 1 and not shared else f"chosen: {chosen[j]:.3g}"
        style: dict[str, Any] = {"linestyle": "-" if d == 1 or shared else "none", "color": f"C{j % 10}"}
        ax.plot(h[order], score[order], marker="o", markersize=3.5, linewidth=1.0, alpha=0.7, **style)
        ax.axvline(chosen[j], color=f"C{j % 10}", linestyle="--", linewidth=1.2, label=name)
    low, high = float(score.min()), float(np.quantile(score, 0.9))
    room = max(high - low, 1e-12 * abs(low))
    ax.set_xscale("log")
    ax.set(xlabel="bandwidth", ylabel=LOSSES.get(selection.criterion, selection.criterion))
    ax.set_ylim(low - 0.08 * room, high + 0.25 * room)  # a few far worse ones would hide the valley
    ax.legend(frameon=False, loc="upper center", ncol=min(d, 3))
    return ax


def draw_history(learned: LearnedBandwidth, ax: Any) -> Any:
    """Loss and bandwidths against steps, side by side."""
    if learned.history is None:
        raise ValueError("There is nothing to draw: history=False was asked for.")
    left, right = _two_axes() if ax is None else ax
    loss, h = learned.history.loss, learned.history.bandwidth
    steps = np.arange(1, len(loss) + 1)
    left.plot(steps, loss, color="0.6", linewidth=0.8, label="each step")
    width = max(len(loss) // 20, 1)
    if width > 1:
        smooth = np.convolve(loss, np.full(width, 1 / width), mode="valid")
        left.plot(steps[width - 1 :], smooth, color="C0", label=f"mean of {width} steps")
        left.legend(frameon=False)
    left.set(xlabel="step", ylabel="leave-one-out loss" if learned.leave_one_out else "training loss")
    widths = h if h.ndim == 2 else np.sqrt(np.linalg.eigvalsh(h))
    what = "coordinate" if h.ndim == 2 else "axis"
    shared = h.ndim == 2 and np.all(np.ptp(h, axis=1) == 0)
    for j in range(1 if shared else widths.shape[1]):
        label = "all coordinates" if shared and widths.shape[1] > 1 else f"{what} {j}"
        right.plot(steps, widths[:, j], color=f"C{j % 10}", label=label)
    right.set_yscale("log")
    right.set(xlabel="step", ylabel="bandwidth")
    right.legend(frameon=False)
    return left.figure


def _two_axes() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("Plotting needs matplotlib. Install it with: pip install 'fastnw[plot]'") from error
    return plt.subplots(1, 2, figsize=(9.0, 3.6), layout="constrained")[1]
