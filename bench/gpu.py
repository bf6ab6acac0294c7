"""``python bench/gpu.py``: every check that needs a real GPU, in one call of some minutes.

Compares every kernel with float64 on fresh random data, from host arrays and from arrays on the card. Then measures
pairs a second against the card's ceilings and, where they are installed, KeOps and PyTorch. Writes
bench/results/gpu-<card>.json and prints a table. The exit status is 1 if an answer was wrong or arrays on the card were
copied to the host; missed goals are in the table. ``--dry-run`` runs tiny sizes in numba-cuda's simulator.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if "--dry-run" in sys.argv:
    os.environ["NUMBA_ENABLE_CUDASIM"] = "1"  # read when numba is imported

import fastnw  # noqa: F401 (imported before the path changes, so that the installed package counts)

sys.path[0] = str(
    Path(__file__).resolve().parents[1]
)  # replaces bench/, whose folders would hide modules of their names

from bench.gpu.report import main  # noqa: E402 (the folder bench/gpu, which takes precedence over this file)

if __name__ == "__main__":
    sys.exit(main(str(__doc__)))
