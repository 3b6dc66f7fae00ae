"""Delete the copies of the code (`[code] snapshot`) that no run of this project needs any more.

A copy is needed by a run that has not ended, and by one that has ended without success, as that can be resumed. Nothing
but such copies is ever deleted: runs, their logs and what they made stay.
"""

from __future__ import annotations

import argparse
import time

from gangrun.cli import inputs
from gangrun.project import OUTPUTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--dry-run, --failed, --json."""
    parser.add_argument("--dry-run", action="store_true", help="say what would be deleted, and delete nothing")
    parser.add_argument(
        "--failed", action="store_true", help="also those of runs that ended without success: they cannot be resumed"
    )
    inputs.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Looks at the runs of every copy, deletes what can go, and says what stays for whom."""
    from gangrun.record import code
    from gangrun.record.state import State
    from gangrun.views.figures import number
    from gangrun.views.terminal import print_json

    project = inputs.project_here()
    outputs = project / OUTPUTS
    copies = code.kept(outputs, code.users(inputs.store_here().runs()))
    runs = list(dict.fromkeys(run for copy in copies for run in copy.runs))
    states = dict(zip(runs, inputs.states(runs, project) if runs else (), strict=True))
    rows: list[tuple[code.Kept, int, str]] = []
    for copy in copies:
        needy = (states[run] for run in copy.runs)
        needy = (state for state in needy if not state.final or not (args.failed or state.state == State.COMPLETED))
        stays = next((f"{state.run}, which is {state.state}" for state in needy), "")
        if not stays and time.time() - copy.used < code.IN_USE:
            stays = "whoever was given it within the last two minutes"
        size = copy.size
        if not stays and not args.dry_run and not copy.delete():
            stays = "whoever was given it just now"
        rows.append((copy, size, stays))
    if not args.dry_run:
        code.clear(outputs)
    if args.json:
        print_json([{"copy": str(copy.path), "bytes": size, "stays_for": stays} for copy, size, stays in rows])
        return 0
    for copy, size, stays in rows:
        words = f"stays for {stays}" if stays else f"had {len(copy.runs)} runs, none of which needs it"
        print(f"{copy.path}  {number(size / 1e6, 'MB')}  {words}")
    freed = [size for _, size, stays in rows if not stays]
    verb = "would free" if args.dry_run else "freed"
    print(f"{verb} {number(sum(freed) / 1e6, 'MB')}: {len(freed)} of {len(rows)} copies of the code")
    return 0
