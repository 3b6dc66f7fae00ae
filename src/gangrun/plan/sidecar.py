"""A sidecar of gangrun's own: a program of `gangrun.node` that looks at the nodes of a job."""

from __future__ import annotations

from gangrun.plan.model import Replica, Var, Word


def sidecar(role: str, program: str, nodes: tuple[int, ...], *words: str) -> Replica:
    """One replica on these nodes. It asks for no GPUs, and for a CPU that it leaves to the others."""
    return Replica(
        role=role,
        index=0,
        count=1,
        kind="sidecar",
        nodes=nodes,
        gpus=(),
        cpus=None,
        tasks=1,
        ranks=False,
        # Isolated and without site-packages: whatever Python the job brings along, it starts in 15 ms.
        argv=(
            Word.of("python3"),
            Word.of("-IS"),
            Word.of(Var("run_dir"), f"/node/{program}"),
            *(Word.of(word) for word in words),
        ),
        # One that is killed ends alone, not together with those on the other nodes.
        step_flags=(Word.of("--kill-on-bad-exit=0"),),
        alone=False,
    )
