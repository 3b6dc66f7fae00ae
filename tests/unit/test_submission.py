"""What a submission takes from the run that it goes on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from gangrun.record.rundir import RunDir
from gangrun.script.quote import directive
from gangrun.submission import keeping_off


@pytest.mark.parametrize(
    ("line", "flag"),
    [
        (directive("exclude", "node[1-3],node9"), "--exclude=node[1-3],node9,node7"),
        ("-x node9", "--exclude=node9,node7"),
        ("--nodes=1", "--exclude=node7"),
    ],
)
def test_a_next_attempt_keeps_off_lost_hosts_and_those_that_its_script_excludes(
    tmp_path: Path, line: str, flag: str
) -> None:
    run = RunDir(tmp_path)
    run.script.write_text(f"#!/usr/bin/env bash\n#SBATCH {line}\n:\n")
    assert keeping_off(run, ["node7"]) == (flag,)
    assert keeping_off(run, []) == ()
