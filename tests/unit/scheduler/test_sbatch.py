from __future__ import annotations

from pathlib import Path

import pytest
from recordings import VERSIONS, refusals

from gangrun.scheduler import sbatch
from gangrun.scheduler.commands import Answer
from gangrun.scheduler.model import Submission
from gangrun.scheduler.sbatch import Accepted, Refused, Unclear


def said(code: int | None, out: str = "", err: str = "") -> sbatch.Outcome:
    return sbatch.outcome(Answer(("sbatch",), code, out, err))


def test_the_users_words_stand_between_ours_and_the_script() -> None:
    submission = Submission("run", Path("/runs/script.sh"), ("--hold", "--comment=a b"))
    assert sbatch.submit(submission) == ["sbatch", "--parsable", "--hold", "--comment=a b", "/runs/script.sh"]


@pytest.mark.parametrize(
    "out", ["81\n", "81;cluster\n", "Welcome, 42 jobs ahead\n81;cluster\n", "Submitted batch job 81\n", "81"]
)
def test_the_id(out: str) -> None:
    assert said(0, out) == Accepted("81")


def test_an_accepted_job_without_an_id_is_not_known_to_be_lost() -> None:
    assert said(0, "thanks\n") == Unclear("sbatch gave no job id", sent=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_recorded_refusal_is_one_and_keeps_slurms_words(version: str) -> None:
    recorded = {name: answer for name, answer in refusals(version).items() if not name.startswith("down_")}
    assert len(recorded) >= 39
    for name, (code, err) in recorded.items():
        outcome = said(code, "", err)
        assert isinstance(outcome, Refused), name
        last = err.strip().splitlines()[0].split(": ")[-1]
        assert last in outcome.words, name
        assert "sbatch: " not in outcome.words, name
        assert "submission failed" not in outcome.words, name


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_a_controller_that_is_down_got_nothing(version: str) -> None:
    code, err = refusals(version)["down_sbatch"]
    assert said(code, "", err) == Unclear("Unable to contact slurm controller (connect failure)", sent=False)


@pytest.mark.parametrize(
    ("code", "err", "sent"),
    [
        (1, "Socket timed out on send/recv operation", True),
        (1, "Zero Bytes were transmitted or received", True),
        (1, "Unable to contact slurm controller (receive failure)", True),
        (1, "Resource temporarily unavailable", False),
        (1, "Protocol authentication error", True),
        (1, "", True),
        (-9, "", True),
        (None, "", True),
        (None, "sbatch: error: Slurm job queue full, sleeping and retrying", True),
    ],
)
def test_failures_that_settle_nothing(code: int | None, err: str, sent: bool) -> None:
    outcome = said(code, "", f"sbatch: error: Batch job submission failed: {err}\n" if err else "")
    assert isinstance(outcome, Unclear)
    assert outcome.sent is sent
