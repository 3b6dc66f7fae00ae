"""Sweeps that meet a cluster's limits, and a sender that is killed in the middle: on fake Slurm programs."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))

import fake_slurm as fakes
from fake_slurm import Installed

from gangrun.record.state import State
from tests.chains import two_sweeps
from tests.gangrun_cli import Done, Project, wait_for

FILE = "experiments/sweep/many.toml"
SWEEP = """\
cluster = "site"
command = ["echo", "{x}"]
[pool]
estimate = "{x}"
[sweep]
mode = "MODE"
x = { from = 1, to = 10, step = 1 }
"""
Fake = Callable[..., Installed]


@pytest.fixture
def project(project: Project) -> Project:
    project.env["GANGRUN_CLUSTER"] = "site"
    project.write("clusters/site.toml", 'scheduler = "slurm"\n')
    return project


def submit(project: Project, mode: str, *words: str) -> Done:
    project.write(FILE, SWEEP.replace("MODE", mode))
    return project.ok("submit", FILE, *words)


def given(fake: Installed, flag: str) -> list[str]:
    """What each sbatch was told on its command line."""
    return [fakes.option(call["argv"], flag) for call in fake.calls("sbatch")]


def lines(project: Project) -> list[dict[str, object]]:
    folder = Path(project.run()["dir"])
    return [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]


def by_length(project: Project) -> list[tuple[str, str]]:
    """State and job of each item, the longest first."""
    return [(one["state"], one["job"]) for one in sorted(project.run()["items"], key=lambda one: -one["index"])]


def test_more_items_than_an_array_can_have_become_several_arrays(project: Project, fake_slurm: Fake) -> None:
    fake = fake_slurm(fakes.SmallArrays)
    assert "10 items: 3 jobs, 1000 to 1002, on site" in submit(project, "array").out
    assert given(fake, "--array") == ["0-3", "0-2", "0-2"]
    told = lines(project)
    places = [(line["array"], line["task"]) for line in told]
    assert len(set(places)) == 10, "no item twice"
    assert {place[0]: max(p[1] for p in places if p[0] == place[0]) for place in places} == {0: 3, 1: 2, 2: 2}
    folder = Path(project.run()["dir"])
    for line in told:
        script = (folder / "arrays" / str(line["array"]) / "script.sh").read_text()
        assert f"/items/{line['name']}" in script
    assert places[9] == (0, 0), "the longest item begins first"


def test_jobs_of_items_and_tasks_name_them(project: Project, fake_slurm: Fake) -> None:
    fake_slurm(fakes.SmallArrays)
    submit(project, "array")
    sweep = project.run()["run"]
    places = {f"{1000 + int(str(line['array']))}_{line['task']}": line["run"] for line in lines(project)}
    submit(project, "jobs")
    items = {one["job"]: one["name"] for one in project.run()["items"]}
    for job in ("1003", "1012"):
        assert project.run(job)["run"].endswith(f".{items[job]}")
    for job in ("1000_0", "1002_2"):
        assert project.run(job)["run"] == places[job]
    assert project.run("1001")["run"] == sweep
    assert project.gangrun("show", "1001_7").code == project.gangrun("show", "1013").code == 2


def test_the_limit_is_shared_by_the_arrays(project: Project, fake_slurm: Fake) -> None:
    fake = fake_slurm(fakes.SmallArrays)
    submit(project, "array", "--set", "sweep.max_parallel=5")
    assert given(fake, "--array") == ["0-3%2", "0-2%2", "0-2%1"]
    submit(project, "array", "--set", "sweep.max_parallel=2")
    assert given(fake, "--array")[3:] == ["0-3%2", "0-2%2", "0-2%2"]
    assert given(fake, "--dependency")[3:] == ["", "afterany:1003", "afterany:1004"], "one array after another"


def test_a_cluster_that_refuses_does_not_keep_what_is_elsewhere_alive(project: Project, fake_slurm: Fake) -> None:
    fake_slurm(fakes.NotYours)
    project.env.pop("GANGRUN_CLUSTER")
    for name, cluster in (("there", "site"), ("here", "local")):
        project.write(f"experiments/two/{name}.toml", f'cluster = "{cluster}"\ncommand = ["sleep", "600"]\n')
        project.ok("submit", f"experiments/two/{name}.toml")
    done = project.gangrun("cancel", "two/there", "two/here")
    assert (done.code, "Access/permission denied" in done.err) == (1, True), done.err
    wait_for(lambda: project.run("two/here")["state"] == "CANCELLED")


def test_a_check_does_not_speak_of_another_cluster(project: Project, fake_slurm: Fake) -> None:
    fake = fake_slurm()
    (fake.bin / "srun").symlink_to("/bin/true")
    project.write("clusters/site.toml", 'scheduler = "slurm"\ncluster_name = "site"\n')
    done = project.gangrun("cluster", "check", "site")
    assert (done.code, "the Slurm of this machine is fake, and site is meant" in done.out) == (1, True), done.out


def test_a_cluster_without_arrays_is_told_before_anything_is_made(project: Project, fake_slurm: Fake) -> None:
    fake_slurm(fakes.NoArrays)
    project.write(FILE, SWEEP.replace("MODE", "array"))
    done = project.gangrun("submit", FILE)
    assert (done.code, project.runs()) == (2, [])
    assert "site has no job arrays: its MaxArraySize is 0" in done.err


def test_jobs_wait_for_one_another_by_nodes(project: Project, fake_slurm: Fake) -> None:
    """Ten jobs on two nodes each, of which four may be held: two lanes, the longest first."""
    fake = fake_slurm()
    submit(project, "jobs", "--set", "sweep.max_nodes=4", "--set", "allocation.nodes=2")
    waits = given(fake, "--dependency")
    # 10 and 9 begin; 8 follows 9, 7 follows 10, then 6 (busy until 17) and 5 (until 17) follow 8 and 7, …
    assert waits[:4] == ["", "", "afterany:1001", "afterany:1000"]
    assert all(wait.startswith("afterany:") for wait in waits[2:])
    assert [job["name"].rpartition("x=")[2] for job in fake.jobs()] == [str(x) for x in range(10, 0, -1)]


@pytest.mark.parametrize("mode", ["jobs", "array"])
def test_a_limit_under_which_no_item_could_start_is_refused_and_not_kept(
    project: Project, fake_slurm: Fake, mode: str
) -> None:
    fake_slurm()
    submit(project, mode, "--set", "allocation.nodes=2")
    done = project.gangrun("throttle", "latest", "1", "--nodes")
    assert (done.code, "an item takes 2 nodes, so with 1 it could never start" in done.err) == (2, True)
    assert not (Path(project.run()["dir"]) / "throttle").exists()


def test_a_full_queue_is_waited_for_and_said(project: Project, fake_slurm: Fake) -> None:
    fake = fake_slurm(fakes.FullForTheFourth)
    done = submit(project, "jobs")
    assert "queue is full" in done.err
    assert "sbatch waits for room" in done.err
    assert len(fake.jobs()) == 10
    assert {one["state"] for one in project.run()["items"]} == {"PENDING"}


def test_an_array_waits_task_by_task_only_for_one_in_its_order(project: Project, fake_slurm: Fake) -> None:
    fake = fake_slurm()
    folder = two_sweeps(project, mode="array")
    project.ok("submit", folder)
    assert given(fake, "--dependency") == ["", "aftercorr:1000"]
    # Its longest item comes first, which is the last of the other.
    step = f"{folder}/010_posttrain.toml"
    turned = project.gangrun("submit", step, "--set", 'pool.estimate="{seed}"')
    assert turned.code == 0, turned.err
    assert given(fake, "--dependency")[2:] == ["afterok:1000_1:1000_0"]
    project.ok("submit", step, "--set", 'sweep.mode="jobs"')
    assert given(fake, "--dependency")[3:] == ["afterok:1000_0", "afterok:1000_1"]
    project.ok("submit", step, "--set", 'sweep.mode="pool"')
    assert given(fake, "--dependency")[5:] == ["afterok:1000_0:1000_1"]


@pytest.mark.parametrize("mode", ["jobs", "array", "pool"])
def test_zero_is_no_limit(project: Project, fake_slurm: Fake, mode: str) -> None:
    fake = fake_slurm()
    submit(project, mode)
    for word, why in (("0", "with none at once nothing would go on"), ("two", "it is no number")):
        for more in ([], ["--nodes"], ["--attempts"]):
            done = project.gangrun("throttle", "latest", word, *more)
            assert (done.code, f"{word!r} is no limit: {why}" in done.err) == (2, True)
            assert "`any` for no limit; gangrun cancel RUN ends" in done.err
    folder = Path(project.run()["dir"])
    assert not (folder / "throttle").exists()
    assert not [call for call in fake.calls("scontrol") if call["argv"][0] == "update"]
    assert "as many items at once as there is room for" in project.ok("throttle", "latest", "any").out
    assert (folder / "throttle").read_text() == "0 0 0\n"
    done = project.gangrun("submit", FILE, "--set", "sweep.max_parallel=0")
    assert (done.code, "max_parallel" in done.err) == (2, True)


@pytest.mark.parametrize("mode", ["jobs", "array"])
def test_a_sweep_goes_on_with_an_item_that_is_resumed(project: Project, fake_slurm: Fake, mode: str) -> None:
    fake = fake_slurm()
    submit(project, mode, "--set", "sweep.x=[2]")
    ended = {"nodes": "n1", "started": 1.8e9, "ended": 1.8e9 + 1}
    fake.move("1000", state="FAILED", code=1, **ended)
    assert project.run()["state"] == "FAILED"
    assert '"Observed"' in (Path(project.run()["dir"]) / "events.jsonl").read_text(), "and so it is recorded"
    assert "attempt 1, job 1001" in project.ok("resume", "latest/x=2").out
    assert (project.run()["state"], project.run()["progress"]["left"]) == ("PENDING", 1)
    fake.move("1001", state="COMPLETED", **ended)
    for _ in range(2):
        run = project.run()
        assert (run["state"], run["exit_code"], run["progress"]["done"]) == ("COMPLETED", 0, 1)


@pytest.mark.parametrize("mode", ["jobs", "array"])
def test_a_sweep_has_not_ended_while_a_job_may_come_back(project: Project, fake_slurm: Fake, mode: str) -> None:
    fake = fake_slurm()
    submit(project, mode, "--set", "sweep.x=[2]")
    events = Path(project.run()["dir"]) / "events.jsonl"
    fake.move("1000", state="PREEMPTED", nodes="n1", started=1.8e9, ended=1.8e9 + 1)
    assert (project.run()["state"], "Observed" in events.read_text()) == ("FAILED", False)
    fake.move("1000", state="RUNNING", ended=None)
    assert project.run()["state"] == "RUNNING"
    project.ok("cancel", "latest")
    for _ in range(3):
        assert project.run()["state"] == "CANCELLED"
    assert events.read_text().count("Observed") == 1


@pytest.mark.parametrize("mode", ["jobs", "array"])
def test_a_sender_that_is_killed_leaves_nothing_in_doubt(project: Project, fake_slurm: Fake, mode: str) -> None:
    """The third job is taken in, and its sender dies before it has heard so."""
    fake = fake_slurm(fakes.HangsWithTheThird)
    project.write(FILE, SWEEP.replace("MODE", mode))
    sender = project.start("submit", FILE)
    wait_for(lambda: len(fake.jobs()) == 3, 60)
    os.killpg(sender.process.pid, signal.SIGKILL)
    sender.kill()
    run = project.run()
    if mode == "array":
        assert {(one["state"], one["job"].partition("_")[0]) for one in run["items"]} == {
            ("PENDING", str(1000 + number)) for number in range(3)
        }
    else:
        # For half a minute a job that is not listed could still be coming.
        unsent = [State.NEVER_SENT] * 7
        items = wait_for(lambda: (found := by_length(project))[3:] == [(word, "") for word in unsent] and found, 60, 2)
        assert items[:3] == [("PENDING", str(1000 + number)) for number in range(3)], "the third is found by its name"
    assert len(fake.jobs()) == 3, "looking sends nothing"
    project.ok("cancel", "latest")
    assert {job["state"] for job in fake.jobs()} == {"CANCELLED"}


@pytest.mark.parametrize("mode", ["jobs", "array"])
def test_resume_sends_what_a_killed_sender_left(project: Project, fake_slurm: Fake, mode: str) -> None:
    fake = fake_slurm(fakes.HangsWithTheSecond)
    project.write(FILE, SWEEP.replace("MODE", mode))
    two = ("--set", "sweep.max_parallel=2")
    sender = project.start("submit", FILE, *two)
    wait_for(lambda: len(fake.jobs()) == 2, 60)
    done = project.gangrun("resume", "latest")
    assert (done.code, "is being sent" in done.err) == (2, True)
    os.killpg(sender.process.pid, signal.SIGKILL)
    sender.kill()
    known = {"PENDING", State.NEVER_SENT}
    wait_for(lambda: {one["state"] for one in project.run()["items"]} == known, 60, 2)
    rest = "the rest: 8 jobs, 1002 to 1009, on site" if mode == "jobs" else "the rest: job 1002 on site"
    assert rest in project.ok("resume", "latest").out
    run = project.run()
    assert {one["state"] for one in run["items"]} == {"PENDING"}
    assert len({one["job"] for one in run["items"]}) == 10
    done = project.gangrun("resume", "latest")
    assert (done.code, "all were sent" in done.err) == (2, True)

    whole = fake_slurm(fakes.SmallArrays)
    submit(project, mode, *two)
    for flag in ("--array", "--dependency"):
        assert given(fake, flag) == given(whole, flag), "as if one sender had sent it all"
    assert [job["name"].partition(".")[2] for job in fake.jobs()] == [
        job["name"].partition(".")[2] for job in whole.jobs()
    ]
