"""CUDA where there is no GPU: what is said to be missing, and the simulator in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import fresh
import numpy as np
import pytest

import fastnw
from fastnw import backends
from fastnw.backends.cuda import backend as cuda
from fastnw.backends.cuda import interop

INSTALLED = importlib.util.find_spec("numba_cuda") is not None
HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.mark.skipif(not INSTALLED, reason="numba-cuda is not installed")
@pytest.mark.timeout(1800)
def test_in_the_simulator():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    command += ["-c", str(ROOT / "pyproject.toml"), str(HERE / "cuda")]
    environment = fresh.environment(NUMBA_ENABLE_CUDASIM="1")
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE, env=environment, check=False)
    print(done.stdout)  # pytest shows it if what follows fails
    assert done.returncode == 0
    assert int(re.search(r"(\d+) passed", done.stdout).group(1)) > 400
    assert "skipped" not in done.stdout.splitlines()[-1]


@pytest.mark.skipif(not INSTALLED, reason="numba-cuda is not installed")
def test_the_benchmark_runs_from_end_to_end(tmp_path):
    """Tiny sizes in the simulator: of the figures only the errors mean anything."""
    output = tmp_path / "gpu.json"
    program = ROOT / "bench" / "gpu.py"
    command = [sys.executable, str(program), "--dry-run", "--seed", "3", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, env=fresh.environment(), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(output.read_text())
    assert len(results["parity"]) >= 60
    assert {entry["arrays"] for entry in results["parity"]} == {"host", "card"}
    assert all(entry["right"] for entry in results["parity"])
    ours = [entry for entry in results["timings"] if entry["system"].startswith("fastnw")]
    assert len(ours) >= 30
    assert all(entry["rate"] > 0 and entry["error"] <= entry["allowed"] for entry in ours)
    there = [entry for entry in ours if entry["system"] == "fastnw, device arrays"]
    assert len(there) >= 10
    assert all(0 < entry["to_host"] <= entry["may_leave"] for entry in there)
    peers = [entry for entry in results["timings"] if entry not in ours]
    assert {entry["system"] for entry in peers} == {"KeOps", "torch, chunked", "torch SDPA"}
    assert all(entry["reason"].startswith("missing: ") for entry in peers)
    assert {goal["against"] for goal in results["goals"]} >= {"ceiling", "KeOps", "torch SDPA"}
    assert "goal: d=3 float32 1e6" in done.stdout


def has_device():
    return cuda.missing() is None


@pytest.mark.skipif(has_device(), reason="there is a GPU")
def test_a_missing_gpu_is_an_error_that_says_what_is_missing():
    expected = "NVIDIA|CUDA device" if INSTALLED else r"numba-cuda is not installed: pip install 'fastnw\[cuda\]'"
    for call in (fastnw.pool, fastnw.plan):
        with pytest.raises(ValueError, match=rf"backend='cuda' cannot run this: .*({expected})"):
            call([[0.0]], [[0.0]], [1.0], backend="cuda")
    with pytest.raises(ValueError, match=expected):
        fastnw.attention_weights([[0.0]], [[0.0]], backend="cuda")
    assert re.search(expected, backends.available()["cuda"])


def test_what_is_missing_is_said_precisely(monkeypatch):
    cases = [
        ("raise RuntimeError('CUDA driver library cannot be found.')", "no NVIDIA driver that works .*cannot be found"),
        ("raise RuntimeError('out of luck')", r"no CUDA device \(out of luck\)"),
        ("return iter([])", "finds no device"),
    ]
    for body, expected in cases:
        program = f"""
        import importlib.util, sys, types
        class Devices:
            def __iter__(self):
                {body}
        numba, device_code = types.ModuleType("numba"), types.ModuleType("numba.cuda")
        device_code.gpus, numba.cuda = Devices(), device_code
        sys.modules |= {{"numba": numba, "numba.cuda": device_code}}
        found = importlib.util.find_spec
        importlib.util.find_spec = lambda name: object() if name == "numba_cuda" else found(name)
        from fastnw.backends.cuda import backend as cuda
        print(cuda.missing())
        """
        assert re.search(expected, fresh.run(program))


def test_nothing_of_numba_is_imported_with_fastnw():
    program = """
    import sys
    import fastnw
    from fastnw import backends
    from fastnw.backends.cuda import backend as cuda
    fastnw.pool([[0.0]], [[1.0]], [1.0])
    print([name for name in sys.modules if name.startswith("numba")])
    """
    assert fresh.run(program) == "[]"


class OnDevice:
    """As much of an array on a GPU as can be had without one."""

    __cuda_array_interface__ = {"shape": (1, 1), "typestr": "<f8", "data": (0, True), "version": 3}


class OnHost:
    """Frameworks' arrays in the host's memory refuse in words of their own."""

    @property
    def __cuda_array_interface__(self):
        raise RuntimeError("not on a GPU")

    def __array__(self, dtype=None, copy=None):
        return np.zeros((1, 1))


def test_auto_takes_cuda_only_for_arrays_on_a_device(monkeypatch):
    monkeypatch.setattr(cuda, "missing", lambda: None)
    host = np.zeros((1, 1))
    assert interop.backend_for("auto", host, [[0.0]], OnHost()) == "auto"
    assert interop.backend_for("auto", host, OnDevice()) == "cuda"
    assert interop.backend_for("reference", OnDevice()) == "reference"
    monkeypatch.setattr(cuda, "missing", lambda: "no driver")
    assert interop.backend_for("auto", OnDevice()) == "auto"


def test_arrays_on_a_device_that_cannot_be_read_are_an_error(monkeypatch):
    monkeypatch.setattr(cuda, "missing", lambda: "no NVIDIA driver that works")
    with pytest.raises(
        ValueError, match="OnDevice on a CUDA device needs the CUDA backend, but no NVIDIA driver that works"
    ):
        fastnw.pool(OnDevice(), [[0.0]], [1.0])


def test_arrays_that_only_offer_the_interface_stay_on_the_host():
    assert fastnw.pool(OnHost(), [[0.0]], [1.0]) == [1.0]


def test_forcing_it_in_a_fresh_process_ends_with_the_reason():
    if has_device():
        pytest.skip("there is a GPU")
    done = fresh.attempt("import fastnw; fastnw.pool([[0.0]], [[0.0]], [1.0], backend='cuda')")
    assert done.returncode == 1
    assert "backend='cuda' cannot run this" in done.stderr.splitlines()[-1]
