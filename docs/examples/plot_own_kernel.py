"""
A kernel of your own
====================

A kernel is a function of u², the squared distance in bandwidths. Pass a formula to
:class:`fastnw.Kernel` and use it wherever a kernel's name can stand. fastnw compiles the
formula for large problems, and derives the error bound from it.

Here it is Student's kernel, (1 + u²/ν)^(−(ν+1)/2), which t-SNE made popular. Its tails
are heavy: in a gap between the keys, the Gaussian copies the value of the nearest key,
while Student's kernel still averages over many.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastnw

student = fastnw.Kernel("student3", lambda u2: (1 + u2 / 3) ** -2, monotone=True)

rng = np.random.default_rng(1)
keys = np.concatenate([rng.uniform(0, 3, 80), rng.uniform(7, 10, 80)])[:, None]
values = np.sin(keys[:, 0]) + 0.25 * rng.normal(size=160)
queries = np.linspace(0, 10, 501)[:, None]

u = np.linspace(0, 8, 200)
figure, (left, right) = plt.subplots(
    1, 2, figsize=(11, 3.8), gridspec_kw={"width_ratios": (1, 2)}, layout="constrained"
)
right.plot(keys, values, ".", color="0.7", label="data")
for kernel, name, colour in (
    ("gaussian", "Gaussian", "#D55E00"),
    (student, "Student's, ν = 3", "#0072B2"),
):
    weights = fastnw.pool(u[:, None], [[0.0]], [0.0], kernel=kernel, return_mass=True)[1]
    left.semilogy(u, np.exp(weights), color=colour, label=name)
    predicted, error = fastnw.pool(
        queries, keys, values, kernel=kernel, bandwidth=0.3, return_error=True
    )
    right.plot(queries, predicted, color=colour, label=name)
    print(f"{name:16}  certified error at most {error.max():.1e}")
left.set(xlabel="distance u, in bandwidths", ylabel="weight κ(u)", ylim=(1e-6, 2))
right.set(xlabel="x", ylabel="y")
right.axvspan(3, 7, color="0.93", zorder=0)
right.text(5, right.get_ylim()[0], "no keys", ha="center", va="bottom", color="0.4")
left.legend(frameon=False)
right.legend(frameon=False, loc="lower left")

# %%
# The same means by the formula, written out in NumPy with an array of all pairs:

squares = ((queries - keys.T) / 0.3) ** 2
weights = (1 + squares / 3) ** -2
difference = np.abs(weights @ values / weights.sum(axis=1) - predicted).max()
print(f"largest difference from NumPy: {difference:.1e}")

plt.show()
