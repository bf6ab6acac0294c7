"""Data frames: columns belong together by their names, in every function that takes two tables."""

from __future__ import annotations

import datetime
import itertools
import re

import numpy as np
import pandas as pd
import pytest

import fastnw
from fastnw import KernelDensity, NadarayaWatsonClassifier, NadarayaWatsonRegressor, d2l
from fastnw.plotting import AttentionDisplay, RegressionDisplay

RNG = np.random.default_rng(3)
NAMES = ["a", "b", "c"]
Q, K = RNG.normal(size=(7, 3)), RNG.normal(size=(40, 3))
V, W = RNG.normal(size=40), RNG.uniform(0.5, 2, size=40)
H = [0.5, 1.0, 2.0]  # other columns are other numbers


def arrow(build):
    def built(columns, names):
        pa = pytest.importorskip("pyarrow")
        return build(pa)([pa.array(column) for column in columns], names=list(names))

    return built


def polars(columns, names):
    return pytest.importorskip("polars").DataFrame(dict(zip(names, columns, strict=True)))


def pandas(columns, names):
    return pd.concat([pd.Series(column) for column in columns], axis=1).set_axis(list(names), axis=1)


FRAMES = {
    "pandas": pandas,
    "polars": polars,
    "arrow table": arrow(lambda pa: pa.table),
    "record batch": arrow(lambda pa: pa.RecordBatch.from_arrays),
}
OF_ONE_NAME_TWICE = ["pandas", "arrow table", "record batch"]  # polars has none

# (queries, keys) -> arrays. What takes two tables of the same columns.
FUNCTIONS = {
    "pool": lambda q, k: fastnw.pool(q, k, V, bandwidth=H, return_mass=True, return_error=True),
    "density": lambda q, k: [fastnw.density(q, k, bandwidth=H)],
    "attention_weights": lambda q, k: [fastnw.attention_weights(q, k, bandwidth=H)],
    "top_k": lambda q, k: fastnw.attention_weights(q, k, bandwidth=H, top_k=4),
    "plan": lambda q, k: [fastnw.plan(q, k, V, bandwidth=H).pairs],
    "relative_representation": lambda q, k: [fastnw.relative_representation(q, k, top_k=5).toarray()],
    "d2l": lambda q, k: d2l.nadaraya_watson(k, V, q, d2l.gaussian),
    "AttentionDisplay": lambda q, k: [drawn(q, k)],
}
CALLED = {"relative_representation": ("x", "anchors"), "d2l": ("x_val", "x_train")}


def drawn(q, k):
    from matplotlib.figure import Figure

    return AttentionDisplay.from_arrays(q, k, bandwidth=H, ax=Figure().subplots()).weights


def assert_same(got, expected):
    for a, b in zip(got, expected, strict=True):
        assert type(a) is type(b)  # NumPy's
        # sums over the columns of a frame may go in another order than over rows; other columns are far from this
        np.testing.assert_allclose(a, b, rtol=1e-14, atol=1e-15)


def frame(kind, array, names=NAMES, order=None):
    order = range(len(names)) if order is None else order
    return FRAMES[kind]([array[:, j] for j in order], [names[j] for j in order])


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", FRAMES)
def test_columns_in_any_order_are_matched_by_name(kind, function):
    call = FUNCTIONS[function]
    expected = call(Q, K)
    for order in itertools.permutations(range(3)):
        assert_same(call(frame(kind, Q, order=order), frame(kind, K)), expected)
        reordered = K[:, order]
        if function != "d2l":  # the same columns in another order, with the bandwidths in the keys' order
            got = fastnw.pool(frame(kind, Q), frame(kind, K, order=order), V, bandwidth=np.array(H)[list(order)])
            assert_same([got], [fastnw.pool(Q[:, order], reordered, V, bandwidth=np.array(H)[list(order)])])


@pytest.mark.parametrize(("of_queries", "of_keys"), itertools.permutations(FRAMES, 2))
def test_frames_of_two_libraries(of_queries, of_keys):
    got = fastnw.pool(frame(of_queries, Q, order=(2, 0, 1)), frame(of_keys, K), V, bandwidth=H)
    assert_same([got], [fastnw.pool(Q, K, V, bandwidth=H)])


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", FRAMES)
def test_missing_and_unexpected_columns_are_named(kind, function):
    call, (queries, keys) = FUNCTIONS[function], CALLED.get(function, ("queries", "keys"))
    begin = f"The feature names of {queries} should match those of {keys}.\n"
    extra = frame(kind, np.column_stack([Q, Q[:, 0]]), [*NAMES, "z"])
    unseen, missing = f"Feature names unseen in {keys}:\n", f"Feature names seen in {keys}, yet missing in {queries}:\n"
    for wrong, message in (
        (extra, f"{begin}{unseen}- z\n"),
        (frame(kind, Q[:, :2], NAMES[:2]), f"{begin}{missing}- c\n"),
        (frame(kind, Q, ["a", "B", "C"]), f"{begin}{unseen}- B\n- C\n{missing}- b\n- c\n"),
    ):
        with pytest.raises(ValueError, match=re.escape(message) + "$"):
            call(wrong, frame(kind, K))


def test_no_more_than_five_names_are_listed():
    wide = pandas(list(np.ones((8, 2))), "abcdefgh")
    with pytest.raises(
        ValueError, match=r"unseen in keys:\n- a\n- b\n- c\n- d\n- e\n- \.\.\.\n.*missing in queries:\n- z\n$"
    ):
        fastnw.pool(wide, pandas([np.ones(2)], "z"), [1.0, 2.0])


@pytest.mark.parametrize("kind", OF_ONE_NAME_TWICE)
def test_a_name_that_comes_twice(kind):
    """Columns in the same order are those of arrays; any other order cannot be told."""
    twice = ["a", "b", "a"]
    assert_same(
        [fastnw.pool(frame(kind, Q, twice), frame(kind, K, twice), V, bandwidth=H)], FUNCTIONS["pool"](Q, K)[:1]
    )
    for q, k, named in ((["a", "a", "b"], twice, "queries"), (twice, NAMES, "queries"), (NAMES, twice, "keys")):
        with pytest.raises(ValueError, match=f"{named} has more than one column named 'a': columns cannot be matched"):
            fastnw.density(frame(kind, Q, q), frame(kind, K, k))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", FRAMES)
def test_one_side_without_names_is_matched_by_position(kind, function):
    call = FUNCTIONS[function]
    expected = call(Q, K)
    assert_same(call(Q, frame(kind, K, order=(0, 1, 2))), expected)
    assert_same(call(frame(kind, Q), K), expected)
    assert_same(call(pd.DataFrame(Q), frame(kind, K)), expected)  # pandas numbers columns: these are no names
    assert_same(call(pd.DataFrame(Q), pd.DataFrame(K)), expected)


def test_names_of_several_types_are_refused():
    mixed = pandas(list(Q.T), ["a", 1, "c"])
    assert_same(FUNCTIONS["pool"](mixed, pandas(list(K.T), ["a", 1, "c"])), FUNCTIONS["pool"](Q, K))
    with pytest.raises(
        TypeError, match=r"only supported if all input features .* queries has \['int', 'str'\] as feat"
    ):
        fastnw.pool(mixed, pandas(list(K.T), NAMES), V)


@pytest.mark.parametrize("kind", FRAMES)
def test_columns_of_several_types(kind):
    """Integers, booleans and floats side by side are the numbers that they are."""
    columns = [
        RNG.integers(0, 200, 40).astype("u1"),
        RNG.integers(-(2**50), 2**50, 40),
        RNG.normal(size=40),
        K[:, 0] > 0,
    ]
    narrow = [columns[0], columns[1].astype("i8"), columns[2].astype("f4"), columns[3]]
    for some in (columns, narrow):
        plain = np.column_stack([np.asarray(column, np.float64) for column in some])
        table = FRAMES[kind](some, "abcd")
        got = fastnw.pool(FRAMES[kind](some[::-1], "dcba"), table, V, bandwidth=[50.0, 2.0**49, 1.0, 1.0])
        assert got.dtype == np.float64
        np.testing.assert_array_equal(got, fastnw.pool(plain, plain, V, bandwidth=[50.0, 2.0**49, 1.0, 1.0]))


@pytest.mark.parametrize("kind", FRAMES)
def test_integers_that_are_rounded_warn_and_missing_cells_are_refused(kind):
    big = FRAMES[kind]([np.array([2**53 + 1, 0]), np.array([0.5, 1.0])], "ab")
    with pytest.warns(fastnw.AccuracyWarning, match=r"beyond 2\*\*53 in queries, keys are rounded"):
        fastnw.pool(big, big, [1.0, 2.0])
    hole = FRAMES[kind]([np.array([1.0, np.nan]), np.array([1.0, 2.0])], "ab")
    with pytest.raises(ValueError, match="Input queries contains NaN"):
        fastnw.pool(hole, FRAMES[kind]([np.ones(2), np.ones(2)], "ab"), [1.0, 2.0])


@pytest.mark.parametrize("kind", FRAMES)
def test_missing_cells_of_nullable_columns(kind):
    columns = [[1, None], [True, None], [1.5, 2.0]]
    if kind == "pandas":
        table = pd.DataFrame(
            {"a": pd.array([1, None], "Int8"), "b": pd.array([True, None], "boolean"), "c": [1.5, 2.0]}
        )
    elif kind == "polars":
        table = pytest.importorskip("polars").DataFrame(dict(zip("abc", columns, strict=True)))
    else:
        table = FRAMES[kind](columns, "abc")
    with pytest.raises(ValueError, match="Input keys contains NaN"):
        fastnw.pool(Q, table, [1.0, 2.0])


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize(
    ("column", "said"),
    [
        ([datetime.date(2024, 1, 1), datetime.date(2024, 1, 3)], "dates or durations"),
        ([datetime.datetime(2024, 1, 1), datetime.datetime(2024, 1, 3)], "dates or durations"),
        ([datetime.timedelta(1), datetime.timedelta(3)], "dates or durations"),
        (["1", "2"], "bytes/strings"),
    ],
)
def test_dates_and_words_beside_numbers_are_no_numbers(kind, column, said):
    if kind == "pandas" and isinstance(column[0], datetime.date):
        column = pd.to_datetime(column)
    elif kind in ("pandas", "polars"):
        column = list(column)
    table = FRAMES[kind]([[0.5, 1.0], column], "ab")
    with pytest.raises(ValueError, match=rf"not compatible with (arrays of )?{said} \(queries"):
        fastnw.pool(table, np.ones((2, 2)), [1.0, 2.0])


def series(kind):
    if kind == "pandas":
        return lambda array: pd.Series(array, index=np.arange(len(array))[::-1])  # an index has no say
    if kind == "polars":
        return pytest.importorskip("polars").Series
    pa = pytest.importorskip("pyarrow")
    if kind == "arrow table":
        return lambda array: pa.chunked_array([array[:9], array[9:]])
    return pa.array


@pytest.mark.parametrize("kind", FRAMES)
def test_series_are_taken_by_position(kind):
    column = series(kind)
    got = fastnw.pool(
        frame(kind, Q), frame(kind, K), column(V), sample_weight=column(W), key_scale=column(W), bandwidth=H
    )
    assert_same([got], [fastnw.pool(Q, K, V, sample_weight=W, key_scale=W, bandwidth=H)])
    got = fastnw.density(frame(kind, Q), frame(kind, K), sample_weight=column(W))
    assert_same([got], [fastnw.density(Q, K, sample_weight=W)])
    got = fastnw.attention_weights(frame(kind, Q), frame(kind, K), sample_weight=column(W), key_scale=column(W))
    assert_same([got], [fastnw.attention_weights(Q, K, sample_weight=W, key_scale=W)])
    found = fastnw.select_bandwidth(frame(kind, K), column(V), sample_weight=column(W), candidates=[0.5, 1.0])
    assert found.bandwidth.tolist() == (
        fastnw.select_bandwidth(K, V, sample_weight=W, candidates=[0.5, 1.0]).bandwidth.tolist()
    )


@pytest.mark.parametrize("kind", FRAMES)
def test_values_in_a_frame(kind):
    values = np.column_stack([V, W])
    assert_same([fastnw.pool(Q, K, frame(kind, values, ["y", "z"]))], [fastnw.pool(Q, K, values)])
    assert_same([fastnw.pool(Q, K, frame(kind, values[:, :1], ["y"]))], [fastnw.pool(Q, K, values[:, :1])])


@pytest.mark.parametrize("criterion", ["scott", "loo"])
@pytest.mark.parametrize("kind", FRAMES)
def test_errors_of_rules_name_a_frames_column(kind, criterion):
    flat = np.column_stack([K[:, 0], np.ones(40)])
    with pytest.raises(ValueError, match=f"bandwidth='{criterion}' gives 0 for column 'flat'"):
        fastnw.select_bandwidth(frame(kind, flat, ["x", "flat"]), V, criterion=criterion)


def test_numbers_as_objects_are_no_labels():
    """A frame of several types gives a column as objects."""
    found = fastnw.select_bandwidth(K, V.astype(object), candidates=[0.5, 1.0])
    assert found.score == fastnw.select_bandwidth(K, V, candidates=[0.5, 1.0]).score


@pytest.mark.parametrize("estimator", [NadarayaWatsonRegressor, NadarayaWatsonClassifier, KernelDensity])
@pytest.mark.parametrize("kind", FRAMES)
def test_estimators_know_the_names_of_every_frame(kind, estimator):
    labels = (V > 0).astype(int)
    model = estimator(bandwidth=0.5).fit(frame(kind, K), labels)
    assert model.feature_names_in_.tolist() == NAMES
    ask = model.score_samples if estimator is KernelDensity else model.predict
    plain = estimator(bandwidth=0.5).fit(K, labels)
    np.testing.assert_array_equal(ask(frame(kind, Q)), getattr(plain, ask.__name__)(Q))
    with pytest.raises(ValueError, match="must be in the same order as they were in fit"):  # scikit-learn's rule
        ask(frame(kind, Q, order=(2, 0, 1)))


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow table"])
def test_a_fit_over_one_named_feature_is_drawn(kind):
    from matplotlib.figure import Figure

    table = frame(kind, K[:, :1], ["dose"])
    fit = NadarayaWatsonRegressor(bandwidth=0.4).fit(table, V)
    display = RegressionDisplay.from_estimator(fit, table, V, ax=Figure().subplots())
    assert display.ax_.get_xlabel() == "dose"


def test_a_lazy_frame_is_to_be_collected():
    lazy = pytest.importorskip("polars").DataFrame({"a": [1.0]}).lazy()
    with pytest.raises(TypeError, match=r"queries is a lazy LazyFrame\. Call its \.collect\(\) first\."):
        fastnw.pool(lazy, np.ones((1, 1)), [1.0])
