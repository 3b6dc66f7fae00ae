"""Data-parallel training with PyTorch's DDP over any number of nodes, started by torchrun.

Every rank computes the gradients of its own share of the data, DDP averages them, so all ranks hold the same weights
after every step; the program checks that at its end. Without CUDA it runs on the CPU with gloo. A run that starts again
in the same `--out` goes on from its newest checkpoint.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.nn  # DDP imports it; after init_process_group it would keep the group for ever (see main)
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset

FEATURES, CLASSES, SAMPLES = 16, 4, 2048


def network(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(FEATURES, width), nn.Tanh(), nn.Linear(width, CLASSES))


def teacher_dataset() -> TensorDataset:
    """Random points, labelled by a random network: the same on every rank, and something that can be learnt."""
    torch.manual_seed(1234)
    points = torch.randn(SAMPLES, FEATURES)
    with torch.no_grad():
        return TensorDataset(points, network(width=8)(points).argmax(dim=1))


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that rank 0 sees, so that no rank goes on from another epoch than the rest."""
    choice = [max(folder.glob("epoch_*.pt"), default=None)] if dist.get_rank() == 0 else [None]
    dist.broadcast_object_list(choice, src=0)
    return choice[0]


def weights_agree(model: nn.Module) -> bool:
    """Whether every rank holds the very same weights, bit for bit."""
    mine = nn.utils.parameters_to_vector(model.parameters()).detach()
    lowest, highest = mine.clone(), mine.clone()
    dist.all_reduce(lowest, op=dist.ReduceOp.MIN)
    dist.all_reduce(highest, op=dist.ReduceOp.MAX)
    return torch.equal(lowest, highest)


def train(dataset: Dataset, device: torch.device, args: argparse.Namespace) -> nn.Module:
    torch.manual_seed(args.seed)
    model = DistributedDataParallel(network(width=32).to(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    sampler = DistributedSampler(dataset, seed=args.seed)
    loader = DataLoader(dataset, batch_size=64, sampler=sampler)
    leader = dist.get_rank() == 0

    first = 1
    if checkpoint := newest_checkpoint(args.out):
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"] + 1
        if leader:
            print(f"resuming after epoch {state['epoch']}", flush=True)

    for epoch in range(first, args.epochs + 1):
        sampler.set_epoch(epoch)  # another order in every epoch, the same order after a restart
        total = torch.zeros((), device=device)
        for points, labels in loader:
            loss = nn.functional.cross_entropy(model(points.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        dist.all_reduce(total)
        if leader:
            mean = total.item() / len(loader) / dist.get_world_size()
            print(f"epoch {epoch}/{args.epochs}  loss {mean:.4f}", flush=True)
            state = {"model": model.module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
            # By rename: a job killed here leaves the previous checkpoint, never half of this one.
            partial = args.out / "checkpoint.part"
            torch.save(state, partial)
            partial.replace(args.out / f"epoch_{epoch:04}.pt")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    # One write for the whole line: torchrun runs `python -u`, where print writes its newline apart.
    print(f"rank {rank} of {world} on {socket.gethostname()}, {device}\n", end="", flush=True)

    # Nothing may hold the model or the group from here on: gloo's threads end with the group's last reference, and
    # those that are alive when Python ends abort now and then ("terminate called", seen with torch 2.13).
    agree = weights_agree(train(teacher_dataset(), device, args))
    dist.destroy_process_group()
    if not agree:
        sys.exit(f"rank {rank}: the ranks ended with different weights")
    if rank == 0:
        print(f"all {world} ranks hold the same weights", flush=True)


if __name__ == "__main__":
    main()
