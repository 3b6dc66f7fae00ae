from __future__ import annotations

import re

import pytest
from recordings import VERSIONS, refusals, text

from gangrun.scheduler import reasons, squeue

# As Slurm's own source names them (src/common/job_state_reason.c), without the variants of energy and burst buffers.
KNOWN = """Priority Resources Dependency DependencyNeverSatisfied BeginTime Licenses Reservation JobArrayTaskLimit
PartitionTimeLimit PartitionNodeLimit PartitionDown PartitionInactive PartitionConfig JobHeldUser JobHeldAdmin
BadConstraints InvalidAccount AccountNotAllowed InvalidQOS QOSNotAllowed Cleaning Prolog ReqNodeNotAvail NodeDown
QOSJobLimit QOSResourceLimit QOSTimeLimit QOSUsageThreshold AssociationJobLimit AssociationResourceLimit
QOSGrpCpuLimit QOSGrpCPUMinutesLimit QOSGrpCPURunMinutesLimit QOSGrpJobsLimit QOSGrpMemLimit QOSGrpNodeLimit
QOSGrpSubmitJobsLimit QOSGrpWallLimit QOSMaxCpuPerJobLimit QOSMaxCpuMinutesPerJobLimit QOSMaxNodePerJobLimit
QOSMaxWallDurationPerJobLimit QOSMaxCpuPerUserLimit QOSMaxJobsPerUserLimit QOSMaxNodePerUserLimit
QOSMaxSubmitJobPerUserLimit QOSMinCpuNotSatisfied QOSMinGRES QOSGrpGRES QOSGrpGRESMinutes QOSMaxGRESPerUser
QOSMaxGRESPerJob QOSMaxGRESPerNode QOSMaxMemoryPerUser QOSMaxUnknownPerUser MaxGRESPerAccount MaxJobsPerAccount
AssocGrpCpuLimit AssocGrpCPUMinutesLimit AssocGrpJobsLimit AssocGrpMemLimit AssocGrpGRES AssocGrpBilling
AssocMaxJobsLimit AssocMaxCpuPerJobLimit AssocMaxWallDurationPerJobLimit AssocMaxSubmitJobLimit AssocMaxGRESPerJob
AccountingPolicy MaxMemPerLimit JobHoldMaxRequeue"""


@pytest.mark.parametrize("reason", KNOWN.split())
def test_every_pending_reason_of_slurm_has_plain_words(reason: str) -> None:
    meaning = reasons.pending(reason)
    assert meaning.words != reason
    assert "{" not in meaning.words
    assert "  " not in meaning.words
    assert meaning.passes or meaning.way_out, "one must either wait or do something"


@pytest.mark.parametrize(
    ("reason", "part", "passes"),
    [
        ("QOSMaxGRESPerUser", "your other jobs use all the GPUs that the qos allows one user", True),
        ("QOSMaxGRESPerJob", "this job alone asks for more GPUs", False),
        ("QOSMaxWallDurationPerJobLimit", "this job alone asks for more time", False),
        ("QOSMinGRES", "its qos demands more GPUs", False),
        ("AssocGrpGRES", "all users of your account together", True),
        ("AssocGrpCPUMinutesLimit", "used up its budget of CPUs", False),
        ("MaxGRESPerAccount", "your account uses all the GPUs", True),
        ("BeginTime", "121 s", True),
        ("launch failed requeued held", "failed on its node", False),
        ("user env retrieval failed requeued held", "failed on its node", False),
        ("job requeued in held state", "held there", False),
        ("ReqNodeNotAvail, UnavailableNodes:n[1-3,7]", "n[1-3,7]", True),
        ("ReqNodeNotAvail, Reserved for maintenance", "maintenance", True),
        (
            "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
            "too few are left",
            True,
        ),
        ("Job's account not known, so it can't use this partition (acct allows proj1)", "account is unknown", False),
    ],
)
def test_what_a_reason_means(reason: str, part: str, passes: bool) -> None:
    meaning = reasons.pending(reason)
    assert part in meaning.words
    assert meaning.passes is passes


@pytest.mark.parametrize("version", VERSIONS)
def test_every_recorded_reason_is_known(version: str) -> None:
    statuses = [row.status for row in squeue.rows(text(version, "squeue.out"))]
    assert len(statuses) > 20
    for status in statuses:
        if status.state == "PENDING":
            assert reasons.pending(status.reason).words != status.reason
        elif status.final:
            assert reasons.ended(status.state, status.reason).words not in {status.state, status.reason}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_recorded_refusal_is_known(version: str) -> None:
    for name, (_, err) in refusals(version).items():
        meaning = reasons.refused(err)
        assert meaning.words != err, name
        assert "{" not in meaning.words, name
        assert meaning.way_out or meaning.passes, name


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("sbatch: unrecognized option '--nope=1'", "--nope=1"),
        ("sbatch: error: Invalid --time specification", "--time"),
        ("Invalid time specification (pos=0): foo\nsbatch: error: Invalid --begin specification", "--begin"),
        ("CPU count per node can not be satisfied\nRequested node configuration is not available", "that many CPUs"),
        ("Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)", "limit of your"),
        ("QOSMaxSubmitJobPerUserLimit\nJob violates accounting/QOS policy", "QOSMaxSubmitJobPerUserLimit"),
        ("Slurm job queue full, sleeping and retrying", "MaxJobCount"),
        ("Invalid job array specification", "MaxArraySize"),
    ],
)
def test_what_a_refusal_means(words: str, part: str) -> None:
    assert part in reasons.refused(words).words


@pytest.mark.parametrize(
    ("state", "reason", "part"),
    [
        ("TIMEOUT", "TimeLimit", "time limit"),
        ("OUT_OF_MEMORY", "OutOfMemory", "more memory"),
        ("NODE_FAIL", "", "node broke"),
        ("PREEMPTED", "", "more urgent"),
        ("BOOT_FAIL", "", "could not be started"),
        ("DEADLINE", "DeadLine", "--deadline"),
        ("FAILED", "JobLaunchFailure", "could not be started or was killed"),
        ("FAILED", "RaisedSignal:53(Real-time signal 19)", "could not be started or was killed"),
        ("FAILED", "RaisedSignal:9(Killed)", "signal 9 Killed"),
        ("FAILED", "NonZeroExitCode", "with an error"),
        ("FAILED", "", "with an error"),
        ("FAILED", "BadConstraints", "never started"),
        ("CANCELLED", "JobHeldUser", "cancelled"),
        ("COMPLETED", "", "well"),
    ],
)
def test_what_an_end_means(state: str, reason: str, part: str) -> None:
    assert part in reasons.ended(state, reason).words


def test_an_unknown_word_is_shown_as_it_is() -> None:
    for meaning in (reasons.pending("Quantum{x}"), reasons.refused("Quantum{x}"), reasons.ended("QUANTUM{x}")):
        assert meaning.words.lower() == "quantum{x}"
        assert not meaning.way_out


def test_the_tables_are_sound() -> None:
    for table in (reasons.PENDING, reasons.REFUSED, reasons.ENDED):
        for pattern, meaning in table:
            groups = set(re.compile(pattern).groupindex) | {"reason"}
            assert set(re.findall(r"{(\w+)}", meaning.words)) <= groups
            assert not meaning.words.endswith(".")
