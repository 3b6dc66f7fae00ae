"""Campaigns on this machine: what is done stays done, what has failed is tried again when one resumes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gangrun_cli import Project, project_in, sh, wait_for

FILE = """
command = ["bash", "-c", {text}]
[sweep]
route = ["good", "half", "late"]
[campaign]
attempts = 2
verdict = {{ file = "result.json", where = {{ ok = true }} }}
merge = ["bash", "-c", "cat {{run.dir}}/items/*/result.json >{{run.dir}}/all.txt"]
"""
TEXT = """
echo {route} >>{run.dir}/tries
case {route} in
  half) echo '{{"ok": tr' >{run.dir}/result.json ;;
  late) if [[ -e ready ]]; then echo '{{"ok": true}}' >{run.dir}/result.json; fi ;;
  *) echo '{{"ok": true}}' >{run.dir}/result.json; exit 9 ;;
esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with project_in(tmp_path / "project") as project:
        yield project


@pytest.mark.parametrize("engine", ["steps", "ray"])
def test_done_items_are_skipped_and_failed_ones_tried_again_on_resume(engine: str, project: Project) -> None:
    text = FILE.format(text=json.dumps(TEXT)) + f"[pool]\nengine = {engine!r}\n"
    project.write("experiments/001_eval/000_routes_0.toml", text)
    done = project.gangrun("run", "experiments/001_eval/000_routes_0.toml")
    assert done.code == 1
    assert "route=half failed with result.json is no whole JSON" in done.out + done.err
    run = project.run()
    folder = Path(run["dir"])
    assert [(one["state"], one["tries"], one["reason"]) for one in run["items"]] == [
        ("COMPLETED", 1, ""),
        ("FAILED", 2, "result.json is no whole JSON"),
        ("FAILED", 2, "there is no result.json"),
    ]
    assert (folder / "all.txt").read_text().count("true") == 1
    assert "1/3 done, 2 failed" in project.ok("ls").out

    project.write("ready", "")
    assert project.gangrun("resume", "latest", "--wait").code == 1
    states = [(one["state"], one["tries"]) for one in project.run()["items"]]
    assert states == [("COMPLETED", 1), ("FAILED", 4), ("COMPLETED", 3)]
    assert (folder / "items" / "route=good" / "tries").read_text() == "good\n"
    assert (folder / "all.txt").read_text().count("true") == 2
    assert not (folder / "pool" / "again").exists()
    assert sorted(path.name for path in (folder / "items" / "route=half" / "attempts").iterdir()) == [
        "001", "002", "003", "004",
    ]  # fmt: skip


def test_attempts_change_while_it_runs(project: Project) -> None:
    text = "until [[ -e ready ]]; do sleep 0.1; done; echo try >>{run.dir}/tries; false"
    project.write("experiments/e/s.toml", sh(text) + "[sweep]\nx = [1]\n[campaign]\nattempts = 9\n")
    running = project.start("run", "experiments/e/s.toml")
    wait_for(lambda: (found := project.runs()) and found[0]["progress"]["running"] == 1)
    assert "2 attempts at each" in project.ok("throttle", "latest", "2", "--attempts").out
    folder = Path(project.run()["dir"])
    seen = json.loads((folder / "pool" / "status.json").read_text())["t"]
    wait_for(lambda: json.loads((folder / "pool" / "status.json").read_text())["t"] > seen + 2)
    project.write("ready", "")
    assert running.done().code == 1
    assert (folder / "items" / "x=1" / "tries").read_text() == "try\ntry\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[campaign]\nhang = {}", "needs silent, last_line, or both"),
        ("[campaign]\nhang = { last_line = '(' }", "'(' is no regular expression"),
        ("[campaign]\nattempts = 0", "should be greater than or equal to 1"),
        ("[campaign]\nverdict = { file = '../x', where = { a = 1 } }", "'../x' is no path in the directory"),
        ("[campaign]\nverdict = { file = 'x', where = { a = { least = 1 } } }", "knows no 'least'"),
        ("[campaign]\nverdict = ['judge', '{nope}']", "unknown reference {nope}"),
        ("[campaign]\nmerge = { file = 'r.json', into = 'events.jsonl' }", "'events.jsonl' is the record's own"),
        ("[campaign]\n[pool]\nretries = 1", "campaign.attempts = 2"),
        ("[campaign]\n[pool]\ncall = 'a:b'", "a campaign's items are commands"),
    ],
)
def test_bad_input_says_where(text: str, words: str, project: Project) -> None:
    project.write("experiments/e/s.toml", f'command = ["true"]\n[sweep]\nx = [1]\n{text}\n')
    done = project.gangrun("check", "experiments/e/s.toml")
    assert done.code == 2
    assert words in done.err
    assert "experiments/e/s.toml:" in done.err
    assert "Traceback" not in done.err


def test_a_campaign_is_a_sweep_in_a_pool(project: Project) -> None:
    project.write("experiments/e/one.toml", 'command = ["true"]\n[campaign]\n')
    done = project.gangrun("check", "experiments/e/one.toml")
    assert (done.code, "[sweep]" in done.err) == (2, True)
    project.write("experiments/e/jobs.toml", 'command = ["true"]\n[campaign]\n[sweep]\nmode = "jobs"\nx = [1]\n')
    done = project.gangrun("check", "experiments/e/jobs.toml")
    assert (done.code, "the driver of a pool" in done.err) == (2, True)
