"""What the pages in docs/ show runs, and what they link to is there."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(DOCS.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_blocks_run_in_their_order(page, monkeypatch, tmp_path):
    """Those marked with the name of a package as well run where it is installed."""
    monkeypatch.chdir(tmp_path)
    names = {}
    for mark, text in re.findall(r"```python *(\w*)\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        if not mark or find_spec(mark):
            exec(compile(text, page.name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_linked_files_exist(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (DOCS / target).is_file(), target


def test_there_are_pages():
    assert PAGES
