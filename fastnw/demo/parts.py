"""The four parts of ``fastnw demo``. Each computes, writes a CSV file and pictures, and returns a `Result`."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fastnw import functions, tables
from fastnw.demo.chapter_data import CHAPTER_KERNELS, chapter_truth
from fastnw.estimators.regression import NadarayaWatsonClassifier, NadarayaWatsonRegressor

LARGE_BANDWIDTH = 0.14
CHECKED_QUERIES = 50
FLOAT32_TOLERANCE = 1e-4  # Fraction of the range of the values.


@dataclass(frozen=True)
class Job:
    """The options of the demo: the folder, the seed, and the size of part d."""

    out: Path
    seed: int
    pictures: bool
    keys: int
    queries: int


@dataclass
class Result:
    """The rows of the table for one part of the demo, and its files."""

    title: str
    data: list[str]
    lines: list[str]
    files: list[Path]
    ok: bool = True
    seconds: float = field(default=0.0)


def chapter(job: Job) -> Result:
    """Fit the forty points of the d2l.ai chapter with each of its kernels, with bandwidth 1."""
    rng = np.random.default_rng(job.seed)
    n = 40
    x = np.sort(rng.uniform(0.0, 5.0, n))
    y = chapter_truth(x) + rng.standard_normal(n)
    x_test = np.arange(n) * (5.0 / n)
    truth = chapter_truth(x_test)
    fits, errors = {}, {}
    for kernel in CHAPTER_KERNELS:
        fits[kernel] = NadarayaWatsonRegressor(kernel=kernel, bandwidth=1.0).fit(x[:, None], y)
        errors[kernel] = _rmse(fits[kernel].predict(x_test[:, None]), truth)
    columns = {"x": x_test, "f": truth, **{k: fit.predict(x_test[:, None]) for k, fit in fits.items()}}
    files = [_write(job, "chapter.csv", columns)]
    if job.pictures:
        from fastnw.demo import pictures

        files.append(pictures.chapter_fits(job.out, x, y, fits, errors))
        files.append(pictures.chapter_attention(job.out, x_test, x))
    lines = [f"RMSE to f {errors[k]:.3f}  {k}{note and f', {note}'}" for k, note in CHAPTER_KERNELS.items()]
    return Result("d2l.ai chapter", [f"{n} keys", f"{n} queries, 1-D"], lines, files)


def digits(job: Job) -> Result:
    """Predict class probabilities of a third of the handwritten digits; the rest are keys and select the bandwidth."""
    from sklearn.datasets import load_digits
    from sklearn.metrics import accuracy_score, log_loss
    from sklearn.model_selection import GridSearchCV, train_test_split

    images, labels = load_digits(return_X_y=True)
    train, test = train_test_split(np.arange(len(labels)), test_size=1 / 3, stratify=labels, random_state=job.seed)
    grid = {"bandwidth": [float(h) for h in np.geomspace(2.0, 16.0, 13)]}
    search = GridSearchCV(NadarayaWatsonClassifier(), grid, scoring="neg_log_loss", cv=5)
    search.fit(images[train], labels[train])
    probabilities = search.predict_proba(images[test])
    predicted = search.classes_[probabilities.argmax(axis=1)]
    files = [
        _write(
            job,
            "digits.csv",
            {
                "row": test,
                "label": labels[test],
                "prediction": predicted,
                **{f"p_{c}": probabilities[:, j] for j, c in enumerate(search.classes_)},
            },
        )
    ]
    if job.pictures:
        from fastnw.demo import pictures

        files.append(pictures.digits(job.out, images[test], labels[test], probabilities, job.seed))
    loss = log_loss(labels[test], probabilities, labels=search.classes_)
    lines = [
        f"accuracy {accuracy_score(labels[test], predicted):.4f}, log-loss {loss:.4f}",
        f"bandwidth {search.best_params_['bandwidth']:.3g}, cross-validated within the keys",
    ]
    return Result("handwritten digits", [f"{len(train):,} keys", f"{len(test):,} queries, 64-D"], lines, files)


def diabetes(job: Job) -> Result:
    """Predict each fifth of the diabetes data from the other fifths, which also select the bandwidths."""
    from sklearn.datasets import load_diabetes
    from sklearn.metrics import r2_score
    from sklearn.model_selection import KFold

    data = load_diabetes()
    X, y = data.data, data.target
    folds = KFold(5, shuffle=True, random_state=job.seed)
    predicted = {"mean": np.empty(len(y)), "one bandwidth": np.empty(len(y)), "per coordinate": np.empty(len(y))}
    fold, chosen = np.empty(len(y), dtype=int), []
    for i, (train, test) in enumerate(folds.split(X)):
        one, several = choose_bandwidths(X[train], y[train])
        fold[test] = i
        predicted["mean"][test] = y[train].mean()
        for name, h in (("one bandwidth", one), ("per coordinate", several)):
            predicted[name][test] = NadarayaWatsonRegressor(bandwidth=h).fit(X[train], y[train]).predict(X[test])
        chosen.append((np.full(X.shape[1], one), several))
    scores = {name: float(r2_score(y, values)) for name, values in predicted.items()}
    columns = {"row": np.arange(len(y)), "fold": fold, "observed": y}
    files = [_write(job, "diabetes.csv", {**columns, **{k.replace(" ", "_"): v for k, v in predicted.items()}})]
    if job.pictures:
        from fastnw.demo import pictures

        one, several = np.exp(np.mean(np.log(chosen), axis=0)) / X.std(axis=0, ddof=1)
        bandwidths = dict(zip(data.feature_names, several, strict=True))
        files.append(pictures.diabetes(job.out, y, predicted, scores, bandwidths, float(one[0])))
    lines = [f"R² {score: .3f}  {name}" for name, score in scores.items()]
    return Result("diabetes", [f"{len(y)} patients, 10-D", "5 folds"], lines, files)


def choose_bandwidths(X: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Find the single bandwidth and the bandwidths per coordinate with the least squared leave-one-out error.

    The bandwidth of a coordinate is Scott's rule × factor / |correlation with y|^power, so that features with less
    correlation count less. Only the factor and the power are searched: ten free bandwidths overfit so few rows.
    """
    spread = float(X.std(axis=0, ddof=1).mean())
    single = min((float(h) for h in spread * np.geomspace(0.1, 5.0, 25)), key=lambda h: _leave_one_out(X, y, h))
    scott = NadarayaWatsonRegressor(bandwidth="scott").fit(X, y).bandwidth_
    relevance = np.abs([np.corrcoef(column, y)[0, 1] for column in X.T]).clip(0.01)
    factors, powers = np.geomspace(0.2, 5.0, 20), (0.0, 0.5, 1.0, 1.5, 2.0)
    candidates = [factor * scott / relevance**power for power in powers for factor in factors]
    return single, min(candidates, key=lambda h: _leave_one_out(X, y, h))


def _leave_one_out(X: np.ndarray, y: np.ndarray, h: float | np.ndarray) -> float:
    return float(np.mean((functions.pool(X, X, y, bandwidth=h, exclude_self=True) - y) ** 2))


def large_scale(job: Job) -> Result:
    """Predict at a million queries from a million noisy points, and compare some predictions with float64 sums."""
    rng = np.random.default_rng(job.seed)
    keys = rng.standard_normal((job.keys, 3), dtype=np.float32)
    queries = rng.standard_normal((job.queries, 3), dtype=np.float32)
    noise = rng.standard_normal(job.keys, dtype=np.float32)
    values = np.sin(3 * keys[:, 0]) + keys[:, 1] * keys[:, 2] / 2 + np.float32(0.3) * noise
    plan = functions.plan(queries, keys, values, bandwidth=LARGE_BANDWIDTH)
    print("\n".join(f"   {line}" for line in str(plan).splitlines()), flush=True)
    start = time.perf_counter()
    progress = True if sys.stderr is not None and sys.stderr.isatty() else None
    predicted = functions.pool(queries, keys, values, bandwidth=LARGE_BANDWIDTH, progress=progress)
    seconds = time.perf_counter() - start
    memory = peak_memory()

    checked = rng.choice(job.queries, size=min(CHECKED_QUERIES, job.queries), replace=False)
    wanted = plain_sums(queries[checked], keys, values, LARGE_BANDWIDTH)
    got = predicted[checked].astype(np.float64)  # all digits, so that differences in the file are exact
    difference = np.abs(got - wanted)
    columns = {f"x_{j}": queries[checked, j] for j in range(3)}
    columns |= {"prediction": got, "float64": wanted, "difference": difference}
    files = [_write(job, "large_scale.csv", columns)]
    tolerance = FLOAT32_TOLERANCE * float(np.ptp(values.astype(np.float64)))
    ok = bool(difference.max() <= tolerance)  # False for NaN, too
    lines = [
        f"{seconds:.2f} s by {plan.method}, float32: worth {job.keys * job.queries / seconds:.3g} pairs/s",
        f"peak memory of the process {memory / 2**20:,.0f} MiB" if memory else "peak memory unknown on this system",
        f"{difference.max():.1e} largest difference from float64",
        f"{tolerance:.1e} promised: {'kept' if ok else 'BROKEN'} ({len(checked)} queries checked)",
    ]
    return Result("large scale", [f"{job.keys:,} keys", f"{job.queries:,} queries, 3-D"], lines, files, ok)


def plain_sums(queries: np.ndarray, keys: np.ndarray, values: np.ndarray, h: float) -> np.ndarray:
    """Compute Gaussian means by definition in float64, one query at a time."""
    columns, values = np.ascontiguousarray(keys.T, dtype=np.float64), values.astype(np.float64)
    predicted = np.empty(len(queries))
    for i, query in enumerate(queries.astype(np.float64)):
        u2 = sum(((column - q) / h) ** 2 for column, q in zip(columns, query, strict=True))
        weights = np.exp(-0.5 * (u2 - np.min(u2)))
        predicted[i] = weights @ values / weights.sum()
    return predicted


def peak_memory() -> int | None:
    """Return the largest resident size of this process so far in bytes, or None if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _write(job: Job, name: str, columns: dict[str, Any]) -> Path:
    path = job.out / name
    tables.write_table(columns, path, force=True)
    return path


def _rmse(predicted: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((predicted - wanted) ** 2)))
