"""The functions of d2l.ai's chapter "Attention Pooling by Similarity", computed by fastnw: same names and shapes.

The chapter (https://d2l.ai/chapter_attention-mechanisms-and-transformers/attention-pooling.html) has versions for
PyTorch, JAX, TensorFlow and MXNet. This module accepts the arrays of all four and of NumPy. It imports neither these
frameworks nor matplotlib until they are used.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastnw.attention import attention_weights
from fastnw.core.empties import Tally
from fastnw.core.problem import Problem, result_dtype
from fastnw.core.validate import build
from fastnw.core.warnings import EmptyWindowWarning, caller_level
from fastnw.functions import pool
from fastnw.interop import dataframes, frameworks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]

__all__ = [
    "boxcar",
    "constant",
    "epanechikov",
    "gaussian",
    "gaussian_with_width",
    "nadaraya_watson",
    "plot",
]

# The number of keys and of queries in one tile of distances for a user's function: 2 MiB in float64, which fits in
# cache. Sums take 1.5 times as long with 2,048, and no less with 256.
TILE_SIZE = 512
# Types whose differences are computed in the arrays' own framework; others are converted to float64 first.
_SUBTRACTABLE = {np.dtype(np.float32), np.dtype(np.float64)}


@dataclass(frozen=True)
class ChapterKernel:
    """A kernel of the chapter. A call evaluates its formula; `nadaraya_watson` uses fastnw's kernel of the same name.

    Parameters
    ----------
    name : str
        Name of the kernel in fastnw.
    formula : callable
        Function of the framework's module and an array of signed distances in bandwidths.
    bandwidth : float
    strict : bool
        Whether a distance of exactly one bandwidth is outside the support.
    """

    name: str
    formula: Callable[[Any, Any], Any]
    bandwidth: float = 1.0
    strict: bool = False

    def __call__(self, x: Any) -> Any:
        """Evaluate the kernel at distances `x`, an array of any framework, as an array of the same kind and shape."""
        x = _array(x)
        if isinstance(x, np.ndarray) and x.dtype.kind in "biu":
            x = x.astype(np.float64)  # NumPy 1 would divide small integers in float16
        return self.formula(frameworks.namespace(x), x / self.bandwidth)

    def bandwidth_for(self, *arrays: Any) -> float:
        """Return the bandwidth for fastnw; for a strict kernel, the largest number below its own."""
        if not self.strict:
            return self.bandwidth
        # one row suffices to determine the type, and is cheap to copy from a device
        dtype = result_dtype(*(_on_host(array[:1]) for array in arrays))
        return float(np.nextafter(dtype.type(self.bandwidth), dtype.type(0)))


def _gaussian(xp: Any, x: Any) -> Any:
    return xp.exp(-(x**2) / 2)


def _boxcar(xp: Any, x: Any) -> Any:
    return abs(x) < 1.0


def _constant(xp: Any, x: Any) -> Any:
    return 1.0 + 0 * x


def _epanechikov(xp: Any, x: Any) -> Any:
    return xp.maximum(1 - abs(x), xp.zeros_like(x))


gaussian = ChapterKernel("gaussian", _gaussian)
boxcar = ChapterKernel("boxcar", _boxcar, strict=True)
constant = ChapterKernel("constant", _constant)
epanechikov = ChapterKernel("triangular", _epanechikov)


def gaussian_with_width(sigma: float) -> ChapterKernel:
    """Make the chapter's Gaussian kernel of width σ: exp(−x²/(2σ²)).

    Parameters
    ----------
    sigma : float
        The width, positive.

    Returns
    -------
    kernel : ChapterKernel
        Function of signed distances.

    Raises
    ------
    ValueError
        `sigma` is not positive and finite.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnw import d2l
    >>> d2l.gaussian_with_width(2.0)(np.array([0.0, 2.0])).round(3)
    array([1.   , 0.607])
    """
    sigma = float(sigma)
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma must be positive and finite, got {sigma}.")
    return ChapterKernel("gaussian", _gaussian, sigma)


def nadaraya_watson(
    x_train: Any, y_train: Any, x_val: Any, kernel: Callable[[Any], Any], attention: bool = True
) -> tuple[Any, Any]:
    """Compute the Nadaraya-Watson estimates at `x_val` and their attention weights, like the chapter's function.

    ŷ_j = Σ_i k(x_i − x'_j) y_i / Σ_i k(x_i − x'_j), summed over the training points x_i, for each x'_j in `x_val`.

    Parameters
    ----------
    x_train : (n,) array
        The keys. For kernels of this module also (n, d), with Euclidean distances.
    y_train : (n,) array
        The values.
    x_val : (m,) array
        The queries; (m, d) for (n, d) keys.
    kernel : callable
        A kernel of this module, which `fastnw.pool` computes by its fastest method, without the underflow of the
        Gaussian formula. Or a function that maps an array of signed distances, in the framework of the arrays, to an
        array of numbers or booleans of the same shape. It is called on tiles of floating-point distances, and sums are
        in float64.
    attention : bool, default True
        Whether to compute the weights; without them, no (n, m) array is allocated.

    Returns
    -------
    y_hat : (m,) array
        Estimates, in the framework and on the device of the arrays, without a gradient; float32 if all floating arrays
        are float32 or narrower, otherwise float64.
    attention_w : (n, m) array or None
        As in the chapter, one row per key and one column per query; columns sum to 1. This is the transpose of the
        result of `fastnw.attention_weights`.

    Raises
    ------
    ValueError
        Shapes do not match, an array contains NaN, or the result of a function has another shape or is not finite.
    TypeError
        `kernel` is not callable.

    Warns
    -----
    EmptyWindowWarning
        Queries have no key within the support of the kernel. Their estimates and columns of weights are NaN, as 0/0 is
        in the chapter.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnw import d2l
    >>> x, y = np.array([0.0, 0.5, 2.0]), np.array([1.0, 2.0, 9.0])
    >>> y_hat, attention_w = d2l.nadaraya_watson(x, y, np.array([0.0]), d2l.epanechikov)
    >>> y_hat.round(3), attention_w.round(3).tolist()
    (array([1.333]), [[0.667], [0.333], [0.0]])
    """
    if not callable(kernel):
        raise TypeError(f"kernel must be a function of distances, such as fastnw.d2l.gaussian, got {kernel!r}.")
    x_val = dataframes.matched(x_val, x_train, ("x_val", "x_train"))
    x_train, y_train, x_val = map(_array, (x_train, y_train, x_val))
    _check_shapes(x_train, y_train, x_val)
    if isinstance(kernel, ChapterKernel):
        y_hat, attention_w = _by_fastnw(kernel, x_train, y_train, x_val, attention)
    else:
        y_hat, attention_w = _by_tiles(kernel, x_train, y_train, x_val, attention)
    _report_empty(_on_host(y_hat))
    return y_hat, attention_w


def _array(x: Any) -> Any:
    return np.asarray(x) if frameworks.framework(x) is None else x


def _check_shapes(x_train: Any, y_train: Any, x_val: Any) -> None:
    keys, values, queries = (tuple(array.shape) for array in (x_train, y_train, x_val))
    if len(keys) not in (1, 2) or len(queries) != len(keys) or queries[1:] != keys[1:]:
        raise ValueError(
            f"x_train and x_val must have shapes (n,) and (m,), or (n, d) and (m, d): got {keys}, {queries}."
        )
    if values != keys[:1]:
        raise ValueError(
            f"y_train must have one value for each of the {keys[0]} points of x_train, got shape {values}."
        )


def _by_fastnw(kernel: ChapterKernel, x_train: Any, y_train: Any, x_val: Any, attention: bool) -> tuple[Any, Any]:
    """Compute with a kernel of fastnw; empty windows are NaN, and the caller reports them."""
    keys, queries = (x if len(x.shape) == 2 else x[:, None] for x in (x_train, x_val))
    bandwidth = kernel.bandwidth_for(queries, keys, y_train)
    options: dict[str, Any] = {"kernel": kernel.name, "bandwidth": bandwidth, "empty": math.nan}
    y_hat = pool(queries, keys, y_train, **options)
    if not attention:
        return y_hat, None
    restore = frameworks.restorer(x_train, y_train, x_val)
    weights = attention_weights(frameworks.to_numpy(queries), frameworks.to_numpy(keys), **options)
    return y_hat, restore(np.ascontiguousarray(weights.T))


def _by_tiles(kernel: Callable[[Any], Any], x_train: Any, y_train: Any, x_val: Any, attention: bool) -> tuple[Any, Any]:
    """Evaluate the chapter's formula for a user's function, tile by tile."""
    if len(x_train.shape) != 1:
        raise ValueError(
            "x_train and x_val must have shapes (n,) and (m,) for a function of signed distances, got "
            f"{tuple(x_train.shape)} and {tuple(x_val.shape)}. Use a kernel of fastnw.d2l for more coordinates."
        )
    problem = _checked(x_train, y_train, x_val)
    distances = _distance_tiles(x_train, x_val, problem)
    terms = np.stack([np.ones(problem.n), problem.values[:, 0]])
    sums = np.zeros((2, problem.m))
    shares = np.empty((problem.n, problem.m)) if attention else None
    for columns in _tiles(problem.m):
        for rows in _tiles(problem.n):
            k = _evaluated(kernel, distances(rows, columns))
            with np.errstate(invalid="ignore", over="ignore"):  # reported below
                sums[:, columns] += terms[:, rows] @ k
            if shares is not None:
                shares[rows, columns] = k
    mass, total = sums
    if not np.isfinite(mass).all():
        raise ValueError("kernel must be finite at every distance, got NaN or infinity. Correct the function.")
    restore = frameworks.restorer(x_train, y_train, x_val)
    with np.errstate(divide="ignore", invalid="ignore"):
        y_hat = np.where(mass == 0, np.nan, total / mass)
        if shares is not None:
            shares /= mass
    return restore(y_hat.astype(problem.dtype)), None if shares is None else restore(shares.astype(problem.dtype))


def _checked(x_train: Any, y_train: Any, x_val: Any) -> Problem:
    """Build a problem of host arrays with the checks of `pool`."""
    keys, values, queries = map(_on_host, (x_train, y_train, x_val))
    return build(queries[:, None], keys[:, None], values, kernel="constant", bandwidth=1.0)


def _distance_tiles(x_train: Any, x_val: Any, problem: Problem) -> Callable[[slice, slice], Any]:
    """Return a function that computes the signed distances of a tile in the arrays' own framework.

    Differences of integers may overflow, those of booleans are not defined, and float16 has three digits. For these
    types, differences are computed in float64 on the host and converted to the dtype of the result.
    """
    if {problem.keys.dtype.newbyteorder("="), problem.queries.dtype.newbyteorder("=")} <= _SUBTRACTABLE:
        return lambda rows, columns: x_train[rows][:, None] - x_val[columns][None, :]
    keys, queries = problem.keys.astype(np.float64), problem.queries.astype(np.float64).T
    restore = frameworks.restorer(x_train, x_val)
    return lambda rows, columns: restore((keys[rows] - queries[:, columns]).astype(problem.dtype))


def _tiles(length: int) -> Iterator[slice]:
    """Yield slices of TILE_SIZE indices."""
    return (slice(start, min(start + TILE_SIZE, length)) for start in range(0, length, TILE_SIZE))


def _evaluated(kernel: Callable[[Any], Any], distances: Any) -> Array:
    """Evaluate the function and convert its values to float64.

    Raises
    ------
    ValueError
        The shape is not that of the distances.
    """
    k = _on_host(kernel(distances))
    if k.shape != tuple(distances.shape):
        raise ValueError(
            f"kernel must return one number per distance, got shape {k.shape} for {tuple(distances.shape)}."
        )
    return k.astype(np.float64, copy=False)


def _report_empty(y_hat: Array) -> None:
    empty_windows = Tally()
    empty_windows.add(np.flatnonzero(np.isnan(y_hat)))
    if empty_windows.count:
        warnings.warn(
            f"{empty_windows.count} of {len(y_hat)} queries have no key within the support of the kernel "
            f"(first: {empty_windows}): their estimates are NaN. Use a wider kernel.",
            EmptyWindowWarning,
            stacklevel=caller_level(),
        )


def plot(
    x_train: Any,
    y_train: Any,
    x_val: Any,
    y_val: Any,
    kernels: Sequence[Callable[[Any], Any]],
    names: Sequence[str],
    attention: bool = False,
) -> Figure:
    """Plot estimates or attention weights like the chapter's function, with one panel per kernel.

    Parameters
    ----------
    x_train, y_train : (n,) arrays
    x_val, y_val : (m,) arrays
        The queries in ascending order, which are drawn as a line, and the true values at them.
    kernels : sequence of callables
        As in `nadaraya_watson`.
    names : sequence of str
        One for each kernel.
    attention : bool, default False
        Whether to draw weights, with one row per key, one column per query, and a colour scale for each panel.

    Returns
    -------
    figure : matplotlib.figure.Figure
        A pyplot figure, which notebooks and ``plt.show()`` display.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError
        The numbers of names and kernels differ, there are none, or `nadaraya_watson` raises the error.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("Plotting needs matplotlib. Install it with: pip install 'fastnw[plot]'") from error
    if len(kernels) != len(names) or not len(kernels):
        raise ValueError(f"kernels and names must have the same length >= 1, got {len(kernels)} and {len(names)}.")
    answers = [nadaraya_watson(x_train, y_train, x_val, kernel, attention) for kernel in kernels]
    figure = plt.figure(figsize=(3 * len(kernels), 3), layout="constrained")
    draw(figure, (x_train, y_train, x_val, y_val), answers, names, attention)
    return figure


def draw(
    figure: Figure,
    data: tuple[Any, Any, Any, Any],
    answers: Sequence[tuple[Any, Any]],
    names: Sequence[str],
    attention: bool,
) -> None:
    """Draw `plot` on a figure from (x_train, y_train, x_val, y_val) and the results of `nadaraya_watson`."""
    from matplotlib.ticker import MaxNLocator

    x_train, y_train, x_val, y_val = map(_on_host, data)
    axes = figure.subplots(1, len(answers), sharey=True, squeeze=False)[0]
    for ax, (y_hat, attention_w), name in zip(axes, answers, names, strict=True):
        if attention:
            image = ax.imshow(_on_host(attention_w), cmap="Reds", aspect="auto", interpolation="nearest", vmin=0.0)
            figure.colorbar(image, ax=ax, location="top", aspect=30, ticks=MaxNLocator(3))
        else:
            ax.plot(x_val, _on_host(y_hat))
            ax.plot(x_val, y_val, "m--")
            ax.plot(x_train, y_train, "o", alpha=0.5)
            ax.legend(["y_hat", "y"])
        ax.set_xlabel(name)
    if attention:
        axes[0].set_ylabel("key")
        figure.supxlabel("query", fontsize="medium")


def _on_host(array: Any) -> Array:
    return np.asarray(frameworks.to_numpy(array))
