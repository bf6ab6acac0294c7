"""The classes of bad input that no other table holds, each through `pool`, every estimator and the command line.

`docs/trust.md` says which test holds which class; test_errors.py has most of `pool`'s, test_cli.py and test_tables.py
have the files'.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from oracle import naive_pool
from scipy import sparse

import fastnw
from fastnw import KernelDensity, NadarayaWatsonClassifier, NadarayaWatsonRegressor
from fastnw.cli import main

ESTIMATORS = [NadarayaWatsonRegressor, NadarayaWatsonClassifier, KernelDensity]
SUPERVISED = ESTIMATORS[:2]
N = 6
X = np.array([[0.0, 0.5], [1.0, 1.0], [-1.0, 0.0], [0.5, -0.5], [2.0, 0.0], [0.0, 2.0]])
Y, W = np.array([0, 1, 1, 0, 1, 0]), np.ones(N)
FRAME = pd.DataFrame(X, columns=["a", "b"])
NAN, INF = np.nan, np.inf


def with_(array, value, at=-1):
    changed = np.array(array, float)
    changed.flat[at] = value
    return changed


# What is wrong -> (what `fit` gets instead, the error, its first words or all, for which estimators).
FIT = {
    "NaN": ({"X": with_(X, NAN)}, ValueError, "Input X contains NaN.\n{name} does not accept", ESTIMATORS),
    "infinity": (
        {"X": with_(X, INF)},
        ValueError,
        "Input X contains infinity or a value too large for dtype('float64').",
        ESTIMATORS,
    ),
    "infinite float32": (
        {"X": with_(X, INF).astype("f4")},
        ValueError,
        "Input X contains infinity or a value too large for dtype('float32').",
        ESTIMATORS,
    ),
    "target that overflows float32": (
        {"X": X.astype("f4"), "y": Y * 1e300},
        ValueError,
        "Input y contains infinity or a value too large for dtype('float32').",
        ESTIMATORS[:1],
    ),
    "NaN weight": ({"sample_weight": with_(W, NAN)}, ValueError, "Input sample_weight contains NaN.", ESTIMATORS),
    "infinite weight": (
        {"sample_weight": with_(W, INF)},
        ValueError,
        "Input sample_weight contains infinity or a value too large for dtype('float64').",
        ESTIMATORS,
    ),
    "negative weight": (
        {"sample_weight": with_(W, -1)},
        ValueError,
        "Negative values in data passed to `sample_weight`.",
        ESTIMATORS,
    ),
    "weights all 0": (
        {"sample_weight": 0 * W},
        ValueError,
        "Sample weights must contain at least one non-zero number.",
        ESTIMATORS,
    ),
    "weights too few": (
        {"sample_weight": W[1:]},
        ValueError,
        "sample_weight.shape == (5,), expected (6,)!",
        ESTIMATORS,
    ),
    "0 rows": (
        {"X": X[:0], "y": Y[:0]},
        ValueError,
        "Found array with 0 sample(s) (shape=(0, 2)) while a minimum of 1 is required by {name}.",
        ESTIMATORS,
    ),
    "0 columns": (
        {"X": X[:, :0]},
        ValueError,
        "Found array with 0 feature(s) (shape=(6, 0)) while a minimum of 1 is required by {name}.",
        ESTIMATORS,
    ),
    "1 sample": (
        {"X": X[:1], "y": Y[:1]},
        ValueError,
        "A bandwidth rule needs more than 1 sample, got n_samples = 1. Pass a number.",
        ESTIMATORS,
    ),
    "1-D": ({"X": X[:, 0]}, ValueError, "Expected 2D array, got 1D array instead:", ESTIMATORS),
    "object": (
        {"X": np.full((N, 2), object())},
        TypeError,
        "float() argument must be a string or a real number, not 'object'",
        ESTIMATORS,
    ),
    "string": ({"X": np.full((N, 2), "near")}, ValueError, "could not convert string to float: ", ESTIMATORS),
    "complex": ({"X": X + 1j}, ValueError, "Complex data not supported\n", ESTIMATORS),
    "sparse": (
        {"X": sparse.csr_array(X)},
        TypeError,
        "Sparse data was passed for X, but dense data is required. Use '.toarray()'",
        ESTIMATORS,
    ),
    "pandas.NA": (
        {"X": FRAME.assign(b=pd.array([1, 2, 3, 4, 5, None], dtype="Int64"))},
        ValueError,
        "Input X contains NaN",  # and whose, or of what kind, by scikit-learn's and pandas's versions
        ESTIMATORS,
    ),
    "pandas.NA among objects": (
        {"X": FRAME.assign(b=pd.Series([1, 2, 3, 4, 5, pd.NA], dtype=object))},
        ValueError,
        "Input X contains NaN (pandas.NA).",
        ESTIMATORS,
    ),
    "masked": (
        {"X": np.ma.masked_array(X, X > 1)},
        ValueError,
        "Input X has masked entries. Leave those rows out, or fill them with .filled().",
        ESTIMATORS,
    ),
    "integer beyond float64": (
        {"X": [[10**400, 1]] * N},
        ValueError,
        "Input X contains an integer too large for float64.",
        ESTIMATORS,
    ),
    "bandwidth 0": ({"bandwidth": 0}, ValueError, "The 'bandwidth' parameter of {name} must be a float in", ESTIMATORS),
    "bandwidth negative": ({"bandwidth": -1.0}, ValueError, "The 'bandwidth' parameter of {name} must be", ESTIMATORS),
    "bandwidth NaN": ({"bandwidth": NAN}, ValueError, "The 'bandwidth' parameter of {name} must be", ESTIMATORS),
    "bandwidth 0 for one": (
        {"bandwidth": [1, 0]},
        ValueError,
        "bandwidth must be positive and finite, got 0.0 for coordinate 1.",
        ESTIMATORS,
    ),
    "bandwidth of another shape": (
        {"bandwidth": [1, 2, 3]},
        ValueError,
        "bandwidth must be a number, an array of shape (2,) or a matrix of shape (2, 2), got shape (3,).",
        ESTIMATORS,
    ),
    "H not positive definite": (
        {"bandwidth": [[1, 2], [2, 1]]},
        ValueError,
        "bandwidth matrix must be positive definite; it fails at coordinate 1.",
        ESTIMATORS,
    ),
    "rule gives 0": (
        {"X": FRAME.assign(b=1.0)},
        ValueError,
        "bandwidth='scott' gives 0 for column 'b': all its values are the same. Drop the column, or give the bandwidth "
        "as a number or one number per column.",
        ESTIMATORS,
    ),
    "no target": (
        {"y": None},
        ValueError,
        "This {name} estimator requires y to be passed, but the target y is None.",
        SUPERVISED,
    ),
    "NaN in the target": ({"y": with_(Y, NAN)}, ValueError, "Input y contains NaN.", SUPERVISED),
    "target too short": (
        {"y": Y[1:]},
        ValueError,
        "Found input variables with inconsistent numbers of samples: [6, 5]",
        SUPERVISED,
    ),
    "words as a target": ({"y": list("abcdef")}, ValueError, "could not convert string to float: ", ESTIMATORS[:1]),
    "a continuous target": (
        {"y": Y + 0.5 * np.arange(N)},
        ValueError,
        "Unknown label type: continuous. Maybe you are trying to fit a classifier, which expects discrete classes",
        ESTIMATORS[1:2],
    ),
}


@pytest.mark.parametrize(("case", "cls"), [(case, cls) for case in FIT for cls in FIT[case][3]])
def test_fit(case, cls):
    changes, error, words, _ = FIT[case]
    arguments = {"X": X, "y": Y, "sample_weight": None, "bandwidth": "scott"} | changes
    model = cls(bandwidth=arguments.pop("bandwidth"))
    with pytest.raises(error) as caught:
        model.fit(**arguments)
    assert str(caught.value).startswith(words.format(name=cls.__name__))


NAMES = "The feature names should match those that were passed during fit.\n"
PREDICT = {
    "NaN": (with_(X, NAN), ValueError, "Input X contains NaN."),
    "another width": (np.ones((2, 3)), ValueError, "X has 3 features, but {name} is expecting 2 features as input."),
    "0 columns": (X[:, :0], ValueError, "Found array with 0 feature(s) (shape=(6, 0)) while a minimum of 1"),
    "1-D": (X[0], ValueError, "Expected 2D array, got 1D array instead:"),
    "complex": (X + 1j, ValueError, "Complex data not supported\n"),
    "sparse": (sparse.csr_array(X), TypeError, "Sparse data was passed for X, but dense data is required."),
    "masked": (np.ma.masked_array(X, X > 1), ValueError, "Input X has masked entries."),
    "renamed columns": (
        FRAME.rename(columns={"b": "c"}),
        ValueError,
        NAMES + "Feature names unseen at fit time:\n- c\nFeature names seen at fit time, yet now missing:\n- b\n",
    ),
    "reordered columns": (FRAME[["b", "a"]], ValueError, NAMES + "Feature names must be in the same order"),
}


@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize("case", PREDICT)
def test_predict(case, cls):
    queries, error, words = PREDICT[case]
    model = cls(bandwidth=1.0).fit(FRAME if "columns" in case and case != "0 columns" else X, Y)
    with pytest.raises(error) as caught:
        (model.score_samples if cls is KernelDensity else model.predict)(queries)
    assert str(caught.value).startswith(words.format(name=cls.__name__))


POOL = {
    "masked keys": ({"keys": np.ma.masked_array(X, X > 1)}, "Input keys has masked entries. Leave those rows out"),
    "masked values": ({"values": np.ma.masked_array(Y, Y > 0)}, "Input values has masked entries."),
    "pandas.NA": (
        {"keys": FRAME.assign(b=pd.Series([1, 2, 3, 4, 5, pd.NA], dtype=object))},
        "Input keys contains NaN (pandas.NA).",
    ),
    "integer beyond float64": ({"keys": [[10**400, 1]] * N}, "Input keys contains an integer too large for float64."),
    "tol beyond float64": ({"tol": 10**400}, "tol must be None or a finite number >= 0, got 1000"),
    "empty beyond float64": ({"empty": 10**400}, "empty must be one of 'nan', 'raise', 'nearest', 'mean' or a number"),
    "bandwidth beyond float64": ({"bandwidth": 10**400}, "bandwidth must be a number or an array of numbers, got 1000"),
    "an array as backend": ({"backend": X}, "Unknown backend array("),
}


@pytest.mark.parametrize("case", POOL)
def test_pool(case):
    changes, words = POOL[case]
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        fastnw.pool(**{"queries": X, "keys": X, "values": Y} | changes)


def test_a_mask_without_masked_entries_is_no_fault():
    got = fastnw.pool(X, np.ma.masked_array(X, X > 99), Y)
    np.testing.assert_array_equal(got, fastnw.pool(X, X, Y))


@pytest.mark.parametrize("tol", [5e-324, 1e-300, 1e-17])
def test_a_tolerance_below_rounding_is_answered_as_well_as_can_be(tol):
    with pytest.warns(fastnw.AccuracyWarning, match="not certified"):
        got, bound = fastnw.pool(X, X, Y, tol=tol, return_error=True)
    exact, _ = naive_pool(X, X, Y)
    assert np.all(abs(got - exact) <= bound + 1e-16)
    assert bound.max() < 1e-13


def test_more_threads_than_cores_by_any_factor():
    np.testing.assert_array_equal(fastnw.pool(X, X, Y, n_jobs=10**400), fastnw.pool(X, X, Y, n_jobs=1))


BIG = 2**53 + np.arange(2 * N, dtype=np.int64).reshape(N, 2)
TABLES = {
    "array": BIG,
    "unsigned": BIG.astype("u8"),
    "Fortran order": np.asfortranarray(BIG),
    "negative": -BIG,
    "list": BIG.tolist(),
    "objects": BIG.astype(object),
    "beyond int64": [[2**70 + int(i), int(j)] for i, j in BIG],
    "frame": pd.DataFrame(BIG, columns=["a", "b"]),
    "frame of several types": pd.DataFrame({"a": BIG[:, 0], "b": X[:, 1]}),
    "nullable": pd.DataFrame({"a": pd.array(BIG[:, 0], dtype="Int64"), "b": X[:, 1]}),
}


def one_warning(caught, names):
    assert [w.category for w in caught] == [fastnw.AccuracyWarning]
    assert str(caught[0].message).startswith(f"Integers beyond 2**53 in {names} are rounded to float64. Subtract")
    assert caught[0].filename == __file__


@pytest.mark.parametrize("form", TABLES)
def test_integers_beyond_floats_warn_once(form):
    table = TABLES[form]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fastnw.pool(table, table, Y)
    one_warning(caught, "queries, keys")
    for cls in ESTIMATORS:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = cls(bandwidth=1.0).fit(table, Y)
        one_warning(caught, "X")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            (model.score_samples if cls is KernelDensity else model.predict)(table)
        one_warning(caught, "X")


def test_integers_beyond_floats_in_targets_and_labels():
    with pytest.warns(fastnw.AccuracyWarning, match="beyond 2\\*\\*53 in y are"):
        NadarayaWatsonRegressor(bandwidth=1.0).fit(X, Y + 2**60)
    labels = Y + 2**60  # 2^60 and 2^60 + 1 are one float64
    model = NadarayaWatsonClassifier(bandwidth=0.1).fit(X, labels)
    np.testing.assert_array_equal(model.predict(X), labels)


@pytest.mark.parametrize("kind", ["i8", "u8", "i4"])
def test_integers_that_floats_hold_do_not_warn(kind):
    edge = np.full((N, 2), 2**53 if kind != "i4" else 2**31 - 1, kind)
    fastnw.pool(edge, edge, Y)
    fastnw.pool(edge.tolist(), edge.astype(object), Y)


def command(folder, train, new, *options):
    np.save(folder / "train.npy", train)
    np.save(folder / "new.npy", new)
    return run(folder, "train.npy", "new.npy", *options)


def run(folder, train, new, *options):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["predict", str(folder / train), str(folder / new), "--quiet", "--force", *options])
    return status, err.getvalue().replace(f"{folder}/", "")


def test_large_integers_on_the_command_line(tmp_path):
    large = BIG[:, 1:]  # odd
    train = np.column_stack([large, np.arange(N)])
    said = (
        "fastnw predict: warning: whole numbers beyond 2**53 are rounded to float64 (train.npy: '0'; new.npy: '0').\n"
    )
    options = ["--target", "1", "--bandwidth", "1"]
    assert command(tmp_path, train, large, *options) == (0, said)
    (tmp_path / "t.csv").write_text("".join(["0,1\n", *(f"{a},{b}\n" for a, b in train.tolist())]))
    (tmp_path / "n.csv").write_text("0\n9007199254740993\n")
    assert run(tmp_path, "t.csv", "n.csv", *options) == (
        0,
        said.replace("train.npy", "t.csv").replace("new.npy", "n.csv"),
    )
    assert command(tmp_path, train % 2**53, large % 2**53, *options) == (0, "")


@pytest.mark.parametrize("first", [2**60, 2**70])
def test_large_identifiers_as_classes_on_the_command_line(tmp_path, first):
    """Two classes that are one float64."""
    (tmp_path / "t.csv").write_text(f"x,id\n0,{first}\n1,{first + 1}\n")
    (tmp_path / "n.csv").write_text("x\n0\n1\n")
    options = ["--target", "id", "--classify", "--bandwidth", "0.1"]
    assert run(tmp_path, "t.csv", "n.csv", *options) == (0, "")
    lines = (tmp_path / "n.predictions.csv").read_text().splitlines()
    assert lines[0] == f"x,prediction,p_{first},p_{first + 1},log_mass"
    assert [line.split(",")[1] for line in lines[1:]] == [str(first), str(first + 1)]


FILES = {
    "complex": (np.ones((N, 3), complex), "train.npy: column '0' holds complex128, not numbers."),
    "strings": (np.full((N, 3), "near"), "train.npy: column '0' holds text, not numbers."),
    "1-D": (np.ones(N), "train.npy: the array must be 2-D (rows, columns), got shape (6,). Hint"),
    "0 rows": (np.ones((0, 3)), "train.npy: has no rows."),
    "NaN": (with_(np.ones((N, 3)), NAN, 4), "train.npy: row 2, column '1' is nan."),
    "infinity": (with_(np.ones((N, 3)), -INF, 4), "train.npy: row 2, column '1' is -inf."),
}


@pytest.mark.parametrize("case", FILES)
def test_arrays_in_files(case, tmp_path):
    train, words = FILES[case]
    status, said = command(tmp_path, train, np.ones((1, 2)), "--target", "2", "--bandwidth", "1")
    assert status == 1
    assert said.startswith(f"fastnw predict: error: {words.removesuffix(' Hint')}")
    assert said.count("\n") == 1
