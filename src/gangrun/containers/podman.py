"""`podman`: `podman run`, with the node's network, processes, shared memory, limits and environment."""

from pathlib import Path

from gangrun.plan.model import Word
from gangrun.plan.seat import Contained, Seat, mounts, no_more_keys
from gangrun.spec.model import Container

_AS_ON_THE_NODE = (
    "--rm",
    "--env-host",
    "--network=host",
    "--ipc=host",
    "--pid=host",  # or the program is process 1, to which TERM does nothing
    "--ulimit=host",
    "--security-opt=label=disable",  # SELinux hides what is mounted
)


def contain(container: Container, argv: tuple[Word, ...], seat: Seat) -> Contained:
    """`podman run --rm … [--volume=SOURCE:TARGET[:ro] …] --workdir=DIR IMAGE COMMAND`."""
    no_more_keys(container)
    if container.image.startswith("/"):
        raise ValueError(f"podman starts images by name, not the file {container.image}: podman load, then its name")
    flags = [*_AS_ON_THE_NODE, *(["--device=nvidia.com/gpu=all"] if seat.gpus else [])]
    sources = []
    for source, target, read_only in mounts(container):
        sources.append(source)
        flags.append(f"--volume={source}:{target}{':ro' if read_only else ''}")
    if container.mount_home:
        flags.append(f"--volume={Path.home()}:{Path.home()}")
    flags.append(f"--workdir={container.workdir}")
    flags += ["--read-only"] if container.writable is False else []
    flags += ["--userns=keep-id"] if container.remap_root is False else []
    words = map(Word.of, ("podman", "run", *flags, container.image))
    return Contained((*words, *argv), parts=("podman", *sources))
