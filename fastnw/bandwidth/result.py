"""The result of a search for bandwidths."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnw.bandwidth.criteria import Floats

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure


@dataclass(frozen=True)
class SearchPath:
    """Every bandwidth that the search tried, in order, and its loss (∞ where a window was empty).

    Attributes
    ----------
    bandwidth : (k, d) float64
    score : (k,) float64
    """

    bandwidth: Floats
    score: Floats

    def __len__(self) -> int:
        return len(self.score)


@dataclass(frozen=True)
class BandwidthSelection:
    """Bandwidths chosen by a criterion.

    Attributes
    ----------
    bandwidth : float or (d,) float64
        To use as ``bandwidth=``; one number if all coordinates share it.
    score : float
        The loss at the bandwidth; NaN for the reference rules, which have none.
    path : SearchPath
        The bandwidths that were tried.
    criterion, kernel : str
    notes : tuple of str
        Remarks on the result: coordinates without relation to the values, a bandwidth at the end of the search.
    """

    bandwidth: Any
    score: float
    path: SearchPath
    criterion: str
    kernel: str
    notes: tuple[str, ...] = field(default=())

    def plot(self, ax: Any = None) -> Figure | SubFigure:
        """Draw the loss against the bandwidth of each coordinate, for all bandwidths that were tried.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            None makes a new figure.

        Returns
        -------
        Figure

        Raises
        ------
        ValueError
            The path is empty, because a reference rule tries no bandwidths.
        """
        from fastnw.bandwidth.picture import draw_path

        if not len(self.path):
            raise ValueError(
                f"There is nothing to draw: {self.criterion!r} is a rule, which tries no bandwidths. "
                "Use criterion='loo' or 'aicc'."
            )
        return draw_path(self.path.bandwidth, self.path.score, self.bandwidth, self.criterion, ax).figure

    def __repr__(self) -> str:
        h = np.array2string(np.atleast_1d(self.bandwidth), precision=6, separator=", ", threshold=8)
        h = h if np.ndim(self.bandwidth) else f"{self.bandwidth:.6g}"
        text = f"BandwidthSelection(bandwidth={h}, score={self.score:.6g}, criterion={self.criterion!r}, "
        return text + f"kernel={self.kernel!r}, {len(self.path)} tried)"
