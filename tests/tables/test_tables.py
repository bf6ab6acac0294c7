"""Tables in and out of files: what is read, what is refused and how it is said; files appear whole or not at all."""

from __future__ import annotations

import datetime
import math
import os
import stat
import sys
import time

import numpy as np
import pytest

from fastnw import tables
from fastnw.tables import Table, TableError, read_table, write_table

X = np.array([[0.1, -2.0], [1 / 3, 5e-324], [1e300, 7.0]])


def written(path, content):
    path.write_text(content, encoding="utf-8")
    return path


def refusal(act, *arguments, **options):
    with pytest.raises(TableError) as caught:
        act(*arguments, **options)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".csv", ".npy", ".npz", ".parquet"])
def test_round_trip_keeps_names_numbers_and_text(tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"t{suffix}"
    text = np.array(["red", 'a "b", c', "naïve\nline"])
    write_table({"x": X[:, 0], "file": X[:, 1], "colour, of": text, "k": np.array([1, 2, 3])}, path)
    table = read_table(path)
    assert table.names == ["x", "file", "colour, of", "k"]
    assert len(table) == 3
    np.testing.assert_array_equal(table.matrix(["x", "file"]), X)
    assert table.labels("colour, of").tolist() == text.tolist()
    assert table.labels("k").dtype == np.int64
    np.testing.assert_array_equal(table.numbers("k"), [1.0, 2.0, 3.0])


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet"])
def test_float32_stays_float32_and_mixtures_become_float64(tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"t{suffix}"
    write_table({"a": np.float32([0.1, 0.2]), "b": np.float32([1, 2]), "c": np.array([3, 4])}, path)
    table = read_table(path)
    assert table.matrix(["a", "b"]).dtype == np.float32
    assert table.matrix(["a", "c"]).dtype == np.float64
    assert table.matrix(["b", "a"]).flags.c_contiguous


def test_float32_is_written_to_csv_as_short_as_it_reads_back(tmp_path):
    write_table({"a": np.float32([0.1, 1e-40])}, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "a\n0.1\n1e-40\n"


def test_not_finite_results_are_written(tmp_path):
    write_table({"a": np.array([np.nan, -np.inf])}, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "a\nnan\n-inf\n"


def test_csv_cells_are_carried_unchanged(tmp_path):
    content = 'id,when,x\n007,2024-02-29,1.50\n"a,b",,1e3\n'
    table = read_table(written(tmp_path / "t.csv", content))
    write_table(table, tmp_path / "u.csv")
    assert (tmp_path / "u.csv").read_text() == content


def test_csv_as_spreadsheets_save_it(tmp_path):
    """A byte-order mark, spaces around names, CRLF, a blank line, a quoted line end."""
    path = tmp_path / "t.csv"
    path.write_bytes(b'\xef\xbb\xbfx, y\r\n1,"a\nb"\r\n\r\n 2 ,c\r\n')
    table = read_table(path)
    assert table.names == ["x", "y"]
    np.testing.assert_array_equal(table.numbers("x"), [1.0, 2.0])
    assert table.labels("y").tolist() == ["a\nb", "c"]


def test_csv_text_becomes_numbers_in_typed_formats(tmp_path):
    content = "id,n,x,big\n007,1,0.5,99999999999999999999\n012,-2,3,1\n"
    write_table(read_table(written(tmp_path / "t.csv", content)), tmp_path / "t.npy")
    array = np.load(tmp_path / "t.npy")
    assert [array.dtype[name].kind for name in ("id", "n", "x", "big")] == ["U", "i", "f", "U"]
    assert array["id"].tolist() == ["007", "012"]
    assert array["n"].tolist() == [1, -2]


def test_only_the_asked_columns_are_kept(tmp_path):
    path = written(tmp_path / "t.csv", "a,b,c\n1,2,3\n")
    assert read_table(path, ["c", "a"]).names == ["a", "c"]


def test_npy_columns_are_numbered_and_any_layout_reads(tmp_path):
    for k, array in enumerate((X, np.asfortranarray(X), X.astype(">f8"), X[::-1][::-1])):
        np.save(tmp_path / f"{k}.npy", array)
        table = read_table(tmp_path / f"{k}.npy")
        assert table.names == ["0", "1"]
        np.testing.assert_array_equal(table.matrix(["0", "1"]), X)


def test_npz_blocks(tmp_path):
    np.savez(tmp_path / "one.npz", X=X)
    assert read_table(tmp_path / "one.npz").names == ["0", "1"]
    np.savez_compressed(tmp_path / "two.npz", X=X, y=np.arange(3))
    table = read_table(tmp_path / "two.npz")
    assert table.names == ["X_0", "X_1", "y"]
    np.testing.assert_array_equal(table.numbers("X_1"), X[:, 1])


def test_labels_are_whole_numbers_fractions_or_text(tmp_path):
    table = read_table(written(tmp_path / "t.csv", "a,b,c\n1,0.5,x\n2.0,1,1\n"))
    assert table.labels("a").tolist() == [1, 2]
    assert table.labels("a").dtype == np.int64
    assert table.labels("b").dtype == np.float64
    assert table.labels("c").tolist() == ["x", "1"]


def test_a_csv_of_two_hundred_thousand_rows_is_read_in_seconds(tmp_path):
    values = np.random.default_rng(0).normal(size=(200_000, 3))
    write_table({f"x{j}": values[:, j] for j in range(3)}, tmp_path / "t.csv")
    start = time.perf_counter()
    table = read_table(tmp_path / "t.csv")
    read = table.matrix(table.names)
    assert time.perf_counter() - start < 10  # 0.5 s on an idle machine
    np.testing.assert_array_equal(read, values)


CELLS = [
    ("x,y\n1,2\n3,abc\n", "row 2 (line 3), column 'y' is 'abc', not a finite number."),
    ("x,y\n1,2\n3,\n", "row 2 (line 3), column 'y' is empty."),
    ("x,y\n1,2\n\n3,  \n", "row 2 (line 4), column 'y' is empty."),
    ('x,y\n"1",2\n3,4\n5,nan\n', "row 3 (line 4), column 'y' is 'nan', not a finite number."),
    ("x,y\n1,-inf\n", "row 1 (line 2), column 'y' is '-inf', not a finite number."),
    ("x,y\n1,1e999\n", "row 1 (line 2), column 'y' is '1e999', not a finite number."),
    ("x,y\n1,1_000\n", "row 1 (line 2), column 'y' is '1_000', not a finite number."),
    ('x,y\n"1\n\n",2\n3,"1,5"\n', "row 2 (line 5), column 'y' is '1,5', not a finite number."),
    ("y\n1\n\n2\n", "row 2 (line 3), column 'y' is empty."),
    ("x,y\n" + "1,2\n" * 5000 + "1,?\n", "row 5001 (line 5002), column 'y' is '?', not a finite number."),
]


@pytest.mark.parametrize(("content", "said"), CELLS)
def test_a_bad_csv_cell_is_named(tmp_path, content, said):
    path = written(tmp_path / "t.csv", content)
    assert refusal(read_table(path).numbers, "y") == f"{path}: {said}"


CSV_FILES = [
    ("", "has no header line."),
    ("x,y\n", "has no rows."),
    ("x,y\n1,2\n3\n", "row 2 (line 3) has 1 cells, the header has 2."),
    ("x,y\n\n1,2,3\n", "row 1 (line 3) has 3 cells, the header has 2."),
    ("x,y\n" + "1,2\n" * 5000 + "1\n", "row 5001 (line 5002) has 1 cells, the header has 2."),
    ("x,y,x\n1,2,3\n", "has more than one column named 'x'."),
    ('x,y\n1,"2\n3,4\n', "line 3: unexpected end of data."),
]


@pytest.mark.parametrize(("content", "said"), CSV_FILES)
def test_a_bad_csv_file_is_refused(tmp_path, content, said):
    path = written(tmp_path / "t.csv", content)
    assert refusal(read_table, path) == f"{path}: {said}"


def test_a_csv_file_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("x\nnaïve\n".encode("latin-1"))
    assert f"{path}: is not UTF-8 text" in refusal(read_table, path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet"])
@pytest.mark.parametrize(("value", "said"), [(np.nan, "is nan."), (np.inf, "is inf.")])
def test_a_bad_number_is_named_without_a_line(tmp_path, suffix, value, said):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"t{suffix}"
    write_table({"x": np.array([1.0, 2.0, value]), "k": np.arange(3)}, path)
    assert refusal(read_table(path).matrix, ["k", "x"]) == f"{path}: row 3, column 'x' {said}"
    assert refusal(read_table(path).labels, "x") == f"{path}: row 3, column 'x' {said}"


def test_missing_columns_are_listed_with_what_is_there(tmp_path):
    path = written(tmp_path / "t.csv", "a,b\n1,2\n")
    assert refusal(read_table(path).numbers, "c") == f"{path}: has no column 'c'; it has 'a', 'b'."
    assert refusal(read_table(path).matrix, ["c", "a", "d"]) == f"{path}: has no columns 'c', 'd'; it has 'a', 'b'."
    assert refusal(read_table, path, ["c"]) == f"{path}: has no column 'c'; it has 'a', 'b'."
    path = written(tmp_path / "u.csv", "a;b\n1;2\n")
    assert "other than commas" in refusal(read_table(path).numbers, "a")


def test_files_that_cannot_be_read(tmp_path):
    assert refusal(read_table, tmp_path / "no.csv") == f"{tmp_path / 'no.csv'}: no such file."
    said = refusal(read_table, tmp_path / "t.xlsx")
    assert said == f"{tmp_path / 't.xlsx'}: unknown extension '.xlsx'. Use one of .csv, .npy, .npz, .parquet."
    (tmp_path / "d.csv").mkdir()
    assert "is a directory" in refusal(read_table, tmp_path / "d.csv")


def test_npy_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "t.npy"
    np.save(path, X)
    whole = path.read_bytes()
    for size in (len(whole) - 8, 60, 7):
        path.write_bytes(whole[:size])
        assert refusal(read_table, path).startswith(f"{path}: it is truncated or damaged: ")
    written(path, "x,y\n1,2\n")
    assert refusal(read_table, path) == f"{path}: is not a .npy file."
    np.save(path, X[0])
    assert "must be 2-D (rows, columns), got shape (2,). Reshape it" in refusal(read_table, path)
    np.save(path, np.empty((0, 2)))
    assert refusal(read_table, path) == f"{path}: has no rows."
    np.save(path, np.array([[1j]]))
    assert refusal(read_table(path).numbers, "0") == f"{path}: column '0' holds complex128, not numbers."


def test_pickles_are_not_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    array = np.array([[Trap()]], dtype=object)
    np.save(tmp_path / "t.npy", array, allow_pickle=True)
    np.savez(tmp_path / "t.npz", X=array)
    for name in ("t.npy", "t.npz"):
        assert "pickles are not opened" in refusal(read_table, tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_npz_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, a=np.arange(3), b=np.arange(4))
    assert refusal(read_table, path) == f"{path}: arrays of unequal length: 'a' 3, 'b' 4."
    np.savez(path, a_0=np.arange(3), a=X)
    assert refusal(read_table, path) == f"{path}: has more than one column named 'a_0'."
    np.savez(path, a=X, b=np.float64(1))
    assert "array 'b' must be 2-D (rows, columns), got shape ()" in refusal(read_table, path)
    path.write_bytes(path.read_bytes()[:-30])
    assert "is not a .npz file, or is truncated" in refusal(read_table, path)


def test_parquet_types_are_carried_and_missing_cells_named(tmp_path):
    pa = pytest.importorskip("pyarrow")
    path, day = tmp_path / "t.parquet", datetime.date(2024, 2, 29)
    columns = {"x": pa.array([1.5, None]), "n": pa.array([1, None]), "day": [day, None], "s": pa.array(["a", None])}
    write_table({name: pa.chunked_array([column]) for name, column in columns.items()}, path)
    table = read_table(path)
    assert refusal(table.numbers, "x") == f"{path}: row 2, column 'x' is empty."
    assert refusal(table.numbers, "n") == f"{path}: row 2, column 'n' is empty."
    assert refusal(table.labels, "s") == f"{path}: row 2, column 's' is empty."
    assert refusal(table.numbers, "day") == f"{path}: column 'day' holds date32[day], not numbers."
    write_table(table, tmp_path / "u.parquet")
    assert {k: v.to_pylist() for k, v in read_table(tmp_path / "u.parquet").columns.items()} == {
        "x": [1.5, None],
        "n": [1, None],
        "day": [day, None],
        "s": ["a", None],
    }
    write_table(table, tmp_path / "u.csv")
    assert (tmp_path / "u.csv").read_text() == "x,n,day,s\n1.5,1,2024-02-29,a\n,,,\n"


def test_parquet_numbers_of_every_kind(tmp_path):
    pa = pytest.importorskip("pyarrow")
    columns = {
        "bool": pa.array([True, False]),
        "decimal": pa.array([1, 0]).cast(pa.decimal128(21, 2)),
        "category": pa.array([1, 0]).dictionary_encode(),
        "big": pa.array([2**60, 0]),
    }
    write_table({name: pa.chunked_array([column]) for name, column in columns.items()}, tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    for name in columns:
        assert table.numbers(name).tolist() == [2.0**60 if name == "big" else 1.0, 0.0]


def test_parquet_files_that_cannot_be_read(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "t.parquet"
    write_table({"x": np.arange(1000.0)}, path)
    path.write_bytes(path.read_bytes()[:-20])
    assert refusal(read_table, path).startswith(f"{path}: is not a Parquet file, or is damaged: ")


@pytest.mark.parametrize("act", [read_table, lambda path: write_table({"x": X[:, 0]}, path)])
def test_parquet_without_pyarrow_says_how_to_install_it(tmp_path, monkeypatch, act):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = tmp_path / "t.parquet"
    assert refusal(act, path) == f"{path}: Parquet files need pyarrow: pip install 'fastnw[io]'"


def test_existing_files_are_kept_unless_forced(tmp_path):
    path = written(tmp_path / "t.csv", "old")
    assert refusal(write_table, {"x": X[:, 0]}, path) == f"{path}: exists already. Use force=True to overwrite it."
    assert path.read_text() == "old"
    write_table({"x": np.array([1])}, path, force=True)
    assert path.read_text() == "x\n1\n"


def test_what_cannot_be_written_is_refused(tmp_path):
    assert "does not exist" in refusal(write_table, {"x": X[:, 0]}, tmp_path / "no" / "t.csv")
    assert "unequal length" in refusal(write_table, {"x": X[:, 0], "y": X[:2, 0]}, tmp_path / "t.csv")
    (tmp_path / "d.csv").mkdir()
    assert "is a directory" in refusal(write_table, {"x": X[:, 0]}, tmp_path / "d.csv", force=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["d.csv"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError, OSError(28, "No space left on device")])
@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_a_failed_write_leaves_nothing_and_keeps_the_old_file(tmp_path, monkeypatch, failure, where):
    path = written(tmp_path / "t.csv", "old")

    def fail(*_):
        raise failure

    if where == "write":
        monkeypatch.setitem(tables._formats.FORMATS, ".csv", tables._formats.Format(fail, fail))
    else:
        monkeypatch.setattr(os, where, fail)
    with pytest.raises(TableError if isinstance(failure, OSError) else failure):
        write_table({"x": X[:, 0]}, path, force=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.csv"]
    assert path.read_text() == "old"


def test_a_file_that_came_while_writing_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    monkeypatch.setattr(os, "fsync", lambda _: path.write_text("theirs"))
    assert "exists already" in refusal(write_table, {"x": X[:, 0]}, path)
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["theirs"]


@pytest.mark.skipif(os.name != "posix", reason="permission bits and links are POSIX's")
def test_files_have_the_usual_permissions_and_links_stay_links(tmp_path):
    usual = written(tmp_path / "usual", "")
    write_table({"x": X[:, 0]}, tmp_path / "t.csv")
    assert stat.S_IMODE((tmp_path / "t.csv").stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)
    (tmp_path / "link.csv").symlink_to(tmp_path / "t.csv")
    write_table({"x": np.array([5])}, tmp_path / "link.csv", force=True)
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "t.csv").read_text() == "x\n5\n"


def test_a_table_of_arrays_needs_no_file(tmp_path):
    table = Table({"x": X[:, 0], "s": np.array(["a", "b", "c"])}, tmp_path / "memory.npz")
    assert math.isclose(table.numbers("x")[1], 1 / 3)
    assert refusal(table.numbers, "s") == f"{table.path}: column 's' holds text, not numbers."


def cpu_seconds(work):
    times = []
    for _ in range(2):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


@pytest.mark.parametrize("suffix", [".csv", ".npy", ".npz", ".parquet"])
def test_wide_tables_take_time_in_proportion_to_their_columns(tmp_path, suffix):
    """Four times the columns take about four times as long, where a look through all names for each takes sixteen."""
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    seconds = {}
    for width in (1_000, 4_000):
        path, names = tmp_path / f"t{suffix}", [f"column {j}" for j in range(width)]
        columns = {name: np.arange(3.0) + j for j, name in enumerate(names)}
        acts = {"write": lambda path=path, columns=columns: write_table(columns, path, force=True)}
        acts["write"]()
        table = read_table(path)
        assert table.names == names
        np.testing.assert_array_equal(table.matrix(names)[1], np.arange(width) + 1.0)
        acts |= {
            "read": lambda path=path: read_table(path),
            "read some": lambda path=path, names=names: read_table(path, names[::-2]),
            "matrix": lambda table=table, names=names: table.matrix(names),
            "rounded": lambda table=table, names=names: table.rounded(names),
            "rewrite": lambda path=path, table=table: write_table(table, path, force=True),
        }
        seconds[width] = {name: cpu_seconds(act) for name, act in acts.items()}
    for name, narrow in seconds[1_000].items():
        # a process that has no tenth of a second to measure shows its clock's steps
        assert seconds[4_000][name] < max(8 * narrow, 0.1), name


def test_a_structured_array_of_any_width_reads_back(tmp_path):
    """NumPy itself refuses headers of more than 10,000 bytes, and warns of those beyond 65,535."""
    for width in (150, 700, 20_000):
        columns = {f"column {j}": np.array([float(j), -1.0]) for j in range(width)}
        write_table(columns, tmp_path / "t.npy", force=True)
        table = read_table(tmp_path / "t.npy")
        assert table.names == list(columns)
        np.testing.assert_array_equal(table.matrix(table.names)[0], np.arange(width))
    write_table({"größe": X[:, 0], "𝛼": X[:, 1]}, tmp_path / "u.npy")
    assert read_table(tmp_path / "u.npy").names == ["größe", "𝛼"]


def test_text_that_no_file_can_hold_is_refused(tmp_path):
    half = np.array(["a", "\ud800"])  # half a character
    for suffix in (".csv", ".parquet"):
        if suffix == ".parquet":
            pytest.importorskip("pyarrow")
        assert "surrogates not allowed" in refusal(write_table, {"s": half}, tmp_path / f"t{suffix}")
    assert list(tmp_path.iterdir()) == []
