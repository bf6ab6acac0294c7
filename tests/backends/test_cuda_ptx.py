"""What the compilers make of the CUDA kernels, without a GPU: no spills, few registers, the instructions meant.

NVVM writes PTX for compute capabilities 8.0 and 9.0 and ptxas assembles it; both come from PyPI.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from cases import KERNELS, LOG_KERNELS

import fastnw
from fastnw import kernels

MANY = 1_000_000  # queries: as many a thread as there may be
CAPABILITIES = [(8, 0), (9, 0)]


def ptxas():
    """The assembler that belongs to NVVM, from its package; otherwise the one on the path."""
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations if spec else []:
        for found in sorted(Path(folder).glob("*/bin/ptxas")):
            return str(found)
    return shutil.which("ptxas")


def why_not():
    if importlib.util.find_spec("numba_cuda") is None:
        return "numba-cuda is not installed"
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        return "the CUDA simulator compiles nothing"
    from cuda.pathfinder import load_nvidia_dynamic_lib

    for library in ("nvvm", "nvrtc"):
        try:
            load_nvidia_dynamic_lib(library)
        except Exception:  # pathfinder's own, which has moved between versions
            return f"{library} is not installed: nvidia-nvvm, nvidia-cuda-nvrtc"
    return None if ptxas() else "ptxas is not installed: nvidia-cuda-nvcc"


pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture(params=CAPABILITIES, ids=lambda cc: f"sm_{cc[0]}{cc[1]}")
def capability(request):
    return request.param


def shape(dtype, d=3, c=1, form="one", scaled=False, weighted=False, own=False):
    from fastnw.backends.cuda.kernels import Shape

    return Shape(dtype, d, c, form, scaled, weighted, own)


def ptx_of(kernel, of, task, capability):
    from numba import cuda

    from fastnw.backends.cuda import kernels as device_functions

    function, _, _ = device_functions.compiled(kernel, of, MANY, task)
    text, _ = cuda.compile(
        device_functions.plain_function(function),
        device_functions.signature(of.dtype),
        cc=capability,
        device=False,
        abi="numba",
    )
    return text


def assembled(text, capability, folder):
    """Registers a thread, bytes of shared memory; fails if any register is spilled."""
    source = folder / "kernel.ptx"
    source.write_text(text)
    command = [
        ptxas(),
        f"-arch=sm_{capability[0]}{capability[1]}",
        "-v",
        "-o",
        str(folder / "kernel.cubin"),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "0 bytes spill stores, 0 bytes spill loads" in done.stderr
    shared = re.search(r"(\d+) bytes smem", done.stderr)
    return int(re.search(r"Used (\d+) registers", done.stderr).group(1)), int(shared.group(1)) if shared else 0


def inner_loops(text):
    """What lies between a label and the branch back to it, where it reads keys from shared memory and holds no other
    loop that does."""
    loops = []
    for label in re.finditer(r"^(\$L__BB\w+):", text, re.MULTILINE):
        back = re.compile(rf"bra(?:\.uni)? \t{re.escape(label.group(1))};").search(text, label.end())
        if back and "ld.shared" in text[label.end() : back.end()]:
            loops.append((label.end(), back.end()))
    return [text[a:b] for a, b in loops if not any(a < c and d < b for c, d in loops)]


def instructions(block):
    lines = (line.strip() for line in block.splitlines())
    return Counter("bra" if line.startswith("@") else line.split()[0] for line in lines if line.endswith(";"))


def check(kernel, of, task, capability, folder):
    text = ptx_of(kernel, of, task, capability)
    registers, shared = assembled(text, capability, folder)
    threads = of.tile.threads if of.is_wide else 128
    assert registers * threads <= 65536
    assert shared <= 48 << 10
    if of.dtype == "float32":
        loops = inner_loops(text)
        assert loops
        assert not any(".f64" in loop for loop in loops)
    return text, registers


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel(kernel, dtype, capability, tmp_path):
    kernel = kernels.get(kernel)
    form = "dot" if kernel.inner_product else "one"
    text, _ = check(kernel, shape(dtype, form=form), "sum", capability, tmp_path)
    exponential = kernel.works_on_logs
    if dtype == "float32":
        assert ("ex2.approx.ftz.f32" in text) == exponential
        assert not re.search(r"\bcall\b|div\.rn|sqrt\.rn|\.local", text)


@pytest.mark.parametrize("kernel", LOG_KERNELS)
@pytest.mark.parametrize("task", ["max", "shifted"])
def test_every_kernel_far_away(kernel, task, dtype, tmp_path):
    kernel = kernels.get(kernel)
    form = "dot" if kernel.inner_product else "one"
    of = shape(dtype, form=form, c=0 if task == "max" else 1, weighted=True)
    text, _ = check(kernel, of, task, (9, 0), tmp_path)
    if dtype == "float32" and task == "shifted":
        assert "ex2.approx.ftz.f32" in text


OPTIONS = [
    *({"d": d} for d in (1, 2, 4, 5, 8, 9, 16, 32)),
    *({"d": d, "form": "each"} for d in (3, 8, 32)),
    *({"d": d, "form": "each", "scaled": True, "weighted": True, "own": True} for d in (1, 3, 8, 32)),
    *({"c": c} for c in (0, 3, 8)),
    {"c": 64, "weighted": True},
    {"d": 8, "c": 8, "weighted": True},
    {"d": 32, "c": 8, "scaled": True},
    *({"d": 64, "form": form} for form in ("norms", "one", "each")),
    {"d": 64, "c": 0, "form": "norms", "weighted": True, "own": True},
    {"d": 64, "c": 64, "form": "norms"},
    {"d": 64, "c": 64, "form": "each", "scaled": True, "weighted": True, "own": True},
]


# in float64 those with the most registers or shared memory
HEAVIEST = [{"d": 32}, *(options for options in OPTIONS if "c" in options or "own" in options)]
SHAPES = [*((options, "float32") for options in OPTIONS), *((options, "float64") for options in HEAVIEST)]


@pytest.mark.parametrize(
    ("options", "dtype"), SHAPES, ids=lambda x: " ".join(f"{k}={v}" for k, v in x.items()) if isinstance(x, dict) else x
)
def test_every_shape(options, dtype, tmp_path):
    text, _ = check(kernels.get("gaussian"), shape(dtype, **options), "sum", (9, 0), tmp_path)
    if dtype == "float32":
        assert "ex2.approx.ftz.f32" in text
        assert "ld.shared.v4.f32" in text


@pytest.mark.parametrize("name", ["tricube", "matern52"])
def test_windows_and_polynomials_in_many_coordinates(name, dtype, tmp_path):
    of = shape(dtype, d=64, form="each", scaled=True, weighted=True, own=True)
    check(kernels.get(name), of, "sum", (8, 0), tmp_path)


def test_what_fills_merges_and_scores(dtype, tmp_path):
    from numba import cuda, types

    from fastnw.backends.cuda import kernels as device_functions

    real, states = getattr(types, dtype), types.float64[:, :, ::1]
    signatures = {
        device_functions.fill: (states, types.float64),
        device_functions.merge: (states, types.boolean),
        device_functions.scores: (real[:, ::1], real[:, ::1], real[::1], types.boolean, types.boolean, real[:, ::1]),
    }
    for function, arguments in signatures.items():
        plain, signature = device_functions.plain_function(function), types.void(*arguments)
        text, _ = cuda.compile(plain, signature, cc=(9, 0), device=False, abi="numba")
        assembled(text, (9, 0), tmp_path)
        assert (".f64" in text) == (function is not device_functions.scores or dtype == "float64")


def test_a_users_kernel(dtype, capability, tmp_path):
    student = fastnw.Kernel("student", lambda u2: 1 / (1 + u2) ** 2, support=3.0)
    text, _ = check(student, shape(dtype, weighted=True), "sum", capability, tmp_path)
    assert "call" not in text


def test_the_inner_loop_of_the_gaussian_has_no_more_than_its_arithmetic(capability, tmp_path):
    """d = 3, float32: three differences, three products and sums, one for the exponent, ex2, two sums: 10 a pair."""
    text, registers = check(kernels.get("gaussian"), shape("float32"), "sum", capability, tmp_path)
    counts = instructions(max(inner_loops(text), key=lambda block: block.count("ex2.approx")))
    pairs = counts["ex2.approx.ftz.f32"]
    assert pairs == 32  # four queries a thread, eight keys an iteration
    arithmetic = counts["sub.f32"] + counts["mul.f32"] + counts["fma.rn.f32"] + counts["add.f32"]
    assert arithmetic == 9 * pairs
    assert counts["ld.shared.v4.f32"] == pairs / 4
    assert sum(counts.values()) <= 10.6 * pairs
    assert registers <= 96  # five blocks of 128 threads a multiprocessor


def test_the_inner_loop_of_products_is_products(capability, tmp_path):
    """d > 32: a product a coordinate and pair, and a load of four for 16 of them."""
    text, registers = check(kernels.get("gaussian"), shape("float32", d=64, form="norms"), "sum", capability, tmp_path)
    counts = instructions(max(inner_loops(text), key=lambda block: block.count("fma.rn.f32")))
    assert counts["fma.rn.f32"] == 16 * counts["ld.shared.v4.f32"] == 8 * 8 * 4
    assert sum(counts.values()) <= 1.15 * counts["fma.rn.f32"]
    assert registers <= 255


# quickly each width and kind once, with and without gaps; the others are the same code
KINDS = [("float32", True), ("float64", False), ("float16", True), ("int64", True), ("boolean", False)]
OTHER_KINDS = [(kind, gaps) for kind in ("int8", "uint8", "uint64") for gaps in (True, False)]
OTHER_KINDS += [(kind, not contiguous) for kind, contiguous in KINDS]


@pytest.mark.parametrize(
    ("kind", "contiguous"), KINDS + [pytest.param(*other, marks=pytest.mark.slow) for other in OTHER_KINDS]
)
def test_what_reads_arrays_on_the_device_compiles_for_every_type(kind, contiguous):
    from numba import cuda, types

    from fastnw.backends.cuda import arrays as arrays
    from fastnw.backends.cuda.kernels import plain_function

    element, whole, flag, double = getattr(types, kind), types.int64, types.boolean, types.float64
    rows, numbers, column = element[:, ::1] if contiguous else element[:, :], double[::1], double[:, ::1]
    table = (types.float32 if kind in ("float16", "float32") else double)[:, ::1]
    signatures = {
        arrays._copied: (element[:], element[::1]),
        arrays._reduce: (rows, rows, flag, double[:, :, ::1]),
        arrays._combine: (double[:, :, ::1], double[:, :, ::1]),
        arrays._take: (rows, whole[::1], table),
        arrays._sizes: (rows, numbers, flag, numbers),
        arrays._whiten: (rows, column, rows, flag, column),
        arrays._divide: (rows, double, column),
        arrays._logarithms: (rows, flag, rows, whole, column),
        arrays._exponentials: (column, double, column),
        arrays._place_keys: (rows, whole, whole, numbers, whole, flag, table),
        arrays._place_scales: (rows, whole, whole, flag, double, whole, table),
        arrays._place_values: (rows, whole, whole, column, flag, column, whole, whole, table),
        arrays._turn: (table, numbers, numbers, flag, whole, table),
        arrays._split: (double[:, :, ::1], column, column),
        arrays._largest: (column, numbers),
        arrays._put: (column, whole[::1], table),
        arrays._put_means: (column, numbers, column, table),
    }
    for kernel, types_of in signatures.items():
        signature = types.void(*types_of)
        text, _ = cuda.compile(plain_function(kernel), signature, cc=(8, 0), device=False, abi="numba")
        assert ".visible .entry" in text
