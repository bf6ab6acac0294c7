"""Whatever form arrays come in, the answer is that of a plain copy; results go where they should, in the right type."""

from __future__ import annotations

import numpy as np
import pytest
from cases import LOG_KERNELS
from oracle import mp_pool, naive_pool

import fastnw

RNG = np.random.default_rng(0)
QUERIES, KEYS, VALUES = RNG.normal(size=(40, 3)), RNG.normal(size=(90, 3)), RNG.normal(size=(90, 2))
WEIGHTS, SCALE = RNG.uniform(0.5, 2, size=90), RNG.uniform(0.5, 2, size=90)
MATRIX = np.array([[1.0, 0.3, 0.0], [0.3, 0.7, 0.1], [0.0, 0.1, 0.5]])


def read_only(array, folder):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def every_second(array, folder):
    wide = np.full([2 * n for n in array.shape], np.nan, array.dtype)
    wide[tuple(slice(None, None, 2) for _ in array.shape)] = array
    return wide[tuple(slice(None, None, 2) for _ in array.shape)]


def backwards(array, folder):
    return array[tuple(slice(None, None, -1) for _ in array.shape)].copy()[
        tuple(slice(None, None, -1) for _ in array.shape)
    ]


def memory_mapped(array, folder):
    path = folder / f"{len(list(folder.iterdir()))}.npy"
    np.save(path, array)
    return np.load(path, mmap_mode="r")


def unaligned(array, folder):
    raw = np.zeros(array.nbytes + 1, np.uint8)[1:]
    raw[:] = array.ravel().view(np.uint8)
    return raw.view(array.dtype).reshape(array.shape)


# Each keeps the numbers and changes how they lie in memory.
FORMS = {
    "read-only": read_only,
    "every second": every_second,
    "Fortran order": lambda array, folder: np.asfortranarray(array),
    "backwards": backwards,
    "memory-mapped": memory_mapped,
    "big-endian": lambda array, folder: array.astype(array.dtype.newbyteorder(">")),
    "unaligned": unaligned,
    "lists": lambda array, folder: array.tolist(),
    "objects": lambda array, folder: array.astype(object),
}


@pytest.fixture(params=FORMS)
def form(request, tmp_path):
    if request.param in ("lists", "objects"):  # they forget float32
        return lambda array: FORMS[request.param](array, tmp_path) if array.dtype == np.float64 else array
    return lambda array: FORMS[request.param](array, tmp_path)


def results(form, dtype, backend, bandwidth):
    queries, keys, values, weights, scale = (
        form(array.astype(dtype)) for array in (QUERIES, KEYS, VALUES, WEIGHTS, SCALE)
    )
    options = {"sample_weight": weights, "key_scale": scale, "bandwidth": form(bandwidth), "backend": backend}
    return [
        *fastnw.pool(queries, keys, values, return_mass=True, return_error=True, **options),
        fastnw.density(queries, keys, **options),
        fastnw.attention_weights(queries, keys, **options),
        *fastnw.attention_weights(queries, keys, top_k=5, **options),
    ]


@pytest.mark.parametrize("bandwidth", [np.array([0.5, 1.0, 2.0]), MATRIX], ids=["vector", "matrix"])
def test_forms(form, dtype, backend, bandwidth):
    got = results(form, dtype, backend, bandwidth)
    expected = results(np.array, dtype, backend, bandwidth)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)  # the same arithmetic on the same numbers


def test_broadcast_weights(backend):
    ones = np.broadcast_to(2.0, 90)
    got = fastnw.pool(QUERIES, KEYS, VALUES, sample_weight=ones, key_scale=ones, backend=backend)
    expected = fastnw.pool(
        QUERIES, KEYS, VALUES, sample_weight=np.full(90, 2.0), key_scale=np.full(90, 2.0), backend=backend
    )
    np.testing.assert_array_equal(got, expected)


def test_inputs_stay_as_they_are(dtype, backend):
    arrays = [array.astype(dtype) for array in (QUERIES, KEYS, VALUES, WEIGHTS, SCALE)]
    copies = [array.copy() for array in arrays]
    queries, keys, values, weights, scale = arrays
    fastnw.pool(queries, keys, values, sample_weight=weights, key_scale=scale, bandwidth=MATRIX, backend=backend)
    fastnw.density(queries, keys, sample_weight=weights, key_scale=scale, backend=backend)
    fastnw.attention_weights(queries, keys, top_k=3, sample_weight=weights, key_scale=scale, backend=backend)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("form", ["every second", "Fortran order", "backwards", "unaligned"])
def test_out_of_any_layout(form, dtype, backend, tmp_path):
    queries, keys, values = (array.astype(dtype) for array in (QUERIES, KEYS, VALUES))
    expected = fastnw.pool(queries, keys, values, backend=backend)
    out = FORMS[form](np.full(expected.shape, 7, dtype), tmp_path)
    assert fastnw.pool(queries, keys, values, backend=backend, out=out) is out
    np.testing.assert_array_equal(out, expected)
    out = FORMS[form](np.full(40, 7, dtype), tmp_path)
    fastnw.pool(queries, keys, values[:, 1], backend=backend, out=out)
    np.testing.assert_array_equal(out, fastnw.pool(queries, keys, values[:, 1], backend=backend))


IN_PLACE = {
    "values": ({"kernel": "gaussian"}, 2200, 1000),
    "nearest of empty windows": ({"kernel": "boxcar", "empty": "nearest", "exclude_self": True}, 8, 2),
    "mean for empty windows": ({"kernel": "boxcar", "empty": "mean", "exclude_self": True}, 8, 2),
}


@pytest.mark.parametrize("case", IN_PLACE)
def test_out_may_be_the_values(case):
    """Smoothing in place: what is read must not be what was just written."""
    options, n, columns = IN_PLACE[case]
    points = np.arange(float(n))[:, None]
    values = np.random.default_rng(1).normal(size=(n, columns))
    expected = fastnw.pool(points, points, values, bandwidth=0.7, **options)
    fastnw.pool(points, points, values, bandwidth=0.7, out=values, **options)
    np.testing.assert_array_equal(values, expected)


# (queries, keys, values) -> result: float32 only if nothing that is floating says otherwise.
TYPES = {
    ("f4", "f4", "f4"): "f4",
    ("f2", "f2", "f2"): "f4",
    ("f2", "f4", "f2"): "f4",
    ("f4", "f4", "f8"): "f8",
    ("f4", "f8", "f4"): "f8",
    ("f8", "f4", "f4"): "f8",
    ("f4", "f4", "i8"): "f4",
    ("f4", "f2", "?"): "f4",
    ("f4", "i4", "f4"): "f8",
    ("i4", "i4", "i4"): "f8",
    ("u1", "i1", "?"): "f8",
    ("?", "?", "f4"): "f8",
    (">f4", "<f4", ">f4"): "f4",
    ("g", "g", "g"): "f8",
}


@pytest.mark.parametrize("types", TYPES, ids="-".join)
def test_types_of_results(types, backend):
    numbers = np.random.default_rng(2)
    queries, keys, values = (
        numbers.integers(0, 2 if "?" in kind else 90, size=shape).astype(kind)
        for kind, shape in zip(types, [(30, 2), (50, 2), 50], strict=True)
    )
    options = {"bandwidth": 9.0, "return_mass": True, "return_error": True, "backend": backend}
    got, log_mass, error = fastnw.pool(queries, keys, values, **options)
    assert (got.dtype, log_mass.dtype, error.dtype) == (TYPES[types], TYPES[types], np.float64)
    plain = [array.astype(TYPES[types]) for array in (queries, keys, values)]
    np.testing.assert_array_equal(got, fastnw.pool(*plain, **options)[0])


@pytest.mark.parametrize("kind", ["?", "u1", "i8", "f2", "f4"])
def test_types_of_weights_and_scales(kind, backend):
    """They have no say in the result's type, and are taken for what they are."""
    weights = np.arange(1, 91).astype(kind)
    for dtype in ("f4", "f8"):
        arrays = [array.astype(dtype) for array in (QUERIES, KEYS, VALUES)]
        for name in ("sample_weight", "key_scale"):
            got = fastnw.pool(*arrays, backend=backend, **{name: weights})
            assert got.dtype == dtype
            expected = fastnw.pool(*arrays, backend=backend, **{name: weights.astype("f8")})
            np.testing.assert_array_equal(got, expected)


def test_differences_of_unsigned_and_narrow_integers_do_not_wrap(backend):
    queries, keys = np.array([[3]], np.uint8), np.array([[255], [1]], np.uint8)
    got = fastnw.pool(queries, keys, np.array([-128, 127], np.int8), kernel="cauchy", backend=backend)
    u2 = np.array([252.0, 2.0]) ** 2
    assert got[0] == pytest.approx(np.average([-128, 127], weights=1 / (1 + u2)), rel=1e-14)


def test_float16_is_computed_in_float32(backend):
    """Weights of 1,000 and sums of 90 terms would not survive in float16."""
    arrays = [array.astype("f2") for array in (QUERIES, KEYS, 1000 * VALUES)]
    expected, _ = naive_pool(*arrays)
    got = fastnw.pool(*arrays, backend=backend)
    assert got.dtype == np.float32
    # the promise for float32
    assert np.all(abs(got - expected) <= 1e-4 * np.ptp(arrays[2].astype("f8"), axis=0))


# "Positive" is all that is asked of a scale: its square and reciprocal may lie outside the type.
SIZES = {"float64": [1e-310, 1e-200, 1e200, 1e300], "float32": [1e-44, 1e-20, 1e20, 1e38]}


@pytest.mark.parametrize("size", SIZES["float64"] + SIZES["float32"])
@pytest.mark.parametrize("kernel", ["gaussian", "triangular", "cauchy"])
@pytest.mark.parametrize("argument", ["key_scale", "bandwidth"])
def test_scales_of_any_size(argument, kernel, size, backend):
    dtype = np.float32 if size in SIZES["float32"] else np.float64
    keys, values = np.array([[0.0], [0.5], [-0.25]], dtype), np.array([1.0, 2.0, 5.0], dtype)
    scale = {"key_scale": np.array([size, 1.0, 1.0]), "bandwidth": size}[argument]
    queries = np.zeros((1, 1), dtype)
    if argument == "bandwidth":  # all the others' mass is gone, or all keys count alike
        expected, log_mass = (1.0, 0.0) if size < 1 else (8 / 3, np.log(3))
    else:
        f, log_masses = naive_pool(queries, keys, values, kernel, key_scale=scale)
        expected, log_mass = float(f[0]), float(log_masses[0])
    got, got_log_mass = fastnw.pool(
        queries, keys, values, kernel=kernel, backend=backend, return_mass=True, **{argument: scale}
    )
    promise = 1e-4 if dtype == np.float32 else 1e-8
    assert abs(got[0] - expected) <= promise * 4  # of the values' range
    assert abs(got_log_mass[0] - log_mass) <= promise


@pytest.mark.parametrize("kernel", [kernel for kernel in LOG_KERNELS if kernel != "dot"])
@pytest.mark.parametrize("size", [1e120, 1e150])
def test_coordinates_of_any_size(kernel, size, backend):
    keys, values = size * np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 0.5]]), np.array([1.0, 2.0, 5.0])
    queries = size * np.array([[1.0, 0.0], [1.0, 0.4], [0.0, 3.0]])
    expected, _ = mp_pool(queries, keys, values, kernel, bandwidth=size, digits=320)
    got = fastnw.pool(queries, keys, values, kernel=kernel, bandwidth=size, backend=backend)
    assert np.all(abs(got - expected) <= 1e-8 * 4)  # the promise
    nearest = fastnw.pool(queries, keys, values, kernel=kernel, bandwidth=1.0, backend=backend)
    np.testing.assert_array_equal(nearest, [1.0, 5.0, 2.0])


def test_out_may_be_the_weights():
    """The mean for empty windows is taken late, when a shared `out` would long have been written."""
    points, weights = 10 * np.arange(3.0)[:, None], np.array([1.0, 2.0, 1.0])
    options = {"kernel": "boxcar", "exclude_self": True, "empty": "mean"}
    got = fastnw.pool(points, points, [1.0, 2.0, 3.0], sample_weight=weights, out=weights, **options)
    np.testing.assert_allclose(got, 2.0, rtol=1e-15)  # (1 + 2·2 + 3)/4


def test_compiled_code_sees_aligned_arrays_only(tmp_path):
    """What C does not allow works on this processor, until a compiler takes it at its word."""
    from fastnw.core import pack
    from fastnw.core.validate import build

    rng = np.random.default_rng(0)
    queries, keys, values = (unaligned(rng.normal(size=shape), tmp_path) for shape in [(5, 3), (9, 3), (9, 1)])
    assert not any(array.flags.aligned for array in (queries, keys, values))
    problem = build(queries, keys, values, kernel="gaussian", bandwidth=1.0)
    assert pack.pack_queries(problem, slice(0, 5), np.float64).flags.aligned
    rows = pack.pack_rows(problem, 0, 9, np.float64)
    assert rows.keys.flags.aligned
    assert rows.values.flags.aligned
