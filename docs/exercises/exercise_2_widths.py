"""Can the kernel's width be learnt? With every key left out of its own mean, yes; otherwise it collapses to zero.

Run ``python docs/exercises/exercise_2_widths.py`` for the figures and the picture of exercise_2_widths.md.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

import fastnw

KEYS, STEPS = 200, 300


def data(n: int = KEYS) -> tuple[np.ndarray, np.ndarray]:
    """The chapter's function, 2 sin x + x on [0, 5], with noise of standard deviation 1."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(0, 5, n))
    return x[:, None], 2 * np.sin(x) + x + rng.standard_normal(n)


def learn(leave_one_out: bool) -> fastnw.LearnedBandwidth:
    """The width by stochastic gradient descent on mini-batches of 32, from 1."""
    x, y = data()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fastnw.BandwidthWarning)  # of the collapse, which is what is shown
        return fastnw.learn_bandwidth(
            x, y, bandwidth=1.0, leave_one_out=leave_one_out, batch_size=32, epochs=STEPS // (KEYS // 32 + 1) + 1
        )


def generalisation(h: float) -> float:
    """Mean squared distance from the noiseless function, on new places."""
    x, y = data()
    new = np.linspace(0.25, 4.75, 500)
    estimate = fastnw.pool(new[:, None], x, y, bandwidth=h)
    return float(np.mean((estimate - (2 * np.sin(new) + new)) ** 2))


def draw(with_it: fastnw.LearnedBandwidth, without: fastnw.LearnedBandwidth, file: Path) -> None:
    """Loss and width against steps, both ways; and the error on new places."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 3.6), layout="constrained")
    loss, width, error = figure.subplots(1, 3)
    for found, name, colour in ((with_it, "each key left out", "C0"), (without, "keys see themselves", "C3")):
        h, steps = found.history.bandwidth[:, 0], np.arange(1, len(found.history) + 1)
        smooth = np.convolve(found.history.loss, np.full(15, 1 / 15), mode="valid")
        loss.plot(steps[7:-7], smooth, color=colour, label=name)
        width.plot(steps, h, color=colour, label=name)
        error.plot(steps[::5], [generalisation(each) for each in h[::5]], color=colour, label=name)
    best = fastnw.select_bandwidth(*data()).bandwidth[0]
    width.axhline(best, color="0.5", linestyle=":", label=f"select_bandwidth: {best:.2f}")
    loss.set(title="training loss (mean of 15 steps)", xlabel="step", ylim=(0, None))
    width.set(title="width", xlabel="step", yscale="log")
    error.set(title="squared error on new places", xlabel="step", yscale="log")
    for axes in (loss, width, error):
        axes.legend(frameon=False, fontsize=9)
    figure.savefig(file, dpi=110)


def main() -> None:
    """Print what both ways come to, and write the picture."""
    with_it, without = learn(True), learn(False)
    for name, found in (("left out", with_it), ("not left out", without)):
        h = found.bandwidth if np.ndim(found.bandwidth) == 0 else found.bandwidth[0]
        print(f"{name}: width {h:.4g}, training loss {found.score:.4g}, on new places {generalisation(h):.4g}")
    chosen = fastnw.select_bandwidth(*data())
    print(f"select_bandwidth: {chosen.bandwidth[0]:.4g}, loss {chosen.score:.4g}")
    draw(with_it, without, Path(__file__).with_name("widths.png"))


if __name__ == "__main__":
    main()
