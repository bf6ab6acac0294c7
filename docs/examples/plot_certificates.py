"""
Certificates: the bound and the true error
==========================================

With ``return_error=True``, each prediction comes with a bound on its arithmetic error that
is never exceeded. The bound is computed, query by query, from what the method left out and
from the rounding of the sums. Here the true error is known, because the same means are also
computed in float64 from all pairs, which leaves an error of about 1e-15.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastnw

rng = np.random.default_rng(0)
keys = rng.normal(size=(20_000, 2))
values = np.sin(3 * keys[:, 0]) + keys[:, 1]
queries = rng.normal(scale=1.5, size=(400, 2))

truth, truth_bound = fastnw.pool(
    queries, keys, values, bandwidth=0.2, method="exact", tol=0, return_error=True
)
single = [array.astype(np.float32) for array in (queries, keys, values)]
runs = {
    "tree, tol=1e-3": fastnw.pool(
        queries, keys, values, bandwidth=0.2, method="tree", tol=1e-3, return_error=True
    ),
    "fourier, tol=1e-5": fastnw.pool(
        queries, keys, values, bandwidth=0.2, method="fourier", tol=1e-5, return_error=True
    ),
}

# %%
# In float32, the data themselves are rounded. Their own float64 means are the truth to
# compare with.

rounded = [array.astype(np.float64) for array in single]
truths = dict.fromkeys(runs, truth)
runs["exact, float32"] = fastnw.pool(
    *single, bandwidth=0.2, method="exact", return_error=True
)
truths["exact, float32"] = fastnw.pool(*rounded, bandwidth=0.2, method="exact", tol=0)

figure, ax = plt.subplots(figsize=(7, 5.4), layout="constrained")
styles = (("#D55E00", "o"), ("#0072B2", "s"), ("#009E73", "^"))
held = {}
for (name, (estimate, bound)), (colour, marker) in zip(runs.items(), styles, strict=True):
    error = np.abs(estimate.astype(np.float64) - truths[name])
    held[name] = np.all(error <= bound + truth_bound.max())
    ax.loglog(
        bound,
        np.maximum(error, 1e-16),
        marker,
        markersize=3.5,
        color=colour,
        alpha=0.7,
        label=name,
    )
    print(
        f"{name:18} largest error {error.max():.1e}, largest bound {bound.max():.1e}, "
        f"bound always kept: {held[name]}"
    )
ends = np.array(ax.get_xlim())
ax.plot(ends, ends, color="black", label="error = bound")
ax.fill_between(ends, ends, ends.max() * 10, color="0.9", zorder=0)
ax.set(
    xlim=ends, ylim=(1e-16, ends.max() * 10), xlabel="certified bound", ylabel="true error"
)
ax.text(0.03, 0.95, "no query may lie here", transform=ax.transAxes, color="0.35", va="top")
ax.legend(loc="lower right")

plt.show()
