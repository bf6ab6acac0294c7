"""
Attention pooling by similarity
===============================

This example repeats the d2l.ai chapter `Attention Pooling by Similarity
<https://d2l.ai/chapter_attention-mechanisms-and-transformers/attention-pooling.html>`_.
Forty noisy points of the curve 2 sin x + x are the keys. At each query, Nadaraya-Watson
regression predicts the weighted mean of the forty values, and a kernel turns the distance
between query and key into the weight.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastnw


def truth(x):
    return 2 * np.sin(x) + x


rng = np.random.default_rng(0)
keys = np.sort(rng.uniform(0, 5, 40))[:, None]
values = truth(keys[:, 0]) + rng.standard_normal(40)
queries = np.arange(0, 5, 0.1)[:, None]

# %%
# Four kernels
# ------------
# The chapter calls the last kernel "Epanechikov". Most books call max(0, 1 − \|u\|) the
# triangular kernel, and so does fastnw.

titles = {
    "gaussian": "Gaussian",
    "boxcar": "boxcar",
    "constant": "constant",
    "triangular": 'triangular ("Epanechikov")',
}
u = np.linspace(-2.5, 2.5, 501)
figure, axes = plt.subplots(1, 4, figsize=(11, 2.6), sharey=True, layout="constrained")
for ax, (kernel, title) in zip(axes, titles.items(), strict=True):
    weights = fastnw.attention_weights([[0.0]], u[:, None], kernel=kernel)[0]
    ax.plot(u, weights / weights.max(), color="#0072B2")
    ax.set(title=title, xlabel="distance u")
axes[0].set_ylabel("weight κ(u)")

# %%
# Predictions and attention weights
# ---------------------------------
# The constant kernel gives every key the same weight, so it predicts the mean of all
# values everywhere. The other three follow the curve. In the lower row, bright squares
# are the keys that a query attends to.

figure, axes = plt.subplots(2, 4, figsize=(11, 5.2), sharey="row", layout="constrained")
rmse = {}
for (above, below), (kernel, title) in zip(axes.T, titles.items(), strict=True):
    predicted = fastnw.pool(queries, keys, values, kernel=kernel)
    rmse[kernel] = np.sqrt(np.mean((predicted - truth(queries[:, 0])) ** 2))
    above.plot(keys, values, ".", color="0.6", label="data")
    above.plot(queries, truth(queries), "--", color="#D55E00", label="truth")
    above.plot(queries, predicted, color="#0072B2", linewidth=2, label="prediction")
    above.set(title=f"{title}\nRMSE {rmse[kernel]:.2f}", xlabel="x")
    weights = fastnw.attention_weights(queries, keys, kernel=kernel)
    image = below.imshow(
        weights, cmap="cividis", vmin=0, vmax=0.2, aspect="auto", origin="lower"
    )
    below.set_xlabel("key")
axes[0, 0].set_ylabel("y")
axes[0, 0].legend(frameon=False, fontsize=8)
axes[1, 0].set_ylabel("query")
figure.colorbar(image, ax=axes[1], label="attention weight", extend="max")

# %%
# Error of each prediction against the curve without noise:

for kernel, error in rmse.items():
    print(f"{kernel:10}  root-mean-square error {error:.2f}")

plt.show()
