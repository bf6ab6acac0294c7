"""Bandwidths from data: the reference rules of Scott and Silverman."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from fastnw import _frames, _integrals
from fastnw import kernels as _kernels
from fastnw.kernels import Kernel

# Factors of the spread σ_j for n observations in d coordinates, for the Gaussian kernel.
_RULES: dict[str, Callable[[float, int], float]] = {
    "scott": lambda n, d: n ** (-1.0 / (d + 4)),
    "silverman": lambda n, d: (n * (d + 2) / 4.0) ** (-1.0 / (d + 4)),
}
RULES = tuple(_RULES)
CRITERIA = ("loo", "aicc")  # of `fastnw.select_bandwidth`, which estimators and the command line take beside the rules

# Weights that were divided by their sum, in float32 perhaps, miss 1 by rounding; n − 1 would be that rounding.
_NORMALISED = 1e-6
_BLOCK_ELEMENTS = 2**20  # of X, made float64 at a time: 8 MiB


def rule_bandwidth(
    X: Any,
    rule: str,
    kernel: str | Kernel = "gaussian",
    sample_weight: Any = None,
    *,
    feature_names: Sequence[str] | None = None,
    named: str | None = None,
) -> np.ndarray:
    """One bandwidth per coordinate by a reference rule: its spread times a factor that shrinks with the sample.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Finite numbers.
    rule : {"scott", "silverman"}
        h_j = σ_j n^(−1/(d+4)) [1]_; Silverman's is the same × (4/(d+2))^(1/(d+4)) [2]_.
    kernel : str or Kernel
        Kernels other than the Gaussian are rescaled by the ratio of the canonical bandwidths, so that all smooth alike;
        those that have none (``cauchy``, ``constant``, heavy-tailed ones of your own) keep the Gaussian's value.
    sample_weight : array-like of shape (n,), optional
        Weights count observations: n = Σw, and σ_j is that of the rows repeated w times (ddof = 1).
    feature_names : sequence of str, optional
        Names of the columns for errors, where `X` does not carry them.
    named : str, optional
        What errors call the rule, for one that begins with it.

    Returns
    -------
    ndarray of shape (d,), float64

    Raises
    ------
    ValueError
        Unknown rule; the kernel ``dot``; not more than one observation; a column without spread, by its name.

    References
    ----------
    .. [1] Scott (1992), Multivariate Density Estimation, Wiley.
    .. [2] Silverman (1986), Density Estimation for Statistics and Data Analysis, Chapman & Hall.

    Examples
    --------
    >>> from fastnw.bandwidth import rule_bandwidth
    >>> X = [[0.0, 0.0], [1.0, 20.0], [2.0, 10.0]]
    >>> rule_bandwidth(X, "scott").round(3)
    array([0.833, 8.327])
    """
    if rule not in _RULES:
        choices = " or ".join(map(repr, RULES))
        raise ValueError(f"Unknown bandwidth rule {rule!r}. Choose {choices}, or give a number or an array.")
    kernel, named = _kernels.get(kernel), named or rule
    if kernel.inner_product:
        raise ValueError(
            f"bandwidth={named!r} is not defined for kernel {str(kernel)!r}, which has no distances to scale: "
            "give a number, for example sqrt(d)."
        )
    if feature_names is None:
        feature_names = _frames.column_names(X)
    data = X if isinstance(X, np.ndarray) else np.asarray(X)
    weights = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    n, d = _count(data, weights), data.shape[1]
    h = _spread(data, weights, n) * (_RULES[rule](n, d) * _relative_to_gaussian(kernel, d))
    _refuse_zeros(h, named, feature_names)
    return h


def _count(X: np.ndarray, weights: np.ndarray | None) -> float:
    """n = Σw, if it is more than 1: a single observation has no spread."""
    n = float(X.shape[0]) if weights is None else float(np.sum(weights))
    if n > 1.0 + _NORMALISED:
        return n
    if weights is None or X.shape[0] <= 1:
        raise ValueError(f"A bandwidth rule needs more than 1 sample, got n_samples = {X.shape[0]}: give a number.")
    raise ValueError(
        f"A bandwidth rule needs more than 1 sample, and the sample weights, which count observations (2 means given "
        f"twice), sum to {n:.6g}. Rescale them, or give the bandwidth as a number."
    )


def _relative_to_gaussian(kernel: Kernel, d: int) -> float:
    canonical = _integrals.canonical_bandwidth(kernel, d)
    gaussian = _integrals.canonical_bandwidth(_kernels.get("gaussian"), d)
    return 1.0 if canonical is None or gaussian is None else canonical / gaussian


def _spread(X: np.ndarray, weights: np.ndarray | None, n: float) -> np.ndarray:
    """Standard deviation of each column, ddof = 1, of rows repeated `weights` times.

    Two passes over differences from the first row, in units of the largest: a plain sum of squares cancels for data far
    from 0 and underflows for tiny data.
    einsum, not a product: BLAS may add in an order that depends on its threads.
    """
    origin = X[0 if weights is None else int(np.argmax(weights > 0))].astype(np.float64)
    scale, total = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    for rows, w in _blocks(X, weights):
        difference = rows - origin
        np.maximum(scale, np.abs(difference).max(axis=0), out=scale)
        total += difference.sum(axis=0) if w is None else np.einsum("i,ij->j", w, difference)
    mean = total / n
    unit = np.where(scale > 0, scale, 1.0)
    squares = np.zeros_like(mean)
    for rows, w in _blocks(X, weights):
        z = (rows - origin - mean) / unit
        np.square(z, out=z)
        squares += z.sum(axis=0) if w is None else np.einsum("i,ij->j", w, z)
    return np.where(scale > 0, unit * np.sqrt(squares / (n - 1.0)), 0.0)


def _blocks(X: np.ndarray, weights: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Blocks of rows as float64 with their weights; rows of no weight are left out."""
    step = max(1, _BLOCK_ELEMENTS // max(1, X.shape[1]))
    for start in range(0, X.shape[0], step):
        rows = X[start : start + step]
        if weights is None:
            yield rows.astype(np.float64, copy=False), None
            continue
        w = weights[start : start + step]
        present = w > 0
        if present.any():
            yield rows[present].astype(np.float64, copy=False), w[present]


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
