"""
A million keys
==============

Summing every pair of n queries and n keys takes time like n². Two methods avoid that:
``tree`` skips keys that are too far away to count, and ``fourier`` sums the Gaussian by
fast Fourier transforms, in time that grows like n. All of them keep the same promise of
accuracy, and ``method="auto"`` takes the fastest.
"""

import time

import matplotlib.pyplot as plt
import numpy as np

import fastnw

SIZES = {
    "exact": (1_000, 3_000, 10_000, 20_000),
    "tree": (1_000, 3_000, 10_000, 30_000, 100_000),
    "fourier": (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000),
}
rng = np.random.default_rng(0)
keys = rng.normal(size=(1_000_000, 2))
values = np.cos(2 * keys[:, 0]) + rng.normal(size=len(keys))


def pooled(n, method):
    """Predictions at the first n keys from these keys, with Scott's bandwidth for n."""
    return fastnw.pool(
        keys[:n], keys[:n], values[:n], bandwidth=n ** (-1 / 6), method=method, n_jobs=1
    )


pooled(1_000, "fourier")  # the first call of a process also loads libraries
seconds = {}
for method, sizes in SIZES.items():
    for n in sizes:
        start = time.process_time()
        pooled(n, method)
        seconds[method, n] = time.process_time() - start

# %%
# Both axes are logarithmic: a line of slope 1 grows like n, a line of slope 2 like n².

figure, ax = plt.subplots(figsize=(7, 4.4), layout="constrained")
styles = {"exact": ("#D55E00", "o"), "tree": ("#009E73", "s"), "fourier": ("#0072B2", "D")}
slopes = {}
for method, (colour, marker) in styles.items():
    times = [seconds[method, n] for n in SIZES[method]]
    slopes[method] = np.log(times[-1] / times[-2]) / np.log(
        SIZES[method][-1] / SIZES[method][-2]
    )
    ax.loglog(
        SIZES[method],
        times,
        color=colour,
        marker=marker,
        label=f"{method}: last slope {slopes[method]:.2f}",
    )
reach = np.array([20_000, 1_000_000])
ax.loglog(
    reach,
    seconds["exact", 20_000] * (reach / 20_000) ** 2,
    ":",
    color="#D55E00",
    label="exact, if it went on",
)
ax.set(xlabel="queries and keys n", ylabel="processor time on one core (s)")
ax.legend(frameon=False)

# %%
# They agree: the largest difference between two methods, in units of the values' range,
# is below the promised 1e-8.

difference = np.abs(pooled(10_000, "fourier") - pooled(10_000, "exact")).max() / np.ptp(
    values[:10_000]
)
print(f"a million queries and keys: {seconds['fourier', 1_000_000]:.1f} s on one core")
print(
    f"largest difference between fourier and exact: {difference:.1e} of the values' range"
)

plt.show()
