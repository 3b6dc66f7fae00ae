"""Pre-trains on clean digits, or post-trains on a few worn ones: what TRAINING_CONFIG says.

That is a list of KEY=VALUE, the last of each key: task (pretrain, posttrain), epochs, lr, labels, seed, logdir,
load_file, continue_failed_training. Every epoch leaves `model_NNNN.npz` in `logdir`.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import network
import numpy as np

BATCH = 20


def main() -> None:
    config = {"epochs": "10", "lr": "0.1", "labels": "300", "seed": "0"}
    config.update(token.split("=", 1) for token in os.environ["TRAINING_CONFIG"].split())
    task, lr, loaded = config["task"], float(config["lr"]), config.get("load_file", "")
    rng = np.random.default_rng(int(config["seed"]))
    images, labels = network.images_and_labels(test=False)
    if task == "posttrain":
        few = rng.permutation(len(images))[: int(config["labels"])]
        images, labels = network.worn(images[few], rng), labels[few]

    epochs = range(1, int(config["epochs"]) + 1)
    if config["continue_failed_training"] == "true" and (number := re.search(r"model_(\d+)", loaded)):
        epochs = range(int(number[1]) + 1, epochs.stop)
    weights = network.load(loaded) if loaded else network.initial_weights(images.shape[1], rng)
    print(f"{task} on {len(images)} images from {loaded or 'scratch'}, seed {config['seed']}, lr {lr}", flush=True)
    for epoch in epochs:
        losses = []
        for batch in np.array_split(rng.permutation(len(images)), len(images) // BATCH):
            loss, gradients = network.loss_and_gradients(weights, images[batch], labels[batch])
            losses.append(loss)
            for name, gradient in gradients.items():
                weights[name] -= lr * gradient
        print(f"epoch {epoch}/{epochs.stop - 1}  loss {np.mean(losses):.4f}", flush=True)
        if not np.isfinite(losses).all():
            sys.exit(f"The loss is {np.mean(losses)}: try an lr below {lr}.")
        network.save(weights, Path(config["logdir"], f"model_{epoch:04}.npz"))


if __name__ == "__main__":
    main()
