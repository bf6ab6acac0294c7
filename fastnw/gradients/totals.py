"""The results of gradient sums: one row per query, or one row per key."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class QuerySums:
    """Sums over keys, with one row per query. `fastnw.gradients.sums` defines the symbols.

    Attributes
    ----------
    moved : (p, d) float64
        Σ_j E_ij z_ij/λ_j, with λ = 1 without a key scale; for inner products −Σ_j E_ij k_j/λ_j, with keys
        whitened by a full matrix.
    squares : (p, d) float64
        Σ_j E_ij z_ij² for each coordinate; for inner products −Σ_j E_ij q_i k_j/(s λ_j).
    outer : (d, d) float64 or None
        Σ_i Σ_j E_ij z zᵀ; for inner products −Σ_i Σ_j E_ij (q kᵀ + k qᵀ)/λ_j.
    """

    moved: Floats
    squares: Floats
    outer: Floats | None


@dataclass(frozen=True)
class KeySums:
    """Sums over queries, with one row per key. `fastnw.gradients.sums` defines the symbols.

    Attributes
    ----------
    moved : (n, d) float64
        Σ_i E_ij z_ij/λ_j; for inner products Σ_i E_ij q_i/λ_j, with queries whitened by a full matrix.
    values : (n, c) float64
        Σ_i p_ij α_i.
    weights : (n,) float64
        Σ_i p_ij (α_i·v_j − γ_i).
    squares : (n,) float64
        Σ_i E_ij u²_ij; for inner products −Σ_i E_ij q_i·k_j/(s λ_j).
    """

    moved: Floats
    values: Floats
    weights: Floats
    squares: Floats
