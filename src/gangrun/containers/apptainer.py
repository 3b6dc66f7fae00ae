"""`apptainer`: `apptainer exec`, which passes the environment on, all but PATH and what the image itself sets."""

from pathlib import Path

from gangrun.plan.model import Word
from gangrun.plan.seat import Contained, Seat, mounts, no_more_keys, paths
from gangrun.spec.model import Container


def contain(container: Container, argv: tuple[Word, ...], seat: Seat) -> Contained:
    """`apptainer exec [--nv] [--bind=SOURCE:TARGET[:ro] …] --pwd=DIR IMAGE COMMAND`."""
    no_more_keys(container)
    flags = ["--nv"] if seat.gpus else []
    flags += [
        f"--bind={source}:{target}{':ro' if read_only else ''}"
        for source, target, read_only in mounts(container, forbidden=",")
    ]
    flags.append(f"--pwd={container.workdir}")  # --cwd since 1.2, which still takes the older name
    flags += ["--writable-tmpfs"] if container.writable else []
    flags += ["--fakeroot"] if container.remap_root else []
    if container.mount_home is not None:
        flags.append(f"--home={Path.home()}" if container.mount_home else "--no-home")
    words = map(Word.of, ("apptainer", "exec", *flags, container.image))
    return Contained((*words, *argv), parts=("apptainer", *paths(container)))
