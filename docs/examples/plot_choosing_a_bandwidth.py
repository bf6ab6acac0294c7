"""
Choosing a bandwidth
====================

A bandwidth that is too small follows the noise, and one that is too large misses the
curve. :func:`fastnw.select_bandwidth` finds the one in between from the data alone: it
predicts each value from all others and takes the bandwidth with the least mean squared
error.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastnw


def truth(x):
    return np.sin(12 * (x + 0.2)) / (x + 0.2)


rng = np.random.default_rng(0)
keys = rng.uniform(0, 1, (300, 1))
values = truth(keys[:, 0]) + rng.normal(scale=0.8, size=300)

found = fastnw.select_bandwidth(keys, values)
best = found.bandwidth[0]
print(
    f"bandwidth {best:.4f}: mean squared error {found.score:.3f} "
    "when each value is predicted by the others"
)

# %%
# The search needs a few steps only. To draw the whole loss curve, pass a grid as
# ``candidates``. The dashed line is what nobody knows in practice: the error against the
# curve without noise. Its minimum is close by.

grid = np.geomspace(best / 20, best * 20, 80)
curve = fastnw.select_bandwidth(keys, values, candidates=grid)
line = np.linspace(0, 1, 400)
true_error = [
    np.mean((fastnw.pool(keys, keys, values, bandwidth=h) - truth(keys[:, 0])) ** 2)
    for h in grid
]

figure, ax = plt.subplots(figsize=(7, 3.8), layout="constrained")
order = np.argsort(curve.path.bandwidth[:, 0])
ax.loglog(
    curve.path.bandwidth[order, 0],
    curve.path.score[order],
    color="#0072B2",
    label="leave-one-out loss",
)
ax.loglog(grid, true_error, "--", color="#D55E00", label="squared error against the truth")
ax.axvline(best, color="0.6", linewidth=1)
ax.plot(best, found.score, "o", color="black", label="found by the search")
ax.set(xlabel="bandwidth", ylabel="mean squared error")
ax.legend(frameon=False, loc="lower right")

# %%
# The same data with a bandwidth ten times too small, the chosen one, and one ten times
# too large:

figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True, layout="constrained")
for ax, name, h in zip(
    axes, ("too small", "chosen", "too large"), (best / 10, best, best * 10), strict=True
):
    ax.plot(keys, values, ".", color="0.75", markersize=4)
    ax.plot(line, truth(line), "--", color="#D55E00", label="truth")
    ax.plot(
        line,
        fastnw.pool(line[:, None], keys, values, bandwidth=h),
        color="#0072B2",
        label="prediction",
    )
    ax.set(title=f"{name}: bandwidth {h:.3g}", xlabel="x")
axes[0].set_ylabel("y")
axes[0].legend(frameon=False)

plt.show()
