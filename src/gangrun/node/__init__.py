"""What runs inside a job and is more than bash: standard-library Python ≥ 3.8, packed into the run directory.

A node has no gangrun: the files here import the standard library and one another, and nothing of gangrun imports them.
"""

from functools import cache
from importlib.resources import files


@cache
def source(name: str) -> bytes:
    """The text of one of the files here, such as `pool.py`."""
    return (files(__name__) / name).read_bytes()
