"""Digits told by their pixels, named by captions in another view, without training: ASIF on scikit-learn's digits.

Run ``python docs/exercises/exercise_5_asif.py`` for the table in exercise_5_asif.md.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.datasets import load_digits

import fastnw

ANCHORS, PER_CLASS = 1000, 5  # samples with both views and no label; labelled samples behind each caption
TOP_K, EXPONENT = 50, 8.0
SPLITS = 10


def fourier_magnitudes(pixels: np.ndarray) -> np.ndarray:
    """(n, 40) magnitudes of the images' two-dimensional Fourier coefficients: the half that a real image has.

    A shift of the image or its rotation by 180° leaves them as they are, and pixels cannot be told from them.
    """
    images = pixels.reshape(len(pixels), 8, 8)
    return np.abs(np.fft.rfft2(images)).reshape(len(pixels), -1)


def captions(view: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(10, d) a caption for each digit: the mean of a few labelled samples, in one view."""
    return np.array([view[labels == digit][:PER_CLASS].mean(axis=0) for digit in range(10)])


def classify(
    images: np.ndarray,
    texts: np.ndarray,
    anchor_images: np.ndarray,
    anchor_texts: np.ndarray,
    top_k: int = TOP_K,
    exponent: float = EXPONENT,
) -> np.ndarray:
    """For each image the text whose relative representation is the most similar to the image's own."""
    told_images = fastnw.relative_representation(images, anchor_images, top_k=top_k, exponent=exponent)
    told_texts = fastnw.relative_representation(texts, anchor_texts, top_k=top_k, exponent=exponent)
    return (told_images @ told_texts.T).toarray().argmax(axis=1)


def measure(seed: int, top_k: int = TOP_K, exponent: float = EXPONENT) -> dict[str, float]:
    """Accuracy of each way to name the digits of one random split."""
    pixels, labels = load_digits(return_X_y=True)
    magnitudes = fourier_magnitudes(pixels)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    anchors, named, asked = order[:ANCHORS], order[ANCHORS : ANCHORS + 200], order[ANCHORS + 200 :]
    few = np.concatenate([named[labels[named] == digit][:PER_CLASS] for digit in range(10)])
    texts = captions(magnitudes[named], labels[named])

    def asif(pairing: np.ndarray) -> np.ndarray:
        return classify(pixels[asked], texts, pixels[anchors], magnitudes[pairing], top_k, exponent)

    def supervised(rows: np.ndarray) -> np.ndarray:
        model = fastnw.NadarayaWatsonClassifier(bandwidth=8.0).fit(pixels[rows], labels[rows])
        return model.predict(pixels[asked])

    ways: dict[str, Callable[[], np.ndarray]] = {
        "images by captions, through anchors": lambda: asif(anchors),
        "the same, anchors' views paired at random": lambda: asif(rng.permutation(anchors)),
        "supervised: the captions' 50 samples, in pixels": lambda: supervised(few),
        "supervised: all anchors, with labels": lambda: supervised(anchors),
    }
    return {name: float(np.mean(way() == labels[asked])) for name, way in ways.items()}


def main() -> None:
    found = [measure(seed) for seed in range(SPLITS)]
    print(f"accuracy on {SPLITS} random splits of 1,797 digits, mean (standard deviation); chance is 0.10")
    for way in found[0]:
        accuracies = [split[way] for split in found]
        print(f"{way:50} {np.mean(accuracies):.3f} ({np.std(accuracies, ddof=1):.3f})")
    print("\nthrough anchors, by top_k (rows) and exponent (columns), mean of the splits")
    exponents = (1.0, 4.0, 8.0)
    print(f"{'':6}" + "".join(f"{exponent:>8g}" for exponent in exponents))
    for top_k in (5, 20, 50, 200, ANCHORS):
        means = [
            np.mean([measure(seed, top_k, exponent)["images by captions, through anchors"] for seed in range(SPLITS)])
            for exponent in exponents
        ]
        print(f"{top_k:6}" + "".join(f"{mean:8.3f}" for mean in means))


if __name__ == "__main__":
    main()
