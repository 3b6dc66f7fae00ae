"""A small network in plain Python that learns whether a point lies inside a circle; server and client both use it."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

HIDDEN = 12
Point = tuple[float, float]


def random_point(rng: random.Random) -> Point:
    return rng.uniform(-1, 1), rng.uniform(-1, 1)


def inside(point: Point) -> bool:
    """The truth: whether the point lies in the circle that fills half of the square."""
    return math.hypot(*point) < math.sqrt(2 / math.pi)


@dataclass(frozen=True)
class Classifier:
    """Two inputs, one hidden layer of tanh, one probability. A unit is [weight x, weight y, bias, weight out]."""

    units: list[list[float]]
    bias: list[float]

    def activations(self, point: Point) -> list[float]:
        x, y = point
        return [math.tanh(wx * x + wy * y + b) for wx, wy, b, _ in self.units]

    def probability(self, activations: list[float]) -> float:
        logit = self.bias[0] + sum(a * unit[3] for a, unit in zip(activations, self.units, strict=True))
        return 1 / (1 + math.exp(-logit))

    def predict(self, point: Point) -> float:
        """The probability that the point lies inside the circle."""
        return self.probability(self.activations(point))


def train(seed: int, steps: int = 200_000, lr: float = 0.03) -> Classifier:
    """Trains on one random point per step; the same seed gives the same network, which takes about a second."""
    rng = random.Random(seed)
    model = Classifier(units=[[rng.gauss(0, 2) for _ in range(3)] + [0.0] for _ in range(HIDDEN)], bias=[0.0])
    for _ in range(steps):
        point = random_point(rng)
        activations = model.activations(point)
        error = model.probability(activations) - inside(point)
        model.bias[0] -= lr * error
        for unit, a in zip(model.units, activations, strict=True):
            through = error * unit[3] * (1 - a * a)
            unit[0] -= lr * through * point[0]
            unit[1] -= lr * through * point[1]
            unit[2] -= lr * through
            unit[3] -= lr * error * a
    return model
