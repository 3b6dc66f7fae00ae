"""Where views are printed: one console, and one way of printing data."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def console(piped: int = 120) -> Console:
    """Standard output as a terminal, or as plain lines of so many columns where it is a file or a pipe."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else piped)


def print_json(value: Any) -> None:
    """One JSON document; a list has one item on each line, as it may be long."""
    if isinstance(value, list):
        # With an indent Python's own encoder works, eight times slower than the one in C.
        text = "[\n" + ",\n".join(map(json.JSONEncoder(ensure_ascii=False).encode, value)) + "\n]"
    else:
        text = json.dumps(value, indent=2, ensure_ascii=False)
    sys.stdout.write(text + "\n")
