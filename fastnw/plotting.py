"""Pictures of kernels, fits and attention weights, in the manner of scikit-learn's displays.

A display's constructor stores data; ``plot`` draws them and sets ``ax_``, ``figure_`` and the artists; ``from_...``
computes the data and plots. matplotlib is imported when something is drawn; rcParams stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnw import kernels as _kernels
from fastnw.interop import dataframes
from fastnw.kernels.kernel import Kernel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEGEND_ROOM = 0.2  # of the y range, added on top, so that a legend there covers no data


def axes_or_new(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The axes to draw on: the caller's, or the only ones of a new figure."""
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("Plotting needs matplotlib. Install it with: pip install 'fastnw[plot]'") from error
    return plt.subplots(figsize=size, layout="constrained")[1]


def _legend_above_data(ax: Axes) -> Any:
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + _LEGEND_ROOM * (high - low))
    return ax.legend(loc="upper center", ncol=3, frameon=False, borderaxespad=0.3, columnspacing=1.5, handlelength=1.6)


class KernelDisplay:
    """Profiles of kernels against the distance.

    Parameters
    ----------
    u : ndarray of shape (g,)
        Scaled distances, ascending.
    profiles : dict of str to ndarray of shape (g,)
        κ(u) of each kernel, by name.
    supports : dict of str to (float or None)
        The u beyond which κ is 0; None: positive everywhere.
    bandwidth : float
        The axis shows distances u · bandwidth.

    Attributes
    ----------
    ax_, figure_ : the axes and the figure
    lines_ : list of Line2D, one a kernel; solid where the support is compact, dashed elsewhere
    """

    def __init__(
        self,
        *,
        u: np.ndarray,
        profiles: dict[str, np.ndarray],
        supports: dict[str, float | None],
        bandwidth: float = 1.0,
    ) -> None:
        self.u = u
        self.profiles = profiles
        self.supports = supports
        self.bandwidth = bandwidth

    @classmethod
    def from_kernels(
        cls,
        kernels: str | Kernel | Iterable[str | Kernel] | None = None,
        *,
        u_max: float | None = None,
        bandwidth: float = 1.0,
        ax: Axes | None = None,
        **line_kwargs: Any,
    ) -> KernelDisplay:
        """Evaluate kernels on a grid and plot them.

        Parameters
        ----------
        kernels : a kernel or several, by name or `Kernel`
            None: every built-in one that depends on a distance.
        u_max : float, optional
            Largest scaled distance shown. None: a little beyond the largest support, or 3 if some kernel has none.
        bandwidth : float, default 1
            Stretches the distance axis.
        ax : Axes, optional
            None: a new figure.
        **line_kwargs
            Given to ``Axes.plot``.

        Raises
        ------
        ValueError
            Unknown kernel, one that is no function of a distance (``dot``), or `u_max` or `bandwidth` not positive.
        """
        chosen = _distance_kernels(kernels)
        ends = [kernel.support for kernel in chosen]
        if u_max is None:
            u_max = 3.0 if None in ends else 1.25 * max(end for end in ends if end is not None)
        for name, number in (("u_max", u_max), ("bandwidth", bandwidth)):
            if not (np.isfinite(number) and number > 0):
                raise ValueError(f"{name} must be a positive number, got {number!r}.")
        # both sides of each end of support, so that a kernel's jump there is drawn as one
        edges = [edge for end in ends if end is not None for edge in (end, np.nextafter(end, np.inf)) if end < u_max]
        u = np.union1d(np.linspace(0.0, u_max, 601), edges)
        profiles = {kernel.name: _profile(kernel, u) for kernel in chosen}
        supports = {kernel.name: kernel.support for kernel in chosen}
        return cls(u=u, profiles=profiles, supports=supports, bandwidth=bandwidth).plot(ax, **line_kwargs)

    def plot(self, ax: Axes | None = None, *, legend: bool = True, **line_kwargs: Any) -> KernelDisplay:
        """Draw the profiles; `line_kwargs` go to ``Axes.plot``. The legend stands beside the axes if it is long."""
        ax = axes_or_new(ax, (8.0, 4.5))
        self.lines_ = []
        numbers = {True: count(), False: count()}
        if len(self.profiles) <= 10:  # there are ten colours; with more kernels, solid and dashed lines count their own
            numbers[False] = numbers[True]
        for name, profile in self.profiles.items():
            compact = self.supports[name] is not None
            style = {"color": f"C{next(numbers[compact]) % 10}", "linestyle": "-" if compact else "--", "label": name}
            self.lines_ += ax.plot(self.u * self.bandwidth, profile, **{**style, **line_kwargs})
        ends = {end for end in self.supports.values() if end is not None and end <= self.u[-1]}
        for end in sorted(ends):
            ax.axvline(end * self.bandwidth, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
        unit = "u" if self.bandwidth == 1.0 else f"distance (bandwidth {self.bandwidth:g})"
        ax.set(xlabel=unit, ylabel="κ(u)", xlim=(0.0, self.u[-1] * self.bandwidth))
        if legend:
            if len(self.profiles) > 4:
                ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
            else:
                _legend_above_data(ax)
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _distance_kernels(kernels: str | Kernel | Iterable[str | Kernel] | None) -> list[Kernel]:
    if kernels is None:
        every = [_kernels.get(name) for name in _kernels.names()]
        return [kernel for kernel in every if not kernel.inner_product]
    chosen = [_kernels.get(k) for k in ([kernels] if isinstance(kernels, (str, Kernel)) else kernels)]
    if not chosen:
        raise ValueError("kernels is empty: give at least one.")
    for kernel in chosen:
        if kernel.inner_product:
            raise ValueError(f"kernel {kernel.name!r} depends on an inner product: it has no profile over distances.")
    return chosen


def _profile(kernel: Kernel, u: np.ndarray) -> np.ndarray:
    inside = np.ones(u.shape, dtype=bool) if kernel.support is None else u <= kernel.support
    values = np.zeros(u.shape)
    values[inside] = kernel.profile(u[inside] ** 2)
    return values


class RegressionDisplay:
    """A fitted regression: the curve over one feature, or predicted against observed values for more.

    Parameters
    ----------
    x : ndarray of shape (n,)
        The feature, or the observed values.
    y : ndarray of shape (n,)
        The observed values, or the predicted ones.
    grid, curve : ndarray of shape (g,), or None
        The fitted curve at ascending positions; None for predicted against observed.
    truth : ndarray of shape (g,), or None
        The true curve on `grid`.
    x_label, y_label : str

    Attributes
    ----------
    ax_, figure_ : the axes and the figure
    scatter_ : PathCollection
    line_ : Line2D, the fitted curve or the diagonal
    truth_ : Line2D or None
    """

    def __init__(
        self,
        *,
        x: np.ndarray,
        y: np.ndarray,
        grid: np.ndarray | None = None,
        curve: np.ndarray | None = None,
        truth: np.ndarray | None = None,
        x_label: str = "x",
        y_label: str = "y",
    ) -> None:
        self.x, self.y = x, y
        self.grid, self.curve, self.truth = grid, curve, truth
        self.x_label, self.y_label = x_label, y_label

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        grid_resolution: int = 200,
        ax: Axes | None = None,
        truth: Callable[[np.ndarray], Any] | None = None,
        legend: bool = True,
        scatter_kwargs: dict[str, Any] | None = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> RegressionDisplay:
        """Predict with a fitted estimator and plot.

        Parameters
        ----------
        estimator : object with ``predict``
        X : array-like or data frame of shape (n, d)
            One feature: the data and the fitted curve over its range; more: predicted against observed.
        y : array-like of shape (n,)
        grid_resolution : int, default 200
            Points of the curve.
        ax : Axes, optional
            None: a new figure.
        truth : callable, optional
            The true regression function, called on the grid as an array of shape (g, 1). One feature only.
        legend : bool, default True
        scatter_kwargs, line_kwargs : dict, optional
            Given to ``Axes.scatter`` and ``Axes.plot``.

        Raises
        ------
        ValueError
            If y has several outputs or another length than X, `grid_resolution` < 2, or `truth` comes with d > 1.
        """
        data, observed = np.asarray(X), np.asarray(y)
        if data.ndim != 2:
            raise ValueError(f"Expected 2D array, got {data.ndim}D array instead: reshape one feature with (-1, 1).")
        if observed.ndim == 2 and observed.shape[1] == 1:
            observed = observed[:, 0]
        if observed.shape != data.shape[:1]:
            raise ValueError(f"y must be one output for each of the {len(data)} rows of X, got shape {observed.shape}.")
        if data.shape[1] > 1:
            if truth is not None:
                raise ValueError(f"truth is drawn over one feature; X has {data.shape[1]}.")
            shown = cls(x=observed, y=np.ravel(estimator.predict(X)), x_label="observed", y_label="predicted")
        else:
            if grid_resolution < 2:
                raise ValueError(f"grid_resolution must be at least 2, got {grid_resolution!r}.")
            positions = np.linspace(data.min(), data.max(), grid_resolution)
            column = positions[:, None]
            curve = np.ravel(estimator.predict(_like(X, column)))
            true_curve = None if truth is None else np.ravel(np.asarray(truth(column), dtype=float))
            names = dataframes.column_names(X)
            name = "x" if names is None else str(names[0])
            shown = cls(x=data[:, 0], y=observed, grid=positions, curve=curve, truth=true_curve, x_label=name)
        return shown.plot(ax, legend=legend, scatter_kwargs=scatter_kwargs, line_kwargs=line_kwargs)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        legend: bool = True,
        scatter_kwargs: dict[str, Any] | None = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> RegressionDisplay:
        """Draw the data and the fit; the dictionaries go to ``Axes.scatter`` and ``Axes.plot``."""
        ax = axes_or_new(ax, (5.0, 5.0) if self.curve is None else (7.0, 4.5))
        points = {"s": 22, "color": "0.35", "alpha": 0.7, "linewidths": 0, "label": "data", **(scatter_kwargs or {})}
        self.scatter_ = ax.scatter(self.x, self.y, **points)
        self.truth_ = None
        if self.grid is not None and self.curve is not None:
            style = {"color": "C0", "linewidth": 2.0, "label": "fit", **(line_kwargs or {})}
            if self.truth is not None:
                self.truth_ = ax.plot(self.grid, self.truth, color="C1", linestyle="--", label="truth")[0]
            self.line_ = ax.plot(self.grid, self.curve, **style)[0]
            if legend:
                _legend_above_data(ax)
        else:
            finite = np.concatenate([self.x, self.y])
            ends = float(np.nanmin(finite)), float(np.nanmax(finite))  # small integers would wrap
            pad = 0.04 * (ends[1] - ends[0] or 1.0)
            limits = (ends[0] - pad, ends[1] + pad)
            style = {"color": "C1", "linestyle": "--", "zorder": 0, "label": "predicted = observed"}
            self.line_ = ax.plot(limits, limits, **{**style, **(line_kwargs or {})})[0]
            ax.set(xlim=limits, ylim=limits, aspect="equal")
            if legend:
                ax.legend(handles=[self.line_], loc="upper left", frameon=False)
        ax.set(xlabel=self.x_label, ylabel=self.y_label)
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _like(X: Any, column: np.ndarray) -> Any:
    """`column` as it is, or, where X is a data frame, as one of its kind with its column's name."""
    names = dataframes.column_names(X)
    if names is None:
        return column
    # pandas, polars and their kin all build a frame from a dictionary
    build = getattr(type(X), "from_pydict", type(X))  # Arrow's way
    return build({names[0]: column[:, 0]})


class AttentionDisplay:
    """A heat map of attention weights: queries downwards, keys to the right.

    Parameters
    ----------
    weights : ndarray of shape (m, n)
    query_labels, key_labels : sequence, or None
        What the ticks show; None: the positions.

    Attributes
    ----------
    ax_, figure_ : the axes and the figure
    image_ : AxesImage
    colorbar_ : Colorbar or None
    """

    def __init__(
        self, *, weights: np.ndarray, query_labels: Sequence[Any] | None = None, key_labels: Sequence[Any] | None = None
    ) -> None:
        self.weights = weights
        self.query_labels = query_labels
        self.key_labels = key_labels

    @classmethod
    def from_arrays(
        cls,
        queries: Any,
        keys: Any,
        *,
        kernel: str | Kernel = "gaussian",
        bandwidth: Any = 1.0,
        ax: Axes | None = None,
        colorbar: bool = True,
        image_kwargs: dict[str, Any] | None = None,
        **attention_kwargs: Any,
    ) -> AttentionDisplay:
        """Compute `fastnw.attention_weights` and plot them.

        Queries and keys of one coordinate label the ticks with its values; sort them to see a band. `attention_kwargs`
        (``sample_weight``, ``exclude_self``, …) go to `fastnw.attention_weights`, `image_kwargs` to ``Axes.imshow``.

        Raises
        ------
        ValueError
            If ``top_k`` is given: a heat map is dense.
        """
        from fastnw.attention import attention_weights

        if attention_kwargs.get("top_k") is not None:
            raise ValueError("top_k gives sparse weights; a heat map needs all of them.")
        weights = attention_weights(queries, keys, kernel=kernel, bandwidth=bandwidth, **attention_kwargs)
        return cls.from_weights(
            weights,
            query_labels=_values_of_one_coordinate(queries),
            key_labels=_values_of_one_coordinate(keys),
            ax=ax,
            colorbar=colorbar,
            image_kwargs=image_kwargs,
        )

    @classmethod
    def from_weights(
        cls,
        weights: Any,
        *,
        query_labels: Sequence[Any] | None = None,
        key_labels: Sequence[Any] | None = None,
        ax: Axes | None = None,
        colorbar: bool = True,
        image_kwargs: dict[str, Any] | None = None,
    ) -> AttentionDisplay:
        """Plot weights that are already there.

        Raises
        ------
        ValueError
            If `weights` is not two-dimensional or empty, or a list of labels has another length than its axis.
        """
        weights = np.asarray(weights)
        if weights.ndim != 2 or weights.size == 0:
            raise ValueError(f"weights must be a non-empty array of shape (m, n), got shape {weights.shape}.")
        for name, labels, length in (("query", query_labels, weights.shape[0]), ("key", key_labels, weights.shape[1])):
            if labels is not None and len(labels) != length:
                raise ValueError(f"{name}_labels has {len(labels)} entries for {length} rows or columns of weights.")
        shown = cls(weights=weights, query_labels=query_labels, key_labels=key_labels)
        return shown.plot(ax, colorbar=colorbar, image_kwargs=image_kwargs)

    def plot(
        self, ax: Axes | None = None, *, colorbar: bool = True, image_kwargs: dict[str, Any] | None = None
    ) -> AttentionDisplay:
        """Draw the weights; `image_kwargs` go to ``Axes.imshow`` (``vmax`` makes several pictures comparable)."""
        ax = axes_or_new(ax, (6.0, 4.8))
        style = {"cmap": "viridis", "vmin": 0.0, "aspect": "auto", **(image_kwargs or {})}
        self.image_ = ax.imshow(self.weights, **style)
        ax.set(xlabel="key", ylabel="query")
        _label_ticks(ax.xaxis, self.key_labels)
        _label_ticks(ax.yaxis, self.query_labels)
        self.colorbar_ = ax.figure.colorbar(self.image_, ax=ax, label="attention weight") if colorbar else None
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _values_of_one_coordinate(points: Any) -> list[str] | None:
    try:
        array = np.asarray(points, dtype=float)
    except (TypeError, ValueError, RuntimeError):  # an array on a device: its positions do as well
        return None
    if array.ndim != 2 or array.shape[1] != 1 or array.size == 0:
        return None
    width = float(np.ptp(array))
    decimals = int(np.clip(1 - np.floor(np.log10(width)), 0, 9)) if 0 < width < np.inf else 3
    return [f"{value:.{decimals}f}" for value in array[:, 0]]


def _label_ticks(axis: Any, labels: Sequence[Any] | None) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if labels is None:
        return
    shown = [str(label) for label in labels]
    axis.set_major_formatter(FuncFormatter(lambda at, _: shown[round(at)] if 0 <= round(at) < len(shown) else ""))
