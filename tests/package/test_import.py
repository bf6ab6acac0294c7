"""Importing fastnw: quick, light, silent, and complete; the instruction set is picked then, and can be lowered."""

from __future__ import annotations

import json
import subprocess
import sys

import fresh
import numpy as np
import pytest

import fastnw
from fastnw.backends.compiled import backend as compiled
from fastnw.backends.compiled.levels import module


def test_import_takes_at_most_0_3_s():
    program = "import time; t = time.perf_counter(); import fastnw; print(time.perf_counter() - t)"
    assert min(float(fresh.run(program)) for _ in range(5)) <= 0.3


def test_import_and_first_use_load_nothing_heavy():
    program = """
    import sys, fastnw
    heavy = {"numba", "sklearn", "matplotlib", "pandas", "torch", "jax", "finufft", "pyarrow", "scipy", "tqdm"}
    print(sorted(heavy & set(sys.modules)))
    fastnw.pool([[0.0]], [[1.0]], [1.0])
    print(sorted(heavy & set(sys.modules)))
    """
    assert fresh.run(program).splitlines() == ["[]", "[]"]


@pytest.mark.parametrize("call", ["select_bandwidth", "learn_bandwidth"])
def test_the_first_bandwidth_of_a_process_loads_nothing_heavy(call):
    """Loading scikit-learn, and pandas and scipy.stats with it, took twice as long as the search."""
    program = f"""
    import sys, numpy as np, fastnw
    x = np.random.default_rng(0).uniform(size=(200, 2))
    fastnw.{call}(x, np.sin(6 * x[:, 0]) + x[:, 1])
    print(sorted({{"numba", "sklearn", "matplotlib", "pandas", "scipy.stats", "pyarrow", "tqdm"}} & set(sys.modules)))
    """
    assert fresh.run(program).strip() == "[]"


def test_import_changes_nothing_around_it():
    program = """
    import os, warnings
    before = list(warnings.filters), dict(os.environ)
    import fastnw
    print((list(warnings.filters), dict(os.environ)) == before)
    """
    done = fresh.attempt(program)
    assert (done.stdout.strip(), done.stderr) == ("True", "")


def test_every_public_name_is_there():
    assert set(fastnw.__all__) <= set(dir(fastnw))
    for name in fastnw.__all__:
        assert getattr(fastnw, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = fastnw.no_such_name


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_a_missing_framework_is_named(name):
    program = f"""
    import sys, fastnw
    sys.modules[{name!r}] = None
    try:
        fastnw.{name}
    except ImportError as error:
        print(error)
    """
    assert f"pip install 'fastnw[{name}]'" in fresh.run(program)


def test_show_config(capsys):
    fastnw.show_config()
    text = capsys.readouterr().out
    for needed in (fastnw.__version__, compiled.isa(), "backend compiled", "backend numba", "numpy", "threads"):
        assert needed in text


@pytest.mark.parametrize("level", ["v2", "v3", "v4"])
def test_the_level_can_be_lowered(level):
    if level not in compiled.levels():
        pytest.skip(f"this machine or build has no {level}")
    program = """
    import json, numpy as np, fastnw
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(30, 3)), rng.normal(size=(500, 3)), rng.normal(size=500)
    plan = fastnw.plan(q, k, v)
    print(json.dumps([plan.isa, fastnw.pool(q, k, v, bandwidth=0.5).tolist()]))
    """
    isa, got = json.loads(fresh.run(program, FASTNW_CPU=level))
    assert isa == level
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(30, 3)), rng.normal(size=(500, 3)), rng.normal(size=500)
    # lanes differ, so sums do in their last digits
    np.testing.assert_allclose(got, fastnw.pool(q, k, v, bandwidth=0.5), rtol=0, atol=1e-13 * np.ptp(v))


@pytest.mark.skipif(sys.platform != "linux", reason="reads what the extension links with Linux's ldd")
def test_no_openmp_runtime_is_linked():
    for level in compiled.levels():
        linked = subprocess.run(["ldd", module("tiles", level).__file__], capture_output=True, text=True, check=True)
        assert "libc" in linked.stdout
        assert not any(runtime in linked.stdout for runtime in ("libgomp", "libomp", "libiomp"))
