"""The command line: what predict writes against naive loops, and every error's words and exit status."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from oracle import naive_pool, naive_weights
from scipy import stats

import fastnw
from fastnw.cli import main
from fastnw.cli import predict as predict_command
from fastnw.tables import read_table, write_table

SOURCES = Path(fastnw.__file__).resolve().parents[1]


class Ran(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line, *more):
    """The command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([*line.split(), *more])
    return Ran(status, out.getvalue(), err.getvalue())


def run_python(cwd, *arguments):
    """Python in a process of its own, outside the source tree, with the package that is under test."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def tables(suffix=".csv", dtype=np.float64):
    """train and new, whose features come in another order and among other columns."""
    rng = np.random.default_rng(7)
    X, Q = rng.normal(size=(60, 2)).astype(dtype), rng.normal(size=(9, 2)).astype(dtype)
    y, w = (X[:, 0] + X[:, 1] ** 2).astype(dtype), rng.integers(0, 3, 60)
    label = np.array(["no", "yes"])[(y > 0).astype(int)]
    write_table({"a": X[:, 0], "b": X[:, 1], "y": y}, f"train{suffix}")
    write_table({"a": X[:, 0], "w": w, "label": label, "b": X[:, 1], "y": y}, f"full{suffix}")
    write_table({"name": np.array(list("qrstuvwxy")), "b": Q[:, 1], "a": Q[:, 0]}, f"new{suffix}")
    return X, y, w, label, Q


def numbers(path, name):
    """A column that may hold NaN and infinities."""
    with open(path, newline="", encoding="utf-8") as file:
        return np.array([float(row[name]) for row in csv.DictReader(file)])


def spread_rule(X, w=None):
    """Scott's rule for the Gaussian, as SciPy has it."""
    return np.sqrt(np.diag(stats.gaussian_kde(X.T, "scott", weights=w).covariance))


def test_regression_equals_the_naive_loop(here):
    X, y, _, _, Q = tables()
    ran = run("predict train.csv new.csv --target y")
    expected, log_mass = naive_pool(Q, X, y, bandwidth=spread_rule(X))
    assert (ran.status, ran.err) == (0, "")
    result = read_table("new.predictions.csv")
    assert result.names == ["name", "b", "a", "prediction", "log_mass"]
    assert result.column("name").tolist() == list("qrstuvwxy")
    assert result.column("b").tolist() == read_table("new.csv").column("b").tolist()
    np.testing.assert_allclose(result.numbers("prediction"), expected.astype(float), rtol=0, atol=1e-8 * np.ptp(y))
    np.testing.assert_allclose(result.numbers("log_mass"), log_mass.astype(float), rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("options", "kernel", "bandwidth"),
    [
        ("--kernel laplacian --bandwidth 0.4", "laplacian", 0.4),
        ("--kernel gaussian --bandwidth 0.4,2 --method exact --backend reference --tol 0", "gaussian", [0.4, 2.0]),
        ("--kernel quartic --bandwidth 9 --n-jobs 1", "biweight", 9.0),
        ("--kernel dot --bandwidth 2", "dot", 2.0),
    ],
)
def test_kernels_and_bandwidths(here, options, kernel, bandwidth):
    X, y, _, _, Q = tables()
    assert run(f"predict train.csv new.csv --target y {options}").status == 0
    expected, _ = naive_pool(Q, X, y, kernel, bandwidth)
    result = numbers("new.predictions.csv", "prediction")
    np.testing.assert_allclose(result, expected.astype(float), rtol=0, atol=1e-8 * np.ptp(y))


def test_bandwidths_follow_the_order_of_features(here):
    X, y, _, _, Q = tables()
    assert run("predict full.csv new.csv --target y --features b,a --bandwidth 2,0.4").status == 0
    expected, _ = naive_pool(Q, X, y, bandwidth=[0.4, 2.0])
    result = numbers("new.predictions.csv", "prediction")
    np.testing.assert_allclose(result, expected.astype(float), rtol=0, atol=1e-8 * np.ptp(y))


def test_weights_weigh_rows(here):
    X, y, w, _, Q = tables()
    assert run("predict full.csv new.csv --target y --features a,b --weight w").status == 0
    expected, log_mass = naive_pool(Q, X, y, bandwidth=spread_rule(X, w), sample_weight=w)
    result = numbers("new.predictions.csv", "prediction")
    np.testing.assert_allclose(result, expected.astype(float), rtol=0, atol=1e-8 * np.ptp(y))
    np.testing.assert_allclose(numbers("new.predictions.csv", "log_mass"), log_mass.astype(float), atol=1e-8)


@pytest.mark.parametrize("suffix", [".csv", ".npy", ".npz", ".parquet"])
def test_classes_in_every_format(here, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    X, _, _, label, Q = tables(suffix)
    ran = run(f"predict full{suffix} new{suffix} --target label --classify --features a,b --bandwidth 0.5")
    assert (ran.status, ran.err) == (0, "")
    assert "2 classes" in ran.out
    weights, log_mass = naive_weights(Q, X, bandwidth=0.5)
    share = (weights @ (label == "yes")).astype(float)
    result = read_table(f"new.predictions{suffix}")
    assert result.names == ["name", "b", "a", "prediction", "p_no", "p_yes", "log_mass"]
    np.testing.assert_allclose(result.numbers("p_yes"), share, rtol=0, atol=2e-8)
    np.testing.assert_allclose(result.numbers("p_no") + result.numbers("p_yes"), 1.0, rtol=1e-15)
    np.testing.assert_allclose(result.numbers("log_mass"), log_mass.astype(float), rtol=0, atol=1e-8)
    assert result.labels("prediction").tolist() == np.where(share > 0.5, "yes", "no").tolist()


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet"])
def test_float32_files_give_float32_predictions(here, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    X, y, _, _, Q = tables(suffix, np.float32)
    assert run(f"predict train{suffix} new{suffix} --target y --bandwidth 0.5").status == 0
    expected, _ = naive_pool(Q, X, y, bandwidth=0.5)
    result = read_table(f"new.predictions{suffix}").numbers("prediction")
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected.astype(float), rtol=0, atol=1e-4 * np.ptp(y))


def test_plain_npy_matrices_and_numbered_classes(here):
    X, y, _, _, Q = tables()
    np.save("train.npy", np.column_stack([X, np.digitize(y, [0, 1]) * 10]))
    np.save("new.npy", Q)
    assert run("predict train.npy new.npy --target 2 --classify").status == 0
    result = np.load("new.predictions.npy")
    assert result.dtype.names == ("0", "1", "prediction", "p_0", "p_10", "p_20", "log_mass")
    assert set(result["prediction"]) <= {0, 10, 20}


def test_classes_agree_with_the_estimator(here):
    X, y, _, _, Q = tables()
    codes = np.digitize(y, [0, 1])
    np.save("train.npy", np.column_stack([X, codes]))
    np.save("new.npy", Q)
    run("predict train.npy new.npy --target 2 --classify --kernel tricube --bandwidth silverman")
    model = fastnw.NadarayaWatsonClassifier(kernel="tricube", bandwidth="silverman").fit(X, codes)
    result = np.load("new.predictions.npy")
    np.testing.assert_allclose(np.column_stack([result[f"p_{k}"] for k in range(3)]), model.predict_proba(Q), atol=2e-8)
    np.testing.assert_array_equal(result["prediction"], model.predict(Q))


def test_the_summary_and_quiet(here):
    tables()
    ran = run("predict train.csv new.csv --target y --bandwidth 0.5 --out made.csv")
    assert "9 queries on 60 training rows, 2 features; kernel gaussian, bandwidth 0.5" in ran.out
    assert "pairs/s; wrote made.csv" in ran.out
    assert run("predict train.csv new.csv --target y --quiet") == (0, "", "")


def empty_windows():
    write_table({"x": np.array([0.0, 1.0, 5.0]), "y": np.array([1.0, 2.0, 9.0])}, "train.csv")
    write_table({"x": np.array([0.5, 9.0, 3.0])}, "new.csv")
    return "predict train.csv new.csv --target y --kernel epanechnikov --bandwidth 1"


def test_empty_windows_warn_in_one_line(here):
    ran = run(empty_windows())
    said = "new.csv: 2 of 3 rows have no training row in their window (rows 2, 3); their prediction is nan."
    assert (ran.status, ran.err) == (0, f"fastnw predict: warning: {said}\n")
    np.testing.assert_allclose(numbers("new.predictions.csv", "prediction"), [1.5, np.nan, np.nan])
    np.testing.assert_allclose(numbers("new.predictions.csv", "log_mass"), [np.log(1.5), -np.inf, -np.inf])


@pytest.mark.parametrize(("policy", "filled"), [("mean", [4, 4]), ("nearest", [9, 2]), ("-1.5", [-1.5, -1.5])])
def test_empty_windows_are_filled(here, policy, filled):
    if policy == "nearest":
        line = empty_windows()
        write_table({"x": np.array([0.5, 9.0, 2.5])}, "new.csv", force=True)
    else:
        line = empty_windows()
    ran = run(f"{line} --empty={policy}")
    assert (ran.status, ran.err) == (0, "")
    np.testing.assert_allclose(numbers("new.predictions.csv", "prediction"), [1.5, *filled])


def test_empty_windows_of_classes_get_the_weighted_shares(here):
    line = empty_windows()
    columns = {"x": np.array([0.0, 1.0, 5.0]), "y": np.array(["u", "v", "v"]), "w": np.array([6, 1, 1])}
    write_table(columns, "train.csv", force=True)
    ran = run(f"{line} --classify --weight w")
    assert ran.status == 0
    assert ran.err.endswith("(rows 2, 3); their prediction is by the shares of the classes.\n")
    np.testing.assert_allclose(numbers("new.predictions.csv", "p_u"), [6 / 7, 0.75, 0.75])


def test_empty_raise_is_the_datas_fault_and_writes_nothing(here):
    ran = run(f"{empty_windows()} --empty raise")
    said = (
        "new.csv: 2 of 3 rows have no training row in their window (rows 2, 3); use a larger --bandwidth, or another "
        "--empty."
    )
    assert ran == (1, "", f"fastnw predict: error: {said}\n")
    assert not Path("new.predictions.csv").exists()


CALL_FAULTS = [
    ("--kernel gausian", "argument --kernel: Unknown kernel 'gausian'. Choose one of 'gaussian'"),
    ("--kernel epanechikov", "'triangular'; the kernel that the field calls Epanechnikov"),
    ("--bandwidth wide", "argument --bandwidth: 'wide' is neither numbers nor 'scott' nor 'silverman' nor 'loo' nor"),
    ("--bandwidth 0", "argument --bandwidth: must be positive and finite, got 0"),
    ("--bandwidth=-1,2", "argument --bandwidth: must be positive and finite, got -1"),
    ("--bandwidth nan", "argument --bandwidth: must be positive and finite, got nan"),
    ("--bandwidth 1,2,3", "--bandwidth has 3 numbers for 2 features: a, b."),
    ("--kernel dot", "--bandwidth scott is not defined for the kernel dot; give a number."),
    ("--tol -1", "argument --tol: must be a number, 0 or more, got '-1'"),
    ("--tol x", "argument --tol: must be a number, 0 or more, got 'x'"),
    ("--empty never", "argument --empty: 'never' is none of 'nan', 'raise', 'nearest', 'mean', nor a number"),
    ("--empty 3 --classify", "--empty takes no number with --classify."),
    ("--method guess", "Unknown method 'guess'. Choose one of 'auto', 'exact'"),
    ("--backend abacus", "'abacus'"),
    ("--n-jobs many", "argument --n-jobs: invalid int value: 'many'"),
    ("--features a,,b", "argument --features: 'a,,b' has an empty name"),
    ("--features a,a", "argument --features: 'a' is given more than once"),
    ("--features a,y", "--features has 'y', which is the target."),
    ("--weight y", "--weight 'y' is the target."),
    ("--out new.csv --force", "--out new.csv would overwrite an input."),
    ("--speed 9", "unrecognized arguments: --speed 9"),
    ("--quie", "unrecognized arguments: --quie"),
]


@pytest.mark.parametrize(("options", "said"), CALL_FAULTS)
def test_the_calls_faults_exit_with_2(here, options, said):
    tables()
    ran = run(f"predict train.csv new.csv --target y {options}")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("fastnw predict: error: ")
    assert said in ran.err
    assert ran.err.count("\n") == 1
    assert not Path("new.predictions.csv").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "fastnw: error: the following arguments are required: COMMAND (see fastnw --help)"),
        ("guess", "fastnw: error: argument COMMAND: invalid choice: 'guess'"),
        ("--loud", "fastnw: error: "),
        ("predict train.csv new.csv", "fastnw predict: error: the following arguments are required: --target"),
        ("predict train.csv --target y", "fastnw predict: error: the following arguments are required: QUERIES"),
        ("info --all", "fastnw info: error: unrecognized arguments: --all"),
    ],
)
def test_incomplete_calls_exit_with_2(here, line, said):
    ran = run(line)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith(said)
    assert ran.err.count("\n") == 1


GOOD = {"train.csv": "a,b,y,w\n0,1,2,1\n1,0,3,2\n2,2,4,1\n", "new.csv": "a,b\n1,1\n"}
OPTIONS = "--target y --features a,b"
DATA_FAULTS = [
    ({"train.csv": None}, OPTIONS, "train.csv: no such file."),
    ({"new.csv": None}, OPTIONS, "new.csv: no such file."),
    ({}, "--target z --features a,b", "train.csv: has no column 'z'; it has 'a', 'b', 'y', 'w'."),
    ({}, "--target z", "train.csv: has no column 'z'; it has 'a', 'b', 'y', 'w'."),
    ({}, "--target y --features a,c", "train.csv: has no column 'c'; it has 'a', 'b', 'y', 'w'."),
    ({}, "--target y", "new.csv: has no column 'w'; it has 'a', 'b'."),
    ({}, f"{OPTIONS} --weight v", "train.csv: has no column 'v'; it has 'a', 'b', 'y', 'w'."),
    ({"new.csv": "a,b\n1,1\n1,?\n"}, OPTIONS, "new.csv: row 2 (line 3), column 'b' is '?', not a finite number."),
    ({"new.csv": "a,b\n"}, OPTIONS, "new.csv: has no rows."),
    ({"new.csv": "a,b,prediction\n1,2,3\n"}, OPTIONS, "new.csv: already has 'prediction', which would be written"),
    ({"train.csv": "a,b,y\n0,,2\n"}, OPTIONS, "train.csv: row 1 (line 2), column 'b' is empty."),
    (
        {"train.csv": "a,b,y\n0,1,inf\n"},
        OPTIONS,
        "train.csv: row 1 (line 2), column 'y' is 'inf', not a finite number.",
    ),
    (
        {"train.csv": "a,b,y\n0,1,red\n"},
        OPTIONS,
        "is 'red', not a finite number. If the target is a class, add --classify",
    ),
    ({"train.csv": "a,b,y\n0,1,0.5\n"}, f"{OPTIONS} --classify", "column 'y' holds fractions, not classes; leave out"),
    ({"train.csv": "a,b,y\n0,1,red\n1,0, \n"}, f"{OPTIONS} --classify", "row 2 (line 3), column 'y' is empty."),
    ({"train.csv": "y\n1\n"}, "--target y", "train.csv: has no column besides 'y' to predict from."),
    ({"train.csv": ",a,b,y\n0,0,1,2\n"}, "--target y", "column '' looks like a saved index; name the columns with"),
    (
        {"train.csv": "a,b,y,w\n0,1,2,-1\n"},
        f"{OPTIONS} --weight w",
        "row 1 (line 2), column 'w' is -1, a negative weight.",
    ),
    ({"train.csv": "a,b,y,w\n0,1,2,0\n"}, f"{OPTIONS} --weight w", "train.csv: all weights in column 'w' are 0."),
    ({"train.csv": "a,b,y\n0,1,2\n1,1,2\n"}, OPTIONS, "train.csv: bandwidth='scott' gives 0 for column 'b'"),
    ({"train.csv": "a,b,y\n0,1,2\n"}, OPTIONS, "train.csv: A bandwidth rule needs more than 1 sample"),
    ({"new.predictions.csv": "mine"}, OPTIONS, "new.predictions.csv: exists already; --force overwrites it."),
    ({}, f"{OPTIONS} --out no/new.csv", "new.csv: the folder no does not exist."),
    ({}, f"{OPTIONS} --out new.xls", "new.xls: unknown extension '.xls'. Use one of .csv, .npy, .npz, .parquet."),
]


@pytest.mark.parametrize(("files", "options", "said"), DATA_FAULTS)
def test_the_datas_faults_exit_with_1_and_write_nothing(here, files, options, said):
    for name, content in {**GOOD, **files}.items():
        if content is not None:
            Path(name).write_text(content)
    before = {path.name: path.read_text() for path in here.iterdir()}
    ran = run(f"predict train.csv new.csv {options}")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("fastnw predict: error: ")
    assert said in ran.err
    assert ran.err.count("\n") == 1
    assert {path.name: path.read_text() for path in here.iterdir()} == before


def test_identifiers_are_not_taken_for_classes(here, monkeypatch):
    tables()
    monkeypatch.setattr(predict_command, "MAX_CLASS_CELLS", 60)
    ran = run("predict full.csv new.csv --target label --classify --features a,b")
    assert ran.status == 1
    assert "has 2 classes in 60 rows, more than can be held" in ran.err


def test_force_overwrites_the_result(here):
    tables()
    Path("new.predictions.csv").write_text("mine")
    assert run("predict train.csv new.csv --target y --force").status == 0
    assert read_table("new.predictions.csv").names[-1] == "log_mass"


@pytest.mark.parametrize(
    ("failure", "status", "said"),
    [(KeyboardInterrupt, 130, "\nfastnw predict: interrupted\n"), (MemoryError("of 9 GiB"), 1, "error: of 9 GiB\n")],
)
def test_a_failure_while_computing_leaves_no_file(here, monkeypatch, failure, status, said):
    def fail(*_, **__):
        raise failure

    tables()
    before = sorted(here.iterdir())
    monkeypatch.setattr(predict_command, "pool", fail)
    ran = run("predict train.csv new.csv --target y")
    assert ran.status == status
    assert said in ran.err
    assert sorted(here.iterdir()) == before


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to itself")
def test_ctrl_c_while_computing_exits_with_130_and_leaves_no_file(tmp_path):
    rng = np.random.default_rng(0)
    write_table(
        {"x": rng.normal(size=10**6), "z": rng.normal(size=10**6), "y": rng.normal(size=10**6)}, tmp_path / "t.npy"
    )
    write_table({"x": rng.normal(size=10**5), "z": rng.normal(size=10**5)}, tmp_path / "q.npy")
    program = """
        import os, signal, sys, threading, time
        from fastnw import cli
        from fastnw.cli import predict as predict_command

        def pool(*arguments, _pool=predict_command.pool, **options):
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            return _pool(*arguments, **options)

        signal.signal(signal.SIGINT, signal.default_int_handler)
        predict_command.pool = pool
        start = time.perf_counter()
        status = cli.main("predict t.npy q.npy --target y --method exact --tol 0 --backend reference".split())
        print(time.perf_counter() - start)
        sys.exit(status)
    """
    ran = run_python(tmp_path, "-c", textwrap.dedent(program))
    assert (ran.status, ran.err) == (130, "\nfastnw predict: interrupted\n")
    assert float(ran.out) < 20  # reading included; the work itself would take minutes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q.npy", "t.npy"]


def test_python_m_fastnw_is_the_command(here):
    tables()
    ran = run_python(here, "-m", "fastnw", "predict", "train.csv", "new.csv", "--target", "y")
    assert (ran.status, ran.err) == (0, "")
    assert "wrote new.predictions.csv" in ran.out
    again = run_python(here, "-m", "fastnw", "predict", "train.csv", "new.csv", "--target", "y")
    said = "new.predictions.csv: exists already; --force overwrites it."
    assert again == (1, "", f"fastnw predict: error: {said}\n")
    assert run_python(here, "-m", "fastnw", "predict", "train.csv", "new.csv", "--target", "y", "--quickly").status == 2
    assert run_python(here, "-m", "fastnw", "--version") == (0, f"fastnw {fastnw.__version__}\n", "")


def test_help_is_helpful_and_light(here):
    ran = run("--help")
    assert ran.status == 0
    assert all(word in ran.out for word in ("predict", "demo", "info", "examples:", "exit status"))
    assert run("predict --help").status == 0
    program = "import sys, fastnw.cli; sys.exit(fastnw.cli.main(['--help']) or 'numpy' in sys.modules)"
    assert run_python(here, "-c", program).status == 0


def test_info_is_what_show_config_prints(here):
    ran = run("info")
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        fastnw.show_config()
    assert (ran.status, ran.err) == (0, "")
    assert ran.out == shown.getvalue()
    assert fastnw.__version__ in ran.out


@pytest.mark.skipif(os.name != "posix", reason="closes a POSIX pipe")
def test_a_reader_that_leaves_is_no_traceback(here):
    program = (
        "import os, sys, fastnw.cli; r, w = os.pipe(); os.dup2(w, 1); os.close(r); sys.exit(fastnw.cli.main(['info']))"
    )
    assert run_python(here, "-c", program)[::2] == (1, "")


def test_demo_gets_its_own_options(here, monkeypatch):
    demo = pytest.importorskip("fastnw.demo")
    seen = []
    monkeypatch.setattr(demo, "run", lambda args: seen.append(args) or 0)
    assert run("demo --out there").status == 0
    assert str(seen[0].out) == "there"


def test_thousands_of_features_are_predicted_from_in_seconds(here):
    """Also where they are listed one by one."""
    width = 20_000
    names = [f"c{j}" for j in range(width)]
    rng = np.random.default_rng(0)
    table = {name: rng.normal(size=3) for name in names}
    write_table({**table, "y": np.arange(3.0)}, "wide.csv")
    start = time.process_time()
    assert run("predict wide.csv wide.csv --target y --bandwidth 1 --quiet --out a.csv").status == 0
    assert (
        run("predict wide.csv wide.csv --target y --bandwidth 1 --quiet --out b.csv --features", ",".join(names)).status
        == 0
    )
    assert time.process_time() - start < 20  # 4 s; looking through all names for each took minutes
    np.testing.assert_allclose(numbers("a.csv", "prediction"), np.arange(3.0), rtol=0, atol=1e-9)
    np.testing.assert_array_equal(numbers("a.csv", "prediction"), numbers("b.csv", "prediction"))
