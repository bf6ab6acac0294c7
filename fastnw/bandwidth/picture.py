"""Pictures of a choice of bandwidth: the loss against the bandwidths that were tried or the steps of a descent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastnw.bandwidth.criteria import LOO_LABEL, LOSSES, Floats
from fastnw.plotting import _axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LABELS = {loss.criterion: loss.label for loss in LOSSES.values()}


def draw_path(bandwidths: Floats, scores: Floats, bandwidth: Any, criterion: str, ax: Axes | None) -> Axes:
    """Draw the losses (k,) of all bandwidths (k, d) that were tried, one colour for each coordinate, and the choice."""
    ax = _axes_or_new(ax, (6.4, 4.0))
    finite = np.isfinite(scores)
    score, d = scores[finite], bandwidths.shape[1]
    chosen = np.broadcast_to(bandwidth, d)
    shared = d > 1 and np.all(np.ptp(bandwidths, axis=1) == 0)  # one bandwidth for all coordinates
    for j in range(1 if shared else d):
        h = bandwidths[finite, j]
        order = np.argsort(h)
        name = f"coordinate {j}: {chosen[j]:.3g}" if d > 1 and not shared else f"chosen: {chosen[j]:.3g}"
        style: dict[str, Any] = {"linestyle": "-" if d == 1 or shared else "none", "color": f"C{j % 10}"}
        ax.plot(h[order], score[order], marker="o", markersize=3.5, linewidth=1.0, alpha=0.7, **style)
        ax.axvline(chosen[j], color=f"C{j % 10}", linestyle="--", linewidth=1.2, label=name)
    low, high = float(score.min()), float(np.quantile(score, 0.9))
    height = max(high - low, 1e-12 * abs(low))
    ax.set_xscale("log")
    ax.set(xlabel="bandwidth", ylabel=_LABELS[criterion])
    ax.set_ylim(low - 0.08 * height, high + 0.25 * height)  # the worst losses would hide the minimum
    ax.legend(frameon=False, loc="upper center", ncol=min(d, 3))
    return ax


def draw_history(loss: Floats, h: Floats, leave_one_out: bool, ax: Any) -> Any:
    """Draw the losses (k,) and the bandwidths (k, d) or (k, d, d) against the steps, side by side."""
    left, right = _two_axes() if ax is None else ax
    steps = np.arange(1, len(loss) + 1)
    left.plot(steps, loss, color="0.6", linewidth=0.8, label="each step")
    width = max(len(loss) // 20, 1)
    if width > 1:
        smooth = np.convolve(loss, np.full(width, 1 / width), mode="valid")
        left.plot(steps[width - 1 :], smooth, color="C0", label=f"mean of {width} steps")
        left.legend(frameon=False)
    left.set(xlabel="step", ylabel=LOO_LABEL if leave_one_out else "training loss")
    widths = h if h.ndim == 2 else np.sqrt(np.linalg.eigvalsh(h))
    noun = "coordinate" if h.ndim == 2 else "axis"
    shared = h.ndim == 2 and np.all(np.ptp(h, axis=1) == 0)
    for j in range(1 if shared else widths.shape[1]):
        label = "all coordinates" if shared and widths.shape[1] > 1 else f"{noun} {j}"
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
