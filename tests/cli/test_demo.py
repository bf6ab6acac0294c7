from __future__ import annotations

import argparse
import csv
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastnw
from fastnw import demo
from fastnw.demo import parts

TABLES = {"chapter.csv", "digits.csv", "diabetes.csv", "large_scale.csv"}
PICTURES = {"chapter_fits.png", "chapter_attention.png", "digits.png", "diabetes.png"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run of the command as a user runs it: its streams and its folder."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("demo")
    env = {**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": str(Path(fastnw.__file__).resolve().parents[1])}
    command = [sys.executable, "-m", "fastnw", "demo", "--quick", "--out", "results"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, encoding="utf-8", timeout=250)
    assert done.returncode == 0, done.stderr
    return done, folder


def columns(path):
    """A CSV's columns as arrays of numbers, by name."""
    with open(path, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    return {name: np.array(cells, dtype=float) for name, cells in zip(header, zip(*rows, strict=True), strict=True)}


def arguments(*given):
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return parser.parse_args(given)


def small(out, *more):
    return arguments("--out", str(out), "--keys", "500", "--queries", "40", *more)


def test_table_has_four_parts_with_times(finished):
    lines = finished[0].stdout.split("\n\n")[1].splitlines()
    assert lines[0].split() == ["part", "data", "result", "time"]
    assert max(map(len, lines)) <= 100
    firsts = [line for line in lines[2:] if line[0] != " "]
    assert [line[0] for line in firsts] == list("abcd")
    assert all(re.search(r" \d+\.\d s$", line) for line in firsts)
    assert len({len(line) for line in firsts}) == 1
    assert finished[0].stderr == ""


def test_files_are_where_it_says_and_nowhere_else(finished):
    done, folder = finished
    assert [path.name for path in folder.iterdir()] == ["results"]
    named = done.stdout.split("Files in results:\n")[1].split()
    assert set(named) == TABLES | PICTURES == {path.name for path in (folder / "results").iterdir()}
    for name in PICTURES:
        content = (folder / "results" / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) > 10_000


def test_chapter_errors_are_those_of_its_table(finished):
    done, folder = finished
    table = columns(folder / "results" / "chapter.csv")
    np.testing.assert_allclose(table["f"], 2 * np.sin(table["x"]) + table["x"], rtol=1e-12)
    assert len(table["x"]) == 40
    for kernel in ("gaussian", "boxcar", "constant", "triangular"):
        printed = float(re.search(rf"RMSE to f (\d\.\d+)  {kernel}\b", done.stdout)[1])
        assert printed == pytest.approx(math.sqrt(np.mean((table[kernel] - table["f"]) ** 2)), abs=5.1e-4)
    assert np.ptp(table["constant"]) <= 1e-12


def test_digits_are_accurate_and_probabilities_consistent(finished):
    done, folder = finished
    table = columns(folder / "results" / "digits.csv")
    probabilities = np.column_stack([table[f"p_{c}"] for c in range(10)])
    accuracy = float(re.search(r"accuracy (\d\.\d+)", done.stdout)[1])
    assert accuracy >= 0.97
    assert accuracy == pytest.approx(np.mean(table["prediction"] == table["label"]), abs=5.1e-5)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), table["prediction"])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-12)
    assert probabilities.min() >= 0.0
    assert probabilities.max() <= 1.0
    assert len(table["row"]) == len(set(table["row"])) == 599
    loss = -np.mean(np.log(probabilities[np.arange(599), table["label"].astype(int)]))
    assert float(re.search(r"log-loss (\d\.\d+)", done.stdout)[1]) == pytest.approx(loss, abs=5.1e-5)


def test_diabetes_scores_are_those_of_its_table(finished):
    done, folder = finished
    table = columns(folder / "results" / "diabetes.csv")
    y = table["observed"]
    scores = {}
    for name in ("mean", "one bandwidth", "per coordinate"):
        scores[name] = float(re.search(rf"R² ([ -]\d\.\d+)  {name}", done.stdout)[1])
        residual = y - table[name.replace(" ", "_")]
        assert scores[name] == pytest.approx(1 - np.sum(residual**2) / np.sum((y - y.mean()) ** 2), abs=5.1e-4)
    assert scores["mean"] < 0.01
    assert min(scores["one bandwidth"], scores["per coordinate"]) > 0.35  # linear regression: about 0.48
    for fold in range(5):  # the mean of the other folds: nothing of the predicted patients is in it
        there = table["fold"] == fold
        np.testing.assert_allclose(table["mean"][there], y[~there].mean(), rtol=1e-12)


def test_large_scale_is_checked(finished):
    done, folder = finished
    table = columns(folder / "results" / "large_scale.csv")
    assert len(table["prediction"]) == parts.CHECKED_QUERIES
    largest = float(re.search(r"(\S+) largest difference from float64", done.stdout)[1])
    promise = float(re.search(r"(\S+) promised: kept \(50 queries checked\)", done.stdout)[1])
    assert np.abs(table["prediction"] - table["float64"]).max() == pytest.approx(largest, rel=0.06)
    assert largest <= promise
    assert "20,000 keys" in done.stdout
    assert "2,000 queries, 3-D" in done.stdout
    assert re.search(r"\d s by (exact|fourier|tree), float32: worth \S+ pairs/s", done.stdout)


def test_plain_sums_are_the_definition():
    rng = np.random.default_rng(0)
    queries, keys, values = rng.normal(size=(3, 2)), rng.normal(size=(7, 2)), rng.normal(size=7)
    for query, got in zip(queries, parts.plain_sums(queries, keys, values, 0.5), strict=True):
        weights = [math.exp(-sum((a - b) ** 2 for a, b in zip(query, key, strict=True)) / 0.5) for key in keys]
        wanted = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
        assert got == pytest.approx(wanted, rel=1e-12)


def test_bandwidths_follow_the_features_that_matter():
    rng = np.random.default_rng(1)
    X = rng.standard_normal((150, 3))
    _, several = parts.choose_bandwidths(X, np.tanh(2 * X[:, 1]) + 0.1 * rng.standard_normal(150))
    assert several[1] < 0.5 * min(several[0], several[2])


def test_again_without_matplotlib_replaces_its_own_files_only(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    (tmp_path / "digits.csv").write_text("old")
    (tmp_path / "mine.csv").write_text("mine")
    assert demo.run(small(tmp_path)) == 0
    assert "pip install 'fastnw[plot]'" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == TABLES | {"mine.csv"}
    assert (tmp_path / "mine.csv").read_text() == "mine"
    for name in TABLES - {"large_scale.csv"}:  # the same seed gives the same tables
        assert (tmp_path / name).read_text() == (finished[1] / "results" / name).read_text(), name


def test_broken_promise_is_said_and_fails(tmp_path, monkeypatch, capsys):
    def one_part(job):
        return parts.Result("nothing", ["none"], ["done"], [])

    for name in ("chapter", "digits", "diabetes"):
        monkeypatch.setattr(parts, name, one_part)
    monkeypatch.setattr(parts, "plain_sums", lambda queries, *_: np.full(len(queries), 99.0))
    assert demo.run(small(tmp_path, "--no-pictures")) == 1
    assert "BROKEN" in capsys.readouterr().out


def test_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert demo.run(small(tmp_path / "file")) == 2
    assert "cannot make the folder" in capsys.readouterr().err
    (tmp_path / "digits.csv").mkdir()
    assert demo.run(small(tmp_path, "--no-pictures")) == 2
    assert "digits.csv" in capsys.readouterr().err


@pytest.mark.parametrize("given", [("--keys", "0"), ("--queries", "-3"), ("--keys", "many"), ("--seed", "-1")])
def test_bad_numbers_are_usage_errors(given, capsys):
    with pytest.raises(SystemExit) as stopped:
        arguments(*given)
    assert stopped.value.code == 2
    assert "is not a whole number" in capsys.readouterr().err


def test_numbers_may_be_grouped():
    assert arguments("--keys", "2_000", "--queries", "1,000").keys == 2000
    assert arguments("--queries", "1,000").queries == 1000
