"""Estimators in files: what comes back predicts the same to the last bit, and no other file is taken for one."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

import fastnw
from fastnw import KernelDensity, NadarayaWatsonClassifier, NadarayaWatsonRegressor
from fastnw.estimators import base, persistence

pytestmark = pytest.mark.filterwarnings("ignore::fastnw.BandwidthWarning")  # its words are in `selection_.notes`

RNG = np.random.default_rng(5)
N, M = 80, 25
X, Q = RNG.normal(size=(N, 2)), RNG.normal(size=(M, 2))
Y = np.sin(X[:, 0]) + 0.1 * RNG.normal(size=N)
W = RNG.integers(0, 4, N).astype(float)
LABELS = np.array(["low", "mid", "high"])[np.digitize(Y, [-0.4, 0.4])]
MATRIX = np.array([[0.5, 0.2], [0.2, 1.0]])
FRAME = pd.DataFrame(X, columns=["width", "größe"])

# name -> (estimator, what `fit` gets)
MODELS = {
    "regressor": (NadarayaWatsonRegressor(), (X, Y)),
    "a number": (NadarayaWatsonRegressor(bandwidth=0.3, kernel="tricube", empty=-1.5, tol=1e-6, n_jobs=1), (X, Y)),
    "numpy's numbers": (NadarayaWatsonRegressor(bandwidth=np.float32(0.3), tol=np.float64(1e-6)), (X, Y)),
    "a list": (NadarayaWatsonRegressor(bandwidth=[0.3, 0.7], kernel="laplacian"), (X, Y, W)),
    "a tuple": (NadarayaWatsonRegressor(bandwidth=(0.3, 0.7), kernel="dot"), (X, Y, W)),
    "a matrix": (NadarayaWatsonRegressor(bandwidth=MATRIX, kernel="matern32"), (X, np.column_stack([Y, W]), W)),
    "silverman": (NadarayaWatsonRegressor(bandwidth="silverman", kernel="linear", empty="mean"), (FRAME, Y)),
    "loo": (NadarayaWatsonRegressor(bandwidth="loo", random_state=3), (X, Y, W)),
    "aicc": (NadarayaWatsonRegressor(bandwidth="aicc", random_state=np.random.RandomState(3)), (X, Y)),
    "Abramson": (NadarayaWatsonRegressor(bandwidth=fastnw.Abramson(alpha=0.4)), (X, Y, W)),
    "neighbours": (NadarayaWatsonRegressor(bandwidth=fastnw.NearestNeighbours(k=9, bandwidth=MATRIX)), (X, Y)),
    "float32": (NadarayaWatsonRegressor(), (X.astype("f4"), Y)),
    "Fortran order": (NadarayaWatsonRegressor(), (np.asfortranarray(X), Y)),
    "registry's kernel": (NadarayaWatsonRegressor(kernel=fastnw.kernels.get("quartic"), empty="nearest"), (X, Y)),
    "classifier": (NadarayaWatsonClassifier(), (X, LABELS, W)),
    "labels of objects": (NadarayaWatsonClassifier(bandwidth=0.5), (FRAME, LABELS.astype(object))),
    "numbers as labels": (NadarayaWatsonClassifier(bandwidth="loo", random_state=0), (X, W.astype(int))),
    "several outputs": (NadarayaWatsonClassifier(), (X, np.column_stack([LABELS, (Y > 0).astype(str)]))),
    "density": (KernelDensity(bandwidth=0.4, metric_params={}), (X,)),
    "density of a box": (KernelDensity(bandwidth="scott", kernel="tophat", rtol=1e-4, atol=1e-9), (FRAME,)),
    "density, loo": (KernelDensity(bandwidth="loo"), (X, None, W)),
    "density, Abramson": (KernelDensity(bandwidth=fastnw.Abramson(bandwidth=[0.3, 0.4]), kernel="epanechnikov"), (X,)),
}


def fitted(name):
    estimator, arguments = MODELS[name]
    return clone(estimator).fit(*arguments)


def predictions(model, queries):
    names = [name for name in ("predict", "predict_proba", "score_samples") if hasattr(model, name)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fastnw.EmptyWindowWarning)
        results = [getattr(model, name)(queries) for name in names]
    return [part for result in results for part in (result if isinstance(result, list) else [result])]


def assert_same(a, b):
    """The same types and values all the way down."""
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, np.random.RandomState):
        assert_same(a.get_state(legacy=False), b.get_state(legacy=False))
    elif isinstance(a, fastnw.Kernel):
        assert a is b
    elif hasattr(a, "__dataclass_fields__"):
        assert_same(vars(a), vars(b))
    else:
        assert a == b or a != a


@pytest.mark.parametrize("name", MODELS)
def test_round_trip(name, tmp_path):
    model = fitted(name)
    fastnw.save(model, tmp_path / "model.npz")
    loaded = fastnw.load(tmp_path / "model.npz")
    assert_same(model.__getstate__(), loaded.__getstate__())
    points = Q if MODELS[name][1][0] is not FRAME else pd.DataFrame(Q, columns=FRAME.columns)
    for queries in (points, points.astype("f4")):
        for a, b in zip(predictions(model, queries), predictions(loaded, queries), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    if isinstance(model, KernelDensity):
        np.testing.assert_array_equal(model.sample(5, random_state=1), loaded.sample(5, random_state=1))


def test_names_of_features_are_still_checked(tmp_path):
    fastnw.save(fitted("silverman"), tmp_path / "m")
    with pytest.raises(ValueError, match="feature names"):
        fastnw.load(tmp_path / "m").predict(FRAME[["größe", "width"]])


def test_what_is_not_fitted_and_not_finite(tmp_path):
    """NaN and infinities are no JSON, but may be parameters."""
    for empty in (np.nan, np.inf, -np.inf):
        fastnw.save(NadarayaWatsonRegressor(empty=empty), tmp_path / "m")
        loaded = fastnw.load(tmp_path / "m")
        np.testing.assert_array_equal(loaded.empty, empty)
        assert not hasattr(loaded, "bandwidth_")


def test_a_file_holds_data_and_no_caches(tmp_path):
    model = fitted("classifier")
    fastnw.save(model, tmp_path / "a")
    model.predict(Q)
    fastnw.save(model, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    # samples, weights and codes; classes, the header (four bytes a letter) and the archive's own entries
    assert (tmp_path / "a").stat().st_size < X.nbytes + 2 * W.nbytes + 8192


def test_a_file_is_an_npz_with_a_header_to_read(tmp_path):
    fastnw.save(fitted("regressor"), tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz", allow_pickle=False) as arrays:
        header = json.loads(arrays["header"].item())
        assert any(np.array_equal(arrays[name], X) for name in arrays.files)
    assert (header["format"], header["version"], header["fastnw"]) == ("fastnw estimator", 1, fastnw.__version__)


def test_a_kernel_of_ones_own_and_other_objects_are_refused(tmp_path):
    student = fastnw.Kernel("student", lambda u2: 1 / (1 + u2) ** 2)
    model = NadarayaWatsonRegressor(kernel=student, bandwidth=1.0).fit(X, Y)
    with pytest.raises(TypeError, match="cannot store kernel 'student', which is user-defined"):
        fastnw.save(model, tmp_path / "m")
    with pytest.raises(TypeError, match=r"stores NadarayaWatsonRegressor, .*, got dict\. Pickle can store"):
        fastnw.save({}, tmp_path / "m")

    class Mine(NadarayaWatsonRegressor):
        pass

    with pytest.raises(TypeError, match="got Mine"):
        fastnw.save(Mine(), tmp_path / "m")
    model = fitted("regressor")
    model.note = object()
    with pytest.raises(TypeError, match="cannot store note, of type object"):
        fastnw.save(model, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_or_read_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        fastnw.save(fitted("regressor"), tmp_path / "no" / "m")
    with pytest.raises(FileNotFoundError):
        fastnw.load(tmp_path / "m")
    with pytest.raises(OSError, match="directory"):
        fastnw.save(fitted("regressor"), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "m"
    fastnw.save(fitted("several outputs"), path)
    return path.read_bytes()


def refusal(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^[^\n]*m: (is|was) ") as caught:
        fastnw.load(path)
    return str(caught.value)


def test_truncated_files_are_refused(saved, tmp_path):
    for size in [0, 1, 100, *range(200, len(saved), 97), len(saved) - 1]:
        refusal(tmp_path / "m", saved[:size])


def test_damaged_files_are_refused_or_harmless(saved, tmp_path):
    """A flipped bit is found by a checksum, unless it is in what zip files say beside their contents."""
    expected, refused = predictions(fitted("several outputs"), Q), 0
    positions = RNG.choice(len(saved), 400, replace=False)
    for position in positions:
        content = bytearray(saved)
        content[position] ^= 1 << int(RNG.integers(8))
        (tmp_path / "m").write_bytes(content)
        try:
            loaded = fastnw.load(tmp_path / "m")
        except ValueError as error:
            refused += str(tmp_path / "m") in str(error)
        else:
            for a, b in zip(predictions(loaded, Q), expected, strict=True):
                np.testing.assert_array_equal(a, b)
    assert refused > 300  # most bytes are contents


def rewritten(saved, change):
    """The file with its header and arrays as `change` leaves them, and right checksums."""
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    header = json.loads(np.load(io.BytesIO(entries["header.npy"])).item())
    header = change(header, entries) or header
    buffer = io.BytesIO()
    np.save(buffer, np.array(header if isinstance(header, str) else json.dumps(header)))
    entries["header.npy"] = buffer.getvalue()
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return result.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def put(attribute, array):
    """Another array in the place of an attribute's."""
    return lambda header, entries: entries.update({f"{header['state'][attribute]['array']}.npy": npy(array)})


def state(**changes):
    return lambda header, entries: header["state"].update(changes)


class Trap:
    """Unpickling it fails the test."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


CODES = np.zeros((N, 2), int)
# What a file claims -> how the refusal begins after the path.
FORGERIES = {
    "no JSON": (lambda header, entries: "{", "is damaged: its header is not JSON"),
    "deep JSON": (lambda header, entries: "[" * 10**5, "is damaged: its header is not JSON"),
    "a list": (lambda header, entries: [1], "is not a file of fastnw.save: its header is another program's."),
    "another format": (lambda h, e: h.update(format="x"), "is not a file of fastnw.save: its header is another"),
    "a newer version": (
        lambda h, e: h.update(version=2, fastnw="9.0"),
        f"was written by fastnw 9.0 in version 2 of the format; fastnw {fastnw.__version__} reads up to version 1. "
        "Upgrade fastnw to read it.",
    ),
    "version 0": (lambda h, e: h.update(version=0), "is damaged: its format's version is 0"),
    "a version in words": (lambda h, e: h.update(version="1"), "is damaged: its format's version is '1'"),
    "another class": (lambda h, e: h.update(estimator="Pipeline"), "is damaged: KeyError: 'Pipeline'"),
    "no state": (lambda h, e: h.update(state=None), "is damaged: AttributeError"),
    "an unknown tag": (state(tol={"code": "1"}), "is damaged: KeyError: 'code'"),
    "two tags": (state(tol={"float": "1", "list": []}), "is damaged: ValueError"),
    "a parameter less": (lambda h, e: h["state"].pop("tol") and None, "is damaged: ValueError: parameters are missing"),
    "a bad parameter": (state(tol=-1), "is damaged: InvalidParameterError: The 'tol' parameter"),
    "an unknown kernel": (state(kernel="gausian"), "is damaged: ValueError: Unknown kernel 'gausian'"),
    "no bandwidth": (state(bandwidth_=0.0), "is damaged: ValueError: bandwidth must be positive"),
    "another width": (state(n_features_in_=3), "is damaged: ValueError: 3 features"),
    "an array less": (lambda h, e: e.pop(f"{h['state']['_keys']['array']}.npy") and None, "is damaged: KeyError"),
    "NaN": (put("_keys", np.full((N, 2), np.nan)), "is damaged: ValueError: Input keys contains NaN."),
    "fewer keys": (put("_keys", X[1:]), "is damaged: ValueError: class codes of int64 and shape (80, 2)"),
    "no keys": (put("_keys", X[:0]), "is damaged: ValueError"),
    "words": (put("_keys", np.full((N, 2), "x")), "is damaged: ValueError: dtype='numeric' is not compatible"),
    "codes too large": (put("_codes", CODES + 9), "is damaged: ValueError: class codes beyond the classes"),
    "codes below 0": (put("_codes", CODES - 1), "is damaged: ValueError: class codes beyond the classes"),
    "codes of floats": (put("_codes", CODES + 0.5), "is damaged: ValueError: class codes of float64"),
    "a pickle": (put("_keys", np.full((N, 2), Trap())), "is damaged: _keys"),
    "weights of another length": (state(_weights={"list": [1.0]}), "is damaged: ValueError: sample_weight.shape"),
    "no array": (
        lambda h, e: e.update({f"{h['state']['_keys']['array']}.npy": b"gone"}),
        "is damaged: _keys.",
    ),
    "more than it has": (
        lambda h, e: e.update({f"{h['state']['_keys']['array']}.npy": npy(X).replace(b"(80, 2), } ", b"(8000, 2), }")}),
        "is damaged: _keys.",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_files_are_refused(saved, tmp_path, name):
    change, words = FORGERIES[name]
    assert refusal(tmp_path / "m", rewritten(saved, change)).removeprefix(f"{tmp_path / 'm'}: ").startswith(words)


def test_a_random_state_out_of_range_is_refused(tmp_path):
    """NumPy itself would read beyond its array."""
    fastnw.save(NadarayaWatsonRegressor(random_state=np.random.RandomState(0)), tmp_path / "m")

    def change(header, entries):
        code = header["state"]["random_state"]["RandomState"]["dict"]["state"]["dict"]
        assert 0 <= code["pos"] <= 624
        code["pos"] = 10**6

    assert "random state out of range" in refusal(tmp_path / "m", rewritten((tmp_path / "m").read_bytes(), change))


def test_foreign_files_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", X)
    assert "it has no header" in refusal(tmp_path / "m", (tmp_path / "a.npz").read_bytes())
    np.savez(tmp_path / "a.npz", header=X)
    assert "another program's" in refusal(tmp_path / "m", (tmp_path / "a.npz").read_bytes())
    np.savez_compressed(tmp_path / "a.npz", header=X)
    assert "is compressed" in refusal(tmp_path / "m", (tmp_path / "a.npz").read_bytes())
    assert "is not a file of fastnw.save" in refusal(tmp_path / "m", pickle.dumps(Trap()))
    assert "is not a file of fastnw.save" in refusal(tmp_path / "m", b"a,b\n1,2\n")


@pytest.mark.parametrize("name", MODELS)
def test_files_of_version_0_1_0_still_load(name, tmp_path):
    """They do not say which methods `fit` prepared; all else is the same, the format's version included."""

    def as_then(header, entries):
        del header["state"]["_prepared"]
        header.update(version=1, fastnw="0.1.0")

    model = fitted(name)
    fastnw.save(model, tmp_path / "m")
    (tmp_path / "m").write_bytes(rewritten((tmp_path / "m").read_bytes(), as_then))
    queries = Q if MODELS[name][1][0] is not FRAME else pd.DataFrame(Q, columns=FRAME.columns)
    for a, b in zip(predictions(fastnw.load(tmp_path / "m"), queries), predictions(model, queries), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["regressor", "classifier", "density"])
def test_pickles_warn_across_versions(name, monkeypatch):
    model = fitted(name)
    same = pickle.dumps(model)
    monkeypatch.setattr(base, "__version__", "0.0.9")
    older = pickle.dumps(model)
    monkeypatch.undo()
    words = (
        rf"{type(model).__name__} was pickled by version 0\.0\.9 of fastnw and is read by version {fastnw.__version__}"
    )
    with pytest.warns(fastnw.VersionWarning, match=words) as caught:
        loaded = pickle.loads(older)
    assert [warning.filename for warning in caught] == [__file__]
    again = pickle.loads(same)  # a warning would be an error here
    assert set(vars(loaded)) == set(vars(again)) == set(vars(model))
    for a, b in zip(predictions(loaded, Q), predictions(model, Q), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_pickle_without_a_version_warns():
    state = NadarayaWatsonRegressor().__getstate__()
    del state["_fastnw_version"]
    with pytest.warns(fastnw.VersionWarning, match="by version without a number"):
        NadarayaWatsonRegressor().__setstate__(state)


def test_files_do_not_warn_across_versions(saved, tmp_path):
    """Pickles hold whatever attributes there were; a file's format is kept."""
    content = rewritten(saved, lambda header, entries: header.update(fastnw="0.0.1"))
    (tmp_path / "m").write_bytes(content)
    assert isinstance(fastnw.load(tmp_path / "m"), NadarayaWatsonClassifier)


def test_kernels_of_the_registry_are_pickled_by_name():
    for kernel in map(fastnw.kernels.get, fastnw.kernels.names()):
        assert pickle.loads(pickle.dumps(kernel)) is kernel
    model = NadarayaWatsonRegressor(kernel=fastnw.kernels.get("cauchy")).fit(X, Y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(Q), model.predict(Q))


def test_every_estimator_can_be_saved():
    classes = {getattr(fastnw, name) for name in fastnw.__all__ if hasattr(getattr(fastnw, name), "fit")}
    assert classes == set(persistence._ESTIMATORS.values())
    assert {type(estimator) for estimator, _ in MODELS.values()} == classes
    assert Path(persistence.__file__).read_text(encoding="utf-8").count("allow_pickle=True") == 0
