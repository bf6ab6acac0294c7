from __future__ import annotations

import sys
from pathlib import Path

# `bench` is imported from here; at the end, so that the fastnw that is installed wins over the source tree
sys.path.append(str(Path(__file__).resolve().parents[1]))
