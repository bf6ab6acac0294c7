"""Arrays of other frameworks come back as what they were, where they were, with the numbers that NumPy would get."""

from __future__ import annotations

import sys
import types

import frameworks
import fresh
import numpy as np
import pytest

import fastnw
from fastnw.interop import frameworks as interop

RNG = np.random.default_rng(0)
QUERIES, KEYS, VALUES = RNG.normal(size=(30, 3)), RNG.normal(size=(50, 3)), RNG.normal(size=(50, 2))
WEIGHTS, SCALE = RNG.uniform(0.5, 2, size=50), RNG.uniform(0.5, 2, size=50)


@pytest.fixture(params=frameworks.NAMES)
def framework(request):
    """(NumPy array -> the framework's, the framework's -> NumPy, its type of arrays, an array's device)."""
    words = frameworks.load(request.param)
    return words.array, words.numpy, words.kind, words.device


def results(convert, dtype):
    queries, keys, values, column, weights, scale = (
        convert(array.astype(dtype)) for array in (QUERIES, KEYS, VALUES, VALUES[:, 0], WEIGHTS, SCALE)
    )
    options = {"sample_weight": weights, "key_scale": scale, "bandwidth": 0.7}
    return [
        fastnw.pool(queries, keys, column, **options),
        *fastnw.pool(queries, keys, values, return_mass=True, return_error=True, **options),
        fastnw.density(queries, keys, **options),
        fastnw.attention_weights(queries, keys, **options),
        *fastnw.attention_weights(queries, keys, top_k=4, **options),
    ]


def test_there_and_back(framework, dtype):
    convert, back, kind, device = framework
    home = device(convert(QUERIES))
    for got, expected in zip(results(convert, dtype), results(np.array, dtype), strict=True):
        assert isinstance(got, kind)
        assert device(got) == home
        assert back(got).dtype == expected.dtype
        np.testing.assert_array_equal(back(got), expected)


@pytest.mark.parametrize("which", range(3))
def test_one_array_of_a_framework_is_enough(framework, which):
    convert, back, kind, _ = framework
    arrays = [QUERIES, KEYS, VALUES]
    arrays[which] = convert(arrays[which])
    got = fastnw.pool(*arrays)
    assert isinstance(got, kind)
    np.testing.assert_array_equal(back(got), fastnw.pool(QUERIES, KEYS, VALUES))


def test_no_queries(framework):
    convert, back, kind, _ = framework
    got = fastnw.pool(convert(QUERIES[:0]), convert(KEYS), convert(VALUES))
    assert isinstance(got, kind)
    assert back(got).shape == (0, 2)


@pytest.mark.parametrize("listed", ["jaxx", "torch,no_such_framework"])
def test_listed_frameworks_must_be_there(listed, monkeypatch):
    monkeypatch.setenv("FASTNW_FRAMEWORKS", listed)
    with pytest.raises(ImportError):
        frameworks.require_listed()


def test_errors_and_plans(framework):
    convert, _, _, _ = framework
    with pytest.raises(ValueError, match=r"^Input keys contains NaN\.$"):
        fastnw.pool(convert(QUERIES), convert(np.full_like(KEYS, np.nan)), convert(VALUES))
    assert fastnw.plan(convert(QUERIES), convert(KEYS), convert(VALUES)).pairs == 30 * 50


def test_tensors_with_gradients_views_and_other_types():
    torch = frameworks.module("torch")
    queries = torch.from_numpy(QUERIES).requires_grad_()
    wide = torch.from_numpy(np.repeat(KEYS.T, 2, axis=1)).T[::2]  # strided, in columns
    got = fastnw.pool(queries, wide, torch.nn.Parameter(torch.from_numpy(VALUES)))
    assert not got.requires_grad
    np.testing.assert_array_equal(got.numpy(), fastnw.pool(QUERIES, KEYS, VALUES))
    whole = torch.from_numpy((10 * KEYS).astype(int))
    assert fastnw.pool(whole, whole, whole[:, 0], bandwidth=9.0).dtype == torch.float64
    half = [torch.from_numpy(array.astype("f2")) for array in (QUERIES, KEYS, VALUES)]
    assert fastnw.pool(*half).dtype == torch.float32
    flags = torch.from_numpy(VALUES > 0)
    assert fastnw.pool(queries.float(), wide.float(), flags).dtype == torch.float32


def test_a_gradient_asked_of_a_result_is_refused():
    """Tensors that need gradients are data; what is made of them says that it has none."""
    torch = frameworks.module("torch")
    queries = torch.from_numpy(QUERIES.copy()).requires_grad_()
    with pytest.raises(RuntimeError, match="does not require grad"):
        fastnw.pool(queries, torch.from_numpy(KEYS), torch.from_numpy(VALUES)).sum().backward()
    assert queries.grad is None


@pytest.mark.parametrize("name", ["torch", "jax", "tensorflow"])
def test_arrays_in_the_hosts_memory_are_read_where_they_lie(name, dtype):
    words = frameworks.load(name)
    array = words.array(KEYS.astype(dtype))
    read = interop.to_numpy(array)
    np.testing.assert_array_equal(read, KEYS.astype(dtype))
    if name == "torch":
        assert read.ctypes.data == array.data_ptr()
    elif name == "jax":
        assert read.ctypes.data == array.unsafe_buffer_pointer()
    else:  # DLPack is TensorFlow's only word about where its memory is
        assert np.shares_memory(read, np.from_dlpack(array))


def test_torchs_results_are_numpys_memory():
    torch = frameworks.module("torch")
    result = np.arange(5.0)
    tensor = interop.restorer(torch.zeros(1))(result)
    assert tensor.data_ptr() == result.ctypes.data


def test_mxnets_older_arrays_come_back_as_such():
    mxnet, words = frameworks.module("mxnet"), frameworks.load("mxnet")
    queries, keys, values = (words.array(array).as_nd_ndarray() for array in (QUERIES, KEYS, VALUES))
    got = fastnw.pool(queries, keys, values)
    assert type(got) is mxnet.nd.NDArray
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got.asnumpy(), fastnw.pool(QUERIES, KEYS, VALUES))


def test_results_do_not_share_memory_with_tensors():
    torch = frameworks.module("torch")
    arrays = [torch.from_numpy(array.copy()) for array in (QUERIES, KEYS, VALUES)]
    got = fastnw.pool(*arrays)
    got += 1
    for tensor, array in zip(arrays, (QUERIES, KEYS, VALUES), strict=True):
        np.testing.assert_array_equal(tensor.numpy(), array)


def test_out_wins_over_the_framework():
    torch = frameworks.module("torch")
    out = np.empty((30, 2))
    assert fastnw.pool(*map(torch.from_numpy, (QUERIES, KEYS, VALUES)), out=out) is out
    np.testing.assert_array_equal(out, fastnw.pool(QUERIES, KEYS, VALUES))


class Device:
    """A context in which new arrays land, as CuPy's."""

    current: list[Device] = []

    def __enter__(self):
        Device.current.append(self)

    def __exit__(self, *exception):
        Device.current.pop()


class Remote:
    """As much of `cupy.ndarray` as fastnw may rely on: host memory on request only."""

    def __init__(self, array, device):
        self._array, self.device = array, device

    def get(self):
        return self._array.copy()

    def __array__(self, *arguments, **options):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")  # CuPy's words


def test_cupys_arrays_go_through_the_host_and_back_to_their_device(monkeypatch):
    """With a stand-in, since few machines that run tests have a GPU."""
    cupy = types.ModuleType("cupy")
    cupy.asarray = lambda array: Remote(array, Device.current[-1])
    monkeypatch.setattr(Remote, "__module__", "cupy")
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    device = Device()
    for got, expected in zip(
        results(lambda array: Remote(array, device), "float32"), results(np.array, "float32"), strict=True
    ):
        assert type(got) is Remote
        assert got.device is device
        assert got.get().dtype == expected.dtype
        np.testing.assert_array_equal(got.get(), expected)
    assert Device.current == []


def test_a_module_that_only_bears_a_frameworks_name_is_no_framework():
    class Lookalike(np.ndarray):
        __module__ = "torchlike.arrays"

    got = fastnw.pool(QUERIES.view(Lookalike), KEYS, VALUES)
    assert type(got) is np.ndarray


def test_what_converts_to_an_array_gives_numpy_results():
    class Wrapper:
        def __array__(self, dtype=None, copy=None):
            return KEYS

    got = fastnw.pool(QUERIES, Wrapper(), VALUES)
    assert type(got) is np.ndarray
    np.testing.assert_array_equal(got, fastnw.pool(QUERIES, KEYS, VALUES))


def test_data_frames_give_numpy_results():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(KEYS, columns=["x", "y", "z"])
    got = fastnw.pool(pandas.DataFrame(QUERIES), frame, pandas.Series(VALUES[:, 0]), sample_weight=frame["x"].abs())
    assert type(got) is np.ndarray
    np.testing.assert_array_equal(got, fastnw.pool(QUERIES, KEYS, VALUES[:, 0], sample_weight=abs(KEYS[:, 0])))


def test_no_framework_is_imported_for_numpy_arrays():
    program = f"""
    import sys
    import fastnw
    fastnw.pool([[0.0]], [[1.0]], [1.0])
    fastnw.attention_weights([[0.0]], [[1.0]])
    print(sorted(set(sys.modules) & set({frameworks.NAMES!r})))
    """
    assert fresh.run(program) == "[]"
