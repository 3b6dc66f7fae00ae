"""`pyxis`: flags of the Slurm plugin of that name, which starts the step in a container of enroot."""

from gangrun.plan.model import Word
from gangrun.plan.seat import Contained, Seat, mounts, no_more_keys, paths
from gangrun.spec.model import Container


def contain(container: Container, argv: tuple[Word, ...], seat: Seat) -> Contained:  # noqa: ARG001
    """`srun --container-image=… --container-mounts=SOURCE:TARGET[:ro],… --container-workdir=DIR …`."""
    no_more_keys(container)
    mounted = [
        f"{source}:{target}{':ro' if read_only else ''}"
        for source, target, read_only in mounts(container, forbidden=", \t")
    ]
    flags = [
        f"--container-image={container.image}",
        f"--container-mounts={','.join(mounted)}",
        f"--container-workdir={container.workdir}",
    ]
    if container.writable is not None:
        flags.append("--container-writable" if container.writable else "--container-readonly")
    for key, wanted in (("mount-home", container.mount_home), ("remap-root", container.remap_root)):
        if wanted is not None:
            flags.append(f"--{'' if wanted else 'no-'}container-{key}")
    return Contained(argv, tuple(map(Word.of, flags)), parts=paths(container))
