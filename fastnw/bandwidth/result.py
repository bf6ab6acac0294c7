"""What a search for bandwidths found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnw.bandwidth.criteria import Floats

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure


@dataclass(frozen=True)
class SearchPath:
    """Every bandwidth looked at, in order, and its loss (∞ where a window was empty).

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
        To pass on as ``bandwidth=``; one number if all coordinates were to share one.
    score : float
        The criterion there, a loss; NaN for the reference rules, which have none.
    path : SearchPath
        What was looked at.
    criterion, kernel : str
    notes : tuple of str
        What to know about the result: coordinates without relation to the values, ends of the search.
    """

    bandwidth: Any
    score: float
    path: SearchPath
    criterion: str
    kernel: str
    notes: tuple[str, ...] = field(default=())

    def plot(self, ax: Any = None) -> Figure | SubFigure:
        """The loss against the bandwidth of each coordinate, at all that were looked at.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            None: a new figure.

        Returns
        -------
        Figure

        Raises
        ------
        ValueError
            There is no path: a reference rule looks at nothing.
        """
        from fastnw.bandwidth.picture import draw

        return draw(self, ax).figure

    def __repr__(self) -> str:
        h = np.array2string(np.atleast_1d(self.bandwidth), precision=6, separator=", ", threshold=8)
        h = h if np.ndim(self.bandwidth) else f"{self.bandwidth:.6g}"
        text = f"BandwidthSelection(bandwidth={h}, score={self.score:.6g}, criterion={self.criterion!r}, "
        return text + f"kernel={self.kernel!r}, {len(self.path)} looked at)"
