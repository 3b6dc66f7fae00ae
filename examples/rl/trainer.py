"""Learns from rollouts by policy gradient and broadcasts its weights through the file system, step by step.

torchrun starts it; each rank takes its own share of the rollouts, and gradients are averaged over all ranks.
"""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from config import settings
from model import SEPARATOR, Reverser, encode, load, save
from orchestrator import exchange, first_step

CLIP = 0.2
"""How far the policy may move from the one that sampled, as GRPO has it from PPO."""


def batch(rollouts: list[dict[str, Any]]) -> tuple[torch.Tensor, ...]:
    """Tokens, mask of those that were sampled, their log-probabilities then, and advantages; padded to one length."""
    rows = [[*encode(one["prompt"]), SEPARATOR, *one["tokens"]] for one in rollouts]
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask, old = torch.zeros(tokens.shape), torch.zeros(tokens.shape)
    for row, one in enumerate(rollouts):
        at = slice(len(one["prompt"]) + 1, len(rows[row]))
        mask[row, at] = 1
        old[row, at] = torch.tensor(one["token_logprobs"])
    return tokens, mask[:, 1:], old[:, 1:], torch.tensor([[one["advantage"]] for one in rollouts])


def loss_of(model: Reverser, rollouts: list[dict[str, Any]]) -> torch.Tensor:
    """The clipped policy gradient, averaged over the sampled tokens."""
    tokens, mask, old, advantage = batch(rollouts)
    logs = model(tokens[:, :-1]).log_softmax(-1).gather(2, tokens[:, 1:, None]).squeeze(2)
    ratio = (logs - old).exp()
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
    return -(gain * mask).sum() / mask.sum()


def average_gradients(model: torch.nn.Module) -> None:
    """What DistributedDataParallel does, in three lines."""
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()


def main() -> None:
    config = settings()
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    output_dir = Path(config.get("output_dir"))
    folder = exchange(f"{output_dir}/run_default")
    start, last = first_step(output_dir, config.get("ckpt.resume_step", 0)), config.get("max_steps")
    name = f"{output_dir}/checkpoints/step_{start}" if start else config.get("model.name")
    model = load(name, config.get("model.seq_len", 16))
    optimiser = torch.optim.Adam(model.parameters(), lr=config.get("optim.lr", 3e-3))
    if rank == 0:
        print(f"learning from step {start} on {dist.get_world_size()} workers", flush=True)
        save(model, folder / f"broadcasts/step_{start}")
    began = time.monotonic()
    for step in range(start, last):
        file = folder / f"rollouts/step_{step}/rank_{rank}.json"
        while not file.exists() and not told:
            time.sleep(0.02)
        if told:  # the job is ending: what was learnt is kept
            if rank == 0:
                save(model, output_dir / f"checkpoints/step_{step}")
                print(f"stopped at step {step}, checkpoint written", flush=True)
            raise SystemExit(143)
        loss = loss_of(model, json.loads(file.read_text(encoding="utf-8")))
        optimiser.zero_grad()
        loss.backward()
        average_gradients(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if rank == 0:
            save(model, folder / f"broadcasts/step_{step + 1}")
            if (step + 1) % config.get("ckpt.interval", last) == 0 or step + 1 == last:
                save(model, output_dir / f"checkpoints/step_{step + 1}")
            print(f"step {step + 1}/{last}  loss {loss.item():+.4f}  {time.monotonic() - began:.1f} s", flush=True)
    if rank == 0:
        save(model, output_dir / "weights")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
