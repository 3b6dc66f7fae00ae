"""Tests a model on worn digits that no training has seen, and leaves `metrics.json` in `--out`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import network
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    images, labels = network.images_and_labels(test=True)
    right = network.accuracy(network.load(args.model), network.worn(images, np.random.default_rng(1)), labels)
    print(f"{right:.1%} of {network.TEST_IMAGES} worn images are told rightly")
    (args.out / "metrics.json").write_text(json.dumps({"accuracy": right}) + "\n")


if __name__ == "__main__":
    main()
