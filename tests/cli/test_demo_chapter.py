"""``fastnw demo --chapter``: five figures, and numbers that the chapter's formulas give as well."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest

from fastnw import cli
from fastnw.demo import chapter

FIGURES = {
    "d2l_1_kernels.png",
    "d2l_2_fits.png",
    "d2l_3_weights.png",
    "d2l_4_widths_fits.png",
    "d2l_5_widths_weights.png",
}
FORMULAS = {
    "Gaussian": lambda x: np.exp(-(x**2) / 2),
    "Boxcar": lambda x: np.abs(x) < 1,
    "Constant": lambda x: 1.0 + 0 * x,
    "Epanechikov": lambda x: np.maximum(1 - np.abs(x), 0),
    "Sigma 0.1": lambda x: np.exp(-(x**2) / 0.02),
    "Sigma 0.2": lambda x: np.exp(-(x**2) / 0.08),
    "Sigma 0.5": lambda x: np.exp(-(x**2) / 0.5),
    "Sigma 1": lambda x: np.exp(-(x**2) / 2),
}


@pytest.fixture
def printed(tmp_path, capsys):
    """What a run printed; its figures are in `tmp_path`."""
    pytest.importorskip("matplotlib")
    assert cli.main(["demo", "--chapter", "--out", str(tmp_path / "new" / "folder"), "--seed", "5"]) == 0
    return capsys.readouterr().out


def test_five_figures_and_no_other_file(printed, tmp_path):
    folder = tmp_path / "new" / "folder"
    assert {path.name for path in folder.iterdir()} == FIGURES == set(re.findall(r"^(d2l_\S+)", printed, re.MULTILINE))
    for name in FIGURES:
        content = (folder / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) > 10_000
    assert printed.endswith(f"Files in {folder}\n")


def test_numbers_are_the_formulas(printed):
    x_train, y_train, x_val, y_val = chapter.points(5)
    np.testing.assert_allclose(x_val, np.arange(50) / 10, rtol=1e-12)
    np.testing.assert_allclose(y_val, 2 * np.sin(x_val) + x_val, rtol=1e-12)
    assert len(x_train) == len(y_train) == 40
    assert np.all(np.diff(x_train) > 0)
    for name, formula in FORMULAS.items():
        k = np.asarray(formula(x_train[:, None] - x_val), float)
        weights = k / k.sum(axis=0)
        error, sharing = re.findall(rf"^ +(\d+\.\d+)  {name}$", printed, re.MULTILINE)
        assert float(error) == pytest.approx(np.sqrt(np.mean((y_train @ weights - y_val) ** 2)), abs=5.1e-3)
        assert float(sharing) == pytest.approx(np.mean(1 / (weights**2).sum(axis=0)), abs=5.1e-2)


def test_another_seed_gives_other_points():
    assert not np.array_equal(chapter.points(0)[1], chapter.points(1)[1])
    np.testing.assert_array_equal(chapter.points(1)[1], chapter.points(1)[1])


@pytest.mark.parametrize("more", [["--quick"], ["--no-pictures"], ["--keys", "5"], ["--queries", "5"]])
def test_what_does_not_go_with_it_is_refused(more, tmp_path, capsys):
    assert cli.main(["demo", "--chapter", "--out", str(tmp_path / "new"), *more]) == 2
    assert "--chapter supports --out and --seed only" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_without_matplotlib(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli.main(["demo", "--chapter", "--out", str(tmp_path)]) == 2
    assert "pip install 'fastnw[plot]'" in capsys.readouterr().err


def test_a_figure_that_cannot_be_written(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    (tmp_path / "d2l_3_weights.png").mkdir()
    assert cli.main(["demo", "--chapter", "--out", str(tmp_path)]) == 2
    assert "d2l_3_weights.png" in capsys.readouterr().err
