"""The functions of d2l.ai's chapter "Attention Pooling by Similarity", computed by fastnw.

The chapter (https://d2l.ai/chapter_attention-mechanisms-and-transformers/attention-pooling.html) exists for PyTorch,
JAX, TensorFlow and MXNet. The functions here take arrays of all four, and of NumPy. This module imports neither these
frameworks nor matplotlib.
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

# Keys, and queries, in the array of distances for one call of a user's function: 2 MiB in float64, which fit into
# caches. With 2,048, sums take half as long again; with 256, they take no less.
TILE_LENGTH = 512
_SUBTRACTABLE_DTYPES = {np.dtype(np.float32), np.dtype(np.float64)}


@dataclass(frozen=True)
class ChapterKernel:
    """One of the chapter's kernels: a function of distances, for which `nadaraya_watson` uses a kernel of fastnw.

    Parameters
    ----------
    name : str
        The name of fastnw's kernel.
    formula : callable
        A function of a framework's module and of its array of signed distances in bandwidths.
    bandwidth : float
        The bandwidth.
    strict : bool
        Whether the kernel is 0 at a distance of exactly one bandwidth.
    """

    name: str
    formula: Callable[[Any, Any], Any]
    bandwidth: float = 1.0
    strict: bool = False

    def __call__(self, x: Any) -> Any:
        """Evaluate the kernel at the distances `x`, an array of any framework; the result has its kind and shape."""
        x = _array(x)
        if isinstance(x, np.ndarray) and x.dtype.kind in "biu":
            x = x.astype(np.float64)  # NumPy 1 divides small integers in float16
        return self.formula(frameworks.namespace(x), x / self.bandwidth)

    def bandwidth_for(self, *arrays: Any) -> float:
        """Return the bandwidth for `pool`: for a strict kernel, the largest number below, which excludes the edge."""
        if not self.strict:
            return self.bandwidth
        # One row, which is copied from any device, has the dtype of all.
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
    """Return the chapter's Gaussian of width σ: exp(−x²/(2σ²)).

    Parameters
    ----------
    sigma : float
        The width, which is positive.

    Returns
    -------
    ChapterKernel
        A function of signed distances.

    Raises
    ------
    ValueError
        If `sigma` is not positive and finite.

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
    """Estimate values at `x_val` and return the attention weights, like the chapter's function of this name.

    ŷ_j = Σ_i k(x_i − x'_j) y_i / Σ_i k(x_i − x'_j) over the training points x_i, for each x'_j of `x_val`.

    Parameters
    ----------
    x_train : (n,) array
        The keys. For the kernels of this module, also (n, d) with the Euclidean distance.
    y_train : (n,) array
        The values.
    x_val : (m,) array
        The queries; (m, d) if the keys are (n, d).
    kernel : callable
        A kernel of this module, for which `fastnw.pool` chooses the fastest method; its Gaussian does not underflow,
        unlike the formula. Or a function of your own, which takes an array of signed distances in the framework of the
        arrays and returns an array of numbers or booleans of the same shape. It is called for one tile of distances at
        a time, which are floating-point numbers for every dtype of the arrays. Its sums are in float64.
    attention : bool, default True
        Whether to return weights. If False, no (n, m) array is allocated.

    Returns
    -------
    y_hat : (m,) array
        The estimates, in the arrays' framework and on their device; float32 if all floating arrays are float32 or
        narrower, otherwise float64. They have no gradient.
    attention_w : (n, m) array or None
        The weights, as in the chapter: a row for each key and a column for each query; columns sum to 1. This is the
        transpose of the result of `fastnw.attention_weights`.

    Raises
    ------
    ValueError
        If shapes do not match, an array has NaN, or the result of `kernel` has another shape or is not finite.
    TypeError
        If `kernel` is not callable.

    Warns
    -----
    EmptyWindowWarning
        Once, if the weights of all keys are 0 for some queries. Their estimates and columns of weights are NaN, as 0/0
        is in the chapter.

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
        raise TypeError(f"kernel must be a function of distances, got {kernel!r}. Use one such as fastnw.d2l.gaussian.")
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
    """Compute estimates and weights by fastnw. Empty windows become NaN; the caller warns of them once."""
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
        raise ValueError("A function of signed distances needs one coordinate: x_train and x_val of shapes (n,), (m,).")
    problem = _validated(x_train, y_train, x_val)
    distances = _distances_of(x_train, x_val, problem)
    summed = np.stack([np.ones(problem.n), problem.values[:, 0]])
    sums = np.zeros((2, problem.m))
    shares = np.empty((problem.n, problem.m)) if attention else None
    for columns in _tiles(problem.m):
        for rows in _tiles(problem.n):
            k = _evaluated(kernel, distances(rows, columns))
            with np.errstate(invalid="ignore", over="ignore"):  # the mass is checked below
                sums[:, columns] += summed[:, rows] @ k
            if shares is not None:
                shares[rows, columns] = k
    mass, total = sums
    if not np.isfinite(mass).all():
        raise ValueError("kernel is not finite at every distance.")
    restore = frameworks.restorer(x_train, y_train, x_val)
    with np.errstate(divide="ignore", invalid="ignore"):
        y_hat = np.where(mass == 0, np.nan, total / mass)
        if shares is not None:
            shares /= mass
    return restore(y_hat.astype(problem.dtype)), None if shares is None else restore(shares.astype(problem.dtype))


def _validated(x_train: Any, y_train: Any, x_val: Any) -> Problem:
    """Copy the arrays to the host and validate them as `pool` does."""
    keys, values, queries = map(_on_host, (x_train, y_train, x_val))
    return build(queries[:, None], keys[:, None], values, kernel="constant", bandwidth=1.0)


def _distances_of(x_train: Any, x_val: Any, problem: Problem) -> Callable[[slice, slice], Any]:
    """Return a function that computes the signed distances of some keys and queries, in the arrays' framework.

    Differences of integers overflow, those of booleans are not defined, and those of float16 have three digits.
    These types are subtracted in float64 on the host, and the differences get the dtype of the result.
    """
    if {problem.keys.dtype.newbyteorder("="), problem.queries.dtype.newbyteorder("=")} <= _SUBTRACTABLE_DTYPES:
        return lambda rows, columns: x_train[rows][:, None] - x_val[columns][None, :]
    keys, queries = problem.keys.astype(np.float64), problem.queries.astype(np.float64).T
    restore = frameworks.restorer(x_train, x_val)
    return lambda rows, columns: restore((keys[rows] - queries[:, columns]).astype(problem.dtype))


def _tiles(length: int) -> Iterator[slice]:
    return (slice(start, min(start + TILE_LENGTH, length)) for start in range(0, length, TILE_LENGTH))


def _evaluated(kernel: Callable[[Any], Any], distances: Any) -> Array:
    """Evaluate the function and return its values as float64.

    Raises
    ------
    ValueError
        If the shape of the values differs from that of the distances.
    """
    k = _on_host(kernel(distances))
    if k.shape != tuple(distances.shape):
        raise ValueError(f"kernel must give one number for each distance: got {k.shape} for {tuple(distances.shape)}.")
    return k.astype(np.float64, copy=False)


def _report_empty(y_hat: Array) -> None:
    empty = Tally()
    empty.add(np.flatnonzero(np.isnan(y_hat)))
    if empty.count:
        warnings.warn(
            f"{empty.count} of {len(y_hat)} queries have no key with a positive weight (first: {empty}). "
            "Their estimates are NaN. Use a wider kernel.",
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
    """Plot estimates or attention weights, a panel for each kernel, like the chapter's function of this name.

    Parameters
    ----------
    x_train, y_train : (n,) arrays
        The keys and their values.
    x_val, y_val : (m,) arrays
        The queries, in ascending order so that lines connect them, and the true values there.
    kernels : sequence of callables
        Any number of kernels, as in `nadaraya_watson`.
    names : sequence of str
        A title for each kernel.
    attention : bool, default False
        Whether to draw the weights, with a row for each key and a column for each query. Each panel has its own colour
        scale.

    Returns
    -------
    matplotlib.figure.Figure
        A figure of pyplot, which a notebook or ``plt.show()`` shows.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If the numbers of names and kernels differ or are 0, or for the reasons of `nadaraya_watson`.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("Plotting needs matplotlib. Install it with: pip install 'fastnw[plot]'") from error
    if len(kernels) != len(names) or not len(kernels):
        raise ValueError(f"kernels and names must be of one length, at least 1: got {len(kernels)} and {len(names)}.")
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
    """Draw the panels of `plot` on a figure.

    Parameters
    ----------
    figure : Figure
    data : tuple
        x_train, y_train, x_val and y_val.
    answers : sequence
        The results of `nadaraya_watson` for each kernel.
    names : sequence of str
    attention : bool
    """
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
