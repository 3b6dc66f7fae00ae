"""`torchrun`: one agent on each node, which starts one process for each GPU. Options are torchrun's own flags."""

import re

from gangrun.plan.model import Var, Word
from gangrun.plan.seat import Launch, Seat, flags

_PYTHON = re.compile(r"python[0-9.]*")
_DECIDED = {
    "nnodes": "nodes",
    "nproc-per-node": "tasks, or else gpus",
    "node-rank": "nodes",
    "standalone": "nodes",
    "rdzv-endpoint": "the first node",
    "rdzv-id": "the job's id and attempt",
}


def launch(seat: Seat) -> Launch:
    """One node rendezvous with itself; several meet at a port of the first, under an id of this job and attempt."""
    _check(seat)
    if len(seat.nodes) == 1:
        rendezvous: tuple[Word, ...] = (Word.of("--standalone"),)
    else:
        rendezvous = (
            Word.of(f"--nnodes={len(seat.nodes)}"),
            Word.of("--rdzv-backend=c10d"),
            Word.of("--rdzv-endpoint=", seat.host, ":", seat.port("rdzv")),
            # An agent of an earlier attempt that has not died yet must not join this one.
            Word.of("--rdzv-id=", Var("job"), ".", Var("attempt"), f".{seat.role}.{seat.index}"),
        )
    count = Word.of(f"--nproc-per-node={seat.processes}")
    argv = (Word.of("torchrun"), *rendezvous, count, *flags(seat.options), *seat.command)
    return Launch(argv, workers=seat.processes)


def _check(seat: Seat) -> None:
    options = {name.replace("_", "-"): value for name, value in seat.options.items()}
    program = seat.command[0].parts if seat.command else ()
    if len(program) == 1 and _PYTHON.fullmatch(str(program[0])) and not options.get("no-python"):
        raise ValueError(f"torchrun starts python by itself: leave {program[0]!r} out and begin with the script")
    for name in options.keys() & _DECIDED.keys():
        raise ValueError(f"torchrun's --{name} follows from {_DECIDED[name]}; leave {name.replace('-', '_')} out")
