"""`exec`: the command itself, once, on the first of the replica's nodes; a sidecar's, once on each of them."""

from gangrun.plan.seat import Launch, Seat, no_options


def launch(seat: Seat) -> Launch:
    """The command as it is."""
    no_options("exec", seat.options)
    if seat.tasks is not None and seat.tasks > 1:
        raise ValueError(f'exec starts one process; launcher = "srun" starts {seat.tasks} tasks on each node')
    # A sidecar watches the nodes that it is given; a main on several nodes starts its own processes on the others.
    return Launch(seat.command, nodes=None if seat.kind == "sidecar" else 1)
