"""The example of a pool, with every engine on a real Slurm."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gangrun_cli import Project
from tests.slurm.pools import spans, told

pytestmark = pytest.mark.slurm


@pytest.mark.torch
def test_the_example_with_every_engine(project: Project) -> None:
    """All 20 in warm workers; a few where each item has to import torch."""
    folder = Path(project.example("pool")).parent
    few = ("--set", "sweep.blocks=[4, 80, 40, 20]")
    for file, words, count in (("warm", (), 20), ("pool", few, 4), ("ray", few, 4)):
        done = project.gangrun("submit", f"{folder}/{file}.toml", *words, "--wait", limit=300)
        assert done.code == 0, done.out + done.err
        run = project.run()
        assert (run["state"], run["progress"]["done"]) == ("COMPLETED", count)
        rows = project.ok("results", "latest", "--json").data
        assert all(row["metrics"]["loss"] < 1.1 for row in rows), "it was ln 3 at first"
        found = list(spans(told(project, run["run"])))
        assert len({(span.node, *span.gpus) for _, span in found}) == 4
        (longest,) = (span for index, span in found if rows[index]["parameters"]["blocks"] == 80)
        assert longest.started in sorted(span.started for _, span in found)[:4], "the longest is among the first"
