"""
Images and captions without training
====================================

ASIF (Norelli and others, 2022, `arXiv 2210.01738 <https://arxiv.org/abs/2210.01738>`_)
compares an image with a caption although no model was trained on both. It needs
*anchors*, which are known in both views. An image is described by how similar it is to
the anchors' images, a caption by how similar it is to the anchors' captions; these two
descriptions can be compared.

Here the first view is a digit's 64 pixels and the second is the magnitudes of its Fourier
transform. No labelled digit is ever seen in pixels. :doc:`/exercises/exercise_5_asif` has
the same on ten splits, and discusses what it shows.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import fastnw

pixels, labels = load_digits(return_X_y=True)
magnitudes = np.abs(np.fft.rfft2(pixels.reshape(-1, 8, 8))).reshape(len(pixels), -1)
rng = np.random.default_rng(0)
anchors, labelled, queries = np.split(rng.permutation(len(labels)), (1000, 1200))

# A caption for each digit: the mean of five labelled samples, in the second view alone.
captions = np.array(
    [
        magnitudes[labelled][labels[labelled] == digit][:5].mean(axis=0)
        for digit in range(10)
    ]
)


def accuracy(pairing, top_k):
    """Share of queries with the right caption; `pairing`: anchors in the second view."""
    images = fastnw.relative_representation(
        pixels[queries], pixels[anchors], top_k=top_k, exponent=8
    )
    texts = fastnw.relative_representation(
        captions, magnitudes[pairing], top_k=top_k, exponent=8
    )
    return np.mean((images @ texts.T).toarray().argmax(axis=1) == labels[queries])


paired = accuracy(anchors, top_k=50)
shuffled = accuracy(rng.permutation(anchors), top_k=50)
print(f"{paired:.1%} of {len(queries)} digits right")
print(f"{shuffled:.1%} if the anchors' pairs are shuffled; guessing gives 10 %")

# %%
# Only the pairs carry the names across: if they are shuffled, nothing is left. How many
# anchors describe a digit matters: with too few an image and its caption have none in
# common, with too many all digits look alike.

sizes = (5, 10, 20, 50, 100, 200, 500, 1000)
by_size = [accuracy(anchors, top_k) for top_k in sizes]
figure, (left, right) = plt.subplots(
    1, 2, figsize=(10, 3.6), gridspec_kw={"width_ratios": (1, 1.5)}, layout="constrained"
)
left.bar(
    ["anchors\npaired", "pairs\nshuffled", "guessing"],
    [paired, shuffled, 0.1],
    color=["#0072B2", "0.6", "0.8"],
)
left.set(ylabel="accuracy", ylim=(0, 1))
right.semilogx(sizes, by_size, "o-", color="#0072B2")
right.set(xlabel="anchors that describe a digit (top_k)", ylabel="accuracy", ylim=(0, 1))

plt.show()
