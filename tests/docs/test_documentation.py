"""The documentation builds without a warning and has every public name; docstrings are numpydoc's."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from public import functions_and_classes, methods

DOCS = Path(__file__).parents[2] / "docs"
# No docstring, blank lines in twos, sections unknown or out of order; no summary; a parameter that is not explained, is
# not there, or runs into its colon; nothing about what is returned.
CHECKS = {"GL03", "GL06", "GL07", "GL08", "SS01", "PR01", "PR02", "PR05", "PR10", "RT01"}
# Nobody makes these: their fields are listed as attributes. `Kernel` has what is for the registry alone.
RESULTS = {"Plan", "BandwidthSelection", "LearnedBandwidth", "Kernel", "Kernel.normalisable"}
SUMMARY_NAMES_THEM = "plotting."  # what a display's methods hand on to matplotlib


def documented():
    for name, found in functions_and_classes():
        yield name
        if inspect.isclass(found):
            yield from (f"{name}.{method}" for method, _ in methods(found))


def test_it_builds_without_a_warning_and_has_every_name(tmp_path):
    pytest.importorskip("sphinx")
    pytest.importorskip("numpydoc")
    pytest.importorskip("myst_parser")
    pytest.importorskip("sphinx_gallery")
    pytest.importorskip("pydata_sphinx_theme")
    html = tmp_path / "html"
    # the gallery's pages are written beside their sources; tests/docs/test_gallery.py runs the scripts
    sources = shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("gallery"))
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-D", "plot_gallery=0"]
    build += ["-d", str(tmp_path / "doctrees"), str(sources), str(html)]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    # four lines about the inventory, then a line for each name: "name domain:role priority uri title"
    inventory = zlib.decompress((html / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    there = {line.split()[0] for line in inventory.splitlines()}
    wanted = {f"fastnw.{name}" for name, _ in functions_and_classes()} | {"fastnw.torch.pool", "fastnw.jax.pool"}
    assert wanted <= there, wanted - there
    for page in [*DOCS.glob("*.md"), *DOCS.glob("exercises/*.md"), *DOCS.glob("reference/*.rst")]:
        assert (html / page.relative_to(DOCS).with_suffix(".html")).is_file(), page


@pytest.mark.parametrize("name", list(documented()))
def test_docstrings_are_numpydoc(name):
    validate = pytest.importorskip("numpydoc.validate").validate
    wrong = {code: text for code, text in validate(f"fastnw.{name}")["errors"] if code in CHECKS}
    if name in RESULTS or name.startswith(SUMMARY_NAMES_THEM):
        for code in ("PR01", "RT01"):
            wrong.pop(code, None)
    assert not wrong
