"""`gangrun report` of real runs, and its page in a real Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gangrun.record.state import RunState
from gangrun.views import report
from gangrun.views.report.gather import gather
from tests.chromium import Chromium
from tests.gangrun_cli import Project, sh
from tests.usage import BEGIN, day, written

SHOWN = "[...document.querySelectorAll('{}')].filter(e => e.getBoundingClientRect().width > 0).length"
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
OUTSIDE = """[...document.querySelectorAll('.plot path')].filter(path => {
  const inner = path.getBoundingClientRect(), outer = path.closest('.plot').getBoundingClientRect();
  return inner.left < outer.left - 2 || inner.right > outer.right + 2
      || inner.top < outer.top - 2 || inner.bottom > outer.bottom + 2; }).length"""
PAPER = "getComputedStyle(document.body).backgroundColor"


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Chromium]:
    browser = Chromium(tmp_path / "profile")
    yield browser
    browser.close()


def test_the_page_of_a_real_run_opens_without_a_network(project: Project, chromium: Chromium) -> None:
    name = "exp/mixed.toml"
    project.write(name, "monitor.every = '1s'\n" + sh("i=0; until ((++i > 300000)); do :; done; exit 3"))
    assert project.gangrun("run", name).code == 3
    said = project.ok("report").out
    file = project.dir / "outputs/exp/mixed/latest/report.html"
    assert said.splitlines()[-1] == f"page: {file.resolve()}"
    assert "ATTEMPTS AND REPLICAS" in said
    chromium.open(f"file://{file}")
    assert chromium.requested() <= {"file", "data"}
    assert chromium.complaints() == []
    assert chromium.value("document.querySelector('h1').textContent") == f"{project.run()['run']}: FAILED"
    text = chromium.value("document.body.innerText")
    for line in said.splitlines():
        if line.startswith("- "):
            assert line[2:] in text
    assert chromium.value(SHOWN.format(".bars b.bad")) == 2  # the attempt and its replica


def test_the_page_of_a_job_with_many_gpus_is_drawn_as_it_should(tmp_path: Path, chromium: Chromium) -> None:
    hosts = [f"node{number}" for number in range(4)]
    run = written(tmp_path, *(day(number, hours=1) for number in range(4)))
    status = run.attempt(1).status
    status.mkdir()
    (status / "run.start").write_text(f"{BEGIN}\n7\n{' '.join(hosts)}\n\n")
    for number in range(4):
        (status / f"trainer.{number}.lives").write_text(f"{BEGIN} start\n{BEGIN + 60} ready\n{BEGIN + 3600} exit 0\n")
    state = RunState(run.run_id, run.dir, "COMPLETED", started=BEGIN, ended=BEGIN + 3600, attempt=1)
    found = gather(run, state, [], list)
    assert found is not None
    run.write_report(report.page(found))
    for width, dark in ((1100, False), (380, True)):
        chromium.resize(width, dark=dark)
        chromium.open(f"file://{run.report}")
        assert chromium.complaints() == []
        assert chromium.value(WIDER) == 0
        assert chromium.value(OUTSIDE) == 0
        assert chromium.value(SHOWN.format(".plot path")) == 5  # GPUs, their memory, CPUs, memory twice
        assert chromium.value(SHOWN.format(".bars b")) == 1 + 2 * 4
        assert chromium.value("document.querySelector('img.heat').naturalHeight") == 32
        assert chromium.value(PAPER) == ("rgb(22, 24, 27)" if dark else "rgb(253, 253, 252)")
    # A pointer over the plot brings up the values of that moment.
    assert re.fullmatch(r"\d\d:\d\d, trainer [\d.]+ %", chromium.value("document.querySelector('.tips b').title"))


def test_reports_that_cannot_be_made(project: Project) -> None:
    assert project.gangrun("report", "nonsense").code == 2
    project.write("exp/a.toml", sh("true"))
    project.ok("run", "exp/a.toml")
    done = project.gangrun("report", "--html", "absent/page.html")
    assert (done.code, done.err.count("\n")) == (2, 2)
    assert "No such file or directory" in done.err
    assert list(project.ok("report", "--json").data)[:2] == ["run", "state"]
    assert not (project.dir / "outputs/exp/a/latest/report.html").exists()
    project.ok("report", "--html", "page.html")
    assert (project.dir / "page.html").stat().st_size > 1000
