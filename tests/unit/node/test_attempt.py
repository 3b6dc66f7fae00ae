"""An attempt at an item of a campaign as a process: watched, judged, and told about."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.gangrun_cli import wait_for

from gangrun.node.pool import attempt, merge

POOL = Path(attempt.__file__).parent
RULE = {"file": "result.json", "where": {"status": ["Completed", "Perfect"], "score": {"min": 1}}}
GOOD = """echo '{"status": "Completed", "score": 50}' >result.json; """


def start(item: Path, text: str, number: str = "001", **rules: Any) -> subprocess.Popen[str]:
    """As the agent of a node starts it: a session of its own, whose output is the log of the first attempt."""
    log = item / "attempts" / "001" / "logs" / "main.0.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, POOL, "try", json.dumps({"grace": 1, **rules}), "--", "bash", "-c", text],
            cwd=item,
            env={**os.environ, "GANGRUN_RUN_DIR": str(item), "GANGRUN_ATTEMPT": number},
            stdout=out,
            stderr=out,
            text=True,
            start_new_session=True,
        )


def tried(item: Path, text: str, **rules: Any) -> tuple[int, str]:
    """How an attempt ended, and what it left as the reason."""
    code = start(item, text, **rules).wait(30)
    told = item / "attempts" / "001" / "verdict"
    return code, told.read_text().strip() if told.exists() else ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (GOOD, 0, ""),
        (GOOD + "exit 7", 0, ""),
        ("exit 7", 7, "there is no result.json"),
        ("exit 0", 1, "there is no result.json"),
        ('echo \'{"status": "Comp\' >result.json', 1, "result.json is no whole JSON"),
        (
            'echo \'{"status": "Crashed", "score": 0}\' >result.json',
            1,
            'result.json: status is "Crashed", not "Completed" or "Perfect"',
        ),
        ('echo \'{"status": "Perfect", "score": 0.5}\' >result.json', 1, "result.json: score is 0.5, less than 1"),
    ],
)
def test_a_rule_on_the_result_decides(text: str, code: int, words: str, tmp_path: Path) -> None:
    assert tried(tmp_path, text, verdict=RULE) == (code, words)


@pytest.mark.slow
def test_the_result_of_an_earlier_attempt_does_not_count(tmp_path: Path) -> None:
    assert tried(tmp_path, GOOD, verdict=RULE) == (0, "")
    assert tried(tmp_path, "exit 0", verdict=RULE) == (1, "result.json is an earlier attempt's")


def test_a_command_decides(tmp_path: Path) -> None:
    judge = ["bash", "-c", 'echo "judging $GANGRUN_EXIT_CODE"; test -e "$1"', "-", str(tmp_path / "good")]
    assert tried(tmp_path, "touch good; exit 9", verdict=judge) == (0, "")
    (tmp_path / "good").unlink()
    assert tried(tmp_path, "exit 9", verdict=judge) == (9, "the verdict ended with 1, the program with 9")
    assert tried(tmp_path, "true", verdict=["/no/such/judge"])[1].startswith(
        "the verdict cannot be had: /no/such/judge"
    )
    assert "judging 9" in (tmp_path / "attempts" / "001" / "logs" / "main.0.log").read_text()


def test_without_a_verdict_the_exit_code_counts(tmp_path: Path) -> None:
    assert tried(tmp_path, "exit 4", hang={"silent": 60, "watch": ["main.0"]}) == (4, "")
    assert tried(tmp_path, "kill -SEGV $$", hang={"silent": 60, "watch": ["main.0"]}) == (139, "")


@pytest.mark.slow
def test_one_that_hangs_is_ended(tmp_path: Path) -> None:
    began = time.monotonic()
    talk = "while :; do echo talk; sleep 0.2; done & "
    silent = start(tmp_path / "a", "echo begun; sleep 600", hang={"silent": 2, "watch": ["main.0"]}, verdict=RULE)
    line = start(
        tmp_path / "b",
        "echo fine; echo 'Watchdog exception - Timeout'; sleep 600",
        hang={"last_line": "Watchdog|signal 11", "watch": ["main.0"]},
    )
    alive = start(tmp_path / "c", f"{talk} echo Watchdog; wait", hang={"last_line": "Watchdog", "watch": ["main.0"]})
    # The second attempt of an item whose script has not come so far as to have logs of its own.
    (tmp_path / "d/attempts/001/logs").mkdir(parents=True)
    (tmp_path / "d/attempts/001/logs/driver.0.log").write_text("Watchdog\n")
    warming_up = start(tmp_path / "d", "sleep 600", "002", hang={"last_line": "Watchdog", "watch": ["driver.0"]})
    assert silent.wait(30) == line.wait(30) == attempt.HUNG
    assert (tmp_path / "a/attempts/001/verdict").read_text() == "hung: no output for 2 s\n"
    assert "Watchdog exception" in (tmp_path / "b/attempts/001/verdict").read_text()
    assert time.monotonic() - began < 25
    for one in (alive, warming_up):
        assert one.poll() is None
        os.killpg(one.pid, signal.SIGKILL)
        one.wait(10)


def test_who_is_asked_to_end_says_nothing_of_the_result(tmp_path: Path) -> None:
    one = start(tmp_path, "echo begun; sleep 600", verdict=RULE)
    wait_for(lambda: "begun" in (tmp_path / "attempts/001/logs/main.0.log").read_text())
    os.killpg(one.pid, signal.SIGTERM)
    assert one.wait(10) == 143
    assert not (tmp_path / "attempts/001/verdict").exists()


RESULT = {"records": [{"status": "ok", "score": 2}, {"status": "Failed", "score": 0}], "done": True, "n": {"a": 1}}


@pytest.mark.parametrize(
    ("path", "wanted", "words"),
    [
        ("done", True, ""),
        ("records.0.status", "ok", ""),
        ("records.-1.status", "ok", 'records.-1.status is "Failed", not "ok"'),
        ("records.*.score", {"min": 0, "max": 2}, ""),
        ("records.*.score", {"max": 1}, "records.*.score is 2, more than 1"),
        ("records.*.status", {"not": ["Failed", "Crashed"]}, 'records.*.status is "Failed", which is not allowed'),
        ("n.*", 1, ""),
        ("records.5.status", "ok", "there is no records.5.status"),
        ("n.b", {"min": 1}, "there is no n.b"),
        ("records.0.status", {"min": 1}, 'records.0.status is "ok", which is no number'),
    ],
)
def test_paths_and_conditions(path: str, wanted: Any, words: str) -> None:
    assert attempt.judge(RESULT, path, wanted) == words


def test_results_are_merged_by_a_rule_and_what_is_missing_is_named(tmp_path: Path) -> None:
    for name, text in {"a": '{"score": 4, "x": "y"}', "b": '{"score": 2}', "c": '{"sco', "d": '{"score": 9}'}.items():
        (tmp_path / "items" / name).mkdir(parents=True)
        (tmp_path / "items" / name / "r.json").write_text(text)
    items = [("a", True), ("b", True), ("c", True), ("d", False)]
    assert merge.merge(tmp_path, {"file": "r.json", "into": "out/merged.json"}, items) == ""
    merged = json.loads((tmp_path / "out" / "merged.json").read_text())
    assert (merged["items"], merged["done"], merged["missing"]) == (4, 2, ["c", "d"])
    assert (merged["mean"], merged["mean_of_all"]) == ({"score": 3.0}, {"score": 1.5})
    assert merged["results"]["a"] == {"score": 4, "x": "y"}


def test_a_merge_by_command_that_fails_is_told(tmp_path: Path) -> None:
    assert merge.merge(tmp_path, ["true"], []) == ""
    assert merge.merge(tmp_path, ["bash", "-c", "exit 3"], []) == "the merge ended with 3"
    assert merge.merge(tmp_path, ["/no/such"], []).startswith("the merge cannot be started: /no/such")
