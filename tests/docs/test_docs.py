"""What the pages in docs/ show runs, what they link to is there, and their commands are understood."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import fastnw

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(page for folder in ("", "exercises") for page in (DOCS / folder).glob("*.md"))


def blocks(page):
    """(language, package that the block needs, text) of each fenced block."""
    return re.findall(r"```(\w*) *(\w*)\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")  # the oldest, of names that pyparsing has changed
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_blocks_run_in_their_order(page, monkeypatch, tmp_path):
    """Blocks marked with the name of a package run only where it is installed."""
    if find_spec("matplotlib"):
        import matplotlib

        matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    names = {}
    for language, package, text in blocks(page):
        if language == "python" and (not package or find_spec(package)):
            exec(compile(text, page.name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_linked_files_exist(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).is_file(), target


def test_command_lines_are_understood():
    from fastnw.cli.command import _parse

    lines = [line for page in PAGES for language, _, text in blocks(page) if not language for line in text.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("fastnw ")]
    assert len(commands) >= 3
    for arguments in commands:
        assert callable(_parse(arguments).run)


def table_of_kernels():
    """The rows of the table in docs/kernels.md: name, aliases, methods besides `exact`, density."""
    lines = (DOCS / "kernels.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    return {row[0].strip("`"): row for row in rows if len(row) == 6}


def test_the_table_of_kernels_has_every_kernel():
    assert list(table_of_kernels()) == fastnw.kernels.names()


@pytest.mark.parametrize("name", fastnw.kernels.names())
def test_the_table_of_kernels_is_true(name):
    _, aliases, _, support, methods, density = table_of_kernels()[name]
    kernel = fastnw.kernels.get(name)
    assert tuple(re.findall(r"`(\w+)`", aliases)) == kernel.aliases
    assert (support == "u ≤ 1") == (kernel.support == 1.0)
    for d in (1, 2, 3, 4):
        keys = np.random.default_rng(d).normal(size=(30, d))
        listed = re.finditer(r"`(\w+)`(?:\sfor\sd\s(?:=\s(\d)|≤\s(\d)))?", methods)
        expected = {"exact"} | {match[1] for match in listed if runs_in(match, d)}
        assert {m for m in ("exact", "tree", "moments", "fourier") if can_do(name, keys, m)} == expected
        normalisable = {"yes": True, "no": False}.get(density, density == f"d = {d}")
        assert normalisable == has_density(name, keys)


def runs_in(match, d):
    _, only, most = match.groups()
    return (only is None or d == int(only)) and (most is None or d <= int(most))


def can_do(kernel, keys, method):
    try:
        fastnw.plan(keys, keys, keys[:, 0], kernel=kernel, method=method)
    except ValueError:
        return False
    return True


def has_density(kernel, keys):
    try:
        fastnw.density(keys, keys, kernel=kernel)
    except ValueError:
        return False
    return True


def test_there_are_pages():
    assert len(PAGES) >= 10
