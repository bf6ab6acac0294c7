"""Files that lie or were damaged: a ValueError in the library, one line and exit status 1 from the command, no memory
by a header's word."""

from __future__ import annotations

import contextlib
import io
import os
import random
import struct
import subprocess
import sys
import textwrap
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

import fastnw
from fastnw.cli import main
from fastnw.tables import TableError, read_table, write_table
from fastnw.tables.arrays import MAX_HEADER_BYTES, read_array

SOURCES = Path(fastnw.__file__).resolve().parents[1]
RNG = np.random.default_rng(11)
X = RNG.normal(size=(30, 2))


def npy(descr="'<f8'", shape="(30, 2)", *, order="False", content=None, version=1):
    """A .npy file of any header."""
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return raw(header, X.tobytes() if content is None else content, version)


def raw(header, content=b"", version=1):
    return (
        b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(header)) + header + content
    )


HEADERS = {
    "one row more": npy(shape="(31, 2)"),
    "more than any memory": npy(shape="(1000000000000, 2)"),
    "more than int64": npy(shape="(99999999999999999999, 2)"),
    "product beyond int64": npy(shape="(4294967296, 4294967296)"),
    "nothing, without end": npy(shape="(0, 99999999999999999999)"),
    "many names of nothing": npy(shape="(0, 9000000000000000000)", content=b""),
    "below 0": npy(shape="(-1, -1)"),
    "a shape of booleans": npy(shape="(True, True)"),
    "a shape of words": npy(shape="('3', 2)"),
    "a number for a shape": npy(shape="60"),
    "a list for a shape": npy(shape="[30, 2]"),
    "100 dimensions": npy(shape=f"({'1, ' * 100})"),
    "a size of 0": npy("'|S0'", "(1000000000, 2)"),
    "void of size 0": npy("'|V0'", "(1000000000, 2)"),
    "objects": npy("'|O'"),
    "objects in a field": npy("[('a', '|O')]", "(30,)"),
    "a large array in a field": npy("[('a', '<f8', (1000, 1000, 1000))]", "(30,)"),
    "a subarray": npy("('<f8', (3,))", "(20,)"),
    "a type of no name": npy("'?!'"),
    "a huge text": npy("'<U500000000'", "(30, 2)"),
    "no characters": npy("'<U2'", "(30, 2)", content=b"\xff" * 480),
    "no characters in a field": npy("[('a', '<U4')]", "(30,)", content=b"\xff" * 480),
    "deep brackets": npy("[" * 3000 + "]" * 3000),
    "deep signs": npy(shape="(" + "-" * 9000 + "1,)"),
    "a sum": npy(shape=f"({'1+' * 4000}1,)"),
    "a long sum": npy(shape=f"({'1+' * 10**6}1,)", version=2),
    "a call": npy(shape="(len('abc'), 2)"),
    "an open bracket": raw(b"{" + b" " * 60_000),
    "digits without end": raw(b"1" * 60_000),
    "no dictionary": raw(b"(1, 2)\n"),
    "keys of lists": raw(b"{[1]: 2}\n"),
    "no shape": raw(b"{'descr': '<f8', 'fortran_order': False}\n"),
    "zeros": raw(b"\0" * 100),
    "version 9": b"\x93NUMPY\x09\x00" + npy()[8:],
    "a header of 4 GiB": b"\x93NUMPY\x02\x00" + b"\xff" * 4 + b"{" * 1000,
    "a header of 9 MB": raw(b" " * (MAX_HEADER_BYTES + 1), version=2),
    "cut in the magic": b"\x93NUMPY\x01",
    "cut in the length": b"\x93NUMPY\x01\x00\x05",
    "cut in the header": npy()[:40],
    "cut in the numbers": npy()[:-1],
}


def archive(entries, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compression) as file:
        warnings.simplefilter("ignore")  # two of one name
        for name, content in entries:
            file.writestr(zipfile.ZipInfo(name), content, compression)
    return buffer.getvalue()


def with_claims(content, **claims):
    """Other sizes in the last central directory entry than there are."""
    offsets = {"method": (10, "<H"), "flags": (8, "<H"), "crc": (16, "<I"), "packed": (20, "<I"), "size": (24, "<I")}
    offsets["offset"] = (42, "<I")
    content, entry = bytearray(content), content.rindex(b"PK\x01\x02")
    for name, number in claims.items():
        position, code = offsets[name]
        content[entry + position : entry + position + struct.calcsize(code)] = struct.pack(code, number)
    return bytes(content)


ONE = archive([("x.npy", npy())])
PACKED = archive([("x.npy", npy())], zipfile.ZIP_DEFLATED)
ARCHIVES = {
    "no archive": b"x" * 100,
    "empty": b"",
    "cut": ONE[:-30],
    "one name twice": archive([("x.npy", npy()), ("x.npy", npy())]),
    "no array": archive([("x.npy", npy()), ("readme.txt", b"hello")]),
    "compressed otherwise": archive([("x.npy", npy())], zipfile.ZIP_BZIP2),
    "more than there is": with_claims(ONE, size=2**31, packed=2**31),
    "more than it packs": with_claims(ONE, size=2**31),
    "more than deflate packs": with_claims(PACKED, size=2**31),
    "another method": with_claims(ONE, method=97),
    "encrypted": with_claims(ONE, flags=1),
    "a position outside": with_claims(ONE, offset=2**31),
    "a wrong checksum": with_claims(ONE, crc=7),
    "a wrong method": with_claims(ONE, method=8),
    "more bytes than its array": archive([("x.npy", npy() + b"more")]),
}


def files():
    """name -> (suffix, content)"""
    found = {f"npy: {name}": (".npy", content) for name, content in HEADERS.items()}
    found |= {f"npz: {name}": (".npz", archive([("x.npy", content)])) for name, content in HEADERS.items()}
    found |= {
        f"packed npz: {name}": (".npz", archive([("x.npy", content)], zipfile.ZIP_DEFLATED))
        for name, content in HEADERS.items()
    }
    return found | {f"npz: {name}": (".npz", content) for name, content in ARCHIVES.items()}


@pytest.mark.parametrize("name", files())
def test_forged_tables_are_refused(tmp_path, name):
    suffix, content = files()[name]
    path = tmp_path / f"t{suffix}"
    path.write_bytes(content)
    with pytest.raises(TableError, match=r"^[^\n]*t\.np"):
        read_table(path)


def saved_with(path, content):
    """A saved estimator with one more entry."""
    fastnw.save(fastnw.NadarayaWatsonRegressor(bandwidth=1.0).fit(X, X[:, 0]), path)
    with zipfile.ZipFile(path) as file:
        entries = [(entry, file.read(entry)) for entry in file.namelist()]
    path.write_bytes(archive([*entries, ("x.npy", content)]))


@pytest.mark.parametrize("name", [*HEADERS, *ARCHIVES])
def test_forged_estimators_are_refused(tmp_path, name):
    if name in HEADERS:
        saved_with(tmp_path / "m", HEADERS[name])
    else:
        (tmp_path / "m").write_bytes(ARCHIVES[name])
    with pytest.raises(ValueError, match=r"^[^\n]*m: is "):
        fastnw.load(tmp_path / "m")


def test_arrays_that_the_header_does_not_name_are_refused(tmp_path):
    saved_with(tmp_path / "m", npy())
    with pytest.raises(ValueError, match="m: is damaged: ValueError: x is no part of the estimator"):
        fastnw.load(tmp_path / "m")


@pytest.mark.skipif(sys.platform != "linux", reason="limits and reads the address space as Linux does")
def test_no_memory_by_a_headers_word(tmp_path):
    """All forgeries in a process that has 256 MiB left, and uses at most 64 MiB of them."""
    for i, (suffix, content) in enumerate(files().values()):
        (tmp_path / f"{i}{suffix}").write_bytes(content)
    program = """
        import os, resource, sys, fastnw
        from fastnw.cli import main
        from fastnw.tables import read_table
        fastnw.load, fastnw.NadarayaWatsonRegressor
        pages = lambda: [int(n) * resource.getpagesize() for n in open("/proc/self/statm").read().split()]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        resource.setrlimit(resource.RLIMIT_AS, (pages()[0] + (256 << 20),) * 2)
        for name in sorted(os.listdir(".")):
            for read in (read_table, fastnw.load):
                try:
                    read(name)
                except ValueError:
                    continue
                print(name, "was read by", read)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    ran = python(tmp_path, "-c", textwrap.dedent(program))
    assert ran.stderr == ""
    assert int(ran.stdout) < 64 << 10  # and nothing before it


def python(cwd, *arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), **options.pop("env", {})}
    environment.pop("PYTHONUNBUFFERED", None)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        text=True,
        timeout=120,
        check=False,
        **{**CAPTURED, **options},
    )


CAPTURED = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


@pytest.mark.parametrize("suffix", [".csv", ".npy", ".npz", ".parquet"])
@pytest.mark.parametrize("seed", range(3))
def test_random_damage_ends_in_one_line(tmp_path, monkeypatch, suffix, seed):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    write_table({"a": X[:, 0], "b": X[:, 1], "y": X[:, 0], "s": np.array(list("abcdefghij" * 3))}, f"t{suffix}")
    whole, rng = Path(f"t{suffix}").read_bytes(), random.Random(seed)
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            position = rng.randrange(len(content))
            kind = rng.random()
            if kind < 0.6:
                content[position] ^= 1 << rng.randrange(8)
            elif kind < 0.7:
                content[position] = rng.choice([0, 255])
            elif kind < 0.8:
                content[position:position] = content[: rng.randrange(40)]
            else:
                del content[position : position + rng.choice([1, 8, len(content)])]
            content = content or bytearray(b"x")
        Path(f"t{suffix}").write_bytes(content)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(
                f"predict t{suffix} t{suffix} --target y --features a,b --bandwidth 1 --out o.csv --force".split()
            )
        assert status in (0, 1), content
        assert status == 0 or err.getvalue().count("\n") == 1


@pytest.mark.parametrize(
    "text", [b'a,b\n1,"2\n', b"a,b\n1,\xff\n", b"a,b\n1,2\0\n", b"\xff\xfea\0", b"a\n" + b"1" * 200_000]
)
def test_a_csv_file_of_other_bytes(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_bytes(text)
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        assert main(["predict", "t.csv", "t.csv", "--target", "a", "--features", "b", "--bandwidth", "1"]) == 1
    assert err.getvalue().count("\n") == 1


def test_every_header_that_numpy_writes_is_read():
    arrays = [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(3, dtype=">i2"),
        np.array(3.5),
        np.zeros((0, 3)),
        np.array(["a", "ü", "𝛼"]),
        np.array([b"a", b"bc"]),
        np.array(["2024-02-29"], "M8[D]"),
        np.array([(1, 2.0)], [("it's", "i4"), ('"q" \\ \n ü', "f8")]),
        np.array([(1, (2.0, 3.0))], [("a", "i4"), ("b", [("c", "f8"), ("d", "f8")])]),
        np.array([(1, [1.0, 2.0])], [("a", "i4"), ("b", "f8", (2,))]),
        np.zeros(2, np.dtype({"names": ["a", "b"], "formats": ["i1", "f8"], "offsets": [0, 8]})),
        np.zeros(2, np.dtype([(f"a rather long name, number {i}", "f4") for i in range(3000)])),
        np.zeros(2, [("𝛼", "f4")]),
    ]
    for array in arrays:
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of newer versions of the format
            np.save(buffer, array)
        content = buffer.getvalue()
        buffer.seek(0)
        got = read_array(buffer, len(content))
        assert (got.dtype, got.shape, got.flags.f_contiguous) == (array.dtype, array.shape, array.flags.f_contiguous)
        assert got.tobytes() == array.tobytes()
        assert got.flags.writeable
    old = npy(shape="(30L, 2L)")  # Python 2 on Windows
    np.testing.assert_array_equal(read_array(io.BytesIO(old), len(old)), X)


@pytest.mark.parametrize("suffix", [".csv", ".npy", ".npz", ".parquet"])
@pytest.mark.skipif(os.name != "posix", reason="limits the size of files as POSIX does")
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    n = 4000
    write_table({"a": RNG.normal(size=n), "y": RNG.normal(size=n)}, tmp_path / "t.csv")
    before = sorted(path.name for path in tmp_path.iterdir())
    program = f"""
        import resource, sys
        from fastnw.cli import main, predict
        import fastnw.demo
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        sys.exit(main("predict t.csv t.csv --target y --features a --bandwidth 0.1 --out o{suffix}".split()))
    """
    ran = python(tmp_path, "-c", textwrap.dedent(program))
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1), ran.stderr
    assert f"o{suffix}: cannot be written" in ran.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before


# How standard output ends -> (what the shell gives it, exit status, what standard error says).
ENDINGS = {
    "closed from the start": (">&-", 0, ""),
    "full": ("> /dev/full", 1, "fastnw: error: standard output cannot be written: No space left on device\n"),
    "a reader that leaves": ("| (exec 0<&-; sleep 0.1); exit ${PIPESTATUS[0]}", 1, ""),
    "standard error closed": ("2>&- > /dev/null", 0, ""),
    "both closed": (">&- 2>&-", 0, ""),
}
COMMANDS = ["info", "--help", "predict t.csv t.csv --target y --features a --bandwidth 1 --force"]
COMMANDS += ["demo --chapter --out d"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("command", COMMANDS)
def test_standard_output_that_ends(tmp_path, command, ending):
    redirection, status, said = ENDINGS[ending]
    write_table({"a": X[:, 0], "y": X[:, 1]}, tmp_path / "t.csv")
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    environment.pop("PYTHONUNBUFFERED", None)
    line = f"{sys.executable} -m fastnw {command} {redirection}"
    ran = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, check=False, timeout=120, **CAPTURED)
    assert ran.returncode == status
    if (command, ending) != ("--help", "closed from the start"):  # argparse then takes standard error
        assert ran.stderr.decode() == said


@pytest.mark.skipif(os.name != "posix", reason="closes standard error as a POSIX shell does")
def test_an_error_with_nowhere_to_go_keeps_its_status(tmp_path):
    for arguments, status in (("predict no.csv no.csv --target y", 1), ("predict --no-such-option", 2)):
        for redirection in ("2>&-", ">&- 2>&-"):
            line = f"{sys.executable} -m fastnw {arguments} {redirection}"
            ran = subprocess.run(
                ["bash", "-c", line],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(SOURCES)},
                check=False,
                **CAPTURED,
            )
            assert (ran.returncode, ran.stdout, ran.stderr) == (status, b"", b"")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_names_and_words_beyond_the_outputs_alphabet(tmp_path, encoding):
    (tmp_path / "größe 𝛼.csv").write_text("größe,y\n1,2\n2,3\n3,4\n", encoding="utf-8")
    environment = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    command = ["-m", "fastnw", "predict", "größe 𝛼.csv", "größe 𝛼.csv", "--target", "y", "--bandwidth", "1"]
    ran = python(tmp_path, *command, env=environment, encoding=encoding)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.count("\n") == 2
    ran = python(tmp_path, *command, env=environment, encoding=encoding)  # the file exists by now
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
    ran = python(tmp_path, "-m", "fastnw", "demo", "--chapter", "--out", "d", env=environment, encoding=encoding)
    assert (ran.returncode, ran.stderr) == (0, "")
