"""`srun`: the scheduler starts every process itself, one for each GPU, and each is told its rank."""

from gangrun.plan.seat import Launch, Seat, no_options


def launch(seat: Seat) -> Launch:
    """The command as it is, `tasks` times on each node."""
    no_options("srun", seat.options)
    seat.port("master")
    return Launch(seat.command, tasks=seat.processes, ranks=True)
