"""The results of gradient sums: a row for each query, or a row for each key."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class QuerySums:
    """Sums over the keys, a row for each query. The module `fastnw.gradients.sums` defines E_ij and z_ij.

    Attributes
    ----------
    moved : (p, d) float64
        Σ_j E_ij z_ij/λ_j, where λ = 1 without a key scale. For inner products −Σ_j E_ij k_j/λ_j, where a bandwidth
        matrix has whitened the keys.
    squares : (p, d) float64
        Σ_j E_ij z_ij², by coordinate. For inner products −Σ_j E_ij q_i k_j/(s λ_j).
    outer : (d, d) float64 or None
        Σ_i Σ_j E_ij z zᵀ. For inner products −Σ_i Σ_j E_ij (q kᵀ + k qᵀ)/λ_j.
    """

    moved: Floats
    squares: Floats
    outer: Floats | None


@dataclass(frozen=True)
class KeySums:
    """Sums over the queries, a row for each key. The module `fastnw.gradients.sums` defines E_ij, p_ij, α and γ.

    Attributes
    ----------
    moved : (n, d) float64
        Σ_i E_ij z_ij/λ_j. For inner products Σ_i E_ij q_i/λ_j, where a bandwidth matrix has whitened the queries.
    values : (n, c) float64
        Σ_i p_ij α_i.
    weights : (n,) float64
        Σ_i p_ij (α_i·v_j − γ_i).
    squares : (n,) float64
        Σ_i E_ij u²_ij. For inner products −Σ_i E_ij q_i·k_j/(s λ_j).
    """

    moved: Floats
    values: Floats
    weights: Floats
    squares: Floats
