"""A network of one hidden layer on handwritten digits, clean ones and worn ones, in numpy.

Of scikit-learn's 1,797 images 360 are kept for testing, the same ones for every seed.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

HIDDEN, CLASSES, TEST_IMAGES = 64, 10, 360
Weights = dict[str, np.ndarray]


def images_and_labels(*, test: bool) -> tuple[np.ndarray, np.ndarray]:
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    mine = order[:TEST_IMAGES] if test else order[TEST_IMAGES:]
    return digits.data[mine] / 16, digits.target[mine]


def worn(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The images with every third pixel gone, by chance."""
    return images * (rng.random(images.shape) > 1 / 3)


def initial_weights(pixels: int, rng: np.random.Generator) -> Weights:
    first = rng.normal(0, math.sqrt(2 / pixels), (pixels, HIDDEN))
    return {"first": first, "second": rng.normal(0, math.sqrt(2 / HIDDEN), (HIDDEN, CLASSES))}


def loss_and_gradients(weights: Weights, images: np.ndarray, labels: np.ndarray) -> tuple[float, Weights]:
    """The mean cross-entropy of a batch and its gradient for every weight."""
    hidden = np.maximum(images @ weights["first"], 0)
    logits = hidden @ weights["second"]
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    error = exponentials / exponentials.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(error[rows, labels]).mean()
    error[rows, labels] -= 1
    error /= len(labels)
    d_hidden = (error @ weights["second"].T) * (hidden > 0)
    return float(loss), {"first": images.T @ d_hidden, "second": hidden.T @ error}


def accuracy(weights: Weights, images: np.ndarray, labels: np.ndarray) -> float:
    hidden = np.maximum(images @ weights["first"], 0)
    return float(((hidden @ weights["second"]).argmax(axis=1) == labels).mean())


def save(weights: Weights, path: Path) -> None:
    """By rename, so that a checkpoint is whole or not there."""
    partial = path.with_name(f"{path.stem}.part.npz")
    np.savez(partial, **weights)
    partial.replace(path)


def load(path: str | Path) -> Weights:
    with np.load(path) as stored:
        return dict(stored)
