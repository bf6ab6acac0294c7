"""The code of d2l.ai's chapter "Attention Pooling by Similarity", run by fastnw: the same names, shapes and pictures.

The chapter (https://d2l.ai/chapter_attention-mechanisms-and-transformers/attention-pooling.html) is written once for
each of PyTorch, JAX, TensorFlow and MXNet. What stands here takes the arrays of all four, and NumPy's. Neither they nor
matplotlib are imported with this module.
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

# Keys, and queries, whose distances a user's function is given at a time: 2 MiB in float64, which caches hold. Sums
# take half as long again with 2,048, and no less with 256.
TILE = 512
_SUBTRACTED_AS_THEY_ARE = {np.dtype(np.float32), np.dtype(np.float64)}


@dataclass(frozen=True)
class ChapterKernel:
    """One of the chapter's kernels: called, its formula on distances; recognised, fastnw's kernel of that bandwidth.

    Parameters
    ----------
    name : str
        As fastnw knows it.
    formula : callable
        Of a framework's module and of its array of signed distances in bandwidths.
    bandwidth : float
    strict : bool
        Whether distances of exactly one bandwidth are outside.
    """

    name: str
    formula: Callable[[Any, Any], Any]
    bandwidth: float = 1.0
    strict: bool = False

    def __call__(self, x: Any) -> Any:
        """The kernel of each distance in `x`, an array of any framework, as an array of the same kind and shape."""
        x = _array(x)
        if isinstance(x, np.ndarray) and x.dtype.kind in "biu":
            x = x.astype(np.float64)  # NumPy 1 would divide small integers in float16
        return self.formula(frameworks.namespace(x), x / self.bandwidth)

    def bandwidth_for(self, *arrays: Any) -> float:
        """What leaves a distance of exactly one bandwidth outside if it should: the largest number below."""
        if not self.strict:
            return self.bandwidth
        # a row tells the type on whatever device it lies
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
    """The chapter's Gaussian of width σ: exp(−x²/(2σ²)).

    Parameters
    ----------
    sigma : float
        The width, positive.

    Returns
    -------
    ChapterKernel
        A function of signed distances.

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
    """The chapter's function of that name: estimates at `x_val`, and the attention weights that make them.

    ŷ_j = Σ_i k(x_i − x'_j) y_i / Σ_i k(x_i − x'_j) over the training points x_i, for each x'_j of `x_val`.

    Parameters
    ----------
    x_train : (n,) array
        The keys. Also (n, d), with the Euclidean distance, for the kernels of this module.
    y_train : (n,) array
        The values.
    x_val : (m,) array
        The queries; (m, d) with such keys.
    kernel : callable
        One of this module's, which `fastnw.pool` computes by its fastest method; a Gaussian does not underflow there as
        its formula does. Or a function of your own: of an array of signed distances, in the arrays' own framework, to
        an array of the same shape of numbers or booleans. It is given a tile of distances at a time, in floating point
        whatever the arrays hold, and its sums are taken in float64.
    attention : bool, default True
        False: no weights, and no (n, m) array is made.

    Returns
    -------
    y_hat : (m,) array
        Of the arrays' framework and device; float32 if all floating arrays are float32 or narrower, otherwise float64.
        It carries no gradient.
    attention_w : (n, m) array or None
        As in the chapter, a row a key and a column a query; columns sum to 1. The transpose of what
        `fastnw.attention_weights` returns.

    Raises
    ------
    ValueError
        Arrays of other shapes or with NaN; a function whose result has another shape or is not finite.
    TypeError
        `kernel` is no function.

    Warns
    -----
    EmptyWindowWarning
        Once, for queries that no key reaches: the estimate and the whole column of weights are NaN, as 0/0 is in the
        chapter, so that neither can be taken for an answer.

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
    """Empty windows are NaN here, and reported by the caller: once, for estimates and weights."""
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
    """The chapter's formula for a function that fastnw does not know, tile by tile."""
    if len(x_train.shape) != 1:
        raise ValueError("A function of signed distances needs one coordinate: x_train and x_val of shapes (n,), (m,).")
    problem = _checked(x_train, y_train, x_val)
    distances = _distances_of(x_train, x_val, problem)
    summed = np.stack([np.ones(problem.n), problem.values[:, 0]])
    sums = np.zeros((2, problem.m))
    shares = np.empty((problem.n, problem.m)) if attention else None
    for columns in _tiles(problem.m):
        for rows in _tiles(problem.n):
            k = _evaluated(kernel, distances(rows, columns))
            with np.errstate(invalid="ignore", over="ignore"):  # told below
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


def _checked(x_train: Any, y_train: Any, x_val: Any) -> Problem:
    """Host arrays of the points, with everything checked that `pool` checks."""
    keys, values, queries = map(_on_host, (x_train, y_train, x_val))
    return build(queries[:, None], keys[:, None], values, kernel="constant", bandwidth=1.0)


def _distances_of(x_train: Any, x_val: Any, problem: Problem) -> Callable[[slice, slice], Any]:
    """What gives the signed distances of some keys and queries, in the arrays' own framework.

    Integers wrap where they are subtracted, and booleans cannot be; float16 has three digits. Their differences are
    taken in float64 on the host and come in the result's type.
    """
    if {problem.keys.dtype.newbyteorder("="), problem.queries.dtype.newbyteorder("=")} <= _SUBTRACTED_AS_THEY_ARE:
        return lambda rows, columns: x_train[rows][:, None] - x_val[columns][None, :]
    keys, queries = problem.keys.astype(np.float64), problem.queries.astype(np.float64).T
    restore = frameworks.restorer(x_train, x_val)
    return lambda rows, columns: restore((keys[rows] - queries[:, columns]).astype(problem.dtype))


def _tiles(length: int) -> Iterator[slice]:
    return (slice(start, min(start + TILE, length)) for start in range(0, length, TILE))


def _evaluated(kernel: Callable[[Any], Any], distances: Any) -> Array:
    """The function's values as float64.

    Raises
    ------
    ValueError
        Another shape than that of the distances.
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
            f"{empty.count} of {len(y_hat)} queries have no key in the kernel's reach (first: {empty}): "
            "NaN stands there. Use a wider kernel.",
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
    """The chapter's function of that name: a panel a kernel, with its estimates or its attention weights.

    Parameters
    ----------
    x_train, y_train : (n,) arrays
    x_val, y_val : (m,) arrays
        The queries, in ascending order to be drawn as a line, and the true values there.
    kernels : sequence of callables
        As in `nadaraya_watson`; any number of them.
    names : sequence of str
        One for each kernel.
    attention : bool, default False
        Draw the weights, a row a key and a column a query, each panel with a colour scale of its own.

    Returns
    -------
    matplotlib.figure.Figure
        One of pyplot's: a notebook shows it, and so does ``plt.show()``.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError
        Not as many names as kernels, none at all, or what `nadaraya_watson` raises.
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
    """`plot` on a figure, of x_train, y_train, x_val, y_val and what `nadaraya_watson` returned for each kernel."""
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
