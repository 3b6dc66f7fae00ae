"""What runs inside a job and is more than bash: standard-library Python ≥ 3.8, packed into the run directory.

A node has no gangrun: the files here import the standard library and one another, and `lighthouse.py` torchft. Of them
gangrun imports only what client and job must know alike: the journal's format, in which order a pool's items start,
which checkpoint is the newest, and what the reasons for a next attempt are called.
"""

from functools import cache
from importlib.resources import files


@cache
def source(name: str) -> bytes:
    """The text of one of the files here, such as `monitor.py`."""
    return (files(__name__) / name).read_bytes()


PROGRAMS = ("checkpoint.py", "lighthouse.py", "monitor.py", "trace.py")
POOL = tuple(
    f"pool/{name}.py"
    for name in (
        "__init__", "__main__", "agent", "agents", "attempt", "channel", "door", "driver", "engine", "folder",
        "items", "journal", "merge", "own_step", "places", "processes", "ray_node", "rays", "waiting", "walltime",
        "warm",
    )
)  # fmt: skip
"""What the job of a pool runs."""
