from __future__ import annotations

import sys
from pathlib import Path

import fastnw  # noqa: F401 (before the next line: what is installed counts, not a source tree without kernels)

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for `bench`
