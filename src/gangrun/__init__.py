"""gangrun launches and looks after machine-learning experiments on Slurm."""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

TYPE_CHECKING = False  # typing alone would double what `import gangrun` takes
if TYPE_CHECKING:
    from gangrun.spec.python import load


def __getattr__(name: str) -> object:
    # Looked up when it is asked for: most commands do without pydantic, which takes longer than they do.
    if name == "load":
        from gangrun.spec.python import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
