"""What a run says while it measures, and the file that it leaves."""

from __future__ import annotations

import json
import time
from pathlib import Path

from bench import machine

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"  # holds the generated tables, between markers


class Progress:
    """A line for each step, with the time since the start."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def say(self, text: str) -> None:
        print(f"[{time.perf_counter() - self.start:6.1f} s] {text}", flush=True)


def results_path(facts: dict, what: str, partial: bool) -> Path:
    """Of this kind of machine, in bench/results; ``what`` is "" or, for example, "-lowdim"."""
    return ROOT / "bench" / "results" / f"{machine.slug(facts)}{what}{'-partial' if partial else ''}.json"


def save(path: Path, content: dict) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {path.relative_to(ROOT)}")


def load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
