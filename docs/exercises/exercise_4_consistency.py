"""Does the error of kernel regression vanish, and how fast? Measured against theory in one, two and three dimensions.

Run ``python docs/exercises/exercise_4_consistency.py`` for the table and the picture of exercise_4_consistency.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import fastnw

NOISE = 1.0  # standard deviation of y around f
QUERIES = 2000
FIXED = 0.2  # the bandwidth that does not shrink
WITHIN_REACH = 3.0  # samples expected in the window that shrinks too fast
BEST, CONSTANT, TOO_FAST = "best", "constant", "too fast"  # ways to choose h
SIZES = {1: np.logspace(2, 6, 9), 2: np.logspace(3, 6, 7), 3: np.logspace(3, 6, 7)}
WINDOWS = 1000  # errors in the same window are alike: so many that are not give a mean to 5%


def f(x: np.ndarray) -> np.ndarray:
    """What is estimated, (n,): Σ_j sin 2πx_j, whose Laplacian is −4π² f."""
    return np.sin(2 * np.pi * x).sum(axis=1)


@dataclass(frozen=True)
class Theory:
    """Leading terms of the mean squared error of the Epanechnikov kernel, for uniform samples, away from the border.

    h⁴ μ₂²/4 · mean (Δf)² + σ² R / (n h^d), with μ₂ = ∫u₁²K and R = ∫K² (Wand & Jones, 1995, Kernel Smoothing).
    """

    d: int

    @property
    def squared_bias(self) -> float:
        """Over h⁴."""
        laplacian = (4 * np.pi**2) ** 2 * self.d / 2  # the mean of sin² is ½ in [¼, ¾]
        return laplacian / (4 * (self.d + 4) ** 2)

    @property
    def variance(self) -> float:
        """Times n h^d."""
        return NOISE**2 * 2 * (self.d + 2) / ((self.d + 4) * ball(self.d))

    def best(self, n: float) -> float:
        """The bandwidth of least error: a constant times n^(−1/(d+4))."""
        return (self.d * self.variance / (4 * self.squared_bias * n)) ** (1 / (self.d + 4))

    def error(self, n: float, h: float) -> float:
        return self.squared_bias * h**4 + self.variance / (n * h**self.d)

    @property
    def slope(self) -> float:
        """Of the least error's logarithm against that of n."""
        return -4 / (self.d + 4)


def ball(d: int) -> float:
    """Volume of the unit ball."""
    return math.pi ** (d / 2) / math.gamma(d / 2 + 1)


def too_fast(d: int, n: float) -> float:
    """h ∝ n^(−1/d): the window holds as many samples however many there are."""
    return (WITHIN_REACH / (ball(d) * n)) ** (1 / d)


def samples_for(d: int, h: float, windows: int = WINDOWS) -> int:
    """How many random samples have that many windows side by side in [¼, ¾]^d, eight at least."""
    return max(8, math.ceil(windows * ball(d) * h**d / 0.5**d))


def measure(d: int, n: int, h: float, samples: int, seed: int) -> tuple[float, float]:
    """Mean squared error in the middle of the cube, [¼, ¾]^d, over random samples of n; share of empty windows.

    Where the window is empty the mean of all y stands.
    """
    errors, empty = [], []
    for rng in map(np.random.default_rng, np.random.SeedSequence([seed, d, n]).spawn(samples)):
        x, queries = rng.random((n, d)), rng.uniform(0.25, 0.75, size=(QUERIES, d))
        y = f(x) + NOISE * rng.normal(size=n)
        estimate, log_mass = fastnw.pool(
            queries, x, y, kernel="epanechnikov", bandwidth=h, empty="mean", return_mass=True
        )
        errors.append(np.mean((estimate - f(queries)) ** 2))
        empty.append(np.mean(np.isneginf(log_mass)))
    return float(np.mean(errors)), float(np.mean(empty))


def slope(sizes: np.ndarray, errors: np.ndarray) -> float:
    """Of the least-squares line through log error against log n."""
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


Measured = dict[str, tuple[np.ndarray, np.ndarray]]  # errors and shares of empty windows, by way to choose h


def sweep(d: int) -> Measured:
    """Every size, with the three ways to choose h."""
    theory, sizes = Theory(d), [round(n) for n in SIZES[d]]
    results = {
        BEST: [measure(d, n, theory.best(n), samples_for(d, theory.best(n)), seed=0) for n in sizes],
        CONSTANT: [measure(d, n, FIXED, 8, seed=0) for n in sizes],
        TOO_FAST: [measure(d, n, too_fast(d, n), 8, seed=0) for n in sizes],
    }
    return {way: (np.array([e for e, _ in pairs]), np.array([s for _, s in pairs])) for way, pairs in results.items()}


def draw(found: dict[int, Measured], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    colours = {BEST: "#c1121f", CONSTANT: "#1f77b4", TOO_FAST: "#e08214"}
    figure, axes = plt.subplots(1, len(found), figsize=(13, 4.8), sharey=True, layout="constrained")
    for ax, (d, ways) in zip(axes, found.items(), strict=True):
        theory, sizes = Theory(d), SIZES[d].round()
        measured = slope(sizes, ways[BEST][0])
        labels = {
            BEST: f"h ∝ n^(−1/{d + 4}), measured: slope {_number(measured)}",
            CONSTANT: f"h = {FIXED}: the bias stays",
            TOO_FAST: f"h ∝ n^(−1/{d}): the variance stays" if d > 1 else "h ∝ 1/n: the variance stays",
        }
        for way, (errors, _) in ways.items():
            ax.plot(sizes, errors, color=colours[way], marker="o", markersize=5, label=labels[way])
        leading = [theory.error(n, theory.best(n)) for n in sizes]
        label = f"theory: slope −4/{d + 4} = {_number(theory.slope)}"
        ax.plot(sizes, leading, color="black", linestyle="--", zorder=3, label=label)
        ax.set(xscale="log", yscale="log", xlabel="samples n", title=f"d = {d}")
        ax.grid(which="major", color="#e5e5e5", linewidth=0.8)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(loc="lower left", fontsize=8.5, frameon=False)
    axes[0].set_ylabel("mean squared error")
    axes[0].set_ylim(bottom=min(ways[BEST][0].min() for ways in found.values()) / 8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _number(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def main() -> None:
    found = {d: sweep(d) for d in SIZES}
    for d, ways in found.items():
        theory, sizes = Theory(d), SIZES[d].round()
        best, empty = ways[BEST][0], ways[TOO_FAST][1]
        print(f"d = {d}: slope {_number(slope(sizes, best))}, theory's −4/{d + 4} = {_number(theory.slope)}")
        print(f"{'n':>10}{'error':>10}{'theory':>10}{'h = ' + str(FIXED):>10}{'too fast':>10}{'empty':>8}")
        for i, n in enumerate(sizes):
            errors = best[i], theory.error(n, theory.best(n)), ways[CONSTANT][0][i], ways[TOO_FAST][0][i]
            print(f"{n:10.0f}" + "".join(f"{error:10.3g}" for error in errors) + f"{empty[i]:8.1%}")
    draw(found, Path(__file__).with_name("consistency.png"))


if __name__ == "__main__":
    main()
