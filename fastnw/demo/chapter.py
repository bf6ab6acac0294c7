"""``fastnw demo --chapter``: the five figures of the d2l.ai chapter, with the numbers that they show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastnw import d2l
from fastnw.demo.chapter_data import chapter_truth

KERNELS = {"Gaussian": d2l.gaussian, "Boxcar": d2l.boxcar, "Constant": d2l.constant, "Epanechikov": d2l.epanechikov}
WIDTHS = (0.1, 0.2, 0.5, 1.0)
FIGURE_INCHES = (12.0, 3.2)
DPI = 100

Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def run(out: Path, seed: int) -> int:
    """Write the figures into the folder `out` and print their numbers.

    Returns
    -------
    int
        The exit status, 0.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    x_train, y_train, x_val, y_val = data = points(seed)
    print(f"{len(x_train)} points y = 2 sin x + x + noise, estimated at {len(x_val)} places\n")
    print(f"{_kernels_alone(out)}  the four kernels on [-2.5, 2.5]\n")
    widths = {f"Sigma {sigma:g}": d2l.gaussian_with_width(sigma) for sigma in WIDTHS}
    for number, kernels in ((2, KERNELS), (4, widths)):
        answers = [d2l.nadaraya_watson(x_train, y_train, x_val, kernel) for kernel in kernels.values()]
        what = "fits" if number == 2 else "widths_fits"
        print(f"{_figure(out / f'd2l_{number}_{what}.png', data, answers, list(kernels), False)}  RMSE to f")
        for name, (y_hat, _) in zip(kernels, answers, strict=True):
            print(f"    {np.sqrt(np.mean((y_hat - y_val) ** 2)):5.2f}  {name}")
        weights = f"d2l_{number + 1}_{what.replace('fits', 'weights')}.png"
        print(f"{_figure(out / weights, data, answers, list(kernels), True)}  keys that share a query's weight: 1/Σw²")
        for name, (_, attention_w) in zip(kernels, answers, strict=True):
            print(f"    {np.mean(1 / np.sum(attention_w**2, axis=0)):5.1f}  {name}")
        print()
    print(f"Files in {out}")
    return 0


def points(seed: int) -> Data:
    """Generate the chapter's x_train and y_train (40,), x_val and y_val (50,)."""
    rng = np.random.default_rng(seed)
    x_train = np.sort(rng.uniform(0.0, 5.0, 40))
    x_val = np.arange(0.0, 5.0, 0.1)
    return x_train, chapter_truth(x_train) + rng.standard_normal(40), x_val, chapter_truth(x_val)


def _kernels_alone(out: Path) -> str:
    figure, x = _empty_figure(), np.arange(-2.5, 2.5, 0.1)
    for ax, (name, kernel) in zip(figure.subplots(1, len(KERNELS), sharey=True), KERNELS.items(), strict=True):
        ax.plot(x, kernel(x))
        ax.set_xlabel(name)
    return _save(figure, out / "d2l_1_kernels.png")


def _figure(path: Path, data: Data, answers: Sequence[tuple[Any, Any]], names: list[str], attention: bool) -> str:
    figure = _empty_figure()
    d2l.draw(figure, data, answers, names, attention)
    return _save(figure, path)


def _empty_figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "The chapter's figures need matplotlib. Install it with: pip install 'fastnw[plot]'"
        ) from error
    return Figure(figsize=FIGURE_INCHES, layout="constrained")


def _save(figure: Any, path: Path) -> str:
    figure.savefig(path, dpi=DPI)
    return path.name
