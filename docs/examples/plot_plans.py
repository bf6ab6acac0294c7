"""
What the planner decides
========================

:func:`fastnw.plan` says what :func:`fastnw.pool` would do, without doing it: the method,
the number of pairs that it will sum, and the time and memory that it expects. Here are
five problems and, beside each prediction, the measured time on one thread. Predictions
come from times that were measured on another machine, so that a factor of two or three
between the bars is normal; what counts is the order.
"""

import time

import matplotlib.pyplot as plt
import numpy as np

import fastnw

rng = np.random.default_rng(0)


def problem(m, n, d, **options):
    keys = rng.normal(size=(n, d))
    return {
        "queries": keys[:m],
        "keys": keys,
        "values": np.sin(keys[:, 0]),
        "n_jobs": 1,
        **options,
    }


problems = {
    "10,000 queries, 10,000 keys, d = 20": problem(10_000, 10_000, 20, bandwidth=2.0),
    "100,000 queries, 100,000 keys, d = 2": problem(100_000, 100_000, 2, bandwidth=0.1),
    "the same, Epanechnikov": problem(
        100_000, 100_000, 2, bandwidth=0.1, kernel="epanechnikov"
    ),
    "100,000 queries, 1,000,000 keys, d = 1,\nEpanechnikov": problem(
        100_000, 1_000_000, 1, bandwidth=0.1, kernel="epanechnikov"
    ),
    "100 queries, 1,000,000 keys, d = 3": problem(100, 1_000_000, 3, bandwidth=0.05),
}
few = rng.normal(size=(2_000, 2))
fastnw.pool(few, few, few[:, 0], method="fourier")  # the first call also loads the library
plans, seconds = {}, {}
for name, arguments in problems.items():
    plans[name] = fastnw.plan(**arguments)
    start = time.process_time()
    fastnw.pool(**arguments)
    seconds[name] = time.process_time() - start

# %%
# ``str(plan)`` explains the choice in words:

print(plans["the same, Epanechnikov"])

# %%
# The picture has the five plans. The method that was chosen stands beside the bars.

figure, ax = plt.subplots(figsize=(10, 4.2), layout="constrained")
rows = np.arange(len(problems))
predicted, measured = [plan.seconds for plan in plans.values()], list(seconds.values())
ax.barh(rows - 0.2, predicted, height=0.38, color="#56B4E9", label="predicted")
ax.barh(rows + 0.2, measured, height=0.38, color="#0072B2", label="measured")
for row, (name, plan) in enumerate(plans.items()):
    share = plan.pairs / (len(problems[name]["queries"]) * len(problems[name]["keys"]))
    pairs = "every pair" if share == 1 else f"{100 * share:.2g} % of the pairs"
    ax.text(
        max(predicted[row], measured[row]) * 1.1,
        row,
        f"{plan.method}, {pairs}",
        va="center",
    )
ax.set(
    xscale="log",
    xlabel="seconds on one thread",
    xlim=(min(predicted + measured) / 2, max(measured) * 8),
)
ax.set_yticks(rows, problems)
ax.invert_yaxis()
ax.legend(loc="lower right")

plt.show()
