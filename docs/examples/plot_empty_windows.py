"""
Empty windows
=============

A compact kernel is zero beyond its bandwidth. A query with no key that close has an
*empty window*: there is nothing to average. fastnw counts such queries, warns once for
each call, and lets you choose what their prediction is.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np

import fastnw

rng = np.random.default_rng(0)
keys = np.concatenate([rng.uniform(0, 3, 60), rng.uniform(5.5, 8, 50)])[:, None]
values = np.sin(keys[:, 0]) + 0.15 * rng.normal(size=110)
queries = np.linspace(-1, 9, 1_001)[:, None]

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", fastnw.EmptyWindowWarning)
    predictions = {
        "nan": fastnw.pool(queries, keys, values, kernel="epanechnikov", bandwidth=0.5)
    }
print(caught[0].message)

# %%
# ``empty=`` says what stands in the grey parts: NaN (the default), the value of the
# nearest key, the mean of all values, or a number. ``empty="raise"`` makes it an error.

predictions |= {
    str(empty): fastnw.pool(
        queries, keys, values, kernel="epanechnikov", bandwidth=0.5, empty=empty
    )
    for empty in ("nearest", "mean", 1.5)
}
empty = np.isnan(predictions["nan"])
figure, axes = plt.subplots(
    2, 2, figsize=(10, 5.4), sharex=True, sharey=True, layout="constrained"
)
for ax, (name, predicted) in zip(axes.flat, predictions.items(), strict=True):
    ax.fill_between(queries[:, 0], -1.6, 2, where=empty, color="0.9", linewidth=0)
    ax.plot(keys, values, ".", color="0.6", markersize=4)
    ax.plot(queries, np.where(empty, np.nan, predicted), color="#0072B2", linewidth=2)
    ax.plot(queries, np.where(empty, predicted, np.nan), color="#D55E00", linewidth=2)
    ax.set(title=f"empty={name}" if name == "1.5" else f'empty="{name}"', ylim=(-1.6, 2))
for ax in axes[1]:
    ax.set_xlabel("x")
for ax in axes[:, 0]:
    ax.set_ylabel("prediction")

# %%
# A kernel without an end, such as the Gaussian, has no empty windows: far away, it
# predicts the nearest key's value.

gaussian = fastnw.pool([[1000.0]], keys, values, bandwidth=0.5)
print(f"Gaussian at x = 1000:     {gaussian[0]:.4f}")
print(f"value of the nearest key: {values[keys.argmax()]:.4f}")

plt.show()
