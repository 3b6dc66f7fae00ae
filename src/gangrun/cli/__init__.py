"""The command line: one small file per command, wiring only."""

from __future__ import annotations


def main() -> int:
    """Placeholder until the first command stands."""
    return 0
