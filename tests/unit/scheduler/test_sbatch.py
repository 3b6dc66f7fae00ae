from __future__ import annotations

from pathlib import Path

import pytest
from recordings import VERSIONS, forecasts, refusals

from gangrun.scheduler import sbatch
from gangrun.scheduler.commands import Answer
from gangrun.scheduler.model import Submission
from gangrun.scheduler.sbatch import Accepted, Forecast, Refused, Unclear
from gangrun.scheduler.text import epoch


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


NOW = epoch("2026-11-21T00:30:00") or 0.0


@pytest.mark.parametrize("version", VERSIONS)
def test_every_recorded_forecast(version: str) -> None:
    said = {name: Answer(("sbatch",), *_answer(code, err)) for name, (code, err) in forecasts(version).items()}
    told = {name: sbatch.forecast(answer, NOW) for name, answer in said.items()}
    for name in ("try_test_ok", "sbatch_testonly_busy", "try_test_offpart"):
        start = told[name].start
        assert start is not None, name
        assert NOW < start < NOW + 7200, name
    assert told["enforce_test_offpart"] == Forecast(None, "no start is in sight")
    assert told["try_test_badpart"].words == "invalid partition specified: nope; Invalid partition name specified"
    assert told["drained_testonly"] == Forecast(None, "Requested node configuration is not available")
    for name, answer in said.items():
        assert (told[name].start is None) == bool(answer.code) or name == "enforce_test_offpart", name
    if version != "20.11.4":
        assert sbatch.passing(said["down_testonly"].err)


def _answer(code: int, err: str) -> tuple[int, str, str]:
    return code, "", err


def test_a_forecast_queues_nothing_and_names_no_script() -> None:
    asked = sbatch.test(["--nodes=2", "--exclusive"], "gpu")
    assert asked == ["sbatch", "--test-only", "--nodes=2", "--exclusive", "--partition=gpu", "--wrap=:"]


def test_a_forecast_without_words() -> None:
    assert sbatch.forecast(Answer(("sbatch",), 3, "", ""), NOW) == Forecast(None, "sbatch ended with 3 without a word")
