"""`charliecloud`: `ch-run`, unprivileged, no daemon. Passes the environment and the step's devices through."""

from gangrun.plan.model import Word
from gangrun.plan.seat import Contained, Seat, mounts, no_more_keys, paths
from gangrun.spec.model import Container

_SQUASHED = (".sqsh", ".sqfs", ".squashfs")


def contain(container: Container, argv: tuple[Word, ...], seat: Seat) -> Contained:  # noqa: ARG001
    """`ch-run [--bind=SOURCE:TARGET …] --cd=DIR IMAGE -- COMMAND`."""
    no_more_keys(container)
    flags = []
    for source, target, read_only in mounts(container):
        if read_only:
            raise ValueError(f"charliecloud mounts everything writable: leave :ro out of {source}:{target}:ro")
        # The node's /tmp is there already, and ch-run refuses to mount anything below it.
        if source != target or not target.startswith("/tmp/"):  # noqa: S108
            flags.append(f"--bind={source}:{target}")
    flags.append(f"--cd={container.workdir}")
    flags += ["--write"] if container.writable else []
    flags += ["--uid=0", "--gid=0"] if container.remap_root else []
    flags += ["--home"] if container.mount_home else []
    notes = []
    if container.image.endswith(_SQUASHED):
        # Measured with 0.31: its own FUSE server is in the step and ends at TERM, and it then returns 0.
        notes.append(
            "at TERM ch-run takes a SquashFS image away from the program, which then cannot save what it has; "
            "an unpacked image (unsquashfs, ch-convert) does not have that fault"
        )
    words = map(Word.of, ("ch-run", *flags, container.image, "--"))
    return Contained((*words, *argv), parts=("ch-run", *paths(container)), notes=tuple(notes))
