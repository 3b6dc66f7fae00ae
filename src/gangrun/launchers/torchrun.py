"""`torchrun`: one agent on each node, which starts one process for each GPU. Options are torchrun's own flags."""

from gangrun.plan.model import Var, Word
from gangrun.plan.seat import Launch, Seat, flags


def launch(seat: Seat) -> Launch:
    """One node rendezvous with itself; several meet at a port of the first, under an id of this job and attempt."""
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
    return Launch((Word.of("torchrun"), *rendezvous, count, *flags(seat.options), *seat.command))
