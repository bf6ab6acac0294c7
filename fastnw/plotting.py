"""Plots of kernels, fits and attention weights, with the interface of scikit-learn's displays.

The constructor of a display stores data. ``plot`` draws them and sets ``ax_``, ``figure_`` and the artists.
``from_...`` computes the data and plots them. matplotlib is imported when something is drawn, and rcParams do not
change.
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

_LEGEND_MARGIN = 0.2  # Fraction of the y range that is added at the top, so that the legend there covers no data.


def _axes_or_new(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return the caller's axes, or the axes of a new figure."""
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("Plotting needs matplotlib. Install it with: pip install 'fastnw[plot]'") from error
    return plt.subplots(figsize=size, layout="constrained")[1]


def _legend_above_data(ax: Axes) -> Any:
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + _LEGEND_MARGIN * (high - low))
    return ax.legend(loc="upper center", ncol=3, frameon=False, borderaxespad=0.3, columnspacing=1.5, handlelength=1.6)


class KernelDisplay:
    """Kernel profiles against the distance.

    Parameters
    ----------
    u : ndarray of shape (g,)
        Scaled distances, ascending.
    profiles : dict of str to ndarray of shape (g,)
        κ(u) of each kernel, by name.
    supports : dict of str to (float or None)
        The u beyond which κ is 0; None if κ is positive everywhere.
    bandwidth : float
        The axis shows distances u · bandwidth.

    Attributes
    ----------
    ax_, figure_ : Axes, Figure
        The axes and the figure.
    lines_ : list of Line2D
        One for each kernel: solid if its support is compact, otherwise dashed.
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
        kernels : str, Kernel, or iterable of these
            The kernels. None: all built-in kernels that depend on a distance.
        u_max : float, optional
            The largest scaled distance shown. None: 1.25 times the largest support, or 3 if a kernel has no compact
            support.
        bandwidth : float, default 1
            The axis shows distances u · bandwidth.
        ax : Axes, optional
            The axes to draw on. None: those of a new figure.
        **line_kwargs
            Options of ``Axes.plot``.

        Raises
        ------
        ValueError
            If a kernel is unknown or depends on no distance (``dot``), or `u_max` or `bandwidth` is not positive.
        """
        chosen = _distance_kernels(kernels)
        ends = [kernel.support for kernel in chosen]
        if u_max is None:
            u_max = 3.0 if None in ends else 1.25 * max(end for end in ends if end is not None)
        for name, number in (("u_max", u_max), ("bandwidth", bandwidth)):
            if not (np.isfinite(number) and number > 0):
                raise ValueError(f"{name} must be a positive number, got {number!r}.")
        # Points on both sides of the edge of each support draw a jump there as a vertical line.
        edges = [edge for end in ends if end is not None for edge in (end, np.nextafter(end, np.inf)) if end < u_max]
        u = np.union1d(np.linspace(0.0, u_max, 601), edges)
        profiles = {kernel.name: _profile(kernel, u) for kernel in chosen}
        supports = {kernel.name: kernel.support for kernel in chosen}
        return cls(u=u, profiles=profiles, supports=supports, bandwidth=bandwidth).plot(ax, **line_kwargs)

    def plot(self, ax: Axes | None = None, *, legend: bool = True, **line_kwargs: Any) -> KernelDisplay:
        """Draw the profiles with options for ``Axes.plot``. A legend of more than four kernels is beside the axes."""
        ax = _axes_or_new(ax, (8.0, 4.5))
        self.lines_ = []
        numbers = {True: count(), False: count()}
        if (
            len(self.profiles) <= 10
        ):  # the colour cycle has ten; for more kernels, solid and dashed lines count separately
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
        raise ValueError("kernels is empty. Pass at least one kernel.")
    for kernel in chosen:
        if kernel.inner_product:
            raise ValueError(f"kernel {kernel.name!r} depends on an inner product and has no profile over distances.")
    return chosen


def _profile(kernel: Kernel, u: np.ndarray) -> np.ndarray:
    inside = np.ones(u.shape, dtype=bool) if kernel.support is None else u <= kernel.support
    values = np.zeros(u.shape)
    values[inside] = kernel.profile(u[inside] ** 2)
    return values


class RegressionDisplay:
    """A fitted regression: the curve over one feature or, with more features, predicted against observed values.

    Parameters
    ----------
    x : ndarray of shape (n,)
        The feature, or the observed values.
    y : ndarray of shape (n,)
        The observed values, or the predicted ones.
    grid, curve : ndarray of shape (g,), or None
        The fitted curve at ascending positions; None to plot predicted against observed values.
    truth : ndarray of shape (g,), or None
        The true curve on `grid`.
    x_label, y_label : str
        Labels of the axes.

    Attributes
    ----------
    ax_, figure_ : Axes, Figure
        The axes and the figure.
    scatter_ : PathCollection
        The data.
    line_ : Line2D
        The fitted curve, or the diagonal.
    truth_ : Line2D or None
        The true curve.
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
            A fitted estimator.
        X : array-like or data frame of shape (n, d)
            With one feature, the plot shows the data and the fitted curve over the feature's range; with more features,
            it shows predicted against observed values.
        y : array-like of shape (n,)
            The observed values.
        grid_resolution : int, default 200
            The number of points of the curve.
        ax : Axes, optional
            The axes to draw on. None: those of a new figure.
        truth : callable, optional
            The true regression function, which is called with the grid as an array of shape (g, 1). Only for one
            feature.
        legend : bool, default True
            Whether to draw a legend.
        scatter_kwargs, line_kwargs : dict, optional
            Options of ``Axes.scatter`` and ``Axes.plot``.

        Raises
        ------
        ValueError
            If y has several outputs or not one entry for each row of X, `grid_resolution` < 2, or `truth` is given and
            d > 1.
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
            display = cls(x=observed, y=np.ravel(estimator.predict(X)), x_label="observed", y_label="predicted")
        else:
            if grid_resolution < 2:
                raise ValueError(f"grid_resolution must be at least 2, got {grid_resolution!r}.")
            positions = np.linspace(data.min(), data.max(), grid_resolution)
            column = positions[:, None]
            curve = np.ravel(estimator.predict(_like(X, column)))
            true_curve = None if truth is None else np.ravel(np.asarray(truth(column), dtype=float))
            names = dataframes.column_names(X)
            name = "x" if names is None else str(names[0])
            display = cls(x=data[:, 0], y=observed, grid=positions, curve=curve, truth=true_curve, x_label=name)
        return display.plot(ax, legend=legend, scatter_kwargs=scatter_kwargs, line_kwargs=line_kwargs)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        legend: bool = True,
        scatter_kwargs: dict[str, Any] | None = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> RegressionDisplay:
        """Draw the data and the fit, with options for ``Axes.scatter`` and ``Axes.plot``."""
        ax = _axes_or_new(ax, (5.0, 5.0) if self.curve is None else (7.0, 4.5))
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
            both = np.concatenate([self.x, self.y])
            ends = float(np.nanmin(both)), float(np.nanmax(both))  # floats, since small integers would overflow
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
    """Return `column`, or, if X is a data frame, a frame of the same library with the column name of X."""
    names = dataframes.column_names(X)
    if names is None:
        return column
    # Data frame libraries build a frame from a dictionary by its constructor, pyarrow by from_pydict.
    build = getattr(type(X), "from_pydict", type(X))
    return build({names[0]: column[:, 0]})


class AttentionDisplay:
    """A heat map of attention weights, with a row for each query and a column for each key.

    Parameters
    ----------
    weights : ndarray of shape (m, n)
        The weights.
    query_labels, key_labels : sequence, or None
        Labels of the ticks. None: the positions.

    Attributes
    ----------
    ax_, figure_ : Axes, Figure
        The axes and the figure.
    image_ : AxesImage
        The heat map.
    colorbar_ : Colorbar or None
        The colour scale.
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

        If queries and keys have one coordinate, its values label the ticks; sort them to see a band. `attention_kwargs`
        (``sample_weight``, ``exclude_self``, …) are options of `fastnw.attention_weights`, and `image_kwargs` of
        ``Axes.imshow``.

        Raises
        ------
        ValueError
            If ``top_k`` is given, because a heat map needs all weights.
        """
        from fastnw.attention import attention_weights

        if attention_kwargs.get("top_k") is not None:
            raise ValueError("top_k gives sparse weights; a heat map needs all of them. Leave top_k out.")
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
        """Plot weights that have been computed.

        Raises
        ------
        ValueError
            If `weights` is empty or not two-dimensional, or the labels of an axis differ in number from its entries.
        """
        weights = np.asarray(weights)
        if weights.ndim != 2 or weights.size == 0:
            raise ValueError(f"weights must be a non-empty array of shape (m, n), got shape {weights.shape}.")
        for name, labels, length in (("query", query_labels, weights.shape[0]), ("key", key_labels, weights.shape[1])):
            if labels is not None and len(labels) != length:
                raise ValueError(f"{name}_labels has {len(labels)} entries for {length} rows or columns of weights.")
        display = cls(weights=weights, query_labels=query_labels, key_labels=key_labels)
        return display.plot(ax, colorbar=colorbar, image_kwargs=image_kwargs)

    def plot(
        self, ax: Axes | None = None, *, colorbar: bool = True, image_kwargs: dict[str, Any] | None = None
    ) -> AttentionDisplay:
        """Draw the weights, with options for ``Axes.imshow``; the same ``vmax`` makes several plots comparable."""
        ax = _axes_or_new(ax, (6.0, 4.8))
        style = {"cmap": "viridis", "vmin": 0.0, "aspect": "auto", **(image_kwargs or {})}
        self.image_ = ax.imshow(self.weights, **style)
        ax.set(xlabel="key", ylabel="query")
        _label_ticks(ax.xaxis, self.key_labels)
        _label_ticks(ax.yaxis, self.query_labels)
        self.colorbar_ = ax.figure.colorbar(self.image_, ax=ax, label="attention weight") if colorbar else None
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _values_of_one_coordinate(points: Any) -> list[str] | None:
    """Return the coordinates as tick labels, or None if there is not exactly one coordinate."""
    try:
        array = np.asarray(points, dtype=float)
    except (TypeError, ValueError, RuntimeError):  # an array on a device; positions label the ticks instead
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
    texts = [str(label) for label in labels]
    axis.set_major_formatter(FuncFormatter(lambda at, _: texts[round(at)] if 0 <= round(at) < len(texts) else ""))
