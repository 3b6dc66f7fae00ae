"""Change how many items of a sweep run at once, while it runs.

Items that run already go on. An array's limit is changed in Slurm, the jobs of a sweep are made to wait for each other
anew, and a pool's driver reads the new number within seconds. --attempts is how often an item of a campaign is tried.
"""

from __future__ import annotations

import argparse
from typing import Literal

from gangrun.cli import inputs
from gangrun.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN N, --nodes, --attempts."""
    parser.add_argument("run", metavar="RUN", help="a sweep: run id, its beginning, experiment/step, path, or latest")
    parser.add_argument("most", metavar="N", help="how many at once at the most, from 1; any: as there is room for")
    of = parser.add_mutually_exclusive_group()
    of.add_argument("--nodes", action="store_true", help="N is how many nodes they may hold, as max_nodes")
    of.add_argument("--attempts", action="store_true", help="N is how often each is tried, as campaign.attempts")


def run(args: argparse.Namespace) -> int:
    """Puts the wish on record, then tells whoever starts the items."""
    from gangrun import clusters, throttling
    from gangrun.spec import toml

    most = _most(args.most)
    if args.attempts and not most:
        raise UsageError("an item has a number of attempts", way_out="the file's campaign.attempts is how it began")
    found = inputs.store_here().find(args.run)
    project = inputs.project_here()
    state = inputs.states([found], project)[0]
    if not state.mode:
        raise UsageError(f"{state.run} is no sweep", way_out="gangrun ls shows the items of those that are")
    if state.final:
        print(f"{state.run}: nothing to throttle, it is {state.state}")
        return 0
    if args.attempts and "campaign" not in toml.read(found.spec)[0]:
        raise UsageError(f"{state.run} is no campaign, whose items have attempts")
    what: Literal["items", "nodes", "attempts"] = "attempts" if args.attempts else "nodes" if args.nodes else "items"
    limits = throttling.change(found, state.mode, most, what)
    if state.mode == "pool":
        print(f"{state.run}: {throttling.words(limits)}, which its driver reads within seconds")
        return 0
    slurm = clusters.slurm_of(clusters.named(state.cluster, project))
    said = throttling.apply(found, state.mode, inputs.items(found, state, project), limits, slurm)
    for words in said[:5]:
        print(f"{state.run}: Slurm did not change one of them: {words}")
    print(f"{state.run}: {throttling.words(limits)}")
    return 1 if said else 0


def _most(text: str) -> int:
    """The limit, 0 for none. Raises UsageError, for 0 too, which may mean none or no limit."""
    if text == "any":
        return 0
    if not text.isdecimal() or not int(text):
        why = "with none at once nothing would go on" if text.isdecimal() else "it is no number"
        way_out = "a number from 1, or `any` for no limit; gangrun cancel RUN ends the sweep"
        raise UsageError(f"{text!r} is no limit: {why}", way_out=way_out)
    return int(text)
