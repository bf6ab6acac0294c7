"""``fastnw predict --bandwidth loo|aicc``: the bandwidths of `select_bandwidth`, and what it warns of."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from oracle import naive_pool

import fastnw
from fastnw.cli import main

RNG = np.random.default_rng(0)
X, Q = RNG.uniform(size=(80, 2)), RNG.uniform(size=(9, 2))
Y = np.sin(6 * X[:, 0]) + X[:, 1] + 0.1 * RNG.normal(size=80)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("few.npy", Q)


@pytest.mark.parametrize("criterion", ["loo", "aicc"])
def test_bandwidths_are_chosen(here, criterion, capsys):
    np.save("full.npy", np.column_stack([X, Y]))
    assert main(f"predict full.npy few.npy --target 2 --bandwidth {criterion} --out made.npy".split()) == 0
    h = fastnw.select_bandwidth(X, Y, criterion=criterion).bandwidth
    assert f"bandwidth {h[0]:.4g}, {h[1]:.4g} ({criterion})" in capsys.readouterr().out
    np.testing.assert_allclose(
        np.load("made.npy")["prediction"], naive_pool(Q, X, Y, bandwidth=h)[0], rtol=0, atol=1e-7
    )


def test_classes_choose_by_their_own_loss(here):
    labels = (np.median(Y) < Y).astype(int)
    np.save("full.npy", np.column_stack([X, labels]))
    assert (
        main(
            ["predict", "full.npy", "few.npy", "--target", "2", "--classify", "--bandwidth", "loo", "--out", "made.npy"]
        )
        == 0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fastnw.BandwidthWarning)
        model = fastnw.NadarayaWatsonClassifier(bandwidth="loo").fit(X, labels)
    np.testing.assert_allclose(np.load("made.npy")["p_1"], model.predict_proba(Q)[:, 1], rtol=0, atol=1e-7)


def test_what_to_know_is_said(here, capsys):
    np.save("full.npy", np.column_stack([X, np.sin(6 * X[:, 0])]))
    assert main(["predict", "full.npy", "few.npy", "--target", "2", "--bandwidth", "loo", "--out", "made.npy"]) == 0
    assert "fastnw predict: warning: No relation to coordinate 1" in capsys.readouterr().err


def test_a_column_without_spread_is_named(here, capsys):
    np.save("full.npy", np.column_stack([X[:, 0], np.ones(80), Y]))
    assert main(["predict", "full.npy", "few.npy", "--target", "2", "--bandwidth", "loo"]) == 1
    assert "bandwidth='loo' gives 0 for column '1'" in capsys.readouterr().err
