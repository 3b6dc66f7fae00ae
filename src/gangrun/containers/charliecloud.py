"""`charliecloud`: `ch-run`, unprivileged, no daemon. Passes the environment and the step's devices through."""

from gangrun.plan.model import Word
from gangrun.plan.seat import Contained
from gangrun.spec.model import Container


def contain(container: Container, argv: tuple[Word, ...]) -> Contained:
    """`ch-run [--bind=SOURCE:TARGET …] IMAGE -- COMMAND`."""
    mounts = container.options.get("mounts", [])
    if unknown := sorted(set(container.options) - {"mounts"}):
        raise ValueError(f"charliecloud has no key {unknown[0]!r}; it has image and mounts")
    if not isinstance(mounts, list) or not all(isinstance(mount, str) and ":" in mount for mount in mounts):
        raise ValueError('mounts is a list of "source:target"')
    binds = tuple(Word.of(f"--bind={mount}") for mount in mounts)
    return Contained((Word.of("ch-run"), *binds, Word.of(container.image), Word.of("--"), *argv))
