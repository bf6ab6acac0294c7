"""
Handwritten digits
==================

A classifier without training: the share of a class at a query is the share of the
kernel's weight that falls on the training digits of that class. The only parameter is the
bandwidth, which :func:`fastnw.select_bandwidth` finds on the training digits, each
predicted by all others. No test digit is used before the end.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

import fastnw

pixels, labels = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    pixels, labels, random_state=0, stratify=labels
)

inked = X_train.std(axis=0) > 0  # some pixels are white in every digit and say nothing
found = fastnw.select_bandwidth(
    X_train[:, inked], y_train, criterion="log_loss", per_coordinate=False
)
model = fastnw.NadarayaWatsonClassifier(bandwidth=found.bandwidth).fit(X_train, y_train)
accuracy = model.score(X_test, y_test)
neighbours = KNeighborsClassifier().fit(X_train, y_train).score(X_test, y_test)
print(f"{len(X_train)} digits to learn from, {len(X_test)} to test")
print(f"bandwidth                 {found.bandwidth:.2f}")
print(f"NadarayaWatsonClassifier  {accuracy:.1%} right")
print(f"KNeighborsClassifier      {neighbours:.1%} right (five neighbours, its default)")

# %%
# The bandwidth that was chosen lies on the plateau of the best accuracies. A bandwidth
# that is much too wide mixes all digits.

bandwidths = np.geomspace(1, 40, 13)
curve = [
    fastnw.NadarayaWatsonClassifier(bandwidth=h).fit(X_train, y_train).score(X_test, y_test)
    for h in bandwidths
]
figure, ax = plt.subplots(figsize=(7, 3.8), layout="constrained")
ax.semilogx(bandwidths, curve, color="#0072B2", label="NadarayaWatsonClassifier")
ax.axhline(
    neighbours, color="#D55E00", linestyle="--", label="KNeighborsClassifier, 5 neighbours"
)
ax.plot(
    found.bandwidth,
    accuracy,
    "o",
    color="black",
    label=f"chosen bandwidth {found.bandwidth:.2f}",
)
ax.set(xlabel="bandwidth, in grey levels", ylabel="accuracy on the test digits")
ax.legend(frameon=False)

# %%
# Probabilities say which predictions to doubt. These are the six test digits with the
# least certain prediction.

probabilities = model.predict_proba(X_test)
doubtful = np.argsort(probabilities.max(axis=1))[:6]
figure, axes = plt.subplots(
    2, 6, figsize=(11, 4), gridspec_kw={"height_ratios": (1.5, 1)}, layout="constrained"
)
for (above, below), i in zip(axes.T, doubtful, strict=True):
    above.imshow(X_test[i].reshape(8, 8), cmap="gray_r")
    above.set(
        xticks=[], yticks=[], title=f"{y_test[i]}, read as {model.predict(X_test[[i]])[0]}"
    )
    colours = ["#009E73" if digit == y_test[i] else "0.6" for digit in range(10)]
    below.bar(range(10), probabilities[i], color=colours)
    below.set(xticks=range(10), ylim=(0, 1), xlabel="digit (green: true)")
axes[1, 0].set_ylabel("probability")

plt.show()
