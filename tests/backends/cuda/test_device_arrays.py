"""Arrays on a (simulated) device are read where they lie: the same answers and errors, and
results are made there."""

from __future__ import annotations

import ctypes
import math
import sys
import types

import numpy as np
import pytest
from cases import KERNELS, Case
from numba import cuda
from oracle import naive_log_density, naive_pool
from parity import check

import fastnw
from fastnw.backends.cuda import interop
from fastnw.backends.cuda.device_array import CudaArray, CudaRows

pytestmark = pytest.mark.filterwarnings("ignore::fastnw.EmptyWindowWarning")

PROMISE = {"float32": 1e-4, "float64": 1e-8}
Simulated = type(cuda.device_array(1))
RNG = np.random.default_rng(5)
QUERIES, KEYS, VALUES = RNG.normal(size=(9, 2)), RNG.normal(size=(300, 2)), RNG.normal(size=(300, 2))
ANSWERS = 2 * len(QUERIES)  # numbers of a copy: of each query its mass and the bound of its error
WEIGHTS, SCALE = RNG.gamma(1.0, size=300), RNG.uniform(0.5, 2.0, size=300)


def placed(array):
    return cuda.to_device(np.ascontiguousarray(array))


def pool_there(*arrays, sample_weight=None, key_scale=None, **options):
    """With every array on the device; the results copied from there."""
    options |= {"sample_weight": None if sample_weight is None else placed(sample_weight)}
    options |= {"key_scale": None if key_scale is None else placed(key_scale)}
    found = fastnw.pool(*map(placed, arrays), **options)
    several = found if isinstance(found, tuple) else (found,)
    assert all(isinstance(result, Simulated) for result in several)
    copied = tuple(result.copy_to_host() for result in several)
    return copied if isinstance(found, tuple) else copied[0]


@pytest.fixture
def traffic(monkeypatch):
    """Numbers copied from the device to the host, an entry a copy."""
    copies, copy = [], Simulated.copy_to_host

    def counted(self, *arguments, **options):
        copies.append(self.size)
        return copy(self, *arguments, **options)

    monkeypatch.setattr(Simulated, "copy_to_host", counted)
    return copies


CASES = [
    Case("d1 vector weights", m=5, n=70, d=1, bandwidth="vector", weights=True, columns=1),
    Case("d2 matrix weights scale", m=5, n=70, bandwidth="matrix", weights=True, key_scale=True, columns=2),
    Case("d3 tiles scale", m=5, n=600, d=3, bandwidth="vector", key_scale=True),
    Case("d3 without self", m=30, n=30, d=3, exclude_self=True),
    Case("d9 weights columns", m=5, n=40, d=9, weights=True, columns=11),
    Case("d34 columns", m=5, n=30, d=34, columns=3, weights=True),
]


@pytest.mark.parametrize("kernel", ["gaussian", "tricube", "dot"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_parity(kernel, case, dtype):
    check(kernel, case, dtype, "auto", "auto", pool_there)


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel(kernel, dtype):
    check(kernel, Case("scale", m=5, n=40, weights=True, key_scale=True), dtype, "auto", "auto", pool_there)


def test_products_of_many_coordinates(dtype):
    check("gaussian", Case("d40", m=9, n=40, d=40), dtype, "auto", "exact", pool_there)


@pytest.mark.parametrize("keep", [False, True])
def test_keys_in_blocks_give_the_bits_of_host_arrays(keep, monkeypatch):
    from fastnw.backends.cuda import backend as backend
    from fastnw.backends.cuda import stream

    monkeypatch.setattr(backend, "BLOCK_BYTES", 9000)  # a few hundred keys each
    monkeypatch.setattr(stream, "MAX_CACHED_BYTES", stream.MAX_CACHED_BYTES if keep else 0)
    queries, keys, values, options = Case("blocks", m=4, n=700, weights=True, key_scale=True).problem("float64")
    options |= {"return_mass": True, "return_error": True}
    expected = fastnw.pool(queries, keys, values, backend="cuda", **options)
    for got, right in zip(pool_there(queries, keys, values, **options), expected, strict=True):
        np.testing.assert_array_equal(got, right)


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov", "dot"])
@pytest.mark.parametrize("bandwidth", [0.9, [[1.0, 0.2], [0.2, 0.7]]], ids=["number", "matrix"])
def test_no_input_leaves_the_device(kernel, bandwidth, traffic):
    """There are 33 times as many keys as queries."""
    arrays = [placed(a.astype("f4")) for a in (QUERIES, KEYS, VALUES, WEIGHTS, SCALE)]
    options = {"sample_weight": arrays[3], "key_scale": arrays[4], "kernel": kernel, "bandwidth": bandwidth}
    fastnw.pool(*arrays[:3], empty="raise", return_mass=True, return_error=True, **options)
    assert traffic
    assert max(traffic) <= ANSWERS
    if kernel != "dot":
        traffic.clear()
        fastnw.density(*arrays[:2], **options)
        assert max(traffic) <= ANSWERS


def both_ways(monkeypatch):
    """Sizes of what goes to the device, an entry a copy."""
    sizes, to_device = [], cuda.to_device

    def counted(array, *arguments, **options):
        sizes.append(np.size(array))
        return to_device(array, *arguments, **options)

    monkeypatch.setattr(cuda, "to_device", counted)
    return sizes


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov", "dot"])
def test_means_are_made_on_the_device(kernel, dtype, traffic, monkeypatch):
    """Neither totals nor means pass through the host, however many values: 40 for each of 9 queries."""
    values = RNG.normal(size=(300, 40))
    arrays = [placed(a.astype(dtype)) for a in (QUERIES, KEYS, values)]
    there = both_ways(monkeypatch)
    got = fastnw.pool(*arrays, kernel=kernel, empty="raise")
    assert max(traffic) <= max(ANSWERS, 3 * 2 * 40)  # least, largest and sum of the values' columns
    assert traffic.count(got.size) == 0
    assert max(there) < got.size
    f, _ = naive_pool(*(a.copy_to_host().astype(float) for a in arrays), kernel)
    assert got.dtype == dtype
    assert np.all(abs(got.copy_to_host() - f) <= PROMISE[dtype] * np.ptp(values, axis=0))


@pytest.mark.parametrize("flat", [False, True])
def test_some_rows_from_the_host(flat):
    """Far queries are summed there and their rows put among those that the device has made."""
    values = VALUES[:, 0] if flat else VALUES
    far, near = np.array([[1e7, -1e7], [2e7, 0.0]]), QUERIES
    queries = np.concatenate([near[:4], far, near[4:]])
    got = pool_there(queries, KEYS, values, return_mass=True, return_error=True)
    expected = fastnw.pool(queries, KEYS, values, backend="cuda", return_mass=True, return_error=True)
    for mine, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert got[0].shape == ((11,) if flat else (11, 2))


def test_out_on_the_host():
    out = np.empty(QUERIES.shape)
    assert fastnw.pool(*map(placed, (QUERIES, KEYS, VALUES)), out=out) is out
    np.testing.assert_array_equal(out, fastnw.pool(QUERIES, KEYS, VALUES, backend="cuda"))


def test_rows_that_are_written_on_the_device():
    """As NumPy's own: slices, positions, masks, broadcasting; −0, NaN and infinity as they are."""
    start, rng = RNG.normal(size=(7, 3)), np.random.default_rng(0)
    for rows in (slice(None), slice(2, 5), np.array([6, 0, 3]), np.array([], int), rng.random(7) < 0.5):
        for numbers in (np.nan, np.array([-0.0, np.inf, 5.0]), rng.normal(size=(7, 3))[rows]):
            mine, expected = CudaRows(placed(start)), start.copy()
            mine[rows] = numbers
            expected[rows] = numbers
            np.testing.assert_array_equal(np.asarray(mine), expected)
            np.testing.assert_array_equal(np.asarray(mine[rows]), expected[rows])
            np.testing.assert_array_equal(mine.largest(), abs(expected).max(axis=1))
            mine[rows] = CudaRows(placed(start))[rows]
            np.testing.assert_array_equal(np.asarray(mine), start)
    view = CudaRows(placed(start))
    view[1:3][:] = 0.0  # a slice is a view
    assert np.all(np.asarray(view)[1:3] == 0)


def test_keys_leave_the_device_once_for_queries_that_it_cannot_certify(traffic):
    queries = np.concatenate([QUERIES, [[1e7, -1e7], [2e7, 0.0], [0.0, 3e7]]])
    f, _ = naive_pool(queries[:9], KEYS, VALUES)
    got = fastnw.pool(*map(placed, (queries, KEYS, VALUES)))
    assert traffic.count(KEYS.size) == 2  # keys and values
    np.testing.assert_array_equal(got.copy_to_host(), fastnw.pool(queries, KEYS, VALUES, backend="cuda"))
    assert np.all(abs(got.copy_to_host()[:9] - f) <= 1e-8 * np.ptp(VALUES, axis=0))


@pytest.mark.parametrize("key_scale", [None, SCALE])
@pytest.mark.parametrize("weights", [None, WEIGHTS, WEIGHTS * (WEIGHTS > 1), 1e-200 * WEIGHTS])
def test_density(weights, key_scale):
    options = {"sample_weight": weights, "key_scale": key_scale}
    there = {name: None if array is None else placed(array) for name, array in options.items()}
    got = fastnw.density(placed(QUERIES), placed(KEYS), bandwidth=0.7, log=True, **there)
    expected = naive_log_density(QUERIES, KEYS, "gaussian", 0.7, **options)
    assert np.all(abs(got.copy_to_host() - expected) <= 4e-8)


@pytest.mark.parametrize("kind", ["int64", "uint8", "bool", "float16", "float32"])
def test_other_types(kind):
    if kind in ("float16", "float32"):
        arrays = [a.astype(kind) for a in (QUERIES, KEYS, VALUES)]
    else:
        arrays = [QUERIES, KEYS, np.maximum(4 * VALUES, 0).astype(kind)]
    f, _ = naive_pool(*(a.astype(float) for a in arrays))
    got = pool_there(*arrays)
    narrow = kind.startswith("float")
    assert got.dtype == (np.float32 if narrow else np.float64)
    assert np.all(abs(got - f) <= (1e-4 if narrow else 1e-8) * np.ptp(arrays[2].astype(float), axis=0))


def test_strided_arrays():
    wide = placed(np.repeat(np.repeat(KEYS, 2, axis=0), 3, axis=1))
    values = placed(np.asfortranarray(VALUES))
    weights = placed(np.repeat(WEIGHTS, 2))
    got = fastnw.pool(placed(QUERIES), wide[::2, ::3], values, sample_weight=weights[::2])
    expected = fastnw.pool(QUERIES, KEYS, VALUES, sample_weight=WEIGHTS, backend="cuda")
    np.testing.assert_array_equal(got.copy_to_host(), expected)


def test_weights_go_by_the_host_from_strided_arrays_too():
    wide = placed(np.repeat(np.repeat(KEYS, 2, axis=0), 3, axis=1))
    got = fastnw.attention_weights(placed(QUERIES), wide[::2, ::3], bandwidth=0.7)
    assert isinstance(got, Simulated)
    expected = fastnw.attention_weights(QUERIES, KEYS, bandwidth=0.7, backend="cuda")
    np.testing.assert_array_equal(got.copy_to_host(), expected)


def test_leaving_out_oneself_in_densities():
    got = fastnw.density(placed(KEYS[:30]), placed(KEYS[:30]), sample_weight=placed(WEIGHTS[:30]), exclude_self=True)
    expected = fastnw.density(KEYS[:30], KEYS[:30], sample_weight=WEIGHTS[:30], exclude_self=True, backend="reference")
    np.testing.assert_allclose(got.copy_to_host(), expected, rtol=1e-8)  # the promise


@pytest.mark.parametrize("which", range(3))
def test_host_arrays_beside_them_are_copied_there(which, traffic):
    arrays = [QUERIES, KEYS, VALUES]
    arrays[which] = placed(arrays[which])
    got = fastnw.pool(*arrays, sample_weight=WEIGHTS)
    assert max(traffic) <= ANSWERS
    expected = fastnw.pool(QUERIES, KEYS, VALUES, sample_weight=WEIGHTS, backend="cuda")
    np.testing.assert_array_equal(got.copy_to_host(), expected)


def test_no_queries_and_no_columns():
    assert fastnw.pool(placed(QUERIES[:0]), placed(KEYS), placed(VALUES)).shape == (0, 2)
    got = fastnw.pool(placed(QUERIES), placed(KEYS), placed(VALUES[:, :0]))
    assert got.shape == fastnw.pool(QUERIES, KEYS, VALUES[:, :0]).shape == (9, 0)


@pytest.mark.parametrize("empty", ["nearest", "mean", 3.0])
def test_empty_windows(empty):
    queries = np.array([[0.0, 0.0], [50.0, 0.0]])
    options = {"kernel": "triangular", "bandwidth": 0.9, "empty": empty, "sample_weight": WEIGHTS}
    expected = fastnw.pool(queries, KEYS, VALUES, backend="cuda", **options)
    np.testing.assert_allclose(pool_there(queries, KEYS, VALUES, **options), expected, rtol=1e-13)


def with_one(array, number):
    changed = array.copy()
    changed.flat[-1] = number
    return changed


BAD = {
    "NaN query": {"queries": with_one(QUERIES, np.nan)},
    "infinite key": {"keys": with_one(KEYS, np.inf)},
    "infinite key, float32": {"keys": with_one(KEYS, -np.inf).astype("f4")},
    "NaN value": {"values": with_one(VALUES, np.nan)},
    "NaN weight": {"sample_weight": with_one(WEIGHTS, np.nan)},
    "negative weight": {"sample_weight": with_one(WEIGHTS, -1.0)},
    "no scale": {"key_scale": with_one(SCALE, 0.0)},
    "negative scale, float32": {"key_scale": with_one(SCALE, -0.1).astype("f4")},
    "one dimension": {"queries": QUERIES[:, 0]},
    "three dimensions": {"keys": KEYS[None]},
    "no key": {"keys": KEYS[:0]},
    "no coordinate": {"keys": KEYS[:, :0]},
    "another dimension": {"keys": KEYS[:, :1]},
    "too few values": {"values": VALUES[1:]},
    "too few weights": {"sample_weight": WEIGHTS[1:]},
    "a column of weights": {"sample_weight": WEIGHTS[:, None]},
    "a column of scales": {"key_scale": SCALE[:, None]},
    "complex": {"values": VALUES * 1j},
    "without self": {"exclude_self": True},
    "bandwidth": {"bandwidth": [1.0, -1.0]},
}


@pytest.mark.parametrize("what", BAD)
def test_errors_are_those_of_host_arrays(what):
    arguments = {"queries": QUERIES, "keys": KEYS, "values": VALUES} | BAD[what]
    there = {name: placed(a) if isinstance(a, np.ndarray) else a for name, a in arguments.items()}
    raised = []
    for given in (arguments, there):
        try:
            fastnw.pool(**given, backend="cuda")
        except ValueError as failure:
            raised.append(str(failure))
    assert len(raised) == 2
    assert raised[0] == raised[1]


def as_cuda_array(array):
    """numba's function of that name, which the simulator lacks, for what lies in the host's memory."""
    facts = array.__cuda_array_interface__
    dtype, shape, strides = np.dtype(facts["typestr"]), facts["shape"], facts.get("strides")
    size = math.prod(shape) * dtype.itemsize
    if strides:
        size = sum(step * (count - 1) for step, count in zip(strides, shape, strict=True)) + dtype.itemsize
    memory = (ctypes.c_byte * size).from_address(facts["data"][0])
    return Simulated(np.ndarray(shape, dtype, memory, strides=strides))


@pytest.fixture
def interfaces(monkeypatch):
    """What a real device has and the simulator lacks."""
    monkeypatch.setattr(cuda, "as_cuda_array", as_cuda_array, raising=False)
    monkeypatch.setattr(type(cuda.get_current_device()), "id", 0, raising=False)


class Speaker:
    """An array that speaks DLPack and nothing else, on a device that it says is CUDA's."""

    def __init__(self, array, index=0):
        self.array, self.index, self.streams = array, index, []

    def __dlpack__(self, *, stream=None):
        self.streams.append(stream)
        return self.array.__dlpack__()

    def __dlpack_device__(self):
        return 2, self.index


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int32", "uint8", "bool"])
def test_arrays_that_speak_dlpack(kind, interfaces, traffic):
    values = (3 * VALUES).astype(kind)
    arrays = [Speaker(a) for a in (QUERIES, np.repeat(KEYS, 2, axis=0)[::2], values)]
    assert fastnw.plan(*arrays).backend == "cuda"
    traffic.clear()
    got = fastnw.pool(*arrays)
    assert max(traffic) <= ANSWERS
    assert all(set(array.streams) == {1} for array in arrays)  # the legacy default stream
    np.testing.assert_array_equal(got.copy_to_host(), fastnw.pool(QUERIES, KEYS, values, backend="cuda"))
    flat = fastnw.pool(arrays[0], arrays[1], Speaker(values[:, 0]))
    np.testing.assert_array_equal(flat.copy_to_host(), fastnw.pool(QUERIES, KEYS, values[:, 0], backend="cuda"))


def test_another_device_goes_by_the_host(interfaces):
    for index, where in ((0, CudaArray), (1, np.ndarray)):
        assert isinstance(interop.taken_in("cuda", Speaker(KEYS, index), KEYS)[0], where)


class Tensor:
    """As much of CuPy's or torch's arrays as fastnw relies on, on device 0."""

    is_cuda, requires_grad = True, True

    def __init__(self, array):
        self.array, self.dtype, self.device = array, array.dtype, Device()

    @property
    def __cuda_array_interface__(self):
        if self.requires_grad:
            raise RuntimeError("requires a gradient")
        return self.array.__array_interface__

    def detach(self):
        detached = type(self)(self.array)
        detached.requires_grad = False
        return detached

    def to(self, device):
        assert isinstance(device, Device)
        return self


class Device:
    index = id = 0

    def __enter__(self):
        pass

    def __exit__(self, *exception):
        pass


@pytest.mark.parametrize("framework", ["torch", "cupy"])
def test_frameworks_arrays_come_back_as_such(framework, monkeypatch, interfaces, traffic):
    """With a stand-in, since this has to run without a GPU: host copies of its own it has none to offer."""
    module, synchronised = types.ModuleType(framework), []
    kind = type("Tensor", (Tensor,), {"__module__": framework, "requires_grad": framework == "torch"})
    stream = types.SimpleNamespace(synchronize=lambda: synchronised.append(True))
    module.cuda = types.SimpleNamespace(current_stream=lambda device: stream)
    module.bfloat16, module.asarray = object(), kind
    module.as_tensor = lambda array, device: kind(array)
    monkeypatch.setitem(sys.modules, framework, module)
    got = fastnw.pool(*map(kind, (QUERIES, KEYS, VALUES)), sample_weight=kind(WEIGHTS))
    assert isinstance(got, kind)
    assert max(traffic) <= ANSWERS
    assert bool(synchronised) == (framework == "torch")
    expected = fastnw.pool(QUERIES, KEYS, VALUES, sample_weight=WEIGHTS, backend="cuda")
    assert isinstance(got.array, Simulated)  # what the device wrote, not a copy
    np.testing.assert_array_equal(got.array.copy_to_host(), expected)
