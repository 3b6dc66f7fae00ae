"""The baseline: the same model, text and optimizers under DDP, which averages gradients at every single step.

With as many ranks, `--steps` as many as there the inner steps are, and the same `--batch` it sees as many characters.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.nn  # DDP imports it; after init_process_group it would keep the group for ever
from model import Transformer, batch, loss_of, split, text, validation_loss
from muon import inner_optimizer
from torch.nn.parallel import DistributedDataParallel


def train(args: argparse.Namespace, device: torch.device) -> None:
    rank = dist.get_rank()
    torch.manual_seed(args.seed)
    inside = Transformer().to(device)
    model = DistributedDataParallel(inside)
    optimizer = inner_optimizer(args.optimizer, inside, args.lr)
    characters, held_out = (part.to(device) for part in split(text()))
    checkpoint = args.out / "checkpoint.pt"
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        inside.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    dist.barrier()  # nobody writes the next checkpoint before all have read this one

    total = 0.0
    for step in range(first + 1, args.steps + 1):
        loss = loss_of(model, *batch(characters, args.batch, args.seed, rank, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
        if step % 10 == 0 and rank == 0:
            print(f"step {step}/{args.steps}  loss {total / 10:.4f}", flush=True)
            total = 0.0
            partial = checkpoint.with_suffix(".part")
            state = {"model": inside.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, partial)
            partial.replace(checkpoint)
    if rank == 0:
        print(f"validation loss {validation_loss(inside, held_out):.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="muon")
    parser.add_argument("--lr", type=float, default=0.005)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16, help="pieces of text for each rank and step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    train(args, device)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
