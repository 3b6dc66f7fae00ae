"""Teaches the model of examples/rl to reverse short strings, from examples; torchrun starts it."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy

sys.path.append(str(Path(__file__).resolve().parents[1] / "rl"))

from config import settings
from model import END, LETTERS, SEPARATOR, Reverser, encode, load, save


def examples(draw: random.Random, count: int, letters: int, lengths: range) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of strings with their reverses, and the targets, in which only the reverse counts."""
    longest = 2 * lengths[-1] + 2
    tokens, targets = torch.zeros(count, longest - 1, dtype=torch.long), torch.full((count, longest - 1), -100)
    for row in range(count):
        text = encode("".join(draw.choices(LETTERS[:letters], k=draw.choice(lengths))))
        whole = [*text, SEPARATOR, *reversed(text), END]
        tokens[row, : len(whole) - 1] = torch.tensor(whole[:-1])
        targets[row, len(text) : len(whole) - 1] = torch.tensor(whole[len(text) + 1 :])
    return tokens, targets


def accuracy(model: Reverser, tokens: torch.Tensor, targets: torch.Tensor) -> float:
    """The share of letters that the model would write right."""
    with torch.no_grad():
        counted = targets != -100
        return ((model(tokens).argmax(-1) == targets) & counted).sum().item() / counted.sum().item()


def main() -> None:
    config = settings()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    output_dir = Path(config.get("output_dir"))
    model = load(config.get("model.name"), config.get("model.seq_len", 16))
    optimiser = torch.optim.Adam(model.parameters(), lr=config.get("optim.lr", 3e-3))
    letters, lengths = config.get("data.letters", 8), range(3, config.get("data.max_length", 4) + 1)
    draw = random.Random(rank)
    last, began = config.get("max_steps"), time.monotonic()
    for step in range(1, last + 1):
        tokens, targets = examples(draw, config.get("data.batch_size") // world, letters, lengths)
        loss = cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        optimiser.zero_grad()
        loss.backward()
        for parameter in model.parameters():
            dist.all_reduce(parameter.grad)
            parameter.grad /= world
        optimiser.step()
        if rank == 0 and step % 20 == 0:
            print(f"step {step}/{last}  loss {loss.item():.4f}  {time.monotonic() - began:.1f} s", flush=True)
    if rank == 0:
        right = accuracy(model, *examples(random.Random(-1), 200, letters, lengths))
        save(model, output_dir / "weights")
        (output_dir / "metrics.json").write_text(json.dumps({"loss": loss.item(), "accuracy": right}))
        print(f"{right:.1%} of the letters right; weights in {output_dir / 'weights'}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
