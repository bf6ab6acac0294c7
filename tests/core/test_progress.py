"""The bar: on a terminal for long work, elsewhere on request, up to 100 % and gone after an exception."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from tqdm import tqdm

import fastnw
from fastnw.runtime import threads

QUERIES, KEYS = np.random.default_rng(0).normal(size=(1500, 2)), np.random.default_rng(1).normal(size=(1500, 2))
VALUES = KEYS.sum(axis=1)
CALLS = {
    "pool": lambda **options: fastnw.pool(QUERIES, KEYS, VALUES, **options),
    "one thread": lambda **options: fastnw.pool(QUERIES, KEYS, VALUES, n_jobs=1, **options),
    "escalated": lambda **options: fastnw.pool(300 + QUERIES, KEYS, VALUES, **options),
    "reference": lambda **options: fastnw.pool(QUERIES, KEYS, VALUES, backend="reference", **options),
    "density": lambda **options: fastnw.density(QUERIES, KEYS, **options),
    "attention_weights": lambda **options: fastnw.attention_weights(QUERIES, KEYS, **options),
    "top_k": lambda **options: fastnw.attention_weights(QUERIES, KEYS, top_k=2, **options),
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def terminal(monkeypatch):
    """Standard error as a terminal. Not a fixture: pytest sets its own between a test's phases."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    return sys.stderr


@pytest.fixture
def everything_is_long(monkeypatch):
    monkeypatch.setattr(threads, "PROGRESS_SECONDS", 0.0)


def states(text):
    """What the bar showed, one after the other."""
    return [state for state in text.replace("\n", "\r").split("\r") if state.strip()]


@pytest.mark.parametrize("call", ["attention_weights", "top_k"])
def test_weights_count_both_of_their_passes(call, monkeypatch):
    """The masses take one, the weights another: at half of the time the bar stands at half."""
    added = []
    monkeypatch.setattr(threads.Meter, "add", lambda self, pairs: added.append((pairs, self._pairs)))
    CALLS[call](progress=True, n_jobs=1)
    pairs, totals = zip(*added, strict=True)
    assert sum(pairs) == max(totals) == 2 * len(QUERIES) * len(KEYS)


@pytest.mark.parametrize("call", CALLS)
def test_on_request_it_ends_at_100_percent(call, capsys):
    CALLS[call](progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "fastnw: 100%" in states(err)[-1]
    assert "100%" not in states(err)[0]
    assert err.endswith("\n")
    assert not tqdm._instances


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.usefixtures("everything_is_long")
def test_it_is_silent_where_standard_error_is_no_terminal(call, capsys):
    CALLS[call]()
    CALLS[call](progress=False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("everything_is_long")
def test_it_shows_on_a_terminal_if_the_work_is_long(monkeypatch):
    stderr = terminal(monkeypatch)
    CALLS["pool"]()
    assert "100%" in states(stderr.getvalue())[-1]


@pytest.mark.usefixtures("everything_is_long")
def test_it_can_be_turned_off(monkeypatch):
    stderr = terminal(monkeypatch)
    CALLS["pool"](progress=False)
    assert stderr.getvalue() == ""


def test_it_does_not_show_for_short_work(monkeypatch):
    stderr = terminal(monkeypatch)
    assert fastnw.plan(QUERIES, KEYS, VALUES).seconds < 2
    CALLS["pool"]()
    assert stderr.getvalue() == ""


@pytest.mark.usefixtures("everything_is_long")
def test_without_a_standard_error_there_is_no_bar(monkeypatch):
    """As under pythonw."""
    monkeypatch.setattr(sys, "stderr", None)
    CALLS["pool"]()


def test_none_is_left_open_by_an_exception(capsys):
    def profile(u2):
        if tqdm._instances:  # the bar is there
            raise LookupError
        return np.exp(-u2)

    kernel = fastnw.Kernel("fragile", profile)
    with pytest.raises(LookupError):
        CALLS["pool"](kernel=kernel, progress=True, n_jobs=1)
    assert not tqdm._instances
    err = capsys.readouterr().err
    assert "fastnw" in err  # it was there
    assert "100%" not in err
    assert err.endswith("\n")


def test_it_never_passes_100_percent_nor_goes_back(capsys):
    """Queries that are computed again are work beyond the plan's."""
    CALLS["escalated"](progress=True)
    shares = [int(state.partition("%")[0].rpartition(" ")[2]) for state in states(capsys.readouterr().err)]
    assert shares == sorted(shares)
    assert max(shares) == 100
