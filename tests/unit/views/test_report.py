"""What a report says of a run: GPU-hours, the verdict, sections as text and as a page."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.usage import BEGIN, head, line, written

from gangrun.record.rundir import RunDir
from gangrun.record.state import RunState
from gangrun.record.usage import Span
from gangrun.views import report
from gangrun.views.report import html
from gangrun.views.report.gather import Report, gather
from gangrun.views.report.verdict import verdict

HOUR = 3600


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def node(host: str, busy: list[float], *, begin: float = BEGIN, memory: int = 41_000, given: str = "0 1") -> str:
    """A node with two GPUs through an hour: the first is as busy as it says, minute by minute, the second always."""
    devices = [[index, f"GPU-{host}-{index}", "H100", 81559] for index in ("0", "1")]
    text = head(host, t=begin, gpus=2, cpus=112, mem=512_000, every=60.0) + line(t=begin, devices=devices)
    text += line(t=begin, given={"trainer.0": given.split()})
    for minute, value in enumerate(busy, 1):
        rows = [[value, 0, 61_000, 64, 600.0], [100, 0, 61_000, 64, 600.0]]
        text += line(t=begin + 60 * minute, job=[4.0, memory], r={"trainer.0": [4.0, memory, 1.0, 0.0]}, g=rows)
    return text


def ended(run: RunDir, number: int, code: int, begin: float, seconds: float, hosts: str = "node1") -> None:
    status = run.attempt(number).status
    status.mkdir(parents=True)
    (status / "run.start").write_text(f"{begin}\n77\n{hosts}\n\n")
    (status / "run.exit").write_text(f"{code}\n")
    os.utime(status / "run.exit", (begin + seconds, begin + seconds))
    lives = f"{begin} start\n{begin + 60} ready\n{begin + seconds} exit {code}\n"
    (status / "trainer.0.lives").write_text(lives)
    (status / "_monitor.0.lives").write_text(lives)


def told(run: RunDir, state: str = "COMPLETED", end: float = BEGIN + HOUR) -> Report:
    now = RunState(run.run_id, run.dir, state, ended=end, attempt=max(run.attempts(), default=0))
    found = gather(run, now, [], list)
    assert found is not None
    return found


def test_hours_are_held_computed_and_wasted(tmp_path: Path) -> None:
    run = written(tmp_path, node("node1", [0] * 15 + [100] * 45))
    ended(run, 1, 0, BEGIN, HOUR)
    found = told(run)
    assert (found.held, found.computed, found.idle, found.in_vain) == (2.0, 1.75, 0.25, 0.0)
    assert found.unwatched == pytest.approx(0)


@pytest.mark.parametrize(
    ("resume", "wasted"), [("", 2.5), ("[resume]\n", 0.5), ("requeue = true\n", 0.5), ("requeue = false\n", 2.5)]
)
def test_what_failed_is_in_vain_unless_the_next_attempt_went_on_from_it(
    tmp_path: Path, resume: str, wasted: float
) -> None:
    written(tmp_path, node("node1", [100] * 60), attempt=1)
    run = written(tmp_path, node("node1", [0] * 30 + [100] * 30, begin=BEGIN + HOUR), attempt=2)
    (run.path / "spec.toml").write_text(resume)
    ended(run, 1, 7, BEGIN, HOUR)
    ended(run, 2, 0, BEGIN + HOUR, HOUR)
    found = told(run, end=BEGIN + 2 * HOUR)
    assert [life.state for life in found.lives] == ["FAILED", "COMPLETED"]
    assert (found.held, found.wasted) == (4.0, wasted)
    assert any("did not succeed: attempt 1 (FAILED)" in text for _, text in verdict(found)) is (wasted == 2.5)


def sentences(run: RunDir) -> str:
    return "\n".join(text for _, text in verdict(told(run)))


def test_the_verdict_names_what_was_asked_and_not_used(tmp_path: Path) -> None:
    run = written(tmp_path, node("node1", [100, 0, 0, 0] * 15))
    ended(run, 1, 0, BEGIN, HOUR)
    (run.path / "script.sh").write_text("#!/usr/bin/env bash\n#SBATCH --time=36:00:00\n")
    said = sentences(run)
    assert "GPUs idle 38 %: data loading?" in said
    assert 'memory asked 500 G, peak 40 G: mem = "54G" would do' in said
    assert "CPUs asked 112 a node, busy 4.0 in the mean and 4.0 at most" in said
    assert "time asked 1-12:00:00, took 01:00:00" in said


def test_the_verdict_tells_a_long_start_from_data_loading(tmp_path: Path) -> None:
    run = written(tmp_path, node("node1", [0] * 40 + [100] * 20))
    ended(run, 1, 0, BEGIN, HOUR)
    assert "GPUs idle 33 %, most of it before the first of them computed (00:20:00)" in sentences(run)


def test_the_verdict_names_gpus_that_nobody_used(tmp_path: Path) -> None:
    run = written(tmp_path, node("node1", [0] * 60, given="1"))
    ended(run, 1, 0, BEGIN, HOUR)
    assert "1 of 2 GPUs never computed anything and nobody was given them: node1:0" in sentences(run)


def test_the_verdict_of_a_run_that_was_not_watched(tmp_path: Path) -> None:
    run = written(tmp_path)
    ended(run, 1, 0, BEGIN, HOUR)
    found = told(run)
    assert sentences(run) == "nothing is known of what it used, as it was not watched"
    assert "<main>" in report.page(found)


def test_a_run_that_has_not_begun(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "exp" / "step_0" / "261121_120000")
    assert gather(run, RunState(run.run_id, run.dir, "PENDING"), [], list) is None


def test_text_and_page_say_the_same(tmp_path: Path) -> None:
    run = written(tmp_path, node("node<1>", [100, 0, 0, 0] * 15))
    ended(run, 1, 0, BEGIN, HOUR)
    found = told(run)
    text, page = "\n".join(report.text(found)), report.page(found)
    for title in ("What it used", "Attempts and replicas", "GPUs", "CPUs", "Memory"):
        assert f"\n{title.upper()}\n" in text
        assert f"<h2>{title}</h2>" in page
    assert re.search(r"^trainer +2 +\S+ +62 % +38 % +60 G +80 G +600 W$", text, re.MULTILINE)
    assert "node&lt;1&gt;" in page
    assert "node<1>" not in page
    assert not re.search(r"https?:|src=\"(?!data:)|@import|url\(", page)
    Strict().feed(page)


class Strict(HTMLParser):
    """Every element that is opened is closed, in that order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in {"meta", "link", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_curves_have_gaps_where_nothing_is_known() -> None:
    chart = html.chart({"a": [1.0, None, 3.0, 3.0]}, Span(0, 4, 4), "x", 4, {"a": 0})
    assert 'd="M0.0 800H250.0M500.0 400H750.0L750.0 400H1000.0"' in chart
    assert chart.count("<b title=") == 4


def test_a_replica_that_died_and_came_back_is_two_bars(tmp_path: Path) -> None:
    run = written(tmp_path)
    ended(run, 1, 0, BEGIN, HOUR)
    lives = f"{BEGIN} start\n{BEGIN + 600} exit 7\n{BEGIN + 660} start\n{BEGIN + HOUR} exit 0\n"
    (run.attempt(1).status / "trainer.0.lives").write_text(lives)
    found = told(run)
    page = report.page(found)
    assert 'title="trainer.0: 00:10:00, exit 7"' in page
    assert re.search(r"trainer\.0 .*exit 0 in 2 lives", "\n".join(report.text(found)))
