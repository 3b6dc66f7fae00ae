"""Trains a small network on handwritten digits: one process, no GPU, a few seconds.

A real training in one file: scikit-learn's 1,797 images of 8x8 pixels, a network of one hidden layer, and its
backpropagation written out in numpy. What it leaves in `--out`: `metrics.json` and `weights.npz`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

HIDDEN, CLASSES, BATCH, TEST_IMAGES = 64, 10, 32, 360
Weights = dict[str, np.ndarray]


def initial_weights(pixels: int, rng: np.random.Generator) -> Weights:
    return {
        "w1": rng.normal(0, math.sqrt(2 / pixels), (pixels, HIDDEN)),
        "b1": np.zeros(HIDDEN),
        "w2": rng.normal(0, math.sqrt(2 / HIDDEN), (HIDDEN, CLASSES)),
        "b2": np.zeros(CLASSES),
    }


def forward(weights: Weights, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the hidden layer (batch, HIDDEN) and the class probabilities (batch, CLASSES)."""
    hidden = np.maximum(images @ weights["w1"] + weights["b1"], 0)
    logits = hidden @ weights["w2"] + weights["b2"]
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return hidden, exponentials / exponentials.sum(axis=1, keepdims=True)


def loss_and_gradients(weights: Weights, images: np.ndarray, labels: np.ndarray) -> tuple[float, Weights]:
    """Returns the mean cross-entropy of a batch and its gradient for every weight."""
    hidden, probabilities = forward(weights, images)
    rows = np.arange(len(labels))
    with np.errstate(divide="ignore"):  # a probability of 0 makes the loss infinite, which ends the training
        loss = -np.log(probabilities[rows, labels]).mean()

    d_logits = probabilities
    d_logits[rows, labels] -= 1
    d_logits /= len(labels)
    d_hidden = (d_logits @ weights["w2"].T) * (hidden > 0)
    gradients = {
        "w1": images.T @ d_hidden,
        "b1": d_hidden.sum(axis=0),
        "w2": hidden.T @ d_logits,
        "b2": d_logits.sum(axis=0),
    }
    return float(loss), gradients


def accuracy(weights: Weights, images: np.ndarray, labels: np.ndarray) -> float:
    return float((forward(weights, images)[1].argmax(axis=1) == labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lr", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    digits = load_digits()
    rng = np.random.default_rng(args.seed)
    order = rng.permutation(len(digits.target))
    images, labels = digits.data[order] / 16, digits.target[order]
    train_images, test_images = images[TEST_IMAGES:], images[:TEST_IMAGES]
    train_labels, test_labels = labels[TEST_IMAGES:], labels[:TEST_IMAGES]
    weights = initial_weights(images.shape[1], rng)

    print(
        f"{len(train_labels)} images to learn from, {TEST_IMAGES} to test, seed {args.seed}, lr {args.lr}", flush=True
    )
    for epoch in range(1, args.epochs + 1):
        losses = []
        for batch in np.array_split(rng.permutation(len(train_labels)), len(train_labels) // BATCH):
            loss, gradients = loss_and_gradients(weights, train_images[batch], train_labels[batch])
            if not math.isfinite(loss):
                sys.exit(f"The loss is {loss} in epoch {epoch}: try an --lr below {args.lr}.")
            losses.append(loss)
            for name, gradient in gradients.items():
                weights[name] -= args.lr * gradient
        mean, right = float(np.mean(losses)), accuracy(weights, test_images, test_labels)
        print(f"epoch {epoch:2}/{args.epochs}  loss {mean:.4f}  accuracy {right:.3f}", flush=True)
        # By rename, so that whoever looks while it trains never reads half a file.
        partial = args.out / "metrics.json.part"
        partial.write_text(json.dumps({"loss": mean, "accuracy": right, "epoch": epoch}) + "\n")
        partial.replace(args.out / "metrics.json")
    np.savez(args.out / "weights.npz", **weights)


if __name__ == "__main__":
    main()
