"""Trains a residual classifier of so many blocks on points of three spirals: the more blocks, the longer it takes.

`train` can be called for one configuration after another in a process that stays; the command line does it once.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

ARMS, POINTS = 3, 256
torch.set_num_threads(1)  # more threads would only wait for one another in layers as small as these


class Block(nn.Module):
    """Adds something to what it gets: nothing at first, so that any number of blocks can be trained."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        nn.init.zeros_(self.change[-1].weight)
        nn.init.zeros_(self.change[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.change(x)


@cache
def spirals(device: str) -> tuple[Tensor, Tensor]:
    """Points and the arms that they belong to."""
    generator = torch.Generator().manual_seed(0)
    along = torch.rand(ARMS, POINTS, generator=generator)
    arm = torch.arange(ARMS).unsqueeze(1).expand(-1, POINTS)
    angle = 2 * math.pi * (along + arm / ARMS) + 0.05 * torch.randn(ARMS, POINTS, generator=generator)
    points = torch.stack([(along + 0.1) * angle.cos(), (along + 0.1) * angle.sin()], dim=-1)
    return points.flatten(0, 1).to(device), arm.flatten().to(device)


def train(blocks: int, width: int = 32, epochs: int = 8, batch: int = 256, seed: int = 0) -> dict[str, float]:
    """Trains one configuration, and returns what became of it."""
    began = time.perf_counter()
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"  # the one GPU that the item has is the only one it sees
    points, arms = spirals(device)
    depth = (Block(width) for _ in range(blocks))
    model = nn.Sequential(nn.Linear(2, width), *depth, nn.Linear(width, ARMS)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for epoch in range(1, epochs + 1):
        for chosen in torch.randperm(len(points), device=device).split(batch):
            loss = nn.functional.cross_entropy(model(points[chosen]), arms[chosen])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        print(f"{blocks} blocks, epoch {epoch}/{epochs}  loss {loss.item():.4f}", flush=True)
    with torch.no_grad():
        accuracy = (model(points).argmax(dim=1) == arms).float().mean().item()
    return {"loss": loss.item(), "accuracy": accuracy, "training_seconds": time.perf_counter() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    (args.out / "metrics.json").write_text(json.dumps(train(args.blocks)))


if __name__ == "__main__":
    main()
