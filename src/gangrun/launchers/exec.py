"""`exec`: the command itself, once, on the first of the replica's nodes."""

from gangrun.plan.seat import Launch, Seat


def launch(seat: Seat) -> Launch:
    """The command as it is."""
    return Launch(seat.command, nodes=1)
