from __future__ import annotations

import pytest
from recordings import VERSIONS, text

from gangrun.scheduler import sacct
from gangrun.scheduler.model import Status
from gangrun.scheduler.rows import newest, pick

# name: state, exit code, signal. Held jobs and those whose time has not come are not in accounting.
EXPECTED = {
    "ok": ("COMPLETED", 0, None),
    "nodir": ("COMPLETED", 0, None),
    "exit7": ("FAILED", None, None),  # printed as 7:0, which would be printed for 135 too
    "exit143": ("FAILED", None, None),  # printed as 15:0
    "exit200": ("FAILED", None, None),
    "selfkill": ("FAILED", None, 9),
    "timeout": ("TIMEOUT", None, None),
    "cancelled": ("CANCELLED", None, None),
    "toomany": ("FAILED", None, None),
    "toolong": ("PENDING", None, None),
    "off": ("PENDING", None, None),
    "requeued": ("REQUEUED", None, None),
    "big": ("PENDING", None, None),
    "big2": ("PENDING", None, None),
    "arr": ("FAILED", None, None),
    "thr": ("RUNNING", None, None),
}
DIFFERENT = {
    ("26.05.5", "exit143"): ("FAILED", 143, None),
    ("26.05.5", "exit200"): ("FAILED", 200, None),
    ("26.05.5", "timeout"): ("RUNNING", None, None),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_job_and_no_exit_code_in_doubt(version: str) -> None:
    found = newest(sacct.rows(text(version, "sacct.out")), [*EXPECTED, "held", "begin"])
    seen = {name: (s.state, s.exit_code, s.signal) for name, s in found.items()}
    assert seen == {name: DIFFERENT.get((version, name), expected) for name, expected in EXPECTED.items()}
    assert all(not status.final for status in found.values() if status.state in {"REQUEUED", "PENDING", "RUNNING"})


def test_a_whole_row() -> None:
    found = pick(sacct.rows(text("22.05.8", "sacct.out")), ["8", "12_3"])
    nine = 1795252140.0
    assert found["8"] == Status(
        job="8",
        state="CANCELLED",
        name="cancelled",
        nodes="n1",
        submitted=nine + 9,
        started=nine + 9,
        ended=nine + 16,
        partition="gpu",
        time_limit=3600,
    )
    assert found["12_3"].name == "arr"


def test_the_question() -> None:
    assert sacct.by_job(["1", "2"])[-1] == "--jobs=1,2"
    assert "--starttime=now-30days" in sacct.by_name(["a"], 7)


def test_notices_and_a_bar_in_the_name() -> None:
    row = "5|5|COMPLETED|0:0|Unknown|Unknown|Unknown|Partition_Limit|gpu|n1|a|b"
    text = f"sacct: warning\n{row}\n5.batch|5.batch|COMPLETED"
    found = pick(sacct.rows(text), ["5"])
    assert (found["5"].name, found["5"].time_limit, found["5"].exit_code) == ("a|b", None, 0)
