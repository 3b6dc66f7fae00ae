"""A campaign on a real Slurm: simulators that crash and freeze, the shell that sent it killed, its limit lifted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.gangrun_cli import Project, marked, wait_for

pytestmark = pytest.mark.slurm


def test_every_route_is_done_in_the_end(project: Project) -> None:
    sender = project.start("submit", project.example("campaign"), "--set", "sweep.max_parallel=1", "--wait")
    run = wait_for(lambda: (found := project.runs()) and found[0]["state"] == "RUNNING" and found[0], 60)
    sender.kill()  # the login node has gone away with everything on it
    assert "as many items at once as there is room for" in project.ok("throttle", "latest", "any").out
    wait_for(lambda: project.run()["state"] not in ("PENDING", "RUNNING"), 150, every=1)

    state = project.run()
    assert (state["state"], state["progress"]["done"], len(state["items"])) == ("COMPLETED", 8, 8)
    tries = {item["name"]: item["tries"] for item in state["items"]}
    assert (tries["route=route_2"], tries["route=route_4"], tries["route=route_6"]) >= (2, 3, 2)
    assert "8/8 done" in project.ok("ls").out
    folder = Path(run["dir"])
    merged = json.loads((folder / "merged.json").read_text())
    assert (merged["items"], merged["done"], merged["missing"]) == (8, 8, [])
    assert merged["mean_of_all"]["score"] > 50

    # Each attempt has a log of each of its roles, and says why it failed.
    item = folder / "items" / "route=route_6"
    assert [(path.parts[-3], path.name) for path in sorted(item.glob("attempts/0*/logs/*.0.log"))] == [
        (f"00{number}", f"{role}.0.log")
        for number in range(1, tries["route=route_6"] + 1)
        for role in ("driver", "simulator")
    ]
    assert "no output for 15 s" in (item / "attempts" / "001" / "verdict").read_text()
    journal = [json.loads(line) for line in (folder / "pool" / "journal.jsonl").read_text().splitlines()]
    started = [event["node"] for event in journal if event["type"] == "Started" and event["item"] == 5]
    assert started[0] != started[1], "the second try is on another node"
    wait_for(lambda: not marked(*(f"GANGRUN_RUN_DIR={one}" for one in (folder / "items").iterdir())), 20)
