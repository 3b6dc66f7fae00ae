"""What a run used and how well, on the terminal and as one HTML page: GPUs, CPUs, memory, time, GPU-hours wasted."""

from __future__ import annotations

import argparse
from pathlib import Path

from gangrun.cli import inputs
from gangrun.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --item, --html, --json."""
    inputs.add_run(parser)
    inputs.add_item(parser)
    help_ = "where to write the page (default: report.html in the run's directory)"
    parser.add_argument("--html", metavar="FILE", type=Path, help=help_)
    inputs.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the report and writes the page; with --json the page only where --html says. Exit code 0 whatever is in
    them."""
    from gangrun.views import report
    from gangrun.views.report.gather import gather

    found = inputs.run_or_item(args)
    project = inputs.project_here()
    state = inputs.states([found], project)[0]
    items = inputs.items(found, state, project) if state.mode else []
    gathered = gather(found, state, items, lambda: inputs.items_as_runs(found, project))
    if gathered is None:
        raise UsageError(
            f"{found.run_id} has not begun, so there is nothing to report", way_out="gangrun why tells why"
        )
    if args.html:
        _write(args.html, report.page(gathered))
    elif not args.json:
        found.write_report(report.page(gathered))
    if args.json:
        from gangrun.views.terminal import print_json

        print_json(report.as_data(gathered))
    else:
        print("\n".join([*report.text(gathered), "", f"page: {args.html or found.report}"]))
    return 0


def _write(file: Path, page: str) -> None:
    try:
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}", way_out="--html FILE") from error
