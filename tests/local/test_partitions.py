"""`--partition auto` in the words of four Slurm versions."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_slurm import Foretelling, Installed

from tests.gangrun_cli import Done, Project, sh

sys.path.insert(0, str(Path(__file__).parents[1] / "unit/scheduler"))

from recordings import VERSIONS, forecasts

Said = Callable[..., Done]
FILE = "experiments/x/run.toml"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_soonest_start(version: str, project: Project, said: Said, fake_slurm: Callable[..., Installed]) -> None:
    recorded = forecasts(version)

    def words(name: str, after: float | None = None) -> tuple[int, str]:
        code, text = recorded[name]
        if after is not None:
            moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + after))
            text, count = re.subn(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", moment, text)
            assert count == 1
        return code, text

    slurm = fake_slurm(Foretelling)
    told = {
        "gpu": words("sbatch_testonly_busy", 7500),
        "short": words("try_test_ok", 2),
        "also": words("try_test_ok", 30),
        "off": words("enforce_test_offpart"),
        "staff": words("enforce_test_staffpart"),
        "full": words("drained_testonly"),
    }
    (slurm.folder / "forecasts.json").write_text(json.dumps(told))
    project.write(FILE, sh("true"))
    done = said("submit", FILE, "--dry-run", "--partition", "auto", "--cluster", "slurm")
    assert done.code == 0, done.err
    assert "#SBATCH --partition=short" in done.out
    reasons = done.err[done.err.index("partition short, where it starts at once (") :]
    for pattern in (
        r"gpu: starts in 02:0[0-9]:\d\d",
        "also: starts at once",
        "off: no start is in sight",
        "staff: User's group not permitted to use this partition",
        "full: Requested node configuration is not available",
    ):
        assert re.search(pattern, reasons), reasons

    refusing = {name: one for name, one in told.items() if name in ("off", "staff", "full")}
    (slurm.folder / "forecasts.json").write_text(json.dumps(refusing))
    done = said("submit", FILE, "--partition", "auto", "--cluster", "slurm")
    assert done.code == 1
    assert "no partition of slurm takes the job" in done.err
    assert "off: no start is in sight; staff: User's group not permitted" in done.err
    assert not (project.dir / "outputs").exists()
