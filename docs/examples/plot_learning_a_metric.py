"""
Learning a metric
=================

If the values change along one direction only, the best window is long across that
direction and narrow along it. One bandwidth for each coordinate cannot be tilted.
``learn_bandwidth(..., matrix=True)`` learns the whole matrix H of u² = (q − k)ᵀ H⁻¹ (q −
k) by gradient descent on the leave-one-out loss.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastnw

rng = np.random.default_rng(0)
keys = rng.normal(size=(1_000, 2))
values = np.sin(2 * (keys[:, 0] + keys[:, 1])) + 0.1 * rng.normal(size=1_000)

widths = fastnw.learn_bandwidth(keys, values, optimizer="lbfgs", epochs=40)
metric = fastnw.learn_bandwidth(keys, values, optimizer="lbfgs", epochs=40, matrix=True)
print(f"one bandwidth for each coordinate: loss {widths.score:.4f}")
print(
    f"a whole matrix:                    loss {metric.score:.4f} (the noise alone: 0.0100)"
)

# %%
# Ellipses are the places one bandwidth away from the centre. The stripes are the values
# of the keys.

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
points = left.scatter(*keys.T, c=values, s=12, cmap="cividis", alpha=0.6)
angle = np.linspace(0, 2 * np.pi, 200)
circle = np.column_stack([np.cos(angle), np.sin(angle)])
for H, colour, name in (
    (metric.bandwidth, "black", "learnt matrix H"),
    (np.diag(np.square(widths.bandwidth)), "#D55E00", "bandwidths by coordinate"),
):
    left.fill(*(circle @ np.linalg.cholesky(H).T).T, color=colour, label=name)
left.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xlabel="x₁", ylabel="x₂")
left.legend(loc="upper right")
figure.colorbar(points, ax=left, label="value")

for learned, colour, name in (
    (widths, "#D55E00", "by coordinate"),
    (metric, "black", "matrix H"),
):
    right.semilogy(np.minimum.accumulate(learned.history.loss), color=colour, label=name)
right.axhline(0.01, color="#0072B2", linestyle=":", label="variance of the noise")
right.set(xlabel="step", ylabel="least leave-one-out loss so far")
right.legend(frameon=False)

plt.show()
