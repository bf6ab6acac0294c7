"""What is refused, and in which words: each error of the specification, through every function."""

from __future__ import annotations

import fresh
import numpy as np
import pytest
from scipy import sparse

import fastnw
from fastnw import kernels

M, N = 3, 6
QUERIES = np.array([[0.0, 0.0], [1.0, 0.5], [-0.5, 1.0]])
KEYS = np.array([[0.0, 0.5], [1.0, 1.0], [-1.0, 0.0], [0.5, -0.5], [2.0, 0.0], [0.0, 2.0]])
VALUES = np.arange(6.0)
PROBLEM = {"queries": QUERIES, "keys": KEYS, "values": VALUES}


def without_values(function):
    return lambda queries, keys, values, **options: function(queries, keys, **options)


FUNCTIONS = {
    "pool": fastnw.pool,
    "plan": fastnw.plan,
    "density": without_values(fastnw.density),
    "attention_weights": without_values(fastnw.attention_weights),
}


@pytest.fixture(params=FUNCTIONS)
def function(request):
    """Each public function, called as `pool` is."""
    return FUNCTIONS[request.param]


def with_(array, value, at=-1):
    """A copy with one element replaced."""
    changed = np.array(array)
    changed.flat[at] = value
    return changed


WEIGHTS = np.ones(N)
NAN, INF = np.nan, np.inf
# What is wrong -> (changed arguments, the error, its words).
ARRAYS = {
    "NaN in queries": ({"queries": with_(QUERIES, NAN)}, ValueError, r"^Input queries contains NaN\.$"),
    "NaN in keys": ({"keys": with_(KEYS, NAN)}, ValueError, r"^Input keys contains NaN\.$"),
    "NaN and infinity": ({"keys": with_(with_(KEYS, INF, 0), NAN)}, ValueError, r"^Input keys contains NaN\.$"),
    "NaN in weights": ({"sample_weight": with_(WEIGHTS, NAN)}, ValueError, "^Input sample_weight contains NaN"),
    "NaN in key_scale": ({"key_scale": with_(WEIGHTS, NAN)}, ValueError, "^Input key_scale contains NaN"),
    "infinite queries": ({"queries": with_(QUERIES, INF)}, ValueError, "^Input queries contains infinity or a value"),
    "infinite keys": ({"keys": with_(KEYS, -INF)}, ValueError, "^Input keys contains infinity or a value too large"),
    "infinite float32": ({"keys": with_(KEYS, INF).astype("f4")}, ValueError, r"too large for dtype\('float32'\)"),
    "infinite weights": ({"sample_weight": with_(WEIGHTS, INF)}, ValueError, "^Input sample_weight contains infinity"),
    "infinite key_scale": ({"key_scale": with_(WEIGHTS, INF)}, ValueError, "^Input key_scale contains infinity"),
    "scalar queries": ({"queries": 1.0}, ValueError, "^Expected 2D array, got scalar array instead"),
    "1-D queries": ({"queries": QUERIES[:, 0]}, ValueError, r"^Expected 2D array, got 1D array.*reshape\(-1, 1\)"),
    "1-D keys": ({"keys": KEYS[:, 0]}, ValueError, "^Expected 2D array, got 1D array instead.*keys"),
    "3-D keys": ({"keys": KEYS[None]}, ValueError, "^Expected 2D array, got 3D array instead"),
    "wide queries": ({"queries": np.ones((M, 3))}, ValueError, "queries has 3 features, but keys has 2 features"),
    "no keys": ({"keys": KEYS[:0], "values": VALUES[:0]}, ValueError, r"^Found array with 0 sample\(s\).*keys"),
    "no features": (
        {"queries": QUERIES[:, :0], "keys": KEYS[:, :0]},
        ValueError,
        r"^Found array with 0 feature\(s\) \(shape=\(6, 0\)\) while a minimum of 1 is required",
    ),
    "complex queries": ({"queries": QUERIES + 1j}, ValueError, "^Complex data not supported"),
    "complex keys": ({"keys": KEYS + 1j}, ValueError, "^Complex data not supported"),
    "complex weights": ({"sample_weight": WEIGHTS + 0j}, ValueError, "^Complex data not supported"),
    "sparse queries": ({"queries": sparse.csr_array(QUERIES)}, TypeError, "^Sparse data was passed.*queries.*toarray"),
    "sparse keys": ({"keys": sparse.coo_matrix(KEYS)}, TypeError, "^Sparse data was passed.*keys.*toarray"),
    "words": ({"keys": np.full((N, 2), "near")}, ValueError, "numeric"),
    "numbers as words": ({"keys": KEYS.astype(str)}, ValueError, "numeric"),
    "numbers as bytes": ({"queries": QUERIES.astype("S")}, ValueError, "numeric"),
    "objects": ({"keys": np.full((N, 2), object())}, ValueError, "keys must be numeric"),
    "dates": ({"keys": np.full((N, 2), np.datetime64("2020-01-01"))}, (TypeError, ValueError), "numeric|promoted"),
    "weights of another length": ({"sample_weight": WEIGHTS[1:]}, ValueError, r"sample_weight.shape == \(5,\), expect"),
    "weights of two columns": ({"sample_weight": np.ones((N, 1))}, ValueError, r"sample_weight.shape == \(6, 1\)"),
    "negative weights": ({"sample_weight": with_(WEIGHTS, -1)}, ValueError, "^Negative values in data.*sample_weight"),
    "key_scale of another length": ({"key_scale": WEIGHTS[1:]}, ValueError, r"key_scale.shape == \(5,\), expected"),
    "key_scale 0": ({"key_scale": with_(WEIGHTS, 0, 3)}, ValueError, "key_scale must be positive, got 0.0 for key 3"),
    "negative key_scale": ({"key_scale": with_(WEIGHTS, -2)}, ValueError, "key_scale must be positive, got -2.0 for"),
    "exclude_self": ({"exclude_self": True}, ValueError, "exclude_self.* 3 and 6"),
}
ONLY_VALUES = {
    "NaN in values": ({"values": with_(VALUES, NAN)}, ValueError, r"^Input values contains NaN\.$"),
    "NaN in columns": ({"values": with_(np.ones((N, 2)), NAN)}, ValueError, r"^Input values contains NaN\.$"),
    "infinite values": ({"values": with_(VALUES, INF)}, ValueError, "^Input values contains infinity or a value"),
    "too few values": ({"values": VALUES[1:]}, ValueError, r"inconsistent numbers of samples: \[6, 5\]"),
    "3-D values": ({"values": np.ones((N, 1, 1))}, ValueError, r"values must have shape \(n,\) or \(n, c\)"),
    "scalar values": ({"values": 1.0}, ValueError, "values must have shape"),
    "complex values": ({"values": VALUES + 0j}, ValueError, "^Complex data not supported"),
    "words": ({"values": list("abcdef")}, ValueError, "numeric"),
    "numbers as words": ({"values": list("123456")}, ValueError, "numeric"),
    "sparse values": ({"values": sparse.csr_array(np.ones((N, 2)))}, TypeError, "^Sparse data was passed.*values"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays(function, case):
    changes, error, words = ARRAYS[case]
    with pytest.raises(error, match=words):
        function(**PROBLEM | changes)


@pytest.mark.parametrize("case", ONLY_VALUES)
@pytest.mark.parametrize("function", [fastnw.pool, fastnw.plan])
def test_values(function, case):
    changes, error, words = ONLY_VALUES[case]
    with pytest.raises(error, match=words):
        function(**PROBLEM | changes)


def test_pool_needs_values():
    with pytest.raises(ValueError, match="values"):
        fastnw.pool(QUERIES, KEYS, None)


BANDWIDTHS = {
    "zero": (0, "bandwidth must be positive and finite, got 0"),
    "negative": (-1.5, r"bandwidth must be positive and finite, got -1\.5"),
    "NaN": (NAN, "bandwidth must be positive and finite, got nan"),
    "infinite": (INF, "bandwidth must be positive and finite, got inf"),
    "None": (None, "bandwidth"),
    "zero for one": ([1.0, 0.0], "got 0.0 for coordinate 1"),
    "negative for one": ([-1.0, 1.0], "got -1.0 for coordinate 0"),
    "NaN for one": ([1.0, NAN], "got nan for coordinate 1"),
    "too long": (np.ones(3), r"shape \(2,\) or a matrix of shape \(2, 2\), got shape \(3,\)"),
    "a row": (np.ones((1, 2)), r"got shape \(1, 2\)"),
    "too large a matrix": (np.eye(3), r"got shape \(3, 3\)"),
    "not symmetric": ([[1.0, 0.5], [0.0, 1.0]], r"symmetric.*\(0, 1\) and \(1, 0\)"),
    "indefinite": ([[1.0, 2.0], [2.0, 1.0]], "positive definite; it fails at coordinate 1"),
    "negative matrix": ([[-1.0, 0.0], [0.0, 1.0]], "positive definite; it fails at coordinate 0"),
    "singular": ([[1.0, 1.0], [1.0, 1.0]], "positive definite; it fails at coordinate 1"),
    "NaN in a matrix": ([[1.0, 0.0], [0.0, NAN]], r"finite, got nan at coordinates \(1, 1\)"),
    "a rule": ("scott", "'scott' need an estimator"),
    "a word": ("wide", "bandwidth must be a number or an array"),
    "ragged": ([[1.0], [1.0, 2.0]], "bandwidth must be a number or an array of numbers"),
    "complex": (np.array([1.0 + 1j, 2.0]), "bandwidth|[Cc]omplex"),
}


@pytest.mark.parametrize("case", BANDWIDTHS)
def test_bandwidths(function, case):
    bandwidth, words = BANDWIDTHS[case]
    with pytest.raises(ValueError, match=words):
        function(**PROBLEM, bandwidth=bandwidth)


def test_an_unknown_kernel_lists_the_choices(function):
    with pytest.raises(ValueError, match="Unknown kernel 'gausian'") as error:
        function(**PROBLEM, kernel="gausian")
    for kernel in map(kernels.get, kernels.names()):
        for name in (kernel.name, *kernel.aliases):
            assert repr(name) in str(error.value)


@pytest.mark.parametrize("spelling", ["epanechikov", "Epanechikov"])
def test_the_chapters_epanechikov_names_both_kernels(function, spelling):
    with pytest.raises(ValueError, match=r"'triangular'.*'epanechnikov'"):
        function(**PROBLEM, kernel=spelling)


@pytest.mark.parametrize("kernel", [None, 3, len])
def test_a_kernel_is_a_name_or_a_kernel(function, kernel):
    with pytest.raises(TypeError, match=r"kernel must be a name or a fastnw\.Kernel"):
        function(**PROBLEM, kernel=kernel)


METHODS = ["auto", "exact", "tree", "moments", "fourier"]
BACKENDS = ["auto", "compiled", "numba", "cuda", "reference"]


@pytest.mark.parametrize(("argument", "choices"), [("method", METHODS), ("backend", BACKENDS)])
@pytest.mark.parametrize("choice", ["fast", "Exact", "", None, 1])
def test_an_unknown_method_or_backend_lists_the_choices(function, argument, choices, choice):
    with pytest.raises(ValueError, match=f"Unknown {argument} {choice!r}") as error:
        function(**PROBLEM, **{argument: choice})
    for name in choices:
        assert repr(name) in str(error.value)


@pytest.mark.parametrize(
    ("argument", "choice"),
    [*(("method", name) for name in METHODS[1:]), *(("backend", name) for name in BACKENDS[1:])],
)
def test_a_forced_choice_is_taken_or_refused_but_never_replaced(function, argument, choice):
    options = {argument: choice}
    try:
        plan = fastnw.plan(**PROBLEM, **options)
    except ValueError as refusal:
        words = str(refusal)
        assert f"{argument}={choice!r}" in words
        assert len(words.split()) > 4  # a reason
        with pytest.raises(ValueError, match=f"{argument}={choice!r}"):
            function(**PROBLEM, **options)
    else:
        assert getattr(plan, argument) == choice
        if function is FUNCTIONS["attention_weights"] and argument == "method" and choice != "exact":
            with pytest.raises(ValueError, match=f"{argument}={choice!r}"):  # each pair's weight is asked for
                function(**PROBLEM, **options)
        else:
            function(**PROBLEM, **options)


def test_a_backend_that_cannot_run_the_kernel_says_so(function):
    student = fastnw.Kernel("student", lambda u2: 1 / (1 + u2) ** 2)
    with pytest.raises(ValueError, match=r"backend='compiled'.*'student'"):
        function(**PROBLEM, kernel=student, backend="compiled")


@pytest.mark.parametrize(("kernel", "d"), [("constant", 1), ("dot", 1), ("cauchy", 2)])
def test_density_of_a_kernel_without_integral(kernel, d):
    points = np.zeros((2, d))
    with pytest.raises(ValueError, match=kernel):
        fastnw.density(points, points, kernel=kernel)


@pytest.mark.parametrize(("top_k", "error"), [(0, ValueError), (-1, ValueError), (7, ValueError), (2.0, TypeError)])
def test_top_k(top_k, error):
    with pytest.raises(error, match="top_k must be"):
        fastnw.attention_weights(QUERIES, KEYS, top_k=top_k)


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("out", "words"),
    [
        (np.empty(4), r"out must be .*float64 and shape \(3,\), got float64 of shape \(4,\)"),
        (np.empty((3, 1)), r"got float64 of shape \(3, 1\)"),
        (np.empty(3, "f4"), "got float32"),
        (np.empty(3, ">f8"), "got >f8"),
        (np.empty(3, int), "got int"),
        ([0.0, 0.0, 0.0], "got list"),
        (read_only(np.empty(3)), "out must be writeable"),
    ],
)
def test_out(out, words):
    with pytest.raises(ValueError, match=words):
        fastnw.pool(**PROBLEM, out=out)


@pytest.mark.parametrize("empty", ["zero", "", None, True, [0.0]])
@pytest.mark.parametrize("function", [fastnw.pool, FUNCTIONS["attention_weights"]])
def test_an_unknown_policy_for_empty_windows(function, empty):
    with pytest.raises(ValueError, match="empty must be one of 'nan', 'raise', 'nearest', 'mean' or a number"):
        function(**PROBLEM, empty=empty)


@pytest.mark.parametrize("function", [fastnw.pool, FUNCTIONS["attention_weights"]])
def test_empty_windows_raise_on_request(function):
    far = np.concatenate([QUERIES, QUERIES + 50])
    with pytest.raises(ValueError, match=r"3 of 6 queries.*boxcar.*first: 3, 4, 5"):
        function(far, KEYS, VALUES, kernel="boxcar", empty="raise")


@pytest.mark.parametrize("tol", [-1e-3, NAN, INF, "1e-3", True])
@pytest.mark.parametrize("function", [fastnw.pool, fastnw.plan, FUNCTIONS["density"]])
def test_tol(function, tol):
    with pytest.raises(ValueError, match="tol must be None or a finite number >= 0"):
        function(**PROBLEM, tol=tol)


@pytest.mark.parametrize(("n_jobs", "error"), [(0, ValueError), (1.5, TypeError), ("2", TypeError), (True, TypeError)])
def test_n_jobs(function, n_jobs, error):
    with pytest.raises(error, match="n_jobs"):
        function(**PROBLEM, n_jobs=n_jobs)


USE = "import fastnw; fastnw.pool([[0.0]], [[0.0]], [1.0])"


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("FASTNW_CPU", "v9", "FASTNW_CPU must be one of v2, v3, v4, got 'v9'"),
        ("FASTNW_NUM_THREADS", "0", "FASTNW_NUM_THREADS must be a positive integer, got '0'"),
        ("FASTNW_NUM_THREADS", "-2", "FASTNW_NUM_THREADS must be a positive integer, got '-2'"),
        ("FASTNW_NUM_THREADS", "two", "FASTNW_NUM_THREADS must be a positive integer, got 'two'"),
        ("FASTNW_NUM_THREADS", "²", "FASTNW_NUM_THREADS must be a positive integer, got '²'"),
        ("OMP_NUM_THREADS", "many", "OMP_NUM_THREADS must be a positive integer, got 'many'"),
    ],
)
def test_environment_variables(variable, text, words):
    done = fresh.attempt(USE, **{variable: text, "PYTHONUTF8": "1"})
    assert done.returncode == 1
    assert f"ValueError: {words}" in done.stderr
    assert "Traceback" not in fresh.run("import fastnw", **{variable: text})  # the import itself asks nothing


@pytest.mark.parametrize(("variable", "text"), [("FASTNW_CPU", "v9"), ("FASTNW_NUM_THREADS", "two")])
def test_the_report_says_what_is_wrong_with_a_variable(variable, text):
    """It is asked for when something does not work."""
    report = fresh.run("import fastnw; fastnw.show_config()", **{variable: text, "PYTHONUTF8": "1"})
    assert f"{variable} must be" in report
    assert fastnw.__version__ in report
    assert "numpy" in report


BAD_KERNELS = {
    "no function": ({"profile": 1.0}, TypeError, "profile of kernel 'mine' must be callable, got float"),
    "no log function": ({"log_profile": "log"}, TypeError, "log_profile of kernel 'mine' must be callable, got str"),
    "negative": ({"profile": lambda u2: 1 - u2}, ValueError, "profile.*finite and non-negative .*at u² = 1.26562"),
    "NaN": ({"profile": lambda u2: np.where(u2 > 4, np.nan, 1.0)}, ValueError, "profile.*finite and non-negative"),
    "infinite": ({"profile": lambda u2: 1e300 * 10.0 ** (u2 + 1)}, ValueError, "profile.*finite and non-negative"),
    "0 at 0": ({"profile": lambda u2: u2}, ValueError, "must be positive at 0"),
    "no support": ({"support": 0}, ValueError, "support of kernel 'mine' must be a positive number"),
    "negative support": ({"support": -1.0}, ValueError, "support of kernel 'mine'"),
    "infinite support": ({"support": INF}, ValueError, "support of kernel 'mine'"),
    "another log": ({"log_profile": lambda u2: -2 * u2}, ValueError, "log_profile.*not the logarithm"),
}


@pytest.mark.parametrize("case", BAD_KERNELS)
def test_user_kernels(case):
    changes, error, words = BAD_KERNELS[case]
    arguments = {"profile": lambda u2: np.exp(-u2)} | changes
    with np.errstate(over="ignore"), pytest.raises(error, match=words):
        fastnw.Kernel("mine", **arguments)


def test_a_profile_is_only_asked_for_within_its_support():
    half = fastnw.Kernel("half", lambda u2: 1 - u2 if u2 <= 1 else 1 / 0, support=1.0)
    got = fastnw.pool([[0.0]], [[0.5], [0.5], [3.0]], [1.0, 2.0, 9.0], kernel=half)
    np.testing.assert_array_equal(got, [1.5])


def test_a_profile_that_fails_is_the_users_error():
    def profile(u2):
        return 1 / 0

    with pytest.raises(ZeroDivisionError):
        fastnw.Kernel("mine", profile)


def test_a_profile_that_turns_nan_is_no_empty_window(backend):
    """Its grid of trial reaches u = 8; what fails beyond is named, not taken for a window without keys."""
    if backend != "reference":
        pytest.skip("user kernels run in the reference backend")
    root = fastnw.Kernel("root", lambda u2: np.sqrt(100 - u2))
    with pytest.raises(ValueError, match="root"):
        fastnw.pool([[0.0]], [[1.0], [20.0]], [1.0, 2.0], kernel=root, backend=backend)


ZERO = np.empty((0, 2))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernel", fastnw.kernels.names())
def test_no_queries_of_any_kernel(kernel, dtype):
    for d in (1, 3, 64):
        assert fastnw.pool(np.empty((0, d), dtype), np.ones((5, d), dtype), np.ones(5, dtype), kernel=kernel).size == 0


@pytest.mark.parametrize("columns", [None, 1, 3])
def test_no_queries_give_an_empty_result(columns, dtype, backend):
    values = VALUES if columns is None else np.ones((N, columns))
    shape = (0,) if columns is None else (0, columns)
    out = np.empty(shape, dtype)
    arguments = [a.astype(dtype) for a in (ZERO, KEYS, values)]
    got, log_mass, error = fastnw.pool(
        *arguments, backend=backend, return_mass=True, return_error=True, out=out, progress=True
    )
    assert got is out
    assert (got.shape, log_mass.shape, error.shape) == (shape, (0,), (0,))
    assert (got.dtype, log_mass.dtype, error.dtype) == (dtype, dtype, np.float64)


def test_no_queries_in_the_other_functions(dtype):
    queries, keys = ZERO.astype(dtype), KEYS.astype(dtype)
    density = fastnw.density(queries, keys)
    assert (density.shape, density.dtype) == ((0,), dtype)
    weights = fastnw.attention_weights(queries, keys)
    assert (weights.shape, weights.dtype) == ((0, N), dtype)
    indices, weights = fastnw.attention_weights(queries, keys, top_k=2)
    assert (indices.shape, weights.shape, indices.dtype, weights.dtype) == ((0, 2), (0, 2), np.int64, dtype)
    assert fastnw.plan(queries, keys).pairs == 0
    assert "0 queries" in str(fastnw.plan(queries, keys))
