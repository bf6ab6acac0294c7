from __future__ import annotations

import sys
from pathlib import Path

import fastnw  # noqa: F401 (imported before the path changes, so that the installed package counts)

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for `bench`
