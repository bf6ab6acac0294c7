"""Progress lines while a benchmark runs, and the files that it leaves."""

from __future__ import annotations

import json
import time
from pathlib import Path

from bench.lib import machine

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results"
PAGE = (
    ROOT / "docs" / "performance.md"
)  # shows every table of the full reports, between markers; pictures lie beside it


class Progress:
    """Prints a line for each step, with the time since the start."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def say(self, text: str) -> None:
        print(f"[{time.perf_counter() - self.start:6.1f} s] {text}", flush=True)


def results_path(facts: dict, kind: str, partial: bool) -> Path:
    """The file of this machine's results; `kind` is "" or, for example, "-lowdim"."""
    return RESULTS / f"{machine.slug(facts)}{kind}{'-partial' if partial else ''}.json"


def save(path: Path, content: dict) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {path.relative_to(ROOT)}")


def load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
