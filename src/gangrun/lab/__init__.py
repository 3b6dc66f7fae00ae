"""A throw-away real Slurm of several hosts on one machine: `Lab`, and `state.profile_path` to ask whether one is up.

`Lab` is loaded when it is first asked for, so that `gangrun.lab.state` stays cheap to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gangrun.lab.lab import Lab, NodeStatus, Status

__all__ = ["Lab", "NodeStatus", "Status"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from gangrun.lab import lab

        return getattr(lab, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
