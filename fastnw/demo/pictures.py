"""The pictures of ``fastnw demo``. They are drawn without pyplot, so that neither a display nor a backend is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fastnw.demo.chapter_data import CHAPTER_KERNELS, chapter_truth
from fastnw.plotting import AttentionDisplay, RegressionDisplay

DPI = 100


def chapter_fits(out: Path, x: np.ndarray, y: np.ndarray, fits: dict[str, Any], errors: dict[str, float]) -> Path:
    """Draw the fit of each kernel with the data and the true function."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    for ax, (kernel, fit) in zip(axes.flat, fits.items(), strict=True):
        first = ax is axes.flat[0]
        RegressionDisplay.from_estimator(fit, x[:, None], y, ax=ax, truth=chapter_truth, legend=first)
        ax.set_title(f"{_title(kernel)}: RMSE {errors[kernel]:.2f}", fontsize=11)
        ax.label_outer()
    figure.suptitle("Nadaraya-Watson regression, f(x) = 2 sin x + x, bandwidth 1")
    return _save(figure, out / "chapter_fits.png")


def chapter_attention(out: Path, queries: np.ndarray, keys: np.ndarray) -> Path:
    """Draw the attention matrix of each kernel, with one colour scale."""
    figure = Figure(figsize=(14, 4.2), layout="constrained")
    axes = figure.subplots(1, len(CHAPTER_KERNELS), sharey=True)
    displays = []
    for ax, kernel in zip(axes, CHAPTER_KERNELS, strict=True):
        displays.append(
            AttentionDisplay.from_arrays(queries[:, None], keys[:, None], kernel=kernel, ax=ax, colorbar=False)
        )
        ax.set_title(_title(kernel).replace(" (", "\n("), fontsize=11)
        ax.set(xlabel="key (sorted)", ylabel="query (sorted)")
        ax.label_outer()
    top = max(float(np.nanmax(display.weights)) for display in displays)
    for display in displays:
        display.image_.set_clim(0.0, top)
    figure.colorbar(displays[0].image_, ax=axes, label="attention weight", aspect=30, pad=0.01)
    return _save(figure, out / "chapter_attention.png")


def digits(out: Path, images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, seed: int) -> Path:
    """Draw the five least certain test digits and five random ones, with the probability of each class."""
    certain_last = np.argsort(probabilities.max(axis=1))
    rows = {
        "least certain": certain_last[:5],
        "chosen at random": np.random.default_rng(seed).choice(certain_last[5:], 5, replace=False),
    }
    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplots(4, 5, gridspec_kw={"height_ratios": [2.2, 1, 2.2, 1]})
    for at, (name, chosen) in enumerate(rows.items()):
        for column, i in enumerate(chosen):
            image, bars = axes[2 * at, column], axes[2 * at + 1, column]
            _digit(image, bars, images[i], labels[i], probabilities[i])
            if column == 0:
                image.set_ylabel(name, fontsize=12)
                bars.set_ylabel("probability")
            else:
                bars.set_yticklabels([])
    figure.suptitle("Held-out digits: probability of each class (green: true class, red: wrong prediction)")
    return _save(figure, out / "digits.png")


def _digit(image: Any, bars: Any, pixels: np.ndarray, label: int, probability: np.ndarray) -> None:
    guess = int(probability.argmax())
    image.imshow(pixels.reshape(8, 8), cmap="gray_r", interpolation="nearest")
    image.set(xticks=[], yticks=[])
    wrong = guess != label
    title = f"true {label}, predicted {guess} ({probability[guess]:.2f})"
    image.set_title(title, fontsize=10, color="C3" if wrong else "black")
    colours = ["C2" if c == label else "C3" if c == guess else "0.6" for c in range(10)]
    bars.bar(range(10), probability, color=colours)
    bars.set(xticks=range(10), ylim=(0, 1.05), yticks=[0, 0.5, 1])
    bars.tick_params(labelsize=8)


def diabetes(
    out: Path,
    observed: np.ndarray,
    predicted: dict[str, np.ndarray],
    scores: dict[str, float],
    bandwidths: dict[str, float],
    one: float,
) -> Path:
    """Draw predicted against observed values, and the bandwidths in standard deviations of each feature."""
    figure = Figure(figsize=(14, 4.8), layout="constrained")
    axes = figure.subplots(1, 3)
    for ax, name in zip(axes, ("one bandwidth", "per coordinate"), strict=False):
        display = RegressionDisplay(x=observed, y=predicted[name], x_label="observed progression", y_label="predicted")
        display.plot(ax)
        ax.set_title(f"{name}: R² = {scores[name]:.3f} held out")
    by_size = dict(sorted(bandwidths.items(), key=lambda item: -item[1]))
    rows, h = range(len(by_size)), list(by_size.values())
    axes[2].axvline(one, color="C1", linestyle="--", label="one bandwidth")
    axes[2].hlines(rows, one, h, color="C0", linewidth=1.5)
    axes[2].plot(h, rows, "o", color="C0", label="per coordinate")
    axes[2].set(xscale="log", yticks=rows, yticklabels=list(by_size), ylim=(-0.6, len(h) + 0.8))
    axes[2].set(xlabel="bandwidth, in standard deviations of the feature", title="left of the line: counts for more")
    axes[2].legend(loc="upper right", frameon=False)
    return _save(figure, out / "diabetes.png")


def _title(kernel: str) -> str:
    return f'{kernel} (the chapter\'s "Epanechikov")' if kernel == "triangular" else kernel


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=DPI)
    return path
