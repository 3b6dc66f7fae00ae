"""One task per rank, started by Slurm itself: says who each rank is and checks that all of them can talk.

Needs nothing but the variables that every framework with `env://` reads. The checks are real: an all-reduce must give
the sums that follow from ranks 0 to n-1, and every rank must be a task of its own on the host of its NODE_RANK.
"""

from __future__ import annotations

import os
import socket
import sys

import torch
import torch.distributed as dist

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK")


def problems(rank: int, world: int) -> list[str]:
    """What is wrong with the group as this rank sees it; empty when nothing is."""
    found = []
    known = torch.tensor([1, rank, rank**2])
    dist.all_reduce(known)
    expected = [world, sum(range(world)), sum(r**2 for r in range(world))]
    if known.tolist() != expected:
        found.append(f"the all-reduce gave {known.tolist()}, not {expected}")

    members: list = [None] * world
    dist.all_gather_object(members, (int(os.environ["NODE_RANK"]), int(os.environ["LOCAL_RANK"]), socket.gethostname()))
    if len({(node, local) for node, local, _ in members}) != world:
        found.append(f"two ranks have the same NODE_RANK and LOCAL_RANK: {members}")
    if len({(node, host) for node, _, host in members}) != len({node for node, _, _ in members}):
        found.append(f"one NODE_RANK stands for several hosts: {members}")
    return found


def main() -> None:
    missing = [name for name in (*VARIABLES, "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        sys.exit(f'{", ".join(missing)} not set: start this with `launcher = "srun"`.')
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    me = "  ".join(f"{name}={os.environ[name]}" for name in VARIABLES)
    print(f"{me}  on {socket.gethostname()}", flush=True)

    found = problems(rank, world)
    dist.destroy_process_group()
    if found:
        sys.exit(f"rank {rank}: " + "; ".join(found))
    if rank == 0:
        meeting = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        print(f"{world} ranks met at {meeting}, the all-reduce is right", flush=True)


if __name__ == "__main__":
    main()
