"""DiLoCo and MuLoCo with TorchFT: replica groups that train by themselves and agree every `--sync-every` steps.

Each group (one torchrun) takes inner steps with AdamW, or with Muon for MuLoCo; then the groups average how far they
came, and an outer step of SGD with Nesterov momentum moves the weights that all share. Inside a group ranks share the
work through DDP. A group that dies costs the others nothing but itself; one that starts again gets the weights from its
peers. The shared state goes to `--out` after every outer step: a run that starts again goes on from there, and a group
that comes back after the others are done finds that there and ends.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.nn  # DDP imports it; after init_process_group it would keep the group for ever
from model import Transformer, batch, loss_of, split, text, validation_loss
from muon import inner_optimizer
from torch.nn.parallel import DistributedDataParallel
from torchft import Manager, ProcessGroupGloo, ProcessGroupNCCL
from torchft.local_sgd import DiLoCo

PATIENCE = timedelta(seconds=10)
"""How long groups that have agreed to meet wait for one that has died since. TorchFT's own is 60 s; it must exceed what
an exchange takes, and the time in which a group that comes back gets the weights."""

ATTEMPT = os.environ.get("GANGRUN_ATTEMPT", "")
"""Which life of the whole run this is: the second after the job was requeued."""


class State:
    """What a group needs to go on, from disk or from a peer."""

    def __init__(self, args: argparse.Namespace, device: torch.device) -> None:
        torch.manual_seed(args.seed)  # every group begins with the same weights
        self.model = Transformer().to(device)
        self.inner = inner_optimizer(args.optimizer, self.model, args.lr)
        self.outer = torch.optim.SGD(self.model.parameters(), lr=args.outer_lr, momentum=0.9, nesterov=True)

    def pack(self) -> dict:
        return {"model": self.model.state_dict(), "inner": self.inner.state_dict(), "outer": self.outer.state_dict()}

    def unpack(self, packed: dict) -> None:
        self.model.load_state_dict(packed["model"])
        self.inner.load_state_dict(packed["inner"])
        self.outer.load_state_dict(packed["outer"])


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest that rank 0 of the group sees, so that no rank goes on from another step than the rest."""
    choice = [max(folder.glob("step_*.pt"), default=None)] if dist.get_rank() == 0 else [None]
    dist.broadcast_object_list(choice, src=0)
    return choice[0]


def save(folder: Path, step: int, state: State, manager: Manager, group: int) -> None:
    """By rename, under a name of this group's own: two groups may both take themselves for the first for a moment."""
    partial = folder / f"step.{group}.part"
    torch.save({"state": state.pack(), "manager": manager.state_dict(), "attempt": ATTEMPT}, partial)
    partial.replace(folder / f"step_{step:05}.pt")
    for old in sorted(folder.glob("step_*.pt"))[:-2]:
        old.unlink(missing_ok=True)


def meet(manager: Manager, groups: int, within: float) -> None:
    """Waits until all groups are there, since one that begins alone trains alone; gives up waiting in the end."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        manager.start_quorum()
        if manager.num_participants() == groups:
            return
        time.sleep(0.1)


def train(args: argparse.Namespace, state: State, group: int, groups: int, device: torch.device) -> None:
    rank = dist.get_rank()
    characters, held_out = (part.to(device) for part in split(text()))
    checkpoint = newest_checkpoint(args.out)
    saved = torch.load(checkpoint, map_location=device, weights_only=True) if checkpoint else None
    if saved:
        state.unpack(saved["state"])
        if rank == 0:
            print(f"group {group} goes on from {checkpoint.stem}", flush=True)
    if saved and saved["manager"]["step"] >= args.steps:
        return

    across = ProcessGroupNCCL(PATIENCE) if device.type == "cuda" else ProcessGroupGloo(PATIENCE)
    manager = Manager(
        pg=across,
        state_dict=state.pack,
        load_state_dict=state.unpack,
        min_replica_size=1,
        use_async_quorum=False,
        init_sync=False,
        replica_id=f"group{group}-",
    )
    if saved:
        manager.load_state_dict(saved["manager"])
    model = DistributedDataParallel(state.model)
    journal = (args.out / f"group{group}.jsonl").open("a", encoding="utf-8")
    try:
        with DiLoCo(manager, [state.model], state.inner, state.outer, sync_every=args.sync_every) as diloco:
            if not saved or saved["attempt"] != ATTEMPT:  # all of them begin, and not this group alone
                meet(manager, groups, args.meet_within)
            inner_step, total = manager.current_step() * args.sync_every, 0.0
            while manager.current_step() < args.steps:
                before = manager.current_step()
                loss = loss_of(model, *batch(characters, args.batch, args.seed, group, rank, inner_step))
                state.inner.zero_grad()
                loss.backward()
                state.inner.step()  # the outer step, every `sync_every` of these, happens in here
                inner_step += 1
                total += loss.item()
                if diloco._local_step:
                    continue
                step, present = manager.current_step(), manager.num_participants()
                if rank == 0 and step > before:
                    mean = total / args.sync_every
                    print(f"group {group}  step {step}/{args.steps}  loss {mean:.4f}  groups {present}", flush=True)
                    entry = {"time": time.time(), "step": step, "loss": mean, "groups": present}
                    print(json.dumps(entry), file=journal, flush=True)
                    if manager.participating_rank() == 0:
                        save(args.out, step, state, manager, group)
                total, inner_step = 0.0, step * args.sync_every
        if rank == 0 and group == 0:
            print(f"validation loss {validation_loss(state.model, held_out):.4f}", flush=True)
    finally:
        journal.close()
        manager.shutdown(wait=False)
        across.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="muon")
    parser.add_argument("--lr", type=float, default=0.005)
    parser.add_argument("--outer-lr", type=float, default=0.7)
    parser.add_argument("--sync-every", type=int, default=10, help="inner steps between outer steps")
    parser.add_argument("--steps", type=int, default=20, help="outer steps")
    parser.add_argument("--batch", type=int, default=16, help="pieces of text for each rank and inner step")
    parser.add_argument("--meet-within", type=float, default=60, help="seconds to wait for all groups at the start")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    group, groups = int(os.environ["REPLICA_GROUP_ID"]), int(os.environ["NUM_REPLICA_GROUPS"])
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    train(args, State(args, device), group, groups, device)
    dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
