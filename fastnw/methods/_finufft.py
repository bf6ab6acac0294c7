"""finufft, imported when it is first needed, and once: filters of warnings are the process's, and of two threads that
change them side by side, one restores what the other had set. A module's import is the lock.

Old ones find their binary with the help of numpy.distutils, which old versions of NumPy warn of.
"""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import finufft

Plan = finufft.Plan
