"""
Adaptive widths for heavy tails
===============================

Where keys are dense, a narrow kernel shows detail; where they are sparse, the same kernel
leaves a bump on each key. :class:`fastnw.Abramson` gives each key a width of its own:
wider where a first estimate of the density is low.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import t

import fastnw

distribution = t(df=2)
keys = distribution.rvs(size=(1_000, 1), random_state=0)
new_points = distribution.rvs(size=(5_000, 1), random_state=1)
grid = np.linspace(-25, 25, 1_001)[:, None]

h = fastnw.bandwidth.rule_bandwidth(keys[np.abs(keys[:, 0]) < 3], "scott")
models = {
    "one width": fastnw.KernelDensity(bandwidth=h).fit(keys),
    "adaptive widths": fastnw.KernelDensity(bandwidth=fastnw.Abramson(h)).fit(keys),
}
truth = distribution.logpdf(new_points[:, 0])
far_off = {
    name: np.mean(np.abs(model.score_samples(new_points) - truth) > np.log(2))
    for name, model in models.items()
}
for name, share in far_off.items():
    print(f"{name:16} off by more than a factor of 2 at {share:.1%} of 5,000 new points")

# %%
# The vertical axis is logarithmic. One width for all follows single keys in the tails;
# with adaptive widths the tail is smooth and the peak stays as sharp.

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
colours = {"one width": "#D55E00", "adaptive widths": "#0072B2"}
for name, model in models.items():
    log_density = model.score_samples(grid)
    left.plot(grid, np.exp(log_density), color=colours[name], label=name)
    right.plot(
        grid, np.maximum(log_density, -20) / np.log(10), color=colours[name], label=name
    )
left.plot(grid, distribution.pdf(grid), "--", color="black", label="truth")
right.plot(grid, distribution.logpdf(grid) / np.log(10), "--", color="black", label="truth")
right.plot(keys, np.full(len(keys), -7.3), "|", color="0.5")
left.set(xlim=(-4, 4), xlabel="x", ylabel="density", title="the peak")
right.set(
    xlim=(-25, 25),
    ylim=(-7.6, 0),
    xlabel="x (ticks: keys)",
    ylabel="log₁₀ of the density",
    title="the tails",
)
left.legend(frameon=False)

plt.show()
