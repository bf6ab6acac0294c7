"""``fastnw predict``: reads a table of training rows and one of queries, and writes the queries with predictions."""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastnw import bandwidth, kernels
from fastnw.bandwidth.criteria import loss_for
from fastnw.bandwidth.rows import Rows
from fastnw.cli.usage import UsageError
from fastnw.core.classes import OneHot
from fastnw.core.validate import EMPTY_POLICIES
from fastnw.core.warnings import EmptyWindowWarning
from fastnw.functions import pool
from fastnw.kernels.kernel import Kernel
from fastnw.runtime.terminal import say
from fastnw.tables import Table, TableError, check_writable, read_table, write_table
from fastnw.tables.columns import as_floats

EPILOG = """\
Tables are .csv (with a header line), .npy, .npz or .parquet (pip install 'fastnw[io]'). The result holds the columns
of QUERIES, then prediction, with --classify p_CLASS for each class, and log_mass: the logarithm of the kernel weight
around the query, low where there are few training rows, -inf where there is none.

examples:
  fastnw predict train.csv new.csv --target price
  fastnw predict train.csv new.csv --target price --features size,rooms --kernel epanechnikov --bandwidth 20,1.5
  fastnw predict train.npy new.npy --target 3 --out predicted.npy --force
  fastnw predict train.parquet new.parquet --target species --classify --bandwidth loo
"""

NAMED_BANDWIDTHS = (*bandwidth.RULES, *bandwidth.CRITERIA)
MAX_CLASS_CELLS = 2**29  # rows times classes: far more than classes need, and less than a column of identifiers has


@dataclass(frozen=True)
class _Training:
    """The columns of the training table.

    Attributes
    ----------
    table : Table
    features : list of str
    keys : (n, d) array
    target : (n,) array
        Numbers, or class labels.
    weights : (n,) array or None
    classes : (c,) array or None
        The distinct labels, sorted.
    """

    table: Table
    features: list[str]
    keys: np.ndarray
    target: np.ndarray
    weights: np.ndarray | None
    classes: np.ndarray | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``fastnw predict`` to a parser."""
    parser.epilog = EPILOG
    parser.add_argument("train", metavar="TRAIN", type=Path, help="table of rows whose target is known")
    parser.add_argument("queries", metavar="QUERIES", type=Path, help="table of rows to predict for")
    parser.add_argument("--target", required=True, metavar="COL", help="column of TRAIN to predict")
    parser.add_argument("--classify", action="store_true", help="the target is a class, not a number")
    of_features = "columns to predict from (default: all of TRAIN but the target and the weights)"
    parser.add_argument("--features", type=_names, metavar="A,B", help=of_features)
    parser.add_argument("--weight", metavar="COL", help="column of TRAIN with each row's relative weight")
    of_kernels = f"one of {', '.join(kernels.names())} (default: %(default)s)"
    parser.add_argument("--kernel", type=_kernel, default="gaussian", metavar="K", help=of_kernels)
    of_bandwidth = f"a number, one for each feature (H1,H2), {' or '.join(NAMED_BANDWIDTHS)} (default: %(default)s)"
    parser.add_argument("--bandwidth", type=_bandwidth, default="scott", metavar="H", help=of_bandwidth)
    of_empty = (
        f"prediction where the window has no training row: {', '.join(EMPTY_POLICIES)} or a number "
        "(default: %(default)s, with --classify the classes' shares in TRAIN)"
    )
    parser.add_argument("--empty", type=_empty, default="nan", metavar="POLICY", help=of_empty)
    parser.add_argument(
        "--tol", type=_tolerance, help="largest error as a fraction of the target's range; 0: every pair"
    )
    parser.add_argument("--method", default="auto", metavar="M", help="which pairs are summed (default: %(default)s)")
    parser.add_argument("--backend", default="auto", metavar="B", help="what sums them (default: %(default)s)")
    parser.add_argument("--n-jobs", type=int, metavar="N", help="threads (default: every core allowed)")
    of_out = "file to write (default: beside QUERIES, NAME.predictions.SUFFIX)"
    parser.add_argument("--out", type=Path, metavar="FILE", help=of_out)
    parser.add_argument("--force", action="store_true", help="overwrite the file")
    parser.add_argument("--quiet", action="store_true", help="no summary, no progress bar")


def run(args: argparse.Namespace) -> int:
    """Read the tables, predict, write the result and print a summary of two lines.

    Raises
    ------
    UsageError
        The call is wrong.
    TableError
        The data are wrong.
    """
    out = args.out or args.queries.with_name(f"{args.queries.stem}.predictions{args.queries.suffix}")
    _check_out(out, args)
    training = _read_training(args)
    queries = read_table(args.queries)
    points = queries.matrix(training.features)
    _refuse_taken(queries, _result_names(training.classes))
    _warn_of_rounding(args, training, queries)
    h = _resolve_bandwidth(args, training)
    start = time.perf_counter()
    predicted, log_mass = _predicted(args, training, points, h)
    seconds = time.perf_counter() - start
    _report_empty(args, np.flatnonzero(np.isneginf(log_mass)), len(log_mass))
    columns = _result_columns(training.classes, predicted, log_mass)
    write_table({**queries.columns, **columns}, out, force=args.force)
    if not args.quiet:
        print(_summary(args, training, len(points), h, seconds, out))
    return 0


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if "" in names:
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name")
    for name, count in Counter(names).items():
        if count > 1:
            raise argparse.ArgumentTypeError(f"{name!r} is given more than once")
    return names


def _kernel(text: str) -> Kernel:
    try:
        return kernels.get(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _bandwidth(text: str) -> str | np.ndarray:
    """The name of a rule or a criterion, or an array of shape () or (d,)."""
    if text in NAMED_BANDWIDTHS:
        return text
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        rules = " nor ".join(map(repr, NAMED_BANDWIDTHS))
        raise argparse.ArgumentTypeError(f"{text!r} is neither numbers nor {rules}") from None
    bad = next((number for number in numbers if not (number > 0 and math.isfinite(number))), None)
    if bad is not None:
        raise argparse.ArgumentTypeError(f"must be positive and finite, got {bad:g}")
    return np.array(numbers) if "," in text else np.array(numbers[0])


def _empty(text: str) -> str | float:
    if text in EMPTY_POLICIES:
        return text
    try:
        return float(text)
    except ValueError:
        choices = ", ".join(map(repr, EMPTY_POLICIES))
        raise argparse.ArgumentTypeError(f"{text!r} is none of {choices}, nor a number") from None


def _tolerance(text: str) -> float:
    try:
        tol = float(text)
    except ValueError:
        tol = math.nan
    if not (tol >= 0 and math.isfinite(tol)):
        raise argparse.ArgumentTypeError(f"must be a number, 0 or more, got {text!r}")
    return tol


def _check_out(out: Path, args: argparse.Namespace) -> None:
    """Refuse, before the work is done, an output that cannot be written or that would overwrite an input."""
    for name in (args.train, args.queries):
        if out.exists() and name.exists() and out.samefile(name):
            raise UsageError(f"--out {out} would overwrite an input.")
    if args.classify and isinstance(args.empty, float):
        raise UsageError("--empty takes no number with --classify.")
    if out.exists() and not args.force:
        raise TableError(f"{out}: exists already; --force overwrites it.")
    check_writable(out, force=args.force)


def _read_training(args: argparse.Namespace) -> _Training:
    target, weight = args.target, args.weight
    others = [target] if weight is None else [target, weight]
    for name in others:
        if name in (args.features or ()):
            raise UsageError(f"--features has {name!r}, which is the {'target' if name == target else 'weight'}.")
    if target == weight:
        raise UsageError(f"--weight {weight!r} is the target.")
    table = read_table(args.train, None if args.features is None else [*args.features, *others])
    for name in others:
        table.column(name)
    features = args.features or _default_features(table, others)
    keys = table.matrix(features)
    labels = _labels(table, target) if args.classify else _target_numbers(table, target)
    classes = np.unique(labels) if args.classify else None
    if classes is not None and len(classes) * len(labels) > MAX_CLASS_CELLS:
        raise TableError(
            f"{table.path}: column {target!r} has {len(classes):,} classes in {len(labels):,} rows, more than can be "
            "held as a column for each; if it is a number, leave out --classify."
        )
    return _Training(table, features, keys, labels, _weights(table, weight), classes)


def _default_features(table: Table, others: list[str]) -> list[str]:
    features = [name for name in table.names if name not in others]
    if not features:
        raise TableError(f"{table.path}: has no column besides {', '.join(map(repr, others))} to predict from.")
    unnamed = next((name for name in features if not name or name.startswith("__index_level_")), None)
    if unnamed is not None:  # pandas writes its index under such names
        raise TableError(
            f"{table.path}: column {unnamed!r} looks like a saved index; name the columns with --features."
        )
    return features


def _target_numbers(table: Table, target: str) -> np.ndarray:
    try:
        return table.numbers(target)
    except TableError as error:
        if as_floats(table.column(target)) is None:
            raise TableError(f"{error} If the target is a class, add --classify.") from error
        raise


def _labels(table: Table, target: str) -> np.ndarray:
    labels = table.labels(target)
    if labels.dtype.kind == "f":
        raise TableError(f"{table.path}: column {target!r} holds fractions, not classes; leave out --classify.")
    return labels


def _weights(table: Table, weight: str | None) -> np.ndarray | None:
    if weight is None:
        return None
    weights = table.numbers(weight)
    if np.any(weights < 0):
        first = int(np.argmax(weights < 0))
        raise TableError(f"{table.cell(first, weight)} is {weights[first]:g}, a negative weight.")
    if not np.any(weights > 0):
        raise TableError(f"{table.path}: all weights in column {weight!r} are 0.")
    return weights


def _result_names(classes: np.ndarray | None) -> list[str]:
    return ["prediction", *(() if classes is None else (f"p_{label}" for label in classes)), "log_mass"]


def _refuse_taken(queries: Table, names: list[str]) -> None:
    taken = [name for name in names if name in queries.columns]
    if taken:
        raise TableError(
            f"{queries.path}: already has {', '.join(map(repr, taken))}, which would be written; rename or drop it."
        )


def _warn_of_rounding(args: argparse.Namespace, training: _Training, queries: Table) -> None:
    """Warn, in one line, of all columns whose whole numbers are too large for floats."""
    numbers = [*training.features, *([] if args.classify else [args.target]), *([args.weight] if args.weight else [])]
    rounded = [(training.table, training.table.rounded(numbers)), (queries, queries.rounded(training.features))]
    columns = [f"{table.path}: {', '.join(map(repr, names))}" for table, names in rounded if names]
    if columns:
        _warn(f"whole numbers beyond 2**53 are rounded to float64 ({'; '.join(columns)}).")


def _resolve_bandwidth(args: argparse.Namespace, training: _Training) -> np.ndarray:
    """The bandwidth as an array of shape () or (d,)."""
    h, features = args.bandwidth, training.features
    if isinstance(h, str):
        if args.kernel.inner_product:
            raise UsageError(f"--bandwidth {h} is not defined for the kernel {args.kernel}; give a number.")
        try:
            if h in bandwidth.CRITERIA:
                return _selected(args, training)
            return bandwidth.rule_bandwidth(training.keys, h, args.kernel, training.weights, feature_names=features)
        except ValueError as error:
            raise TableError(f"{training.table.path}: {error}") from error
    if h.ndim and len(h) != len(features):
        raise UsageError(f"--bandwidth has {len(h)} numbers for {len(features)} features: {', '.join(features)}.")
    return h


def _selected(args: argparse.Namespace, training: _Training) -> np.ndarray:
    """The bandwidth with the least leave-one-out loss or AICc."""
    from fastnw.bandwidth.progress import Progress
    from fastnw.bandwidth.select import selected

    keys, weights, classes = training.keys, training.weights, training.classes
    loss = loss_for(args.bandwidth, "numbers" if classes is None else "classes")
    if classes is None:
        values: Any = training.target[:, None]
    else:
        values = OneHot.of(np.searchsorted(classes, training.target)[:, None], [len(classes)], keys.dtype)
    rows = Rows(keys, values, weights, args.kernel, loss, training.features)
    with warnings.catch_warnings(record=True) as caught, Progress(False if args.quiet else None) as report:
        warnings.simplefilter("always")
        selection = selected(rows, backend=args.backend, n_jobs=args.n_jobs, report=report)
    for warning in caught:
        _warn(str(warning.message))
    return np.asarray(selection.bandwidth)


def _predicted(args: argparse.Namespace, training: _Training, points: np.ndarray, h: np.ndarray) -> tuple[Any, Any]:
    """Predictions, or probabilities (m, c), and log masses; the caller reports empty windows, by row numbers."""
    by_classes = training.classes is not None
    empty = args.empty
    if empty in ("nan", "raise"):
        empty = "mean" if by_classes else "nan"
    options = {"kernel": args.kernel, "bandwidth": h, "method": args.method, "backend": args.backend, "tol": args.tol}
    options |= {"empty": empty, "n_jobs": args.n_jobs}
    progress = False if args.quiet else None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", EmptyWindowWarning)
        try:
            if by_classes:
                from fastnw.estimators import NadarayaWatsonClassifier

                model = NadarayaWatsonClassifier(**options).fit(training.keys, training.target, training.weights)
                predicted, log_mass = model._probabilities(points, progress)
            else:
                options |= {"sample_weight": training.weights, "return_mass": True, "progress": progress}
                predicted, log_mass = pool(points, training.keys, training.target, **options)
        except (ValueError, TypeError, RuntimeError) as error:  # the arrays were checked, so an option is wrong
            raise UsageError(str(error)) from error
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            _warn(str(warning.message))
    return predicted, log_mass


def _report_empty(args: argparse.Namespace, rows: np.ndarray, m: int) -> None:
    """Raise or warn, as ``--empty`` asks, if the windows of these rows are empty."""
    if len(rows) == 0 or args.empty not in ("nan", "raise"):
        return
    first = ", ".join(str(row + 1) for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
    message = f"{args.queries}: {len(rows)} of {m} rows have no training row in their window (rows {first})"
    if args.empty == "raise":
        raise TableError(f"{message}; use a larger --bandwidth, or another --empty.")
    _warn(f"{message}; their prediction is {'by the shares of the classes' if args.classify else 'nan'}.")


def _warn(message: str) -> None:
    say(f"fastnw predict: warning: {' '.join(message.split())}")


def _result_columns(classes: np.ndarray | None, predicted: np.ndarray, log_mass: np.ndarray) -> dict[str, np.ndarray]:
    if classes is None:
        return {"prediction": predicted, "log_mass": log_mass}
    columns = [classes[np.argmax(predicted, axis=1)], *predicted.T, log_mass]
    return dict(zip(_result_names(classes), columns, strict=True))


def _summary(args: argparse.Namespace, training: _Training, m: int, h: np.ndarray, seconds: float, out: Path) -> str:
    n, d = training.keys.shape
    numbers = ", ".join(f"{number:.4g}" for number in h.flat[:8]) + (", ..." if h.size > 8 else "")
    rule = f" ({args.bandwidth})" if isinstance(args.bandwidth, str) else ""
    classes = "" if training.classes is None else f", {len(training.classes)} classes"
    return (
        f"{m:,} queries on {n:,} training rows, {d} feature{'s' * (d > 1)}{classes}; kernel {args.kernel}, "
        f"bandwidth {numbers}{rule}\n"
        f"{seconds:.3g} s, {m * n / max(seconds, 1e-9):.3g} pairs/s; wrote {out}"
    )
