"""Bandwidths from data by the reference rules of Scott and Silverman."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from fastnw import kernels as _kernels
from fastnw.core.row_weights import other_weights, relative_weights
from fastnw.interop import dataframes
from fastnw.kernels import integrals
from fastnw.kernels.kernel import Kernel

# Factors of the spread σ_j for n observations in d coordinates, for the Gaussian kernel.
_RULES: dict[str, Callable[[float, int], float]] = {
    "scott": lambda n, d: n ** (-1.0 / (d + 4)),
    "silverman": lambda n, d: (n * (d + 2) / 4.0) ** (-1.0 / (d + 4)),
}
RULES = tuple(_RULES)

_BLOCK_ELEMENTS = 2**20  # elements of X that are converted to float64 at a time: 8 MiB


def rule_bandwidth(
    X: Any,
    rule: str,
    kernel: str | Kernel = "gaussian",
    sample_weight: Any = None,
    *,
    feature_names: Sequence[str] | None = None,
    named: str | None = None,
) -> np.ndarray:
    """One bandwidth per coordinate by a reference rule: the spread times a factor that falls with the sample size.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Finite numbers.
    rule : {"scott", "silverman"}
        h_j = σ_j n^(−1/(d+4)) [1]_; Silverman's is the same × (4/(d+2))^(1/(d+4)) [2]_.
    kernel : str or Kernel
        For kernels other than the Gaussian the bandwidth is multiplied by the ratio of the canonical bandwidths, so
        that all smooth alike. Kernels without a canonical bandwidth (``cauchy``, ``constant``, heavy-tailed kernels of
        your own) use the Gaussian's value.
    sample_weight : array-like of shape (n,), optional
        Relative weights, as in SciPy's ``gaussian_kde``: n is the effective number of rows (Σw)²/Σw², and
        σ_j² = Σw(x − x̄)²/Σw · n/(n − 1). A constant factor changes nothing, and rows with weight 0
        count as absent.
    feature_names : sequence of str, optional
        Names of the columns for errors, if `X` is no data frame.
    named : str, optional
        The name of the rule in errors, for a criterion whose search starts from the rule.

    Returns
    -------
    ndarray of shape (d,), float64

    Raises
    ------
    ValueError
        The rule is unknown, the kernel is ``dot``, there is at most one row with weight, or a column has no spread.

    References
    ----------
    .. [1] Scott (1992), Multivariate Density Estimation, Wiley.
    .. [2] Silverman (1986), Density Estimation for Statistics and Data Analysis, Chapman & Hall.

    Examples
    --------
    >>> from fastnw.bandwidth.rules import rule_bandwidth
    >>> X = [[0.0, 0.0], [1.0, 20.0], [2.0, 10.0]]
    >>> rule_bandwidth(X, "scott").round(3)
    array([0.833, 8.327])
    """
    if rule not in _RULES:
        choices = " or ".join(map(repr, RULES))
        raise ValueError(f"Unknown bandwidth rule {rule!r}. Choose {choices}, or pass a number or an array.")
    kernel, named = _kernels.get(kernel), named or rule
    if kernel.inner_product:
        raise ValueError(
            f"bandwidth={named!r} is not defined for kernel {str(kernel)!r}, which has no distances to scale. "
            "Pass a number, for example sqrt(d)."
        )
    if feature_names is None:
        feature_names = dataframes.column_names(X)
    data = X if isinstance(X, np.ndarray) else np.asarray(X)
    rows, weights = relative_weights(sample_weight)
    n_rows, data, d = len(data), data[rows], data.shape[1]
    if len(data) <= 1:
        counted = "" if len(data) == n_rows else ", counting only rows with a positive sample weight"
        raise ValueError(
            f"A bandwidth rule needs more than 1 sample, got n_samples = {len(data)}{counted}. Pass a number."
        )
    n = float(len(data))
    if weights is not None:
        weights = weights / weights.max()
        n = float(np.square(weights.sum()) / np.square(weights).sum())
    h = _spread(data, weights) * (_RULES[rule](n, d) * _relative_to_gaussian(kernel, d))
    _refuse_zeros(h, named, feature_names)
    return h


def geometric_mean(bandwidths: np.ndarray) -> float:
    """The geometric mean of positive numbers; a power of two as a factor of them is one of it, to the last bit."""
    mantissas, exponents = np.frexp(bandwidths)
    whole, rest = divmod(int(exponents.sum()), len(bandwidths))
    return float(np.ldexp(np.exp(np.log(mantissas).mean() + rest / len(bandwidths) * np.log(2.0)), whole))


def _relative_to_gaussian(kernel: Kernel, d: int) -> float:
    """The kernel's canonical bandwidth over the Gaussian's, or 1 if it has none."""
    canonical = integrals.canonical_bandwidth(kernel, d)
    gaussian = integrals.canonical_bandwidth(_kernels.get("gaussian"), d)
    return 1.0 if canonical is None or gaussian is None else canonical / gaussian


def _spread(X: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Standard deviation of each column, ddof = 1; with weights, the largest of which is 1, its square is
    Σ w (x − x̄)² Σ w / Σ w (Σ w − w), which n/(n − 1) of the effective n is without cancellation.

    Two passes over differences from the first row, or that of the largest weight, in units of the largest: a plain sum
    of squares cancels for data far from 0 and underflows for tiny data.
    einsum, not a product: BLAS may add in an order that depends on its threads.
    """
    origin = X[0 if weights is None else int(np.argmax(weights))].astype(np.float64)
    scale, total = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    for rows, w in _blocks(X, weights):
        difference = rows - origin
        np.maximum(scale, np.abs(difference).max(axis=0), out=scale)
        total += difference.sum(axis=0) if w is None else np.einsum("i,ij->j", w, difference)
    mean = total / (len(X) if weights is None else weights.sum())
    unit = np.where(scale > 0, scale, 1.0)
    squares = np.zeros_like(mean)
    for rows, w in _blocks(X, weights):
        z = (rows - origin - mean) / unit
        np.square(z, out=z)
        squares += z.sum(axis=0) if w is None else np.einsum("i,ij->j", w, z)
    count = len(X) - 1.0 if weights is None else float((weights * other_weights(weights)).sum() / weights.sum())
    if not count > 0:
        raise ValueError(
            "One row has all of the sample weight, to float64's last digit: a bandwidth rule needs more than 1 sample. "
            "Give the bandwidth as a number."
        )
    return np.where(scale > 0, unit * np.sqrt(squares / count), 0.0)


def _blocks(X: np.ndarray, weights: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Blocks of rows as float64 with their weights."""
    step = max(1, _BLOCK_ELEMENTS // max(1, X.shape[1]))
    for start in range(0, X.shape[0], step):
        part = slice(start, start + step)
        yield X[part].astype(np.float64, copy=False), None if weights is None else weights[part]


def _refuse_zeros(h: np.ndarray, rule: str, feature_names: Sequence[str] | None) -> None:
    bad = np.flatnonzero(~(h > 0))
    if bad.size == 0:
        return
    first = int(bad[0])
    name = f"column {first}" if feature_names is None else f"column {feature_names[first]!r}"
    others = "" if bad.size == 1 else f" (and {bad.size - 1} more)"
    raise ValueError(
        f"bandwidth={rule!r} gives 0 for {name}{others}: all its values are the same. Drop the column, or give the "
        "bandwidth as a number or one number per column."
    )
